package tests

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// itemsSQL is a table of enough blocks for several chunks: about 14 rows each.
const itemsSQL = `
CREATE TABLE @items (
    id    bigint PRIMARY KEY,
    email text   NOT NULL,
    note  text   NOT NULL,
    CONSTRAINT items_email_key UNIQUE (email)
) WITH (fillfactor = 10);
INSERT INTO @items SELECT i, 'mail ' || i, 'note' FROM generate_series(1, 200) AS i`

// givenItems makes app.items and its control; the options copy it in chunks of
// a block.
func givenItems(t *testing.T, db *pgtest.Database, strategy string) repack.Options {
	t.Helper()
	twins(t, db, itemsSQL)
	o := options(t, "app.items", strategy)
	o.BatchSize = 1
	return o
}

// queuing is a lock timeout with which the tool queues behind the transactions of a
// test, however slow the machine: they are younger. The waits themselves stay below
// deadlock_timeout.
const queuing = 10 * time.Second

// shadowItems is the shadow of app.items in a database's first job.
const shadowItems = "repack_job_1.items"

// stillSnapshot begins a transaction and takes its snapshot, touching no table
// of the application.
func stillSnapshot(t *testing.T, db *pgtest.Database, isolation pgx.TxIsoLevel) pgx.Tx {
	t.Helper()
	tx := begin(t, db.Connect(t), isolation)
	mustExec(t, tx, `SELECT 1`)
	return tx
}

// pid is the backend of a transaction.
func pid(tx pgx.Tx) uint32 { return tx.Conn().PgConn().PID() }

// halt is a place where a run in the background stands still until the test has
// done its part.
type halt struct {
	reached, resume chan struct{}
	once            sync.Once
}

func newHalt(t *testing.T) *halt {
	h := &halt{reached: make(chan struct{}), resume: make(chan struct{})}
	t.Cleanup(h.release) // a test that failed must not keep the run
	return h
}

// stop is called by the run, the first time only.
func (h *halt) stop() {
	h.once.Do(func() {
		close(h.reached)
		<-h.resume
	})
}

// await returns when the run stands still; the test fails if it ends before.
func (h *halt) await(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case <-h.reached:
	case err := <-done:
		t.Fatalf("run ended before the place where it was to halt: %v", err)
	}
}

func (h *halt) release() {
	select {
	case <-h.resume:
	default:
		close(h.resume)
	}
}

// haltAtStep makes a run stand still at a step.
func haltAtStep(t *testing.T, o *repack.Options, step string) *halt {
	h := newHalt(t)
	o.Hooks.AfterStep = func(_ context.Context, name string) error {
		if name == step {
			h.stop()
		}
		return nil
	}
	return h
}

// heldRun is a run in the background that stands still until release, while the test
// does its part.
type heldRun struct {
	*halt
	done <-chan error
}

// holdAtStep starts a run, and returns when it stands still at a step.
func holdAtStep(t *testing.T, db *pgtest.Database, o repack.Options, step string) heldRun {
	t.Helper()
	h := haltAtStep(t, &o, step)
	return hold(t, db, o, h)
}

// holdBefore starts a run, and returns when it stands still before a stage.
func holdBefore(t *testing.T, db *pgtest.Database, o repack.Options, stage repack.Stage) heldRun {
	t.Helper()
	h := newHalt(t)
	return hold(t, db, beforeStage(o, stage, h.stop), h)
}

// holdAfter starts a run, and returns when it stands still after a stage.
func holdAfter(t *testing.T, db *pgtest.Database, o repack.Options, stage repack.Stage) heldRun {
	t.Helper()
	h := newHalt(t)
	return hold(t, db, atStage(o, stage, h.stop), h)
}

// holdAtChunk starts a run of one worker, and returns when it stands still after its
// first chunk.
func holdAtChunk(t *testing.T, db *pgtest.Database, o repack.Options) heldRun {
	t.Helper()
	h := newHalt(t)
	o.Jobs = 1
	o.Hooks.AfterChunk = func(context.Context, repack.Progress) error {
		h.stop()
		return nil
	}
	return hold(t, db, o, h)
}

func hold(t *testing.T, db *pgtest.Database, o repack.Options, h *halt) heldRun {
	t.Helper()
	r := heldRun{h, startRun(t, db, o)}
	h.await(t, r.done)
	return r
}

// mustEnd waits for the end of the run, which must be a good one.
func (r heldRun) mustEnd(t *testing.T) {
	t.Helper()
	mustEnd(t, r.done)
}

// beforeStage calls do once, before the stage.
func beforeStage(o repack.Options, stage repack.Stage, do func()) repack.Options {
	called := false
	o.Hooks.BeforeStage = func(_ context.Context, s repack.Stage) error {
		if s == stage && !called {
			called = true
			do()
		}
		return nil
	}
	return o
}

// everyStep calls do after each step's first time and before each stage from
// the backfill on.
func everyStep(o repack.Options, do func()) repack.Options {
	seen := map[string]bool{}
	o.Hooks.AfterStep = oneAtATime(func(_ context.Context, name string) error {
		if !seen[name] {
			seen[name] = true
			do()
		}
		return nil
	})
	o.Hooks.BeforeStage = func(_ context.Context, stage repack.Stage) error {
		if !stage.Before(repack.Backfill) {
			do()
		}
		return nil
	}
	return o
}

// startExec sends a statement that may have to wait.
func startExec(t *testing.T, conn execer, sql string) chan error {
	t.Helper()
	done := make(chan error, 1)
	ctx := testContext(t)
	go func() {
		_, err := conn.Exec(ctx, sql)
		done <- err
	}()
	return done
}

// blockedOrDone returns when the statement behind done has ended or waits for a
// session; blocked tells which. A result stays in done.
func blockedOrDone(t *testing.T, db *pgtest.Database, done chan error, waiter uint32) (blocked bool) {
	t.Helper()
	pgtest.WaitFor(t, func() bool {
		select {
		case err := <-done:
			done <- err
			return true
		default:
		}
		blocked = pgtest.Query[bool](t, db.Pool, `SELECT cardinality(pg_blocking_pids($1)) > 0`, int32(waiter))
		return blocked
	}, "a statement to end or to be blocked")
	return blocked
}

// watch closes the channel it returns when the run logs a message.
func watch(o *repack.Options, message string) <-chan struct{} {
	seen, once := make(chan struct{}), sync.Once{}
	onLog(o, func(m string) {
		if m == message {
			once.Do(func() { close(seen) })
		}
	})
	return seen
}

// onLog calls do with every message of the run, before it is logged.
func onLog(o *repack.Options, do func(message string)) {
	o.Logger = slog.New(&logHook{Handler: o.Logger.Handler(), do: do})
}

type logHook struct {
	slog.Handler
	do func(message string)
}

func (h *logHook) Handle(ctx context.Context, r slog.Record) error {
	h.do(r.Message)
	return h.Handler.Handle(ctx, r)
}

// awaitingSnapshots is what a run logs when it has waited for a second.
const awaitingSnapshots = "waiting for transactions with older snapshots"

// lockNotObtained is what a run logs of an attempt that has ended at its time-out.
const lockNotObtained = "lock not obtained"

// awaitLog returns when the run has logged what watch looks for.
func awaitLog(t *testing.T, seen <-chan struct{}, done <-chan error) {
	t.Helper()
	select {
	case <-seen:
	case err := <-done:
		t.Fatalf("run ended without waiting: %v", err)
	}
}
