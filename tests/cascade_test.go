package tests

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// cascadeDDL has two children, a composite one, a self-reference, a key that is a foreign key
// of a child of a child, and a cycle.
var cascadeDDL = []string{
	`CREATE TABLE @t (id serial PRIMARY KEY, boss int REFERENCES @t, last int)`,
	`CREATE TABLE @plain (id bigserial PRIMARY KEY, t int NOT NULL REFERENCES @t ON UPDATE CASCADE ON DELETE CASCADE)`,
	`CREATE TABLE @pair (t smallint REFERENCES @t, n int, PRIMARY KEY (t, n))`,
	`CREATE TABLE @keyed (id int PRIMARY KEY REFERENCES @t, note text)`,
	`CREATE TABLE @deep (id int PRIMARY KEY REFERENCES @keyed, other bigint REFERENCES @plain, a smallint, b int, FOREIGN KEY (a, b) REFERENCES @pair)`,
	`ALTER TABLE @t ADD FOREIGN KEY (last) REFERENCES @keyed`,
	`INSERT INTO @t (boss) SELECT CASE WHEN g > 10 THEN g - 1 END FROM generate_series(1, 100) g`,
	`INSERT INTO @plain (t) SELECT g FROM generate_series(1, 100) g`,
	`INSERT INTO @pair SELECT g, g FROM generate_series(1, 50) g`,
	`INSERT INTO @keyed SELECT g, 'note' FROM generate_series(1, 60) g`,
	`INSERT INTO @deep SELECT g, g, g, g FROM generate_series(1, 40) g`,
	`UPDATE @t SET last = id WHERE id <= 30`,
}

var cascadeTables = []string{"t", "plain", "pair", "keyed", "deep"}

// cascadePlain is what the cascade does.
const cascadePlain = `
	ALTER TABLE @t ALTER id TYPE bigint, ALTER boss TYPE bigint, ALTER last TYPE bigint; ALTER SEQUENCE @t_id_seq AS bigint;
	ALTER TABLE @plain ALTER t TYPE bigint; ALTER TABLE @pair ALTER t TYPE bigint; ALTER TABLE @keyed ALTER id TYPE bigint;
	ALTER TABLE @deep ALTER id TYPE bigint, ALTER a TYPE bigint`

var cascadeWrites = []string{
	`INSERT INTO @t (boss) VALUES (5)`,
	`INSERT INTO @keyed SELECT max(id), 'written' FROM @t`,
	`INSERT INTO @plain (t) SELECT max(id) FROM @t`,
	`UPDATE @t SET last = (SELECT max(id) FROM @keyed), boss = 6 WHERE id = 50`,
	`DELETE FROM @deep WHERE id = (SELECT min(id) FROM @deep)`,
	`DELETE FROM @plain WHERE id = (SELECT max(id) FROM @plain WHERE id < 100)`,
}

func cascading(t *testing.T, strategy string) repack.Options {
	o := options(t, "app.t", strategy)
	o.ToBigint, o.Cascade = true, true
	return o
}

// TestCascade is interrupted after each stage of each table, and written to each time.
func TestCascade(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		twins(t, db, cascadeDDL...)
		o := cascading(t, strategy)
		stop := errors.New("stopped")
		for runs := 0; ; runs++ {
			both(t, db.Pool, cascadeWrites...)
			var ended atomic.Int64
			interrupted := o
			interrupted.Hooks.AfterStage = func(_ context.Context, s repack.Stage) error {
				if s != repack.PreValidate && ended.Add(1) == 4 {
					return stop
				}
				return nil
			}
			err := newRepack(t, db, interrupted).Run(testContext(t))
			if err == nil {
				if runs < 5 {
					t.Errorf("the cascade ended after %d runs", runs)
				}
				break
			}
			if !errors.Is(err, stop) {
				t.Fatalf("run: %v", err)
			}
		}
		mustExec(t, db.Pool, strings.ReplaceAll(cascadePlain, "@", "control."))
		alike(t, db, cascadeTables...)
		both(t, db.Pool, `INSERT INTO @t (id) VALUES (3000000000)`, `INSERT INTO @keyed VALUES (3000000000)`, `INSERT INTO @deep (id) VALUES (3000000000)`,
			`INSERT INTO @pair VALUES (3000000000, 1)`, `INSERT INTO @plain (t) VALUES (3000000000)`)
		both(t, db.Pool, cascadeWrites[0])
		alike(t, db, cascadeTables...)
		if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND NOT convalidated`); n > 0 {
			t.Errorf("%d foreign keys are not valid", n)
		}
		noArtefacts(t, db)
	})
}

// TestCascadeReverted goes back from everywhere: all tables are as if nothing had been done.
func TestCascadeReverted(t *testing.T) {
	t.Parallel()
	for n, name := range []string{"swapped", "halfway"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				twins(t, db, cascadeDDL...)
				before := db.Dump(t)
				o := cascading(t, strategy)
				if name == "swapped" {
					runUntil(t, db, o, repack.Swap)
				} else {
					stop := errors.New("stopped")
					halfway := o
					var ended atomic.Int64
					halfway.Hooks.AfterStage = func(_ context.Context, s repack.Stage) error {
						if s != repack.PreValidate && ended.Add(1) == 15 {
							return stop
						}
						return nil
					}
					if err := newRepack(t, db, halfway).Run(testContext(t)); !errors.Is(err, stop) {
						t.Fatalf("run: %v", err)
					}
				}
				both(t, db.Pool, cascadeWrites...)
				revert(t, db, options(t, "app.t", strategy))
				alike(t, db, cascadeTables...)
				sameDump(t, db, before)
				noArtefacts(t, db)
			})
		})
	}
}

// TestNarrowReferrer: a key is not made wider than a column that refers to it, unless that is
// asked for.
func TestNarrowReferrer(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); CREATE TABLE app.c (t int REFERENCES app.t)`)
		o := options(t, "app.t", strategy)
		o.ToBigint = true
		var refused *repack.RefusedError
		if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &refused) || !strings.Contains(err.Error(), "--cascade") {
			t.Fatalf("run: %v, want a refusal that names --cascade", err)
		}
		o.NoCascade = true
		run(t, db, o)
		if got := pgtest.Query[string](t, db.Pool, `SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = 'app.t'::regclass AND attname = 'id'`); got != "bigint" {
			t.Errorf("the key is %s", got)
		}
	})
}

// TestCascadeIsKept: a table of a cascade that is under way is not repacked, and not put back, as if
// there were none.
func TestCascadeIsKept(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); CREATE TABLE app.c (t int REFERENCES app.t, id int PRIMARY KEY);
			INSERT INTO app.t VALUES (1); INSERT INTO app.c VALUES (1, 1)`)
		o := cascading(t, strategy)
		stop := errors.New("stopped")
		halfway := o
		halfway.Hooks.AfterStage = func(_ context.Context, s repack.Stage) error {
			if s == repack.Swap {
				return stop
			}
			return nil
		}
		if err := newRepack(t, db, halfway).Run(testContext(t)); !errors.Is(err, stop) {
			t.Fatalf("run: %v", err)
		}
		var usage *repack.UsageError
		if err := newRepack(t, db, options(t, "app.t", strategy)).Run(testContext(t)); !errors.As(err, &usage) || !strings.Contains(err.Error(), "--cascade") {
			t.Fatalf("run: %v, want a *UsageError that names --cascade", err)
		}
		runUntil(t, db, o, repack.Swap)
		var refused *repack.RefusedError
		if err := newRepack(t, db, options(t, "app.c", strategy)).Revert(testContext(t)); !errors.As(err, &refused) || !strings.Contains(err.Error(), "app.t") {
			t.Fatalf("revert: %v, want a *RefusedError that names the table of the key", err)
		}
		db.Exec(t, `INSERT INTO app.t VALUES (3000000000); INSERT INTO app.c VALUES (3000000000, 2); DELETE FROM app.c WHERE id = 2; DELETE FROM app.t WHERE id > 5`)
		revert(t, db, options(t, "app.t", strategy))
		noArtefacts(t, db)
	})
}
