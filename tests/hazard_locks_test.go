package tests

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// Who keeps a lock for hours is named; the application passes all the while, and the
// run is continued afterwards.
func TestLongWriterIsNamed(t *testing.T) {
	t.Parallel()
	for n, stage := range []repack.Stage{repack.Setup, repack.Swap} {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				o := givenItems(t, db, strategy)
				o.LockRetries = 3
				denied := watch(&o, lockNotObtained)
				writer := begin(t, db.Connect(t), pgx.ReadCommitted)
				done := startRun(t, db, beforeStage(o, stage, func() {
					both(t, writer, `UPDATE @items SET note = 'held' WHERE id = 1`)
				}))
				awaitLog(t, denied, done)
				began := time.Now()
				both(t, db.Pool, `INSERT INTO @items VALUES (1001, 'mail 1001', 'behind the queue')`)
				if took := time.Since(began); took > o.LockTimeout+2*time.Second {
					t.Errorf("the application waited %s", took)
				}
				err := await(t, done)
				var timeout *repack.LockTimeoutError
				if !errors.As(err, &timeout) {
					t.Fatalf("run: %v, want a *LockTimeoutError", err)
				}
				if len(timeout.Blockers) != 1 || timeout.Blockers[0].PID != int32(pid(writer)) {
					t.Errorf("blockers %v, want pid %d", timeout.Blockers, pid(writer))
				}
				commit(t, writer)
				run(t, db, o)
				alike(t, db, "items")
			})
		})
	}
}

// A prepared transaction has no process that could be named.
func TestPreparedTransactionIsNamed(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		o.LockRetries = 1
		runUntil(t, db, o, repack.PostSyncUpdate)
		gid := fmt.Sprintf("prepared in %s", db.Name)
		tx := begin(t, db.Connect(t), pgx.ReadCommitted)
		both(t, tx, `DELETE FROM @items WHERE id = 1`, `INSERT INTO @items VALUES (1001, 'mail 1', '')`)
		mustExec(t, tx, fmt.Sprintf(`PREPARE TRANSACTION '%s'`, gid))
		err := newRepack(t, db, o).Run(testContext(t))
		var timeout *repack.LockTimeoutError
		if !errors.As(err, &timeout) {
			t.Fatalf("run: %v, want a *LockTimeoutError", err)
		}
		if len(timeout.Blockers) != 1 || timeout.Blockers[0].GID != gid {
			t.Errorf("blockers %v, want %q", timeout.Blockers, gid)
		}
		db.Exec(t, fmt.Sprintf(`COMMIT PREPARED '%s'`, gid))
		run(t, db, o)
		alike(t, db, "items")
	})
}

// TestRuleOfLockedTable: a run reads no rules but those that refer to the table, also where
// the server scans the catalog. To read one takes a lock on its table.
func TestRuleOfLockedTable(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `
			CREATE SCHEMA app;
			CREATE TABLE app.t (id int PRIMARY KEY);
			CREATE TABLE app.o (id int);
			CREATE RULE keep AS ON DELETE TO app.o DO INSTEAD NOTHING;
			CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
			CREATE TRIGGER f AFTER INSERT ON app.o FOR EACH ROW EXECUTE FUNCTION app.f()`)
		for _, setting := range []string{"enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan"} {
			db.Exec(t, fmt.Sprintf(`
				DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I SET %s = off', current_database()); END $$`, setting))
		}
		tx := begin(t, db.Connect(t), pgx.ReadCommitted)
		mustExec(t, tx, `LOCK TABLE app.o`)
		run(t, db, options(t, "app.t", strategy))
		commit(t, tx)
	})
}
