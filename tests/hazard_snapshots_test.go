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

// A snapshot older than the switch may read the table after the swap: the run
// waits for it no longer than it is told to, names it, and goes on when it is
// over.
func TestOlderSnapshotHoldsUpTheSwap(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		o.MaxSnapshotWait = 100 * time.Millisecond
		var old pgx.Tx
		err := newRepack(t, db, beforeStage(o, repack.Swap, func() {
			both(t, db.Pool, `UPDATE @items SET note = 'not in the shadow yet' WHERE id <= 20`)
			old = stillSnapshot(t, db, pgx.RepeatableRead)
		})).Run(testContext(t))
		var waited *repack.SnapshotError
		if !errors.As(err, &waited) {
			t.Fatalf("run: %v, want a *SnapshotError", err)
		}
		if len(waited.Holders) != 1 || waited.Holders[0].PID != int32(pid(old)) {
			t.Errorf("holders %v, want pid %d", waited.Holders, pid(old))
		}
		both(t, old, `UPDATE @items SET email = 'free' WHERE id = 1`, `DELETE FROM @items WHERE id = 2`,
			`INSERT INTO @items VALUES (1001, 'mail 1', '')`)
		alikeIn(t, old, "items")
		commit(t, old)
		run(t, db, o)
		alike(t, db, "items")
	})
}

// A snapshot taken once the shadow is in step, in a transaction that touches the
// table only after the swap, sees what it would have seen without the tool.
func TestSnapshotReadsAcrossTheSwap(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		var late pgx.Tx
		o = atStep(o, repack.StepDrained, func() {
			both(t, db.Pool, `UPDATE @items SET note = 'before' WHERE id <= 20`)
			late = stillSnapshot(t, db, pgx.RepeatableRead)
			for i, isolation := range isolationLevels {
				bothIn(t, db, isolation, `UPDATE @items SET note = note || ' after' WHERE id BETWEEN 10 AND 30`,
					`DELETE FROM @items WHERE id % 11 = 0`, fmt.Sprintf(`INSERT INTO @items VALUES (%[1]d, 'mail %[1]d', '')`, 1000+i),
					`UPDATE @items SET id = id + 5000 WHERE id BETWEEN 40 AND 45 `)
			}
		})
		runUntil(t, db, o, repack.Swap)
		both(t, db.Pool, `UPDATE @items SET note = 'swapped' WHERE id <= 15`, `DELETE FROM @items WHERE id % 13 = 0`)
		alikeIn(t, late, "items")
		both(t, late, `UPDATE @items SET note = 'late' WHERE id = 100`)
		commit(t, late)
		run(t, db, o)
		alike(t, db, "items")
	})
}

// A transaction may take over a snapshot that is older than itself.
func TestImportedSnapshotReadsAcrossTheSwap(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		o.Until, o.MaxSnapshotWait = repack.Swap, 3*time.Second
		waiting := watch(&o, awaitingSnapshots)
		var exporter pgx.Tx
		var name string
		done := startRun(t, db, beforeStage(o, repack.Swap, func() {
			both(t, db.Pool, `UPDATE @items SET note = 'not in the shadow yet' WHERE id <= 20`)
			exporter = begin(t, db.Connect(t), pgx.RepeatableRead)
			name = pgtest.Query[string](t, exporter, `SELECT pg_export_snapshot()`)
		}))
		awaitLog(t, waiting, done)
		importer := begin(t, db.Connect(t), pgx.RepeatableRead)
		mustExec(t, importer, fmt.Sprintf(`SET TRANSACTION SNAPSHOT '%s'`, name))
		mustExec(t, importer, `SELECT 1`)
		commit(t, exporter)
		// Either the run swaps, or it waits for the importer and fails.
		err := await(t, done)
		var waited *repack.SnapshotError
		if err != nil && !errors.As(err, &waited) {
			t.Fatalf("run: %v", err)
		}
		alikeIn(t, importer, "items")
		commit(t, importer)
		run(t, db, o)
		alike(t, db, "items")
	})
}

// Snapshots of other transactions that are over in time delay nobody: replicas
// of the application's own short reads.
func TestShortSnapshotsDoNotHoldUpTheSwap(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		o.MaxSnapshotWait = time.Millisecond
		idle := begin(t, db.Connect(t), pgx.ReadCommitted) // no snapshot between statements
		mustExec(t, idle, `SELECT 1`)
		run(t, db, o)
		alike(t, db, "items")
	})
}

// The owner sees little of other roles' sessions, but that they have a snapshot.
func TestOlderSnapshotOfAnotherRole(t *testing.T) {
	t.Parallel()
	inTurnIn(t, 1, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
		owner, o := givenOwner(t, db)
		reader := db.Role(t)
		db.Exec(t, `GRANT USAGE ON SCHEMA app TO `+reader+`; GRANT SELECT ON app.t TO `+reader)
		o.Strategy = strategy
		// One that has no snapshot is not waited for.
		idle := begin(t, db.ConnectAs(t, reader), pgx.ReadCommitted)
		mustExec(t, idle, `SELECT 1`)
		waiting := watch(&o, awaitingSnapshots)
		var old pgx.Tx
		o = beforeStage(o, repack.Swap, func() {
			old = begin(t, db.ConnectAs(t, reader), pgx.RepeatableRead)
			mustExec(t, old, `SELECT 1`)
		})
		done := make(chan error, 1)
		go func() { done <- runAs(t, db, owner, o) }()
		awaitLog(t, waiting, done)
		if n := pgtest.Query[int64](t, old, `SELECT count(*) FROM app.t`); n != 50 {
			t.Errorf("an older snapshot shows %d rows, want 50", n)
		}
		commit(t, old)
		mustEnd(t, done)
		if n := pgtest.Query[int64](t, idle, `SELECT count(*) FROM app.t`); n != 50 {
			t.Errorf("the new table has %d rows, want 50", n)
		}
	})
}
