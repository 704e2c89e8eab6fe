package tests

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/repack"
)

// endHolderSQL chooses first, as terminateSQL does.
const endHolderSQL = `
WITH holders AS MATERIALIZED (
    SELECT pid
    FROM   pg_locks l
    JOIN   pg_database d ON d.oid = l.database
    WHERE  locktype = 'advisory' AND datname = current_database()
)
SELECT count(*) FROM holders WHERE pg_terminate_backend(pid, 10000)`

// takeOver ends the session by which a run holds its job, and no other: the run
// is alive and does not know, and the next one finds the job free.
func takeOver(t *testing.T, db *pgtest.Database) {
	t.Helper()
	if n := pgtest.Query[int64](t, db.Pool, endHolderSQL); n != 1 {
		t.Fatalf("%d sessions held the job, want one", n)
	}
}

// outlived wants the end of a run whose job is another's.
func outlived(t *testing.T, r heldRun) {
	t.Helper()
	if err := await(t, r.done); !errors.Is(err, registry.ErrStageMoved) {
		t.Errorf("run that has lost its job: %v, want ErrStageMoved", err)
	}
}

// A run that has lost its job to another copies nothing more.
func TestLostJobIsNotCopied(t *testing.T) {
	t.Parallel()
	for n, transfer := range []repack.Transfer{repack.TransferServer, repack.TransferClient} {
		t.Run(string(transfer), func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				o := givenItems(t, db, strategy)
				o.Transfer = transfer
				lost := holdAtChunk(t, db, o)
				takeOver(t, db)

				taken := holdBefore(t, db, o, repack.Backfill)
				lost.release()
				outlived(t, lost)
				if n := pgtest.Query[int64](t, db.Pool, `SELECT count(*) FROM repack_registry.chunk`); n != 1 {
					t.Errorf("%d chunks, want the one that was copied before the job was taken over", n)
				}
				taken.release()
				taken.mustEnd(t)
				alike(t, db, "items")
			})
		})
	}
}

// A run that has lost its job to another replays nothing more. The other one has
// waited for the snapshots that are older than what it has replayed itself: a
// younger one would see, after the swap, rows that a TRUNCATE had removed.
func TestLostJobIsNotReplayed(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		impatient := o
		impatient.MaxSnapshotWait = time.Second
		lost := holdAtStep(t, db, impatient, repack.StepWritingThrough)
		takeOver(t, db)

		waiting := watch(&o, awaitingSnapshots)
		taken := holdAtStep(t, db, o, repack.StepDrained)
		both(t, db.Pool, `TRUNCATE @items`, `INSERT INTO @items VALUES (1001, 'mail 1001', '')`)
		log := pgtest.Query[string](t, db.Pool, `SELECT format('%I.%I', shadow_schema, change_log) FROM repack_registry.job`)
		holder := begin(t, db.Connect(t), pgx.ReadCommitted)
		mustExec(t, holder, `LOCK TABLE `+log+` IN ACCESS EXCLUSIVE MODE`)
		lost.release()
		pgtest.WaitBlockedBy(t, db.Pool, pid(holder)) // it has waited for older snapshots
		late := stillSnapshot(t, db, pgx.RepeatableRead)
		commit(t, holder)
		outlived(t, lost)

		taken.release()
		awaitLog(t, waiting, taken.done)
		alikeIn(t, late, "items")
		commit(t, late)
		taken.mustEnd(t)
		alike(t, db, "items")
	})
}
