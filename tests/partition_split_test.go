package tests

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// reshapings are ways in which PostgreSQL 19 replaces a partition by others, with its rows.
var reshapings = map[string]string{
	"merged":                   `ALTER TABLE app.p MERGE PARTITIONS (app.p2, app.p3) INTO app.p23`,
	"merged under its name":    `ALTER TABLE app.p MERGE PARTITIONS (app.p1, app.p2) INTO app.p2`,
	"merged into the next one": `ALTER TABLE app.p MERGE PARTITIONS (app.p2, app.p3) INTO app.p3`,
	"split": `ALTER TABLE app.p SPLIT PARTITION app.p2 INTO
		(PARTITION app.p2a FOR VALUES FROM (100) TO (150), PARTITION app.p2b FOR VALUES FROM (150) TO (200))`,
	"split under its name": `ALTER TABLE app.p SPLIT PARTITION app.p2 INTO
		(PARTITION app.p2 FOR VALUES FROM (100) TO (150), PARTITION app.p2b FOR VALUES FROM (150) TO (200))`,
}

// reshaped fails the test unless all rows are there and nothing is left of any job.
func reshaped(t *testing.T, db *pgtest.Database, rows int) {
	t.Helper()
	noArtefacts(t, db)
	if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM app.p`); n != rows {
		t.Errorf("app.p has %d rows, want %d", n, rows)
	}
	if unfinished := db.QueryString(t, `SELECT string_agg(table_name || ' ' || state, ', ') FROM repack_registry.job WHERE finished_at IS NULL`); unfinished != pgtest.Null {
		t.Errorf("unfinished jobs: %s", unfinished)
	}
	if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM pg_trigger WHERE tgname ~ 'repack'`); n != 0 {
		t.Errorf("%d triggers of ours", n)
	}
}

// TestPartitionReshapedDuringRun has the second of three partitions merged or split at
// every moment: the run ends, and leaves nothing.
func TestPartitionReshapedDuringRun(t *testing.T) {
	t.Parallel()
	needs19(t, pgtest.New(t))
	ways := slices.Sorted(maps.Keys(reshapings))
	for m, way := range ways {
		for n, place := range leavingPlaces {
			if n%len(ways) != m && !thorough() {
				continue
			}
			t.Run(way+" "+place, func(t *testing.T) {
				t.Parallel()
				eachHalf(t, n, func(t *testing.T, db *pgtest.Database, strategy, _ string) {
					db.Exec(t, leavingSQL)
					run(t, db, leaveAt(options(t, "app.p", strategy), place, func() { db.Exec(t, reshapings[way]) }))
					reshaped(t, db, 300)
					before := db.Dump(t)
					run(t, db, options(t, "app.p", strategy)) // with what there is now
					sameDump(t, db, before)
					reshaped(t, db, 300)
				})
			})
		}
	}
}

// TestPartitionReshapedBetweenRuns: what is left of the job of a partition that has been
// merged or split since is removed, by the next run, by reset and by revert alike, whether
// they name the partitioned table or the partition.
func TestPartitionReshapedBetweenRuns(t *testing.T) {
	t.Parallel()
	needs19(t, pgtest.New(t))
	ways := slices.Sorted(maps.Keys(reshapings))
	for n, way := range ways {
		for m, until := range []repack.Stage{repack.Backfill, repack.Swap} {
			t.Run(way+" after "+string(until), func(t *testing.T) {
				t.Parallel()
				eachHalf(t, n+m, func(t *testing.T, db *pgtest.Database, strategy, _ string) {
					db.Exec(t, leavingSQL)
					o := options(t, "app.p", strategy)
					runUntil(t, db, o, until)
					db.Exec(t, reshapings[way])
					if n%2 == 0 || until == repack.Swap {
						run(t, db, o)
					} else {
						reset(t, db, o)
					}
					reshaped(t, db, 300)
				})
			})
		}
	}
}

// TestPartitionReshapedWithJobOfItsOwn: the partition had a job that was begun for it
// alone. Every command that does not end the job says which one does.
func TestPartitionReshapedWithJobOfItsOwn(t *testing.T) {
	t.Parallel()
	ways := []string{"dropped"}
	if pgtest.New(t).Version() >= 19 {
		ways = append(ways, slices.Sorted(maps.Keys(reshapings))...)
	}
	for n, way := range ways {
		sql, rows := reshapings[way], 300
		if way == "dropped" {
			sql, rows = leavings[way], 200
		}
		for m, until := range []repack.Stage{repack.Backfill, repack.Swap} {
			t.Run(way+" after "+string(until), func(t *testing.T) {
				t.Parallel()
				eachHalf(t, n+m, func(t *testing.T, db *pgtest.Database, strategy, _ string) {
					db.Exec(t, leavingSQL)
					whole, own := options(t, "app.p", strategy), options(t, "app.p2", strategy)
					runUntil(t, db, own, until)
					db.Exec(t, sql)
					switch {
					case until == repack.Swap:
						if err := newRepack(t, db, own).Revert(testContext(t)); err == nil || !strings.Contains(err.Error(), `remove what is left of the job with: repack run --table '"app"."p2"'`) {
							t.Errorf("revert: %v", err)
						}
						run(t, db, []repack.Options{whole, own}[n%2])
					case n%2 == 0:
						run(t, db, whole)
					default:
						reset(t, db, whole)
					}
					reshaped(t, db, rows)
				})
			})
		}
	}
}
