package tests

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// queuedSQL is which strong locks the tool waits for.
const queuedSQL = `
SELECT count(*)
FROM   pg_locks l
JOIN   pg_stat_activity a ON a.pid = l.pid
WHERE  l.locktype = 'relation' AND NOT l.granted AND a.datname = current_database()
       AND a.application_name LIKE 'repack %'`

// comers asks for a lock on a table again and again, NOWAIT, as the workers of a
// pg_dump do: it fails as soon as somebody stands in the queue for one that
// conflicts, or holds it.
type comers struct {
	group   sync.WaitGroup
	end     context.CancelFunc
	came    int
	queued  int64
	refused error
}

func startComers(t *testing.T, db *pgtest.Database, table, mode string) *comers {
	t.Helper()
	c, conn := &comers{}, db.Connect(t)
	ctx, cancel := context.WithCancel(testContext(t))
	c.end = cancel
	c.group.Go(func() {
		for ctx.Err() == nil && c.refused == nil {
			c.refused = pgx.BeginFunc(context.WithoutCancel(ctx), conn, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, fmt.Sprintf(`LOCK TABLE %s IN %s MODE NOWAIT`, table, mode))
				return err
			})
			var queued int64
			if err := conn.QueryRow(context.WithoutCancel(ctx), queuedSQL).Scan(&queued); err != nil {
				c.refused = errors.Join(c.refused, err)
			}
			c.came++
			c.queued += queued
		}
	})
	return c
}

// none fails the test if one of them was refused, or the tool seen in the queue.
func (c *comers) none(t *testing.T) {
	t.Helper()
	c.end()
	c.group.Wait()
	if c.refused != nil && !errors.Is(c.refused, context.Canceled) {
		t.Errorf("a lock that conflicts with the holder's was refused: %v", c.refused)
	}
	if c.queued > 0 {
		t.Errorf("the tool has queued for a lock: seen %d times", c.queued)
	}
	if c.came < 10 {
		t.Errorf("only %d locks were asked for", c.came)
	}
}

// grownOld waits until a transaction is older than the lock timeout.
func grownOld(t *testing.T, db *pgtest.Database, tx pgx.Tx, o repack.Options) {
	t.Helper()
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, db.Pool, `
			SELECT clock_timestamp() - xact_start > $2::interval + '10ms' FROM pg_stat_activity WHERE pid = $1`,
			int32(pid(tx)), o.LockTimeout)
	}, "a transaction to grow old")
}

// besidePlaces are followed by a strong lock of the tool's on a table, which a lock
// of that mode is in the way of.
var besidePlaces = []struct{ place, table, mode string }{
	{beforeSetup, "app.items", "ROW EXCLUSIVE"},
	{beforeSwap, "app.items", "ROW EXCLUSIVE"},
	{repack.StepDrained, "app.items", "ACCESS SHARE"},
	{repack.StepDrained, "app.child", "ACCESS SHARE"},
	{repack.StepDrained, "app.parent", "ACCESS SHARE"},
	{repack.StepDrained, "app.seen", "ACCESS SHARE"},
	{repack.StepDrained, "repack_job_1.items", "ACCESS SHARE"},
	{beforeCleanUp, "app.items", "ACCESS SHARE"},
	{repack.StepCaptureEnded, "repack_job_1_old.items", "ACCESS SHARE"},
	{repack.StepLoggedKeysRemoved, "repack_job_1.items", "ACCESS SHARE"},
}

const besideSQL = `
CREATE TABLE @parent (id int PRIMARY KEY);
ALTER TABLE @items ADD parent int REFERENCES @parent;
CREATE TABLE @child (id int PRIMARY KEY, item bigint REFERENCES @items);
CREATE VIEW @seen AS SELECT id FROM @items`

// A transaction that has been open for longer than the lock timeout is not queued
// behind: who comes after it passes, also one that will not wait at all, until
// it is over and the run ends well.
func TestNothingQueuesBehindLongTransaction(t *testing.T) {
	t.Parallel()
	for i, p := range besidePlaces {
		t.Run(p.place+" "+p.table, func(t *testing.T) {
			t.Parallel()
			db, strategy := withRegistry.New(t), strategies[i%2]
			o := givenItems(t, db, strategy)
			both(t, db.Pool, besideSQL)
			o.LockRetries = 1000
			var holder pgx.Tx
			var later *comers
			denied := newHalt(t)
			var denials atomic.Int32
			onLog(&o, func(message string) {
				if n := denials.Add(1); message == lockNotObtained && n > 1 {
					denied.stop()
				}
			})
			places := map[string]bool{}
			o.Hooks = atPlaces(func(place string) {
				if place != p.place || places[place] {
					return
				}
				places[place] = true
				holder = begin(t, db.Connect(t), pgx.ReadCommitted)
				mustExec(t, holder, fmt.Sprintf(`LOCK TABLE %s IN %s MODE`, p.table, p.mode))
				grownOld(t, db, holder, o)
				later = startComers(t, db, p.table, p.mode)
			})
			done := startRun(t, db, o)
			denied.await(t, done)
			denied.release()
			later.none(t)
			commit(t, holder)
			mustEnd(t, done)
			alike(t, db, "items")
		})
	}
}

// Those who will not let go in time: one whose transaction the owner of the table is
// not shown the age of, and a pg_dump however young it is, for it holds its locks
// to the end and its workers ask for theirs NOWAIT.
func TestNothingQueuesBehindWhoWillStay(t *testing.T) {
	t.Parallel()
	for _, application := range []string{"hidden", "pg_dump"} {
		t.Run(application, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			owner, o := givenOwner(t, db)
			reader := db.Role(t)
			db.Exec(t, `GRANT USAGE ON SCHEMA app TO `+reader+`; GRANT SELECT ON app.t TO `+reader)
			o.LockRetries = 1000
			denied := watch(&o, lockNotObtained)
			var holder pgx.Tx
			var later *comers
			o = atStep(o, repack.StepDrained, func() {
				conn := db.ConnectAs(t, reader)
				mustExec(t, conn, `SELECT set_config('application_name', $1, false)`, application)
				holder = begin(t, conn, pgx.ReadCommitted)
				mustExec(t, holder, `SELECT FROM app.t LIMIT 1`)
				later = startComers(t, db, "app.t", "ACCESS SHARE")
				if application == "hidden" {
					grownOld(t, db, holder, o)
				}
			})
			done := make(chan error, 1)
			go func() { done <- runAs(t, db, owner, o) }()
			awaitLog(t, denied, done)
			later.none(t)
			commit(t, holder)
			mustEnd(t, done)
		})
	}
}

// A prepared transaction is waited for beside the queue, like a session.
func TestNothingQueuesBehindPreparedTransaction(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := givenItems(t, db, repack.ChangeLog)
	o.LockRetries = 1000
	runUntil(t, db, o, repack.PostSyncUpdate)
	denied := watch(&o, lockNotObtained)
	gid := fmt.Sprintf("beside the queue of %s", db.Name)
	tx := begin(t, db.Connect(t), pgx.ReadCommitted)
	both(t, tx, `DELETE FROM @items WHERE id = 1`)
	mustExec(t, tx, fmt.Sprintf(`PREPARE TRANSACTION '%s'`, gid))
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, db.Pool, `
			SELECT clock_timestamp() - prepared > $2::interval FROM pg_prepared_xacts WHERE gid = $1`, gid, o.LockTimeout)
	}, "a prepared transaction to grow old")
	later := startComers(t, db, "app.items", "ROW EXCLUSIVE")
	done := startRun(t, db, o)
	awaitLog(t, denied, done)
	later.none(t)
	db.Exec(t, fmt.Sprintf(`COMMIT PREPARED '%s'`, gid))
	mustEnd(t, done)
	alike(t, db, "items")
}

// The first attempt that finds nobody in the way is made at once, not after the
// pause; who stays to the end is named.
func TestLongTransactionIsNamed(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := givenItems(t, db, repack.ChangeLog)
	o.LockRetries = 2
	runUntil(t, db, o, repack.Swap)
	holder := begin(t, db.Connect(t), pgx.ReadCommitted)
	mustExec(t, holder, `SELECT FROM app.items LIMIT 1`)
	grownOld(t, db, holder, o)
	err := newRepack(t, db, o).Run(testContext(t))
	var timeout *repack.LockTimeoutError
	if !errors.As(err, &timeout) {
		t.Fatalf("run: %v, want a *LockTimeoutError", err)
	}
	if len(timeout.Blockers) != 1 || timeout.Blockers[0].PID != int32(pid(holder)) || timeout.Attempts != 3 {
		t.Errorf("%d attempts, blockers %v, want 3 and pid %d", timeout.Attempts, timeout.Blockers, pid(holder))
	}
	commit(t, holder)
	run(t, db, o)
}
