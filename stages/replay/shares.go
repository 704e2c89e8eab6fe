package replay

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/strategy"
)

// dividedBlocks is how many blocks of the log, some thousand rows, are worth dividing.
const dividedBlocks = 16

// divisible reports whether several sessions may replay at the same time. While the
// application writes through, they may not: they would lock more of its rows.
func (r *Replayer) divisible() bool {
	return r.Jobs > 1 && !r.Concurrent() && r.Link.Divisible()
}

// shares returns how many sessions replay that number of blocks of the log. If divide is
// set, these are all sessions of the run (--jobs), or one while the application is at work.
func (r *Replayer) shares(ctx context.Context, divide bool, blocks int64) (int, error) {
	if !divide || blocks < dividedBlocks {
		return 1, nil
	}
	busy, err := r.Throttle.Busy(ctx)
	if err != nil || busy {
		return 1, err
	}
	return r.Jobs, nil
}

// replay replays a range of the log, in that number of shares at the same time. If shares
// have collided or blocked each other, one session replays what is left of the range as a
// batch like any other, and collided is set.
func (r *Replayer) replay(ctx context.Context, taken logRange, shares int) (total strategy.Replayed, collided bool, err error) {
	if shares > 1 {
		total, collided, err = r.replayShares(ctx, taken, shares)
		if err != nil || !collided {
			return total, false, err
		}
	}
	done, err := r.batch(ctx, taken)
	total.Add(done)
	return total, collided, err
}

// replayShares returns when all shares have ended. It counts those that have committed. Each
// share waits for locks once, at most as long as the policy allows, because the session that
// blocks it may be another share.
func (r *Replayer) replayShares(ctx context.Context, taken logRange, shares int) (total strategy.Replayed, collided bool, err error) {
	r.Log.Debug("replay batch divided", "job", r.Job.ID, "first_block", taken.first, "shares", shares)
	var mu sync.Mutex
	group, groupCtx := errgroup.WithContext(ctx)
	for n := range shares {
		group.Go(func() error {
			done, err := r.replayShare(groupCtx, taken, strategy.Share{N: n, Of: shares})
			mu.Lock()
			defer mu.Unlock()
			if strategy.Collision(err) || lock.Denied(err) {
				r.Log.Debug("replay share collided", "job", r.Job.ID, "first_block", taken.first, "share", n, "error", err)
				collided = true
				return nil
			}
			if err != nil {
				return err
			}
			total.Add(done)
			return nil
		})
	}
	err = group.Wait()
	return total, collided, err
}

func (r *Replayer) replayShare(ctx context.Context, taken logRange, share strategy.Share) (done strategy.Replayed, err error) {
	if err := r.Throttle.Take(ctx); err != nil {
		return done, err
	}
	defer r.Throttle.End()
	t := r.Replaying("", false, func(ctx context.Context, tx pgx.Tx) (err error) {
		done, err = r.Link.ReplayShare(ctx, tx, taken.first, taken.end, share)
		return err
	})
	t.Settings = taken.settings
	once := t.Policy(r.Worker)
	once.Retries = 0
	err = r.TransactBy(ctx, once, t.Do)
	return done, err
}
