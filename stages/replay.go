package stages

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/compare"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/strategy"
)

// postSyncUpdate replays the change log until little is left. Then it prepares the shadow
// for queries (visibility map and statistics), and compares it with the source meanwhile.
//
// It takes ACCESS SHARE on the source.
func postSyncUpdate(ctx context.Context, e *Env) error {
	if err := e.catchUp(ctx); err != nil {
		return err
	}
	if err := e.Step(ctx, steps.StepCaughtUp); err != nil {
		return err
	}
	var compared *compare.Result
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return e.vacuum(groupCtx) })
	group.Go(func() (err error) {
		compared, err = e.compareBeforeSwap(groupCtx)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	return e.concludeComparison(ctx, compared, func(tx pgx.Tx) error { return e.EndStage(ctx, tx, registry.PostSyncUpdate) })
}

func planPostSyncUpdate(ctx context.Context, p *planner) ([]steps.Step, error) {
	list := []steps.Transaction{
		p.replaying("replay the change log, batch by batch, until little is left", false, nil),
		{Does: "vacuum and analyse the shadow", Actions: []steps.Action{steps.Send(p.vacuumSQL(false)...)}},
	}
	if p.Verify != registry.VerifyOff {
		list = append(list, steps.Transaction{Does: fmt.Sprintf("compare shadow and table (%s), and end if they differ", p.Verify), Locks: (*steps.Planner).Reading})
	}
	return p.Steps(ctx, list...)
}

// vacuum makes the first queries after the swap fast. VACUUM cannot run in a transaction,
// so it cannot be fenced. It changes no row.
func (e *Env) vacuum(ctx context.Context) error {
	busy, err := e.Throttle.Busy(ctx)
	if err != nil {
		return err
	}
	err = e.WithConn(ctx, func(conn *pgxpool.Conn) error {
		for _, sql := range e.vacuumSQL(busy) { // sent together, they would be one transaction
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("vacuum and analyse the shadow: %w", err)
	}
	return nil
}

// While the application is at work, VACUUM rests after it has changed about a hundred
// pages: "Cost-based Vacuum Delay" in the manual. Then it also has no parallel workers.
var (
	restSQL   = []string{"SET vacuum_cost_delay = '2ms'", "SET vacuum_cost_limit = 2000"}
	noRestSQL = []string{"RESET vacuum_cost_delay", "RESET vacuum_cost_limit"}
)

// vacuumSQL returns VACUUM between its settings. They are set for the session, because
// there is no transaction. If VACUUM fails, the session ends with the run.
func (e *Env) vacuumSQL(busy bool) []string {
	var before, after []string
	options := "ANALYZE"
	if e.MaintenanceWorkMem != "" {
		before = append(before, "SET maintenance_work_mem = "+catalog.Literal(e.MaintenanceWorkMem))
		after = append(after, "RESET maintenance_work_mem")
	}
	if busy {
		before, after = append(before, restSQL...), append(after, noRestSQL...)
		options += ", PARALLEL 0"
	}
	vacuum := fmt.Sprintf("VACUUM (%s) %s", options, e.Link.To)
	return slices.Concat(before, []string{vacuum}, after)
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

// catchUp replays the log in passes, until one pass is short.
func (e *Env) catchUp(ctx context.Context) error {
	fewest := int64(-1)
	for pass, stuck := 1, 0; ; pass++ {
		began := time.Now()
		r, err := e.pass(ctx)
		took := time.Since(began)
		if err != nil {
			return err
		}
		e.Log.Debug("replay pass", "job", e.Job.ID, "pass", pass, "logged", r.Logged, "copied", r.Copied, "took", took)
		if r.Logged <= lastPassRows || took < lastPassTime {
			return nil
		}
		if fewest >= 0 && r.Logged > fewest*9/10 {
			stuck++
		} else {
			stuck = 0
		}
		if fewest < 0 || r.Logged < fewest {
			fewest = r.Logged
		}
		if stuck > 0 && took < e.Locks.Timeout {
			return nil // replay gets no closer, and this is close enough
		}
		if stuck == patientPasses {
			pending, err := e.Link.Pending(ctx, e.Pool)
			if err != nil {
				return err
			}
			return &NotConvergingError{Passes: pass, Rows: r.Logged, Took: took, Pending: pending, Divisible: e.Link.Divisible()}
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
func (e *Env) pass(ctx context.Context) (total strategy.Replayed, err error) {
	blocks, err := strategy.Blocks(ctx, e.Pool, e.Link.Log)
	if err != nil {
		return total, err
	}
	size, target := int64(firstBatchBlocks), batchTarget
	if e.Concurrent() {
		size, target = firstLockedBatchBlocks, lockedBatchTarget
	}
	if e.BatchSize > 0 {
		size = max(int64(e.BatchSize)/keysPerBlock, 1)
	}
	divide := e.divisible()
	for next := int64(0); next < blocks; {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		began := time.Now()
		taken := logRange{first: next, end: min(next+size, math.MaxUint32)} // no TID has a larger block
		if taken.settings, err = e.batchCommits(ctx, taken.end < blocks); err != nil {
			return total, err
		}
		shares, err := e.shares(ctx, divide, min(taken.end, blocks)-taken.first)
		if err != nil {
			return total, err
		}
		r, collided, err := e.replay(ctx, taken, shares)
		if err != nil {
			return total, err
		}
		e.Log.Debug("batch replayed", "job", e.Job.ID, "first_block", taken.first, "end_block", taken.end,
			"logged", r.Logged, "copied", r.Copied, "shares", shares, "took", time.Since(began))
		total.Add(r)
		divide = divide && !collided
		next = taken.end
		if e.BatchSize == 0 {
			ideal := size * int64(target) / int64(max(time.Since(began), time.Millisecond))
			size = min(max(ideal, size/2, 1), size*2)
		}
	}
	return total, nil
}

// batchCommits returns the settings with which a batch commits. The commit of the last batch
// of a pass waits for the disk, or for a standby: otherwise a lock that is acquired next
// would be held until they have caught up. While the application writes through, the commit
// of each batch waits.
func (e *Env) batchCommits(ctx context.Context, followed bool) (settings []string, err error) {
	if !followed || e.Concurrent() {
		return nil, nil
	}
	return e.Throttle.Commits(ctx)
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
func (e *Env) batch(ctx context.Context, taken logRange) (r strategy.Replayed, err error) {
	ofRange := e.replaying("", e.Concurrent(), func(ctx context.Context, tx pgx.Tx) (err error) {
		r, err = e.Link.ReplayRange(ctx, tx, taken.first, taken.end, e.Concurrent())
		return err
	})
	ofRange.Settings = taken.settings
	err = e.Perform(ctx, ofRange)
	if !strategy.Collision(err) {
		return r, err
	}
	e.Log.Debug("replay batch collided", "job", e.Job.ID, "first_block", taken.first, "error", err)
	if err := e.Perform(ctx, steps.Transaction{OfRows: true, Actions: e.removeLogged()}); err != nil {
		return r, err
	}
	err = e.Perform(ctx, ofRange)
	if !strategy.Collision(err) {
		return r, err
	}
	err = e.Perform(ctx, e.replaying("", e.Concurrent(), func(ctx context.Context, tx pgx.Tx) (err error) {
		r, err = e.Link.ReplayAll(ctx, tx, e.Concurrent())
		return err
	}))
	return r, err
}

// replaying is a transaction that replays a part of the log, as replay does it.
func (e *Env) replaying(does string, concurrent bool, replay func(context.Context, pgx.Tx) error) steps.Transaction {
	t := steps.Transaction{Does: does, Locks: (*steps.Planner).Reading, OfRows: true, Actions: e.replays(concurrent, replay)}
	if concurrent {
		t.Locks = (*steps.Planner).LockingRows
	}
	return t
}

// replays makes replay an action. After it, the names must still be those of the job's
// tables.
func (e *Env) replays(concurrent bool, replay func(context.Context, pgx.Tx) error) []steps.Action {
	return []steps.Action{
		{
			Run: func(ctx context.Context, tx *lock.Tx) error { return replay(ctx, tx) },
			SQL: steps.Statements(func() []string { return e.Link.ReplaySQL(concurrent) }).SQL,
		},
		steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error { return e.SameTables(ctx, tx) }),
	}
}
