package tests

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// otherOIDs is where a dump of db has been restored. Where none can be made, it is
// db, in whose registry the OIDs are others: that is all that a restored one shows.
func otherOIDs(t *testing.T, db *pgtest.Database) *pgtest.Database {
	t.Helper()
	if other, ok := db.Restored(t); ok {
		return other
	}
	db.Exec(t, `
		UPDATE repack_registry.job
		SET    source = (source::bigint + 1000000)::oid, shadow = (shadow::bigint + 1000000)::oid`)
	return db
}

// TestRestoredDumpIsReset restores a dump that was taken after each stage of a job.
// There is no going on with that job, and it can be removed.
func TestRestoredDumpIsReset(t *testing.T) {
	t.Parallel()
	for n, stage := range []repack.Stage{repack.Setup, repack.Backfill, repack.PostSyncUpdate, repack.Swap} {
		for _, keep := range []bool{false, true} {
			if keep && stage != repack.Swap {
				continue
			}
			name := string(stage)
			if keep {
				name += ", old table kept"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
					s := newScenario(t, db)
					o := options(t, "app.t", strategy)
					o.KeepOld = keep
					runUntil(t, db, o, stage)
					s.write(t)
					s.db = otherOIDs(t, db)
					refusedRestored(t, s, o)
					reset(t, s.db, o)
					s.restored(t)
					o.KeepOld = false
					run(t, s.db, o)
					s.restored(t)
				})
			})
		}
	}
}

// refusedRestored has everything but reset and status refuse the job, and change nothing.
func refusedRestored(t *testing.T, s *scenario, o repack.Options) {
	t.Helper()
	r := newRepack(t, s.db, o)
	_, verify := r.Verify(testContext(t))
	_, plan := r.Plan(testContext(t))
	for command, err := range map[string]error{
		"run": r.Run(testContext(t)), "revert": r.Revert(testContext(t)), "verify": verify, "plan": plan,
	} {
		var restored *repack.RestoredError
		if !errors.As(err, &restored) || !strings.Contains(err.Error(), "repack reset --table") {
			t.Errorf("%s of a job of another database: %v, want a *RestoredError that names reset", command, err)
		}
	}
	if state := statusOf(t, s.db, "app.t").State; state == "reset" {
		t.Errorf("the job is %s", state)
	}
	s.write(t)
	s.same(t)
}

// TestRestoredDumpFinishing restores what clean_up had begun to remove.
func TestRestoredDumpFinishing(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		s := newScenario(t, db)
		o := options(t, "app.t", strategy)
		cancelled(t, db, o, atEachPlace(nil, []string{repack.StepCaptureEnded})[0],
			func(r *repack.Repack, ctx context.Context) error { return r.Run(ctx) })
		s.db = otherOIDs(t, db)
		refusedRestored(t, s, o)
		reset(t, s.db, o)
		s.restored(t)
	})
}

// TestRestoredWithoutRegistry restores a dump that has the artefacts of a job, and not
// the registry that knows it. The same is left where a registry has been dropped.
func TestRestoredWithoutRegistry(t *testing.T) {
	t.Parallel()
	for n, stage := range []repack.Stage{repack.Backfill, repack.Swap} {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			inTurnIn(t, n, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
				s := newScenario(t, db)
				o := options(t, "app.t", strategy)
				runUntil(t, db, o, stage)
				if other, ok := db.Restored(t, "--exclude-schema=repack_registry"); ok {
					s.db = other
				} else {
					db.Exec(t, `DROP SCHEMA repack_registry CASCADE`)
				}
				s.write(t)
				reset(t, s.db, o)
				s.restored(t)
				if err := newRepack(t, s.db, o).Reset(testContext(t)); !errors.Is(err, repack.ErrNoJob) {
					t.Errorf("second reset: %v, want ErrNoJob", err)
				}
				run(t, s.db, o)
				s.restored(t)
			})
		})
	}
}

// TestRestoredSchemaOfTable restores a dump of the table's schema alone: our triggers,
// whose function is not in it, cannot be created there, and nothing is to be reset.
func TestRestoredSchemaOfTable(t *testing.T) {
	t.Parallel()
	for n, stage := range []repack.Stage{repack.Backfill, repack.Swap} {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				db.Exec(t, smallSQL)
				before, rows := db.Dump(t), db.Checksum(t, "app.t")
				o := options(t, "app.t", strategy)
				runUntil(t, db, o, stage)
				other, ok := db.Restored(t, "--schema=app")
				if !ok {
					t.Skip("no pg_dump for this server")
				}
				if err := newRepack(t, other, o).Reset(testContext(t)); !errors.Is(err, repack.ErrNoJob) {
					t.Errorf("reset: %v, want ErrNoJob", err)
				}
				for range 2 {
					sameDump(t, other, before)
					noArtefacts(t, other)
					if is := other.Checksum(t, "app.t"); is != rows {
						t.Errorf("app.t is %s, was %s", is, rows)
					}
					run(t, other, o)
				}
			})
		})
	}
}

// TestRestoredTriggersGone resets where only the job's schemas have been restored, the
// triggers having been dropped already.
func TestRestoredTriggersGone(t *testing.T) {
	t.Parallel()
	inTurnIn(t, 1, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
		s := newScenario(t, db)
		o := options(t, "app.t", strategy)
		runUntil(t, db, o, repack.Backfill)
		for _, trigger := range pgtest.Column[string](t, db.Pool, `
			SELECT tgname::text FROM pg_trigger WHERE tgname LIKE '00\_repack%'`) {
			db.Exec(t, `DROP TRIGGER "`+trigger+`" ON app.t`)
		}
		db.Exec(t, `DROP SCHEMA repack_registry CASCADE`)
		reset(t, db, o)
		s.restored(t)
	})
}

// TestOrphansOfOthersStay never removes what a job of another registry has, nor what
// only is called like a table's.
func TestOrphansOfOthersStay(t *testing.T) {
	t.Parallel()
	inTurnIn(t, 0, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
		s := newScenario(t, db)
		o := options(t, "app.t", strategy)
		runUntil(t, db, o, repack.Backfill)
		wrong := o
		wrong.RegistrySchema = "another"
		var refused *repack.RefusedError
		if err := newRepack(t, db, wrong).Reset(testContext(t)); !errors.As(err, &refused) {
			t.Errorf("reset with another registry: %v, want a *RefusedError", err)
		}
		db.Exec(t, `CREATE SCHEMA other; CREATE TABLE other.t (id int PRIMARY KEY)`)
		wrong.Table = "other.t"
		if err := newRepack(t, db, wrong).Reset(testContext(t)); !errors.Is(err, repack.ErrNoJob) {
			t.Errorf("reset of a table of the same name: %v, want ErrNoJob", err)
		}
		db.Exec(t, `DROP SCHEMA other CASCADE`)
		s.write(t)
		run(t, db, o)
		s.restored(t)
	})
}

// TestRestoredNextToOthers has a job whose schemas are not in the dump, and others of
// that name are there: they stay.
func TestRestoredNextToOthers(t *testing.T) {
	t.Parallel()
	inTurnIn(t, 1, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
		s := newScenario(t, db)
		o := options(t, "app.t", strategy)
		runUntil(t, db, o, repack.Backfill)
		if other, ok := db.Restored(t, "--exclude-schema=repack_job_*"); ok {
			s.db = other
		} else {
			db.Exec(t, `DROP SCHEMA repack_job_1 CASCADE; DROP SCHEMA repack_job_1_old CASCADE;
				UPDATE repack_registry.job SET source = (source::bigint + 1000000)::oid, shadow = (shadow::bigint + 1000000)::oid`)
		}
		s.db.Exec(t, `CREATE SCHEMA repack_job_1; CREATE TABLE repack_job_1.t AS SELECT 1 AS mine`)
		refusedRestored(t, s, o)
		reset(t, s.db, o)
		if mine := pgtest.Query[int](t, s.db.Pool, `SELECT mine FROM repack_job_1.t`); mine != 1 {
			t.Errorf("mine is %d", mine)
		}
		s.db.Exec(t, `DROP SCHEMA repack_job_1 CASCADE`)
		s.restored(t)
	})
}

// TestRestoredPartitions resets a partitioned table, a partition of which was being
// repacked, with the registry in the dump and without it.
func TestRestoredPartitions(t *testing.T) {
	t.Parallel()
	for n, dumped := range []bool{true, false} {
		t.Run(map[bool]string{true: "registry", false: "no registry"}[dumped], func(t *testing.T) {
			t.Parallel()
			inTurnIn(t, n, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
				db.Exec(t, `CREATE SCHEMA app;
					CREATE TABLE app.p (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
					CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (100);
					CREATE TABLE app.p2 PARTITION OF app.p FOR VALUES FROM (100) TO (200);
					INSERT INTO app.p SELECT g, 'n' || g FROM generate_series(0, 199) g`)
				before := db.Dump(t)
				o := options(t, "app.p", strategy)
				runUntil(t, db, o, repack.Backfill)
				at := otherOIDs(t, db)
				if !dumped {
					at.Exec(t, `DROP SCHEMA repack_registry CASCADE`)
				}
				reset(t, at, o)
				sameDump(t, at, before)
				noArtefacts(t, at)
				at.Exec(t, `UPDATE app.p SET note = note || '!'; DELETE FROM app.p WHERE id = 7`)
				run(t, at, o)
				sameDump(t, at, before)
				if n := pgtest.Query[int](t, at.Pool, `SELECT count(*) FROM app.p WHERE note LIKE '%!'`); n != 199 {
					t.Errorf("%d rows, want 199", n)
				}
			})
		})
	}
}
