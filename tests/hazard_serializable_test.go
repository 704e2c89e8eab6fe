package tests

import (
	"context"
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

// skews are what two SERIALIZABLE transactions may not both do: each reads what
// the other writes.
var skews = map[string]struct{ reads, first, second string }{
	"rows": {
		`SELECT note FROM app.items WHERE id IN (11, 12)`,
		`UPDATE app.items SET note = '' WHERE id = 11`,
		`UPDATE app.items SET note = '' WHERE id = 12`,
	},
	"keys": {
		`SELECT note FROM app.items WHERE id IN (11, 12)`,
		`UPDATE app.items SET id = 1011 WHERE id = 11`,
		`UPDATE app.items SET id = 1012 WHERE id = 12`,
	},
	"deletes": {
		`SELECT note FROM app.items WHERE email IN ('mail 11', 'mail 12')`,
		`DELETE FROM app.items WHERE id = 11`,
		`DELETE FROM app.items WHERE id = 12`,
	},
	"phantoms": {
		`SELECT count(*) FROM app.items`,
		`INSERT INTO app.items VALUES (1001, 'a', '')`,
		`INSERT INTO app.items VALUES (1002, 'b', '')`,
	},
}

// skew is a transaction that has its snapshot, and has read and written nothing
// yet of the table.
type skew struct {
	t             *testing.T
	second        pgx.Tx
	reads, writes string
	done          bool
}

// begin has the first transaction read, write and commit, while the second is
// there.
func (s *skew) begin(db *pgtest.Database, name string) {
	c := skews[name]
	s.second, s.reads, s.writes = stillSnapshot(s.t, db, pgx.Serializable), c.reads, c.second
	first := begin(s.t, db.Connect(s.t), pgx.Serializable)
	mustExec(s.t, first, c.reads)
	mustExec(s.t, first, c.first)
	commit(s.t, first)
}

// finish has the second transaction do the same: one of the two has to fail.
func (s *skew) finish() {
	if s.done {
		return
	}
	s.done = true
	ctx := testContext(s.t)
	_, err := s.second.Exec(ctx, s.reads)
	if err == nil {
		_, err = s.second.Exec(ctx, s.writes)
	}
	if err == nil {
		err = s.second.Commit(ctx)
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != serializationFailure {
		s.t.Errorf("the second transaction has contradicted the first: %v, want a serialization failure", err)
	}
	_ = s.second.Rollback(context.WithoutCancel(ctx)) // it is over already
}

const awaitingSerializable = "waiting for serializable transactions from before the exchange"

// What transactions have read of the old table counts for those that write the
// new one; and as long as there are such, the run does not clean up.
func TestWriteSkewAcrossTheSwap(t *testing.T) {
	t.Parallel()
	for n, name := range slices.Sorted(maps.Keys(skews)) {
		for m, wait := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, cleaning up %t", name, wait), func(t *testing.T) {
				t.Parallel()
				inTurn(t, n+m, func(t *testing.T, db *pgtest.Database, strategy string) {
					o := givenItems(t, db, strategy)
					s := &skew{t: t}
					waiting := watch(&o, awaitingSerializable)
					if !wait {
						o = beforeStage(o, repack.CleanUp, s.finish)
					}
					done := startRun(t, db, atStep(o, repack.StepDrained, func() { s.begin(db, name) }))
					if wait {
						awaitLog(t, waiting, done)
						s.finish()
					}
					mustEnd(t, done)
				})
			})
		}
	}
}

// The same with tables that are written to in other ways: row by row, and without
// an update in place.
func TestWriteSkewOfOtherTables(t *testing.T) {
	t.Parallel()
	const fill = `
		;
		INSERT INTO app.items (id, email, note) SELECT i, 'mail ' || i, 'note' FROM generate_series(1, 200) AS i`
	kinds := map[string]string{
		"partition": `CREATE TABLE app.whole (id bigint PRIMARY KEY, email text, note text) PARTITION BY RANGE (id);
			CREATE TABLE app.items PARTITION OF app.whole FOR VALUES FROM (0) TO (10000); CREATE INDEX ON app.items (email)`,
		"identity": `
			CREATE TABLE app.items (
			    id    bigint PRIMARY KEY,
			    email text   UNIQUE,
			    note  text,
			    n     int    GENERATED ALWAYS AS IDENTITY
			)`,
	}
	for m, kind := range slices.Sorted(maps.Keys(kinds)) {
		for n, name := range slices.Sorted(maps.Keys(skews)) {
			if kind == "identity" && name == "phantoms" {
				continue // logged, and so the older snapshot is waited for
			}
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				inTurn(t, m+n, func(t *testing.T, db *pgtest.Database, strategy string) {
					db.Exec(t, `CREATE SCHEMA app; `+kinds[kind]+fill)
					s := &skew{t: t}
					o := beforeStage(options(t, "app.items", strategy), repack.CleanUp, s.finish)
					run(t, db, atStep(o, repack.StepDrained, func() { s.begin(db, name) }))
				})
			})
		}
	}
}

// The same on the way back.
func TestWriteSkewAcrossTheRevert(t *testing.T) {
	t.Parallel()
	for n, name := range slices.Sorted(maps.Keys(skews)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				o := givenItems(t, db, strategy)
				runUntil(t, db, o, repack.Swap)
				s := &skew{t: t}
				waiting := watch(&o, awaitingSerializable)
				o = atStep(o, repack.StepDrained, func() { s.begin(db, name) })
				done := make(chan error, 1)
				go func() { done <- newRepack(t, db, o).Revert(testContext(t)) }()
				awaitLog(t, waiting, done)
				s.finish()
				if err := await(t, done); err != nil {
					t.Fatalf("revert: %v", err)
				}
				noArtefacts(t, db)
			})
		})
	}
}
