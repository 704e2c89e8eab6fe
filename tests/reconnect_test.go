package tests

import (
	"fmt"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgserver"
	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// jobsOfSQL counts what was repacked.
const jobsOfSQL = `SELECT string_agg(state, ',') FROM repack_registry.job`

// locksOfJobSQL counts the sessions that hold a job.
const locksOfJobSQL = `
SELECT count(*)
FROM   pg_locks l
JOIN   pg_database d ON d.oid = l.database
WHERE  l.locktype = 'advisory' AND l.granted AND d.datname = current_database()`

func wantOneJob(t *testing.T, db *pgtest.Database) {
	t.Helper()
	if states := pgtest.Query[string](t, db.Pool, jobsOfSQL); states != "done" {
		t.Errorf("the jobs are %s, want one that is done", states)
	}
}

// TestLockConnectionLost ends the session that holds the job: the run takes the
// lock again, and what is done is reported as done.
func TestLockConnectionLost(t *testing.T) {
	t.Parallel()
	for n, name := range []string{"at a chunk", beforeSyncSchema, "at " + repack.StepExchanged, afterCleanUp} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				s := newScenario(t, db)
				o := options(t, "app.t", strategy)
				p := afterChunks(1)
				if name != "at a chunk" {
					p = place(t, name)
				}
				o.Hooks = p.hooks(once(func() { takeOver(t, db); s.write(t) }))
				connected := 0
				onLog(&o, func(message string) {
					if message != "connected again" {
						return
					}
					connected++
					if n := pgtest.Query[int](t, db.Pool, locksOfJobSQL); n != 1 {
						t.Errorf("%d sessions hold the job, want one", n)
					}
				})
				run(t, db, o)
				if connected == 0 && name != afterCleanUp { // when there is nothing left to be done
					t.Error("the lock was not taken again")
				}
				wantOneJob(t, db)
				s.restored(t)
			})
		})
	}
}

// TestServerRestarted stops the server at every place of a run, at half of them with
// either strategy, and starts it when the run has noticed; the same run comes to its
// end.
func TestServerRestarted(t *testing.T) {
	t.Parallel()
	for i, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			server := pgtest.NewServer(t, nil)
			for j, p := range crashPlaces {
				if j%2 != i && !thorough() {
					continue
				}
				mode := []pgserver.Mode{pgserver.Fast, pgserver.Immediate}[(i+j/2)%2]
				t.Run(fmt.Sprintf("%s, %s", p.name, mode), func(t *testing.T) { restartAt(t, server, strategy, p, mode) })
			}
		})
	}
}

func restartAt(t *testing.T, server *pgserver.Server, strategy string, p stopAt, mode pgserver.Mode) {
	db := pgtest.NewOn(t, server)
	s := newScenario(t, db)
	o := options(t, "app.t", strategy)
	down := false
	start := once(func() {
		if err := server.Restart(testContext(t)); err != nil {
			t.Error(err)
		}
		db.Pool.Reset() // its connections are those of before
	})
	o.Hooks = p.hooks(once(func() {
		s.write(t)
		if err := server.Stop(mode); err != nil {
			t.Error(err)
		}
		down = true
	}))
	onLog(&o, func(message string) {
		if message == "connection lost" {
			start()
		}
	})
	run(t, db, o)
	if !down {
		t.Fatal("the run did not come to that place")
	}
	start() // the run may have had nothing left to do
	wantOneJob(t, db)
	// A crash skips values of sequences: what is written next need not be alike.
	s.same(t)
	sameDump(t, db, s.before)
	noArtefacts(t, db)
}

// TestNoServerAtTheStart fails at once: nothing is lost yet.
func TestNoServerAtTheStart(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, nil)
	db := pgtest.NewOn(t, server)
	if err := server.Stop(pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	o := options(t, "app.t", repack.ChangeLog)
	onLog(&o, func(message string) {
		if message == "connection lost" {
			t.Error("a server that was not there is tried for again")
		}
	})
	if err := newRepack(t, db, o).Run(testContext(t)); err == nil {
		t.Error("run without a server: no error")
	}
	if err := server.Restart(testContext(t)); err != nil { // the database is dropped there
		t.Fatal(err)
	}
	db.Pool.Reset()
}
