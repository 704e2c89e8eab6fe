package replay

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/snapshots"
	"github.com/repack-go/repack/stages/steps"
)

// WriteThroughAndDrain switches to write-through, if that has not been done, and drains.
func (r *Replayer) WriteThroughAndDrain(ctx context.Context) error {
	if !r.Concurrent() {
		if err := r.CatchUpShort(ctx); err != nil {
			return err
		}
		if err := r.writeThrough(ctx); err != nil {
			return err
		}
		if err := r.Step(ctx, steps.StepWritingThrough); err != nil {
			return err
		}
	}
	if err := r.drainShort(ctx); err != nil {
		return err
	}
	return r.Step(ctx, steps.StepDrained)
}

// CatchUpShort runs CatchUp, and makes sure that the log it leaves is short.
func (r *Replayer) CatchUpShort(ctx context.Context) error {
	if err := r.takeOverLog(ctx); err != nil {
		return err
	}
	if err := r.CatchUp(ctx); err != nil {
		return err
	}
	shortened, err := r.shortenLog(ctx)
	if err != nil || !shortened {
		return err
	}
	return r.CatchUp(ctx)
}

// drainShort runs drain, and makes sure that the log it leaves is short.
func (r *Replayer) drainShort(ctx context.Context) error {
	if err := r.takeOverLog(ctx); err != nil {
		return err
	}
	if err := r.drain(ctx); err != nil {
		return err
	}
	shortened, err := r.shortenLog(ctx)
	if err != nil || !shortened {
		return err
	}
	return r.drain(ctx)
}

// DrainLocked replays the rest of the log while writers wait. They have waited since the
// lock was requested, so the wait and the replay together take no longer than the bound on
// waits for locks. If that is not enough, more must be replayed without the lock first.
func (r *Replayer) DrainLocked() []steps.Action {
	replays := r.replays(false, func(ctx context.Context, tx pgx.Tx) error {
		_, err := r.Link.ReplayAll(ctx, tx, false)
		return err
	})
	return []steps.Action{{
		Run: func(ctx context.Context, tx *lock.Tx) error {
			return steps.UnderLock(ctx, tx, func() error { return steps.Do(ctx, tx, replays...) })
		},
		SQL: replays[0].SQL,
	}}
}

// writeThrough drains the log and switches capture to write-through, in one transaction.
// No session can write in between. The commit completes the copy: a snapshot that sees the
// commit sees all rows of the copy.
func (r *Replayer) writeThrough(ctx context.Context) error {
	err := r.ChangeJob(ctx, r.Locks, func(ctx context.Context, tx *lock.Tx, job *steps.JobRow) error {
		job.CompletedBy = new(string)
		return r.Switching(job.CompletedBy).Do(ctx, tx)
	})
	return r.UnfitChanges(ctx, err)
}

// Switching is the transaction of writeThrough. It sets xid to its own ID.
func (r *Replayer) Switching(xid *string) steps.Transaction {
	return steps.Transaction{
		Does:  "replay the last changes and write through from now on; before that, where the log has become long, begin a new one under the same lock",
		Locks: (*steps.Planner).Stopping,
		Actions: slices.Concat(r.StopWriters(), r.DrainLocked(), []steps.Action{
			steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error {
				if err := tx.QueryRow(ctx, steps.CurrentXIDSQL).Scan(xid); err != nil {
					return fmt.Errorf("read transaction id: %w", err)
				}
				return nil
			}),
			steps.SendLate(func() []string { return r.Link.WriteThrough(*xid).SQL() }),
		}),
	}
}

// drain waits until the writers with older snapshots, which log, have ended. Then it
// replays what they have logged, and waits for the snapshots older than that replay.
func (r *Replayer) drain(ctx context.Context) error {
	for deadline := time.Now().Add(r.SnapshotWait); ; {
		if err := r.Snapshots().Older(ctx); err != nil {
			return err
		}
		pending, err := r.Link.Pending(ctx, r.Pool)
		if err != nil || pending == 0 {
			return err
		}
		done, err := r.pass(ctx)
		if err != nil {
			return err
		}
		if time.Now().After(deadline) {
			if done.Aside == 0 {
				return fmt.Errorf("changes are logged as fast as they are replayed: %w", steps.ErrPutOff)
			}
			return fmt.Errorf("rows stay locked by the application (%d keys): %w", done.Aside, steps.ErrPutOff)
		}
		if done.Aside == 0 {
			continue
		}
		r.Log.Debug("rows are locked by the application", "job", r.Job.ID, "keys", done.Aside)
		select { // each pass puts its deferred keys back into the log
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(snapshots.PollInterval):
		}
	}
}
