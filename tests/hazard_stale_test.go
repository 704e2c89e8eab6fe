package tests

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// A deferred constraint of the shadow is checked at the application's commit:
// what is stale in the shadow must not make that fail.
func TestDeferredConstraintMeetsStaleShadow(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		both(t, db.Pool, `ALTER TABLE @items DROP CONSTRAINT items_email_key,
			ADD CONSTRAINT items_email_key UNIQUE (email) DEFERRABLE INITIALLY DEFERRED`)
		var old pgx.Tx
		o = beforeStage(o, repack.Swap, func() { old = stillSnapshot(t, db, pgx.RepeatableRead) })
		held := holdAtStep(t, db, o, repack.StepWritingThrough)
		both(t, old, `UPDATE @items SET email = 'free' WHERE id = 1`)
		commit(t, old)
		both(t, db.Pool, `INSERT INTO @items VALUES (1001, 'mail 1', 'took the address of row 1')`)
		held.release()
		held.mustEnd(t)
		alike(t, db, "items")
	})
}

// The exchange replays a TRUNCATE, which is never written through; a snapshot
// taken before it commits must not see the table that comes in by it.
func TestSnapshotTakenDuringExchange(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		o.LockTimeout = queuing
		both(t, db.Pool, `CREATE TABLE @child (item bigint REFERENCES @items)`)
		held := holdAtStep(t, db, o, repack.StepDrained)
		both(t, db.Pool, `TRUNCATE @items, @child`)
		holder := begin(t, db.Connect(t), pgx.ReadCommitted)
		mustExec(t, holder, `LOCK TABLE app.child IN ACCESS SHARE MODE`)
		held.release()
		pgtest.WaitBlockedBy(t, db.Pool, pid(holder))
		late := stillSnapshot(t, db, pgx.RepeatableRead)
		commit(t, holder)
		alikeIn(t, late, "items")
		commit(t, late)
		held.mustEnd(t)
		alike(t, db, "items")
	})
}

// A statement that triggers a cascade into its own table: the cascade's rows
// are newer than those its own trigger is shown.
func TestSelfReferenceCascadesWhileWritingThrough(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		twins(t, db, `
			CREATE TABLE @nodes (id bigint PRIMARY KEY,
			                     parent bigint REFERENCES @nodes ON UPDATE CASCADE ON DELETE SET NULL,
			                     boss bigint REFERENCES @nodes ON UPDATE SET NULL ON DELETE CASCADE);
			INSERT INTO @nodes VALUES (1, 1, NULL), (2, 1, 1), (3, 2, 1), (4, 1, 4), (5, 4, 4)`)
		run(t, db, atStep(options(t, "app.nodes", strategy), repack.StepWritingThrough, func() {
			both(t, db.Pool, `UPDATE @nodes SET id = id + 100 WHERE id < 4`, `DELETE FROM @nodes WHERE id = 4`)
		}))
		alike(t, db, "nodes")
	})
}

// A transaction that holds a weak lock and then asks for a strong one, while the
// switch waits for it: the application must not be told of a deadlock. The
// server tells at once, whatever deadlock_timeout says, when the one in front
// holds a lock on the same table already.
func TestLockUpgradeWhileSwitchWaits(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		o.LockTimeout = queuing
		held := holdBefore(t, db, o, repack.Swap)
		writer := begin(t, db.Connect(t), pgx.ReadCommitted)
		both(t, writer, `INSERT INTO @items VALUES (1000, 'mail 1000', '')`)
		held.release()
		pgtest.WaitBlockedBy(t, db.Pool, pid(writer))
		both(t, writer, `TRUNCATE @items`, `INSERT INTO @items VALUES (1001, 'mail 1', '')`)
		commit(t, writer)
		held.mustEnd(t)
		alike(t, db, "items")
	})
}

// TRUNCATE and a row that takes over a unique value, both after the last pass
// of the replay and before the switch.
func TestTruncateBeforeSwitch(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		o.LockTimeout = queuing
		held := holdBefore(t, db, o, repack.Swap)
		writer := begin(t, db.Connect(t), pgx.ReadCommitted)
		both(t, writer, `INSERT INTO @items VALUES (1000, 'mail 1000', '')`)
		held.release()
		pgtest.WaitBlockedBy(t, db.Pool, pid(writer))
		conn := db.Connect(t)
		truncated := startExec(t, conn, `
			TRUNCATE app.items; INSERT INTO app.items VALUES (1001, 'mail 1', '');
			TRUNCATE control.items; INSERT INTO control.items VALUES (1001, 'mail 1', '')`)
		pgtest.WaitBlockedBy(t, db.Pool, conn.PgConn().PID()) // the next attempt
		commit(t, writer)
		if err := <-truncated; err != nil {
			t.Fatalf("truncate: %v", err)
		}
		held.mustEnd(t)
		alike(t, db, "items")
	})
}

// A function in a statement changes a row that the statement has changed: what
// the statement's trigger is shown is older than what the function's was.
func TestStatementWithinStatementWhileWritingThrough(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		db.Exec(t, `
			CREATE FUNCTION public.inner_update(items regclass, key bigint) RETURNS text LANGUAGE plpgsql AS $$
			BEGIN
				EXECUTE format('UPDATE %s SET note = ''inner'' WHERE id = $1', items) USING key;
				RETURN 'outer';
			END $$`)
		run(t, db, atStep(o, repack.StepWritingThrough, func() {
			both(t, db.Pool, `UPDATE @items SET note = public.inner_update('@items', id - 1) WHERE id IN (1, 2)`)
		}))
		alike(t, db, "items")
	})
}

// What is stale in the shadow makes one writer wait for another, which it would
// not have done without the tool: nobody may fail of a deadlock for it.
func TestStaleShadowMakesNoDeadlock(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		var old pgx.Tx
		o = beforeStage(o, repack.Swap, func() { old = stillSnapshot(t, db, pgx.RepeatableRead) })
		held := holdAtStep(t, db, o, repack.StepWritingThrough)
		both(t, old, `UPDATE @items SET email = 'free' WHERE id = 1`)
		commit(t, old)

		first, second := begin(t, db.Connect(t), pgx.ReadCommitted), begin(t, db.Connect(t), pgx.ReadCommitted)
		mustExec(t, second, `SET LOCAL deadlock_timeout = '10min'`) // as if it had waited for a second already
		both(t, first, `UPDATE @items SET note = 'first' WHERE id = 1`)
		both(t, second, `UPDATE @items SET note = 'second' WHERE id = 2`)
		inserted := startExec(t, second, `INSERT INTO app.items VALUES (1001, 'mail 1', 'second')`)
		blockedOrDone(t, db, inserted, pid(second))
		updated := startExec(t, first, `UPDATE app.items SET note = 'first' WHERE id = 2`)
		if err := <-inserted; err != nil {
			t.Fatalf("insert: %v", err)
		}
		commit(t, second)
		if err := <-updated; err != nil {
			t.Fatalf("update: %v", err)
		}
		commit(t, first)
		held.release()
		held.mustEnd(t)
		pgtest.Column[string](t, db.Pool, `SELECT note FROM app.items WHERE id IN (1, 2, 1001)`)
	})
}

// nextval that waits for the lock on an identity's sequence while the tables
// are exchanged must not hand out a number that comes again.
func TestIdentityCountsAcrossExchange(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.items (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY);
			INSERT INTO app.items SELECT FROM generate_series(1, 10)`)
		o := options(t, "app.items", strategy)
		o.LockTimeout = queuing
		held := holdAtStep(t, db, o, repack.StepDrained)
		holder := begin(t, db.Connect(t), pgx.ReadCommitted)
		mustExec(t, holder, `SELECT nextval('app.items_id_seq')`)
		held.release()
		pgtest.WaitBlockedBy(t, db.Pool, pid(holder))
		waiter := db.Connect(t)
		inserted := startExec(t, waiter, `INSERT INTO app.items VALUES (nextval('app.items_id_seq'))`)
		next := db.Connect(t)
		taken := startExec(t, next, `CREATE TEMP TABLE taken AS SELECT nextval('app.items_id_seq') AS id`)
		blockedOrDone(t, db, taken, next.PgConn().PID())
		commit(t, holder)
		held.mustEnd(t)
		if err := <-inserted; err != nil {
			t.Fatalf("insert: %v", err)
		}
		if err := <-taken; err != nil {
			t.Fatalf("nextval: %v", err)
		}
		mustExec(t, db.Pool, `INSERT INTO app.items DEFAULT VALUES`)
		mustExec(t, next, `INSERT INTO app.items SELECT id FROM taken`)
	})
}
