package tests

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const itemsLog = "repack_job_1.repack_change_log_1"

// longLogBlocks is more than may be read while somebody waits.
const longLogBlocks = 256

func logBlocks(t *testing.T, db *pgtest.Database) int64 {
	t.Helper()
	return pgtest.Query[int64](t, db.Pool, `SELECT pg_relation_size('`+itemsLog+`') / current_setting('block_size')::int`)
}

// bloatLog makes the log long, of rows that are gone.
func bloatLog(t *testing.T, db *pgtest.Database) {
	t.Helper()
	db.Exec(t, `INSERT INTO `+itemsLog+` (k1) SELECT -g FROM generate_series(1, 200000) g`)
	db.Exec(t, `DELETE FROM `+itemsLog+` WHERE k1 < 0`)
	if n := logBlocks(t, db); n < 2*longLogBlocks {
		t.Fatalf("the log has %d blocks", n)
	}
}

// shortAt fails the test when the log is long at a step under whose next lock it is read.
func shortAt(t *testing.T, db *pgtest.Database, o *repack.Options, steps ...string) (seen func() int) {
	n := 0
	o.Hooks.AfterStep = oneAtATime(func(_ context.Context, name string) error {
		for _, step := range steps {
			if name != step {
				continue
			}
			n++
			if blocks := logBlocks(t, db); blocks >= longLogBlocks {
				t.Errorf("%s: the log has %d blocks", name, blocks)
			}
		}
		return nil
	})
	return func() int { return n }
}

// TestLongLogIsNotReadUnderLocks has a log that was long, and whose space vacuum
// cannot give back, as an old snapshot is there; the swap, the revert and the end of
// a job that keeps the old table read what has been logged since.
func TestLongLogIsNotReadUnderLocks(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		runUntil(t, db, o, repack.PostSyncUpdate)
		old := stillSnapshot(t, db, pgx.RepeatableRead)
		bloatLog(t, db)
		commit(t, old)
		both(t, db.Pool, `UPDATE @items SET note = 'before' WHERE id % 10 = 1`)
		seen := shortAt(t, db, &o, repack.StepWritingThrough, repack.StepDrained)
		runUntil(t, db, o, repack.Swap)
		if seen() < 2 {
			t.Errorf("%d steps of the swap were looked at", seen())
		}
		alike(t, db, "items")

		bloatLog(t, db)
		both(t, db.Pool, `UPDATE @items SET note = 'after' WHERE id % 10 = 2`)
		seen = shortAt(t, db, &o, repack.StepDrained)
		revert(t, db, o)
		if seen() < 1 {
			t.Error("the revert was not looked at")
		}
		alike(t, db, "items")
		noArtefacts(t, db)
	})
}

// TestLongLogWithOldTableKept is the same for the last replay to an old table.
func TestLongLogWithOldTableKept(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := givenItems(t, db, repack.ChangeLog)
	o.KeepOld = true
	runUntil(t, db, o, repack.Swap)
	bloatLog(t, db)
	both(t, db.Pool, `UPDATE @items SET note = 'after' WHERE id % 10 = 2`)
	retired := 0
	o = atStep(o, repack.StepLogRetired, func() { retired++ })
	run(t, db, o)
	if retired != 1 {
		t.Error("the log was not retired")
	}
	alike(t, db, "items")
	db.EqualTables(t, "repack_job_1_old.items", "control.items")
}

// TestWriterHoldsUpNewLog has a transaction that has logged a change wait to commit
// while the log is to be retired: its change is not lost with the old log.
func TestWriterHoldsUpNewLog(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		runUntil(t, db, o, repack.PostSyncUpdate)
		bloatLog(t, db)
		writer := begin(t, db.Connect(t), pgx.ReadCommitted)
		both(t, writer, `UPDATE @items SET note = 'held' WHERE id = 5`, `DELETE FROM @items WHERE id = 6`)
		o.LockTimeout = queuing
		seen := shortAt(t, db, &o, repack.StepWritingThrough)
		done := startRun(t, db, o)
		pgtest.WaitBlockedBy(t, db.Pool, pid(writer))
		commit(t, writer)
		mustEnd(t, done)
		if seen() == 0 {
			t.Error("the step was not come to")
		}
		alike(t, db, "items")
		noArtefacts(t, db)
	})
}

// TestRetiredLogIsTakenOver ends the run when the log has been retired, with changes
// in it that nothing has replayed: they reach the copy, whether the job is gone on
// with or, after the swap, reverted; or nothing is left of it.
func TestRetiredLogIsTakenOver(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		runUntil(t, db, o, repack.PostSyncUpdate)
		endWithRetired(t, db, o, func(o repack.Options) error { return newRepack(t, db, o).Run(testContext(t)) }, 1)
		runUntil(t, db, o, repack.Swap)
		alike(t, db, "items")
		revert := func(o repack.Options) error { return newRepack(t, db, o).Revert(testContext(t)) }
		endWithRetired(t, db, o, revert, 2)
		if err := revert(o); err != nil {
			t.Fatalf("revert: %v", err)
		}
		alike(t, db, "items")
		noArtefacts(t, db)
	})
	t.Run("reset", func(t *testing.T) {
		t.Parallel()
		db := withRegistry.New(t)
		o := givenItems(t, db, repack.ChangeLog)
		before := db.Dump(t)
		runUntil(t, db, o, repack.PostSyncUpdate)
		endWithRetired(t, db, o, func(o repack.Options) error { return newRepack(t, db, o).Run(testContext(t)) }, 1)
		reset(t, db, o)
		sameDump(t, db, before)
		noArtefacts(t, db)
	})
}

// endWithRetired writes when the log has been retired, has the changes in the retired
// log, as if they had been written before, and ends the run.
func endWithRetired(t *testing.T, db *pgtest.Database, o repack.Options, run func(repack.Options) error, n int) {
	t.Helper()
	bloatLog(t, db)
	errEnd := errors.New("the run was ended")
	o.Hooks.AfterStep = oneAtATime(func(_ context.Context, name string) error {
		if name != repack.StepLogRetired {
			return nil
		}
		tx := begin(t, db.Connect(t), pgx.RepeatableRead) // logs where it is too old to write through
		for _, sql := range []string{`UPDATE @items SET note = 'retired' WHERE id % 7 = 1`, `DELETE FROM @items WHERE id % 50 = 3`} {
			both(t, tx, sql)
		}
		commit(t, tx)
		db.Exec(t, `WITH moved AS (DELETE FROM `+itemsLog+` RETURNING *) INSERT INTO `+itemsLog+`_retired TABLE moved`)
		db.Exec(t, `INSERT INTO `+itemsLog+`_retired (k1) SELECT id FROM app.items WHERE id % 7 = 1`)
		return errEnd
	})
	if err := run(o); !errors.Is(err, errEnd) {
		t.Fatalf("run %d: %v, want it ended at the new log", n, err)
	}
	if logged := pgtest.Query[int64](t, db.Pool, `SELECT count(*) FROM `+itemsLog+`_retired`); logged == 0 {
		t.Error("nothing is in the retired log")
	}
}
