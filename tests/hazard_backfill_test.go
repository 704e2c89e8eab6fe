package tests

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// writesSQL change rows in every block of items, in every way.
var writesSQL = []string{
	`DELETE FROM @items WHERE id % 7 = 0`,
	`UPDATE @items SET note = 'updated' WHERE id % 7 = 1`,
	`UPDATE @items SET id = id + 1000 WHERE id % 7 = 2`,
	`INSERT INTO @items SELECT id - 1000, 'again ' || id, 'took the key' FROM @items WHERE id > 1100`,
	`INSERT INTO @items VALUES (2001, 'mail 7', 'took the address')`,
}

// Rows are written after a chunk has read them and before it commits. The
// writer may have to wait for the chunk, or not: the outcome is the same.
func TestWritesWhileChunkIsUncommitted(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		holder := begin(t, db.Connect(t), pgx.ReadCommitted)
		held := holdBefore(t, db, o, repack.Backfill)
		mustExec(t, holder, `LOCK TABLE repack_registry.chunk IN SHARE MODE`)
		held.release()
		pgtest.WaitBlockedBy(t, db.Pool, pid(holder))
		writer := db.Connect(t)
		written := startExec(t, writer, `
			DELETE FROM app.items WHERE id % 7 = 0;
			UPDATE app.items SET note = 'updated' WHERE id % 7 = 1;
			UPDATE app.items SET id = id + 1000 WHERE id % 7 = 2`)
		blockedOrDone(t, db, written, writer.PgConn().PID())
		commit(t, holder)
		if err := <-written; err != nil {
			t.Fatalf("write: %v", err)
		}
		db.Exec(t, `DELETE FROM control.items WHERE id % 7 = 0;
			UPDATE control.items SET note = 'updated' WHERE id % 7 = 1;
			UPDATE control.items SET id = id + 1000 WHERE id % 7 = 2`)
		held.mustEnd(t)
		alike(t, db, "items")
	})
}

// Writers hold row locks while all chunks pass, and then commit or roll back.
func TestChunksPassLockedRows(t *testing.T) {
	t.Parallel()
	for n, isolation := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		for m, keep := range []bool{true, false} {
			inTurn(t, n+m, func(t *testing.T, db *pgtest.Database, strategy string) {
				o := givenItems(t, db, strategy)
				var writer pgx.Tx
				o = beforeStage(o, repack.Backfill, func() {
					writer = begin(t, db.Connect(t), isolation)
					both(t, writer, writesSQL...)
				})
				o = atStage(o, repack.Backfill, func() {
					if keep {
						commit(t, writer)
					} else if err := writer.Rollback(t.Context()); err != nil {
						t.Errorf("roll back: %v", err)
					}
				})
				run(t, db, o)
				alike(t, db, "items")
			})
		}
	}
}

// Writers come between chunks, in every isolation level, from snapshots older
// than the shadow's first row or of their own.
func TestWritesBetweenChunks(t *testing.T) {
	t.Parallel()
	for n, isolation := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable} {
		inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
			o := givenItems(t, db, strategy)
			var old pgx.Tx
			o = beforeStage(o, repack.Backfill, func() { old = stillSnapshot(t, db, isolation) })
			held := holdAtChunk(t, db, o)
			both(t, old, writesSQL...)
			commit(t, old)
			bothIn(t, db, isolation, `UPDATE @items SET note = note || '!' WHERE id % 5 = 0`,
				`DELETE FROM @items WHERE id BETWEEN 1000 AND 1050`)
			held.release()
			held.mustEnd(t)
			alike(t, db, "items")
		})
	}
}

// Rows written while setup waits for a writer, in new blocks too, and between
// setup and the measuring of the table.
func TestWritesAroundSetup(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		o.LockTimeout = queuing
		writer := begin(t, db.Connect(t), pgx.ReadCommitted)
		both(t, writer, `INSERT INTO @items VALUES (1001, 'mail 1001', 'before capture')`)
		done := startRun(t, db, beforeStage(o, repack.Backfill, func() {
			both(t, db.Pool, `
				INSERT INTO @items SELECT 2000 + i, 'mail ' || 2000 + i, 'after setup' FROM generate_series(1, 100) i`,
				`DELETE FROM @items WHERE id = 2`)
		}))
		pgtest.WaitBlockedBy(t, db.Pool, pid(writer))
		both(t, writer, `UPDATE @items SET note = 'while setup waits' WHERE id = 1`,
			`INSERT INTO @items SELECT 3000 + i, 'mail ' || 3000 + i, 'while setup waits' FROM generate_series(1, 100) i`)
		commit(t, writer)
		mustEnd(t, done)
		alike(t, db, "items")
	})
}

// Rows move to blocks that have been copied, or never will be: the backfill
// begins again.
func TestRewriteBetweenChunks(t *testing.T) {
	t.Parallel()
	for name, rewrite := range map[string]string{
		"vacuum full": `VACUUM FULL app.items`,
		"cluster":     `CLUSTER app.items USING items_email_key`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
				o := givenItems(t, db, strategy)
				if name == "cluster" { // the mark it leaves is a change of its own
					both(t, db.Pool, `ALTER TABLE @items CLUSTER ON items_email_key`)
				}
				both(t, db.Pool, `DELETE FROM @items WHERE id BETWEEN 5 AND 40`)
				held := holdAtChunk(t, db, o)
				mustExec(t, db.Connect(t), rewrite)
				held.release()
				held.mustEnd(t)
				alike(t, db, "items")
			})
		})
	}
}

// Ordinary triggers do not fire for a session that applies another server's
// changes.
func TestReplicaRoleWriters(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		replica := db.Connect(t)
		mustExec(t, replica, `SET session_replication_role = replica`)
		o := givenItems(t, db, strategy)
		round := 0
		o = everyStep(o, func() {
			round++
			both(t, replica, fmt.Sprintf(`INSERT INTO @items VALUES (%[1]d, 'mail %[1]d', '')`, 1000+round),
				fmt.Sprintf(`UPDATE @items SET note = note || %d WHERE id %% 9 = 0`, round),
				fmt.Sprintf(`DELETE FROM @items WHERE id = %d`, round), `DELETE FROM @items WHERE id = 999`)
		})
		o.Until = repack.Swap
		run(t, db, o)
		alike(t, db, "items")
		revert(t, db, o)
		alike(t, db, "items")
	})
}

// A chunk of direct-trigger locks its rows, and a writer may have to wait for it:
// how large a chunk may be is found out from small ones.
func TestLockedChunksGrowFromSmall(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.items (id bigint PRIMARY KEY) WITH (fillfactor = 10);
		INSERT INTO app.items SELECT generate_series(1, 10000)`)
	o := options(t, "app.items", repack.DirectTrigger)
	o.Jobs, o.Until = 1, repack.Backfill
	var copied, last int64
	o.Hooks.AfterChunk = func(_ context.Context, p repack.Progress) error {
		if blocks := p.Blocks - copied; blocks > max(2*last, 16) {
			t.Errorf("a chunk of %d blocks after one of %d", blocks, last)
		}
		copied, last = p.Blocks, p.Blocks-copied
		return nil
	}
	run(t, db, o)
	if copied < 200 {
		t.Errorf("%d blocks have been copied: they show nothing", copied)
	}
}
