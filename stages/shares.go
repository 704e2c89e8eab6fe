package stages

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
func (e *Env) divisible() bool {
	return e.Jobs > 1 && !e.Concurrent() && e.Link.Divisible()
}

// shares returns how many sessions replay that number of blocks of the log. If divide is
// set, these are all sessions of the run (--jobs), or one while the application is at work.
func (e *Env) shares(ctx context.Context, divide bool, blocks int64) (int, error) {
	if !divide || blocks < dividedBlocks {
		return 1, nil
	}
	busy, err := e.Throttle.Busy(ctx)
	if err != nil || busy {
		return 1, err
	}
	return e.Jobs, nil
}

// replay replays a range of the log, in that number of shares at the same time. If shares
// have collided or blocked each other, one session replays what is left of the range as a
// batch like any other, and collided is set.
func (e *Env) replay(ctx context.Context, taken logRange, shares int) (total strategy.Replayed, collided bool, err error) {
	if shares > 1 {
		total, collided, err = e.replayShares(ctx, taken, shares)
		if err != nil || !collided {
			return total, false, err
		}
	}
	r, err := e.batch(ctx, taken)
	total.Add(r)
	return total, collided, err
}

// replayShares returns when all shares have ended. It counts those that have committed. Each
// share waits for locks once, at most as long as the policy allows, because the session that
// blocks it may be another share.
func (e *Env) replayShares(ctx context.Context, taken logRange, shares int) (total strategy.Replayed, collided bool, err error) {
	e.Log.Debug("replay batch divided", "job", e.Job.ID, "first_block", taken.first, "shares", shares)
	var mu sync.Mutex
	group, groupCtx := errgroup.WithContext(ctx)
	for n := range shares {
		group.Go(func() error {
			r, err := e.replayShare(groupCtx, taken, strategy.Share{N: n, Of: shares})
			mu.Lock()
			defer mu.Unlock()
			if strategy.Collision(err) || lock.Denied(err) {
				e.Log.Debug("replay share collided", "job", e.Job.ID, "first_block", taken.first, "share", n, "error", err)
				collided = true
				return nil
			}
			if err != nil {
				return err
			}
			total.Add(r)
			return nil
		})
	}
	err = group.Wait()
	return total, collided, err
}

func (e *Env) replayShare(ctx context.Context, taken logRange, share strategy.Share) (r strategy.Replayed, err error) {
	if err := e.Throttle.Take(ctx); err != nil {
		return r, err
	}
	defer e.Throttle.End()
	t := e.replaying("", false, func(ctx context.Context, tx pgx.Tx) (err error) {
		r, err = e.Link.ReplayShare(ctx, tx, taken.first, taken.end, share)
		return err
	})
	t.Settings = taken.settings
	once := t.Policy(e.Worker)
	once.Retries = 0
	err = e.TransactBy(ctx, once, t.Do)
	return r, err
}
