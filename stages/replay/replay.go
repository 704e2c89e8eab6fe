// Package replay replays the change log, in passes while the application writes, and for the
// last time under a lock. With it a copy gets to where no change is pending.
package replay

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/stages/throttle"
	"github.com/repack-go/repack/strategy"
)

// Replayer replays the change log, and takes the copy to where no change is pending.
type Replayer struct {
	*steps.Worker
	Jobs      int                // connections that work at the same time, at most
	BatchSize int                // about how many rows a batch has; 0: by time
	Throttle  *throttle.Throttle // asked before each piece of work of those connections
}

// After a pass this short, little enough is left to replay under a lock.
const (
	lastPassTime = 100 * time.Millisecond
	lastPassRows = 500
	// patientPasses is how many passes in a row may leave about as much as the best one
	// before. After them it is clear that replay does not get ahead of the writers.
	patientPasses = 10
)

// NotConvergingError reports that the application changes rows faster than the
// change log is replayed.
type NotConvergingError struct {
	Passes  int
	Rows    int64 // of the last pass
	Took    time.Duration
	Pending int64
	// Divisible tells whether several sessions could replay at the same time.
	Divisible bool
}

func (e *NotConvergingError) Error() string {
	msg := fmt.Sprintf("the application changes rows faster than they are replayed: after %d passes the last took %s "+
		"for %d changes (%.0f a second) and %d are pending; run again when there is less load",
		e.Passes, e.Took.Round(time.Millisecond), e.Rows, float64(e.Rows)/e.Took.Seconds(), e.Pending)
	if e.Divisible {
		msg += ", or with more --jobs, which replay at the same time, whatever the application does"
	}
	return msg
}

// CatchUp replays the log in passes, until one pass is short.
func (r *Replayer) CatchUp(ctx context.Context) error {
	fewest := int64(-1)
	for pass, stuck := 1, 0; ; pass++ {
		began := time.Now()
		done, err := r.pass(ctx)
		took := time.Since(began)
		if err != nil {
			return err
		}
		r.Log.Debug("replay pass", "job", r.Job.ID, "pass", pass, "logged", done.Logged, "copied", done.Copied, "took", took)
		if done.Logged <= lastPassRows || took < lastPassTime {
			return nil
		}
		if fewest >= 0 && done.Logged > fewest*9/10 {
			stuck++
		} else {
			stuck = 0
		}
		if fewest < 0 || done.Logged < fewest {
			fewest = done.Logged
		}
		if stuck > 0 && took < r.Locks.Timeout {
			return nil // replay gets no closer, and this is close enough
		}
		if stuck == patientPasses {
			pending, err := r.Link.Pending(ctx, r.Pool)
			if err != nil {
				return err
			}
			return &NotConvergingError{Passes: pass, Rows: done.Logged, Took: took, Pending: pending, Divisible: r.Link.Divisible()}
		}
	}
}

// A batch holds a snapshot for about this long. While the application writes through, it
// also holds row locks, and a writer may have to wait for them. A larger batch replays a key
// that has changed often only once, and writes a page with many of the keys only once.
const (
	batchTarget            = 500 * time.Millisecond
	lockedBatchTarget      = 100 * time.Millisecond
	firstBatchBlocks       = 16
	firstLockedBatchBlocks = 4
	// keysPerBlock is about how many log rows with one integer key fit in a block.
	keysPerBlock = 200
)

// pass replays the log, from the first block to the block that is the last one now.
func (r *Replayer) pass(ctx context.Context) (total strategy.Replayed, err error) {
	blocks, err := strategy.Blocks(ctx, r.Pool, r.Link.Log)
	if err != nil {
		return total, err
	}
	size, target := int64(firstBatchBlocks), batchTarget
	if r.Concurrent() {
		size, target = firstLockedBatchBlocks, lockedBatchTarget
	}
	if r.BatchSize > 0 {
		size = max(int64(r.BatchSize)/keysPerBlock, 1)
	}
	divide := r.divisible()
	for next := int64(0); next < blocks; {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		if err := r.allowed(ctx); err != nil {
			return total, err
		}
		began := time.Now()
		taken := logRange{first: next, end: min(next+size, math.MaxUint32)} // no TID has a larger block
		if taken.settings, err = r.batchCommits(ctx, taken.end < blocks); err != nil {
			return total, err
		}
		shares, err := r.shares(ctx, divide, min(taken.end, blocks)-taken.first)
		if err != nil {
			return total, err
		}
		done, collided, err := r.replay(ctx, taken, shares)
		if err != nil {
			return total, r.UnfitChanges(ctx, err)
		}
		r.Log.Debug("batch replayed", "job", r.Job.ID, "first_block", taken.first, "end_block", taken.end,
			"logged", done.Logged, "copied", done.Copied, "shares", shares, "took", time.Since(began))
		total.Add(done)
		divide = divide && !collided
		next = taken.end
		if r.BatchSize == 0 {
			ideal := size * int64(target) / int64(max(time.Since(began), time.Millisecond))
			size = min(max(ideal, size/2, 1), size*2)
		}
	}
	return total, nil
}

// allowed waits until a batch may be replayed. Once writers write through, nothing is asked:
// until the swap every write costs them twice.
func (r *Replayer) allowed(ctx context.Context) error {
	if r.Concurrent() {
		return nil
	}
	return r.Throttle.Wait(ctx, throttle.Replaying)
}

// batchCommits returns the settings with which a batch commits. The commit of the last batch
// of a pass waits for the disk, or for a standby: otherwise a lock that is acquired next
// would be held until they have caught up. While the application writes through, the commit
// of each batch waits.
func (r *Replayer) batchCommits(ctx context.Context, followed bool) (settings []string, err error) {
	if !followed || r.Concurrent() {
		return nil, nil
	}
	return r.Throttle.Commits(ctx)
}

// logRange is the part of the log that a batch replays: blocks, end exclusive.
type logRange struct {
	first, end int64
	settings   []string // of the transactions that replay the range
}

// batch replays a range of the log. If a unique value has moved between a row of the batch
// and a row outside it, the batch collides with a stale row of the shadow. Then batch first
// removes the rows of all pending keys from the shadow, and tries again. If a change made
// since then still collides, it replays the whole log as one set, which cannot collide.
func (r *Replayer) batch(ctx context.Context, taken logRange) (done strategy.Replayed, err error) {
	ofRange := r.Replaying("", r.Concurrent(), func(ctx context.Context, tx pgx.Tx) (err error) {
		done, err = r.Link.ReplayRange(ctx, tx, taken.first, taken.end, r.Concurrent())
		return err
	})
	ofRange.Settings = taken.settings
	err = r.Perform(ctx, ofRange)
	if !strategy.Collision(err) {
		return done, err
	}
	r.Log.Debug("replay batch collided", "job", r.Job.ID, "first_block", taken.first, "error", err)
	if !r.Link.Carries { // otherwise the rows of the copy have values that the table does not have
		if err := r.Perform(ctx, steps.Transaction{OfRows: true, Actions: r.RemoveLogged()}); err != nil {
			return done, err
		}
		err = r.Perform(ctx, ofRange)
		if !strategy.Collision(err) {
			return done, err
		}
	}
	err = r.Perform(ctx, r.Replaying("", r.Concurrent(), func(ctx context.Context, tx pgx.Tx) (err error) {
		done, err = r.Link.ReplayAll(ctx, tx, r.Concurrent())
		return err
	}))
	return done, err
}

// Replaying is a transaction that replays a part of the log, as replay does it.
func (r *Replayer) Replaying(does string, concurrent bool, replay func(context.Context, pgx.Tx) error) steps.Transaction {
	t := steps.Transaction{Does: does, Locks: (*steps.Planner).Reading, OfRows: true, Actions: r.replays(concurrent, replay)}
	if concurrent {
		t.Locks = (*steps.Planner).LockingRows
	}
	return t
}

// replays makes replay an action. After it, the names must still be those of the job's
// tables.
func (r *Replayer) replays(concurrent bool, replay func(context.Context, pgx.Tx) error) []steps.Action {
	return []steps.Action{
		{
			Run: func(ctx context.Context, tx *lock.Tx) error { return replay(ctx, tx) },
			SQL: steps.Statements(func() []string { return r.Link.ReplaySQL(concurrent) }).SQL,
		},
		steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error { return r.SameTables(ctx, tx) }),
	}
}

// RemoveLogged removes the rows of the keys in the log from the copy.
func (r *Replayer) RemoveLogged() []steps.Action {
	return []steps.Action{
		{
			Run: func(ctx context.Context, tx *lock.Tx) error {
				n, err := r.Link.RemoveLogged(ctx, tx)
				if err == nil {
					r.Log.Debug("logged keys removed from shadow", "job", r.Job.ID, "rows", n)
				}
				return err
			},
			SQL: steps.Statements(func() []string { return []string{r.Link.RemoveLoggedSQL()} }).SQL,
		},
		steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error { return r.SameTables(ctx, tx) }),
	}
}
