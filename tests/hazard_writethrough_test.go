package tests

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

var isolationLevels = []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}

// eachIsolation is eachStrategy for every isolation level.
func eachIsolation(t *testing.T, test func(t *testing.T, db *pgtest.Database, strategy string, isolation pgx.TxIsoLevel)) {
	t.Helper()
	for n, isolation := range isolationLevels {
		t.Run(string(isolation), func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) { test(t, db, strategy, isolation) })
		})
	}
}

const variedSQL = `
CREATE TABLE @varied (
    id     bigint  PRIMARY KEY,
    serial bigint  GENERATED %s AS IDENTITY,
    pos    integer NOT NULL,
    twice  integer GENERATED ALWAYS AS (pos * 2) STORED,
    email  text    UNIQUE,
    CONSTRAINT varied_pos_key UNIQUE (pos) DEFERRABLE INITIALLY IMMEDIATE
);
INSERT INTO @varied (id, pos, email) SELECT i, i, 'mail ' || i FROM generate_series(1, 100) AS i`

// variedWrites are one transaction: every kind of statement that changes rows.
func variedWrites(version int) []string {
	writes := []string{
		`INSERT INTO @varied (id, pos, email) VALUES (101, 1001, 'mail 101')`,
		`UPDATE @varied SET email = NULL WHERE id = 1`,
		`DELETE FROM @varied WHERE id = 2`,
		`UPDATE @varied SET id = 2 WHERE id = 3`,
		`UPDATE @varied SET pos = pos + 1`,
		`UPDATE @varied SET email = CASE id WHEN 10 THEN NULL ELSE 'mail 10' END WHERE id IN (10, 1)`,
		`UPDATE @varied SET id = -1 WHERE id = 11`, `UPDATE @varied SET id = 11 WHERE id = 12`,
		`UPDATE @varied SET id = 12 WHERE id = -1`,
		`WITH gone AS (DELETE FROM @varied WHERE id = 20 RETURNING *)
		 INSERT INTO @varied (id, pos, email) SELECT id, pos + 2000, email || ' again' FROM gone`,
		// With LIMIT the row is inserted, and our trigger for that called, before
		// the DELETE has come to its end.
		`WITH gone AS (DELETE FROM @varied WHERE id = 19 RETURNING *)
		 INSERT INTO @varied (id, pos, email) SELECT id, pos + 2000, email || ' again' FROM gone LIMIT 1`,
		`INSERT INTO @varied (id, pos, email) SELECT i, 3000 + i, 'upsert ' || i FROM generate_series(96, 105) AS i
		 ON CONFLICT (id) DO UPDATE SET pos = EXCLUDED.pos, email = EXCLUDED.email`,
		`SAVEPOINT s`, `DELETE FROM @varied`, `ROLLBACK TO s`,
		`SAVEPOINT s`, `UPDATE @varied SET pos = pos + 10000 WHERE id > 50`, `RELEASE s`,
		`DELETE FROM @varied WHERE id = 60`, `INSERT INTO @varied (id, pos) VALUES (60, 60000)`,
		`UPDATE @varied SET pos = 0 WHERE id = 60`, `UPDATE @varied SET id = 6000 WHERE id = 60`,
		`SET CONSTRAINTS ALL DEFERRED`,
		`UPDATE @varied SET pos = 70070 WHERE id = 71`,
		`UPDATE @varied SET pos = 70070 WHERE id = 70`, `UPDATE @varied SET pos = 70071 WHERE id = 71`,
	}
	merge := `MERGE INTO @varied v USING (SELECT generate_series(80, 120) AS id) s ON v.id = s.id
		WHEN MATCHED AND s.id % 3 = 0 THEN DELETE
		WHEN MATCHED AND s.id % 3 = 1 THEN UPDATE SET email = 'merged ' || s.id
		WHEN NOT MATCHED THEN INSERT (id, pos) VALUES (s.id, 5000 + s.id)`
	if version >= 15 {
		writes = append(writes, merge)
	}
	return writes
}

// eachVaried does so with an identity column whose rows cannot be updated in
// place, and one whose can.
func eachVaried(t *testing.T, test func(t *testing.T, db *pgtest.Database, o repack.Options, isolation pgx.TxIsoLevel)) {
	t.Helper()
	for _, generated := range []string{"ALWAYS", "BY DEFAULT"} {
		t.Run(generated, func(t *testing.T) {
			t.Parallel()
			eachIsolation(t, func(t *testing.T, db *pgtest.Database, strategy string, isolation pgx.TxIsoLevel) {
				twins(t, db, fmt.Sprintf(variedSQL, generated))
				test(t, db, options(t, "app.varied", strategy), isolation)
			})
		})
	}
}

func TestWritesWhileWritingThrough(t *testing.T) {
	t.Parallel()
	eachVaried(t, func(t *testing.T, db *pgtest.Database, o repack.Options, isolation pgx.TxIsoLevel) {
		run(t, db, atStep(o, repack.StepWritingThrough, func() {
			bothIn(t, db, isolation, variedWrites(db.Version())...)
			copyRows(t, db, isolation)
		}))
		alike(t, db, "varied")
	})
}

// The same after the swap, and back.
func TestWritesAfterSwapAreThereAfterRevert(t *testing.T) {
	t.Parallel()
	eachVaried(t, func(t *testing.T, db *pgtest.Database, o repack.Options, isolation pgx.TxIsoLevel) {
		runUntil(t, db, o, repack.Swap)
		bothIn(t, db, isolation, variedWrites(db.Version())...)
		o = atStep(o, repack.StepWritingThrough, func() {
			bothIn(t, db, isolation, `UPDATE @varied SET pos = pos - 1`, `DELETE FROM @varied WHERE id = 40`)
		})
		revert(t, db, o)
		alike(t, db, "varied")
	})
}

func copyRows(t *testing.T, db *pgtest.Database, isolation pgx.TxIsoLevel) {
	t.Helper()
	tx := begin(t, db.Connect(t), isolation)
	for _, schema := range []string{"app", "control"} {
		_, err := tx.CopyFrom(t.Context(), pgx.Identifier{schema, "varied"}, []string{"id", "pos", "email"},
			pgx.CopyFromSlice(50, func(i int) ([]any, error) {
				return []any{int64(7000 + i), int32(200000 + i), nil}, nil
			}))
		if err != nil {
			t.Fatalf("copy: %v", err)
		}
	}
	commit(t, tx)
}

// Serializable writers of rows that have nothing to do with each other do not
// fail for what the trigger reads: they take turns, so that each would have read
// what the other has written since.
func TestSerializableWritersOfOtherRows(t *testing.T) {
	t.Parallel()
	cases := map[string][]string{
		"inserts": {
			`INSERT INTO app.items VALUES (1001, 'mail 1001', '')`, `INSERT INTO app.items VALUES (1002, 'mail 1002', '')`,
			`INSERT INTO app.items VALUES (1003, 'mail 1003', '')`, `INSERT INTO app.items VALUES (1004, 'mail 1004', '')`,
		},
		"updates": {
			`UPDATE app.items SET note = 'a' WHERE id = 1`, `UPDATE app.items SET note = 'b' WHERE id = 2`,
			`UPDATE app.items SET note = 'a' WHERE id = 3`, `UPDATE app.items SET note = 'b' WHERE id = 4`,
		},
		"inserts and updates": {
			`INSERT INTO app.items VALUES (1001, 'mail 1001', '')`, `UPDATE app.items SET note = 'b' WHERE id = 2`,
			`INSERT INTO app.items VALUES (1003, 'mail 1003', '')`, `UPDATE app.items SET note = 'b' WHERE id = 4`,
		},
	}
	for n, name := range slices.Sorted(maps.Keys(cases)) {
		statements := cases[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				o := givenItems(t, db, strategy)
				run(t, db, atStep(o, repack.StepDrained, func() {
					a, b := stillSnapshot(t, db, pgx.Serializable), stillSnapshot(t, db, pgx.Serializable)
					for i, sql := range statements {
						mustExec(t, []pgx.Tx{a, b}[i%2], sql)
					}
					commit(t, a)
					commit(t, b)
				}))
			})
		})
	}
}

// serializationFailure is what a SERIALIZABLE transaction has to expect.
const serializationFailure = "40001"

// Serializable transactions that do contradict each other still do so when the
// trigger has swallowed an error.
func TestSerializableConflictIsStillOne(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		run(t, db, atStep(o, repack.StepDrained, func() {
			a, b := begin(t, db.Connect(t), pgx.Serializable), begin(t, db.Connect(t), pgx.Serializable)
			for _, tx := range []pgx.Tx{a, b} {
				pgtest.Query[int64](t, tx, `SELECT count(*) FROM app.items`)
			}
			var failures []string
			for i, tx := range []pgx.Tx{a, b} {
				_, err := tx.Exec(t.Context(), `
					INSERT INTO app.items SELECT count(*) + 5000, 'count ' || $1::int, '' FROM app.items`, i)
				if err == nil {
					err = tx.Commit(t.Context())
				}
				var pgErr *pgconn.PgError
				if errors.As(err, &pgErr) {
					failures = append(failures, pgErr.Code)
				}
			}
			if len(failures) != 1 || !slices.Contains([]string{serializationFailure, "23505"}, failures[0]) {
				t.Errorf("failures %v, want one serialization failure", failures)
			}
		}))
	})
}
