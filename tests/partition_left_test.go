package tests

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const leavingSQL = `
CREATE SCHEMA app;
CREATE TABLE app.other (id int PRIMARY KEY); INSERT INTO app.other SELECT generate_series(0, 9);
CREATE TABLE app.p (id int PRIMARY KEY, a int, o int REFERENCES app.other, s text) PARTITION BY RANGE (id);
CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (100);
CREATE TABLE app.p2 PARTITION OF app.p FOR VALUES FROM (100) TO (200);
CREATE TABLE app.p3 PARTITION OF app.p FOR VALUES FROM (200) TO (300);
CREATE INDEX ON app.p (a);
INSERT INTO app.p SELECT g, g, g % 10, 'x' FROM generate_series(0, 299) g;`

// leavings are ways in which a partition ceases to be one.
var leavings = map[string]string{
	"dropped":               `DROP TABLE app.p2`,
	"detached":              `ALTER TABLE app.p DETACH PARTITION app.p2`,
	"detached concurrently": `ALTER TABLE app.p DETACH PARTITION app.p2 CONCURRENTLY`,
	"detached and dropped":  `ALTER TABLE app.p DETACH PARTITION app.p2; DROP TABLE app.p2`,
	"replaced": `ALTER TABLE app.p DETACH PARTITION app.p2; ALTER TABLE app.p2 RENAME TO was_p2;
		CREATE TABLE app.p2 PARTITION OF app.p FOR VALUES FROM (100) TO (200)`,
}

// leavingPlaces are moments in the repack of the second of three partitions; a
// stage is meant as "before" it.
var leavingPlaces = []string{
	beforePreValidate, beforeSetup, beforeBackfill, beforeSyncSchema, repack.StepLoggedKeysRemoved,
	beforePostSyncUpdate, beforeSwap, repack.StepWritingThrough, repack.StepDrained, repack.StepExchanged,
	beforeCleanUp, repack.StepCaptureEnded,
}

// leaveAt does it at the moment that place names, in the nth stage or step of that
// name: each partition has one, and pre_validate is done for all beforehand.
func leaveAt(o repack.Options, place string, do func()) repack.Options {
	seen, want := 0, 2
	hit := func(name string) {
		if name == place {
			if seen++; seen == want {
				do()
			}
		}
	}
	o.Hooks.BeforeStage = func(_ context.Context, s repack.Stage) error { hit("before " + string(s)); return nil }
	o.Hooks.AfterStep = oneAtATime(func(_ context.Context, s string) error { hit(s); return nil })
	return o
}

// TestPartitionLeavesDuringRun has one of three partitions leave at every moment:
// the others are repacked, and it is left alone.
func TestPartitionLeavesDuringRun(t *testing.T) {
	t.Parallel()
	ways := slices.Sorted(maps.Keys(leavings))
	for m, way := range ways {
		sql := leavings[way]
		for n, place := range leavingPlaces {
			if n%len(ways) != m && !thorough() {
				continue
			}
			t.Run(way+" "+place, func(t *testing.T) {
				t.Parallel()
				eachHalf(t, n, func(t *testing.T, db *pgtest.Database, strategy, _ string) {
					db.Exec(t, leavingSQL)
					files := func() string {
						return db.QueryString(t, `
							SELECT string_agg(relname || relfilenode, ' ') FROM pg_class WHERE relname IN ('p1', 'p3')`)
					}
					before := files()
					left := false
					run(t, db, leaveAt(options(t, "app.p", strategy), place, func() {
						left = true
						for _, statement := range strings.Split(sql, ";") {
							db.Exec(t, statement)
						}
					}))
					if !left {
						t.Fatalf("the run never came to %q", place)
					}
					noArtefacts(t, db)
					if after := files(); after == before {
						t.Error("the other partitions were not repacked")
					}
					want := 200
					if got := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM app.p`); got != want {
						t.Errorf("app.p has %d rows, want %d", got, want)
					}
					kept := map[string]string{"detached": "app.p2", "detached concurrently": "app.p2", "replaced": "app.was_p2"}[way]
					if kept != "" && pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM `+kept) != 100 {
						t.Errorf("%s has lost rows", kept)
					}
					run(t, db, options(t, "app.p", strategy)) // with what there is now
				})
			})
		}
	}
}

// TestPartitionLeavesBetweenRuns: what the run before has left of one is removed,
// by the next run and by reset alike.
func TestPartitionLeavesBetweenRuns(t *testing.T) {
	t.Parallel()
	for n, way := range slices.Sorted(maps.Keys(leavings)) {
		sql := leavings[way]
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				db.Exec(t, leavingSQL)
				o := options(t, "app.p", strategy)
				runUntil(t, db, o, repack.Backfill)
				for _, statement := range strings.Split(sql, ";") {
					db.Exec(t, statement)
				}
				if strategy == repack.ChangeLog {
					run(t, db, o)
				} else {
					reset(t, db, o)
				}
				noArtefacts(t, db)
			})
		})
	}
}

// TestPartitionAttachedDuringRun: one that comes during a run waits for the next.
func TestPartitionAttachedDuringRun(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, leavingSQL)
		o := options(t, "app.p", strategy)
		run(t, db, leaveAt(o, beforeSwap, func() {
			db.Exec(t, `
				CREATE TABLE app.p4 PARTITION OF app.p FOR VALUES FROM (300) TO (400);
				INSERT INTO app.p VALUES (333, 1, 1, 'new')`)
		}))
		noArtefacts(t, db)
		if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM app.p`); n != 301 {
			t.Errorf("app.p has %d rows, want 301", n)
		}
		run(t, db, o)
	})
}

// TestNoPartitions: a partitioned table without any has nothing to repack.
func TestNoPartitions(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.p (id int PRIMARY KEY) PARTITION BY RANGE (id)`)
	before := db.Dump(t)
	run(t, db, options(t, "app.p", repack.ChangeLog))
	sameDump(t, db, before)
	noArtefacts(t, db)
}
