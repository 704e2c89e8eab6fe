package tests

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgserver"
	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// crashRows is few enough for a crash a second.
const crashRows = 4000

// survivor is a database whose writers go on while runs are ended by force.
type survivor struct {
	db     *pgtest.Database
	before string
	writes *workload
}

func givenSurvivor(t *testing.T, db *pgtest.Database, seed uint64) *survivor {
	t.Helper()
	before := givenWorkload(t, db, crashRows)
	return &survivor{db: db, before: before, writes: startOutlivingWorkload(t, db, seed)}
}

// restored fails the test unless the table is like its twin, the schema what it was,
// and nothing of ours is left.
func (s *survivor) restored(t *testing.T) {
	t.Helper()
	s.writes.end(t)
	alike(t, s.db, "t", "child")
	sameDump(t, s.db, s.before)
	noArtefacts(t, s.db)
}

// crashOptions are those of a run among writers: locks are hard to get.
func crashOptions(t *testing.T, strategy string) repack.Options {
	o := options(t, "app.t", strategy)
	o.Jobs, o.LockRetries, o.RetryFor = 1, 100, -1
	return o
}

// crashPlaces are all the places at which a run can be told to stop.
var crashPlaces = append(atEachPlace(stagesOfJob, []string{
	repack.StepLoggedKeysRemoved, repack.StepIndexBuilt, repack.StepCaughtUp,
	repack.StepWritingThrough, repack.StepDrained, repack.StepExchanged, repack.StepCaptureEnded,
}), afterChunks(1))

// place finds one of crashPlaces.
func place(t *testing.T, name string) stopAt {
	t.Helper()
	i := slices.IndexFunc(crashPlaces, func(p stopAt) bool { return p.name == name })
	if i < 0 {
		t.Fatalf("no place %q", name)
	}
	return crashPlaces[i]
}

// once makes a strike of the first call only: a run passes some places often.
func once(strike func()) func() {
	var o sync.Once
	return func() { o.Do(strike) }
}

// terminateSQL chooses first: else the planner might ask the signal's result of
// any session.
const terminateSQL = `
WITH ours AS MATERIALIZED (
    SELECT pid
    FROM   pg_stat_activity
    WHERE  datname = current_database() AND application_name LIKE 'repack %'
)
SELECT count(*) FROM ours WHERE pg_terminate_backend(pid, 10000)`

// terminateAt has an administrator end all sessions of a run at its nth message.
func terminateAt(t *testing.T, strategy string, at int64, seed uint64) {
	t.Helper()
	db := pgtest.New(t)
	s := givenSurvivor(t, db, seed)
	ended := 0
	c := &cutter{at: at, strike: func() {
		if err := db.Pool.QueryRow(context.Background(), terminateSQL).Scan(&ended); err != nil {
			t.Errorf("terminate: %v", err)
		}
	}}
	r, err := repack.New(c.config(db.Config(t)), crashOptions(t, strategy))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(testContext(t)); err != nil {
		if ended == 0 {
			t.Errorf("run with nobody terminated: %v", err)
		}
		run(t, db, crashOptions(t, strategy))
	}
	if sent := c.messages.Load(); sent < at {
		t.Errorf("the run sent %d messages and was to be terminated at the %dth", sent, at)
	}
	s.restored(t)
}

// terminableMessages is fewer than any run sends.
const terminableMessages = 250

func terminations(strategy string) []trial {
	var trials []trial
	for at := int64(1); at <= terminableMessages; at += 4 {
		trials = append(trials, trial{
			"terminations", fmt.Sprintf("%s/message %d", strategy, at),
			func(t *testing.T, seed uint64) { terminateAt(t, strategy, at, seed) },
		})
	}
	return trials
}

// TestTerminated has the tool's sessions terminated at a sample of the messages
// it sends, while the application writes, and runs again.
func TestTerminated(t *testing.T) {
	t.Parallel()
	for _, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			seed := randomSeed(t)
			random := rand.New(rand.NewPCG(seed, 0))
			for range 3 {
				terminateAt(t, strategy, 1+random.Int64N(terminableMessages), seed)
			}
		})
	}
}

// killLines are lines of the program's log, by what they contain.
var killLines = []string{
	"stage=setup", "stage=backfill", "chunk copied", "stage=sync_schema", "logged keys removed from shadow",
	repack.StepIndexBuilt, "stage=post_sync_update", "replay pass", repack.StepCaughtUp,
	"stage=swap", repack.StepWritingThrough, repack.StepDrained, repack.StepExchanged,
	"stage=clean_up", repack.StepCaptureEnded,
}

// killAt kills the program when it writes a line to its log, and runs it again.
func killAt(t *testing.T, strategy, line string, seed uint64) {
	t.Helper()
	db := pgtest.New(t)
	s := givenSurvivor(t, db, seed)
	args := []string{
		"run", "--table", "app.t", "--strategy", strategy, "--jobs", "1",
		"--lock-timeout", "300ms", "--lock-retries", "100", "--log-level", "debug",
	}
	p := command(t, []string{"REPACK_DSN=" + db.DSN}, args...)
	p.cmd.Stderr = nil
	log, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.start(t)
	killed := false
	for lines := bufio.NewScanner(log); lines.Scan(); {
		p.stderr.WriteString(lines.Text() + "\n")
		if !killed && strings.Contains(lines.Text(), line) {
			killed = true
			if err := p.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if code := p.wait(t); !killed || code > 0 {
		t.Fatalf("the program ended with %d, and was killed at %q: %v\n%s", code, line, killed, p.stderr.String())
	}
	cli(t, db, 0, args...)
	s.restored(t)
}

func kills(strategy string) []trial {
	var trials []trial
	for _, line := range killLines {
		trials = append(trials, trial{
			"kills", strategy + "/" + line,
			func(t *testing.T, seed uint64) { killAt(t, strategy, line, seed) },
		})
	}
	return trials
}

// TestKilledAtStep kills the program with SIGKILL at some of its steps, while the
// application writes, and runs it again.
func TestKilledAtStep(t *testing.T) {
	t.Parallel()
	for n, line := range []string{"stage=setup", "chunk copied", repack.StepIndexBuilt, repack.StepWritingThrough, repack.StepExchanged} {
		for _, strategy := range turn(n) {
			t.Run(strategy+"/"+line, func(t *testing.T) {
				t.Parallel()
				killAt(t, strategy, line, randomSeed(t))
			})
		}
	}
}

// crashServer is a server that is crashed by one test at a time.
type crashServer struct {
	mu     sync.Mutex
	server *pgserver.Server
}

// crash ends the server without a checkpoint when the run comes to where it
// calls strike, starts it again and runs again.
func (c *crashServer) crash(t *testing.T, strategy string, seed uint64, first func(db *pgtest.Database, strike func()) error) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	db := pgtest.NewOn(t, c.server)
	s := givenSurvivor(t, db, seed)
	crashed := false
	err := first(db, once(func() {
		crashed = true
		if err := c.server.Stop(pgserver.Immediate); err != nil {
			t.Errorf("crash: %v", err)
		}
	}))
	if crashed {
		if restartErr := c.server.Restart(testContext(t)); restartErr != nil {
			t.Fatal(restartErr)
		}
		db.Pool.Reset() // its connections are those of before
	}
	if err != nil && !crashed { // it may crash when the run has only to say goodbye
		t.Errorf("run without a crash: %v", err)
	}
	if err != nil {
		run(t, db, crashOptions(t, strategy))
	}
	s.restored(t)
}

// crashAt crashes the server at a place.
func (c *crashServer) crashAt(t *testing.T, strategy string, at stopAt, seed uint64) {
	t.Helper()
	reached := false
	c.crash(t, strategy, seed, func(db *pgtest.Database, strike func()) error {
		o := crashOptions(t, strategy)
		o.Hooks = at.hooks(func() { reached = true; strike() })
		return newRepack(t, db, o).Run(testContext(t))
	})
	if !reached {
		t.Errorf("the run never came to %q", at.name)
	}
}

func (c *crashServer) trials(strategy string, total int64) []trial {
	var trials []trial
	for _, at := range crashPlaces {
		trials = append(trials, trial{
			"crashes", strategy + "/" + at.name,
			func(t *testing.T, seed uint64) { c.crashAt(t, strategy, at, seed) },
		})
	}
	for at := int64(1); at <= total; at += 10 {
		trials = append(trials, trial{
			"crashes", fmt.Sprintf("%s/message %d", strategy, at),
			func(t *testing.T, seed uint64) {
				c.crash(t, strategy, seed, func(db *pgtest.Database, strike func()) error {
					cut := &cutter{at: at, strike: strike}
					r, err := repack.New(cut.config(db.Config(t)), crashOptions(t, strategy))
					if err != nil {
						t.Fatal(err)
					}
					return r.Run(testContext(t))
				})
			},
		})
	}
	return trials
}

// TestServerCrashes stops the server in immediate mode at some places of a run,
// while the application writes; it recovers, and the run goes on.
func TestServerCrashes(t *testing.T) {
	t.Parallel()
	c := &crashServer{server: pgtest.NewServer(t, nil)}
	for n, name := range []string{
		afterSetup, midBackfill, "at " + repack.StepIndexBuilt, "at " + repack.StepWritingThrough, "at " + repack.StepExchanged,
	} {
		for _, strategy := range turn(n + 1) { // TestKilledAtStep has the others
			t.Run(strategy+"/"+name, func(t *testing.T) { c.crashAt(t, strategy, place(t, name), randomSeed(t)) })
		}
	}
}
