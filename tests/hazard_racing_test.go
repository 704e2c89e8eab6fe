package tests

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// A key that an older snapshot has deleted waits in the log; the application
// inserts it again while the replay deletes it from the shadow.
func TestReplayKeepsKeyInsertedAgain(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		var old pgx.Tx
		o = beforeStage(o, repack.Swap, func() { old = stillSnapshot(t, db, pgx.RepeatableRead) })
		held := holdAtStep(t, db, o, repack.StepWritingThrough)

		both(t, old, `DELETE FROM @items WHERE id = 7`)
		commit(t, old)
		again := begin(t, db.Connect(t), pgx.ReadCommitted)
		both(t, again, `INSERT INTO @items VALUES (7, 'mail 7 again', 'again')`)
		held.release()
		pgtest.WaitBlockedBy(t, db.Pool, pid(again))
		commit(t, again)

		held.mustEnd(t)
		alike(t, db, "items")
	})
}

// The same with a TRUNCATE that waits in the log.
func TestReplayKeepsRowsInsertedAfterTruncate(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		held := holdAtStep(t, db, o, repack.StepWritingThrough)

		both(t, db.Pool, `TRUNCATE @items`)
		again := begin(t, db.Connect(t), pgx.ReadCommitted)
		both(t, again, `INSERT INTO @items VALUES (7, 'mail 7', 'again')`)
		held.release()
		pgtest.WaitBlockedBy(t, db.Pool, pid(again))
		commit(t, again)

		held.mustEnd(t)
		alike(t, db, "items")
	})
}

// A snapshot younger than the switch but older than a replay of the drain
// deletes a row that the replay has brought: its trigger cannot see it.
func TestDrainedRowDeletedByOlderSnapshot(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		waiting := watch(&o, awaitingSnapshots)
		var old, reader pgx.Tx
		done := startRun(t, db, beforeStage(o, repack.Swap, func() {
			old = stillSnapshot(t, db, pgx.RepeatableRead)
			reader = stillSnapshot(t, db, pgx.RepeatableRead)
		}))
		awaitLog(t, waiting, done)
		both(t, old, `INSERT INTO @items VALUES (1000, 'mail 1000', '')`)
		xmin := pgtest.Query[string](t, db.Pool, `SELECT backend_xmin::text FROM pg_stat_activity WHERE pid = $1`, pid(reader))
		commit(t, old)
		// While a transaction of another test's database is older than all of ours, every
		// snapshot has the same xmin, and the run must wait for it as for an imported one.
		pgtest.WaitFor(t, func() bool {
			return pgtest.Query[string](t, db.Pool, `SELECT pg_snapshot_xmin(pg_current_snapshot())::xid::text`) != xmin
		}, "older transactions of other databases to end")
		late := stillSnapshot(t, db, pgx.RepeatableRead) // sees row 1000, but not in the shadow
		commit(t, reader)
		pgtest.WaitFor(t, func() bool {
			return pgtest.Query[bool](t, db.Pool, `SELECT EXISTS (SELECT FROM `+shadowItems+` WHERE id = 1000)`)
		}, "row 1000 to be replayed")
		both(t, late, `DELETE FROM @items WHERE id = 1000`)
		commit(t, late)

		mustEnd(t, done)
		alike(t, db, "items")
	})
}
