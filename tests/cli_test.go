package tests

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const smallSQL = `
CREATE SCHEMA app;
CREATE TABLE app.t (id int PRIMARY KEY, a text);
INSERT INTO app.t SELECT g, 'a' FROM generate_series(1, 1000) g`

// TestUsage gives the program what it cannot understand; no server is asked.
func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		says string
		args []string
	}{
		{"frobnicate", []string{"frobnicate"}},
		{"no-such-flag", []string{"run", "--no-such-flag"}},
		{"no-such-flag", []string{"--no-such-flag"}},
		{"no-such-flag", []string{"status", "--no-such-flag"}},
		{"no-such-flag", []string{"reset", "--no-such-flag"}},
		{"later", []string{"run", "--table", "app.t", "--until", "later"}},
		{"fast", []string{"run", "--table", "app.t", "--strategy", "fast"}},
		{"yaml", []string{"status", "--format", "yaml"}},
		{"loud", []string{"status", "--log-level", "loud"}},
		{"xml", []string{"status", "--log-format", "xml"}},
		{"many", []string{"run", "--table", "app.t", "--batch-size", "many"}},
		{"negative", []string{"run", "--table", "app.t", "--batch-size", "-1"}},
		{"soon", []string{"run", "--table", "app.t", "--lock-timeout", "soon"}},
		{"table", []string{"run"}},
		{"table", []string{"reset"}},
		{"table", []string{"revert"}},
		{"extra", []string{"plan", "--table", "app.t", "extra"}},
		{"extra", []string{"status", "--table", "app.t", "extra"}},
		{"extra", []string{"version", "extra"}},
	} {
		p := command(t, []string{"REPACK_DSN=postgres://nobody@host.invalid/x"}, c.args...)
		p.start(t)
		if code := p.wait(t); code != 2 {
			t.Errorf("repack %q: exit code %d, want 2\n%s", c.args, code, p.stderr.String())
		}
		p.says(t, c.says)
	}
}

// TestExitCodes walks through a job.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL)
	cli(t, db, 2, "run", "--table", `app."t`).says(t, "not written as SQL writes it")
	cli(t, db, 2, "run", "--table", `app..t`)
	cli(t, db, 2, "run", "--table", ``)
	cli(t, db, 3, "run", "--table", "app.absent").says(t, "no such table")
	cli(t, db, 3, "reset", "--table", "app.t")
	cli(t, db, 3, "revert", "--table", "app.t")
	cli(t, db, 0, "run", "--table", "app.t", "--until", "pre_validate")
	if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'repack%'`); n != 0 {
		t.Error("pre_validate, or a refusal, created schemas")
	}
	cli(t, db, 0, "run", "--table", "app.t", "--until", "backfill")
	cli(t, db, 3, "revert", "--table", "app.t").says(t, "repack reset")
	cli(t, db, 0, "run", "--table", "app.t", "--until", "swap", "--strategy", "direct-trigger")
	cli(t, db, 3, "reset", "--table", "app.t").says(t, "repack revert")
	cli(t, db, 0, "revert", "--table", "app.t")
	cli(t, db, 0, "run", "--table", "app.t", "--until", "setup")
	db.Exec(t, `ALTER TABLE app.t ADD b int`)
	cli(t, db, 1, "run", "--table", "app.t").says(t, "has been changed", "b")
	cli(t, db, 0, "reset", "--table", "app.t")
	cli(t, db, 0, "run", "--table", "app.t")
	unreachable := command(t, nil, "status", "--dsn", "postgres://u@127.0.0.1:1/x")
	unreachable.start(t)
	if code := unreachable.wait(t); code != 1 {
		t.Errorf("no server: exit code %d, want 1", code)
	}
}

// TestBusy has a second process meet the first.
func TestBusy(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL)
	held := holdAfter(t, db, options(t, "app.t", repack.ChangeLog), repack.Backfill)
	host, _ := os.Hostname()
	for _, verb := range []string{"run", "reset", "revert"} {
		p := cli(t, db, 4, verb, "--table", "app.t")
		p.says(t, fmt.Sprint(os.Getpid()), host, time.Now().UTC().Format("2006-01-02"))
	}
	if s := statusOf(t, db, "app.t"); s.Runner == nil || s.Runner.PID != int32(os.Getpid()) || s.State != "running" {
		t.Errorf("status beside the first: %+v", s)
	}
	held.release()
	held.mustEnd(t)
	if got := statusOf(t, db, "app.t"); got.State != "done" {
		t.Errorf("the second process disturbed the first: %+v", got)
	}
}

// TestBusyUntilDone has a second run wait for the lock of one that is about to
// end: by then the name means another table than the one it was waiting for,
// also where that has been kept.
func TestBusyUntilDone(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprintf("keep old %t", keep), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, smallSQL)
			o := options(t, "app.t", repack.ChangeLog)
			o.KeepOld = keep
			first := holdAtStep(t, db, o, repack.StepDrained)
			second := startRun(t, db, options(t, "app.t", repack.ChangeLog))
			pgtest.WaitFor(t, func() bool {
				return pgtest.Query[bool](t, db.Pool, `SELECT EXISTS (SELECT FROM pg_stat_activity
					WHERE datname = current_database() AND query LIKE '%pg_try_advisory_lock%' AND pid <> pg_backend_pid()
					AND   NOT EXISTS (SELECT FROM pg_locks l WHERE l.pid = pg_stat_activity.pid AND l.locktype = 'advisory'))`)
			}, "the second run to ask for the lock")
			first.release()
			if err := await(t, first.done); err != nil {
				t.Fatalf("first run: %v", err)
			}
			was := pgtest.Query[uint32](t, db.Pool, `SELECT 'app.t'::regclass::oid`)
			if err := await(t, second); err != nil {
				t.Fatalf("second run: %v", err)
			}
			if is := pgtest.Query[uint32](t, db.Pool, `SELECT 'app.t'::regclass::oid`); is == was {
				t.Error("the second run has repacked another table")
			}
		})
	}
}

// TestLockHeld ends with 4, names who is in the way, and goes on afterwards.
func TestLockHeld(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, until, lock string }{
		{"setup meets a writer", "pre_validate", "ROW EXCLUSIVE"},
		{"setup meets DDL", "pre_validate", "SHARE UPDATE EXCLUSIVE"},
		{"setup meets a table that is locked", "pre_validate", "ACCESS EXCLUSIVE"},
		{"backfill meets a table that is locked", "setup", "ACCESS EXCLUSIVE"},
		{"swap meets a reader", "post_sync_update", "ACCESS SHARE"},
		{"clean_up meets a reader", "swap", "ACCESS SHARE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, smallSQL)
			cli(t, db, 0, "run", "--table", "app.t", "--until", c.until)
			holder := db.Connect(t)
			tx := begin(t, holder, pgx.ReadCommitted)
			mustExec(t, tx, "LOCK TABLE app.t IN "+c.lock+" MODE")
			p := cli(t, db, 4, "run", "--table", "app.t", "--lock-timeout", "50ms", "--lock-retries", "1", "--max-snapshot-wait", "1s")
			p.says(t, fmt.Sprintf("pid %d", holder.PgConn().PID()), "app", "run the same command again")
			commit(t, tx)
			cli(t, db, 0, "run", "--table", "app.t")
		})
	}
}

// TestLockRetries counts the attempts.
func TestLockRetries(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL)
	tx := begin(t, db.Connect(t), pgx.ReadCommitted)
	mustExec(t, tx, "LOCK TABLE app.t IN ROW EXCLUSIVE MODE")
	cli(t, db, 4, "run", "--table", "app.t", "--lock-timeout", "20ms", "--lock-retries", "0").says(t, "in 1 attempt")
	cli(t, db, 4, "run", "--table", "app.t", "--lock-timeout", "20ms", "--lock-retries", "2").says(t, "in 3 attempts")
	commit(t, tx)
}

// TestNewerRegistry is an old binary on a registry of a newer one.
func TestNewerRegistry(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL)
	cli(t, db, 0, "run", "--table", "app.t", "--until", "setup")
	db.Exec(t, `UPDATE repack_registry.schema_version SET version = version + 1`)
	before := db.QueryString(t, `SELECT md5(string_agg(j::text, '')) FROM repack_registry.job j`)
	for _, args := range [][]string{{"run", "--table", "app.t"}, {"status"}, {"reset", "--table", "app.t"}, {"revert", "--table", "app.t"}} {
		cli(t, db, 3, args...).says(t, "newer version of repack")
	}
	if after := db.QueryString(t, `SELECT md5(string_agg(j::text, '')) FROM repack_registry.job j`); after != before {
		t.Error("a job of a newer registry was changed")
	}
	db.Exec(t, `UPDATE repack_registry.schema_version SET version = version - 1`)
	cli(t, db, 0, "run", "--table", "app.t")
}

// gate is the advisory lock that a copy of row 5000 waits for.
const gate = 4711

// givenGate is a scenario whose backfill stops, after many chunks, while
// somebody holds the gate.
func givenGate(t *testing.T, db *pgtest.Database) *scenario {
	t.Helper()
	s := newScenario(t, db)
	both(t, db.Pool, `INSERT INTO @t (email, note) SELECT 'large ' || g, repeat('x', 500) FROM generate_series(1, 5000) g`)
	both(t, db.Pool, fmt.Sprintf(`CREATE FUNCTION @gate(bigint) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
		'BEGIN IF $1 = 5000 THEN PERFORM pg_catalog.pg_advisory_xact_lock_shared(%d); END IF; RETURN 1; END'`, gate))
	both(t, db.Pool, `ALTER TABLE @t ADD gate int GENERATED ALWAYS AS (@gate(id)) STORED`)
	db.Exec(t, `ANALYZE app.t`)
	s.before = db.Dump(t)
	return s
}

// stopMidBackfill starts the program, and holds it inside a chunk until the
// caller lets go.
func stopMidBackfill(t *testing.T, db *pgtest.Database, strategy string) (p *process, release func()) {
	t.Helper()
	// pre_validate computes generated columns, too, and is not to wait for the gate.
	cli(t, db, 0, "run", "--table", "app.t", "--strategy", strategy, "--until", "setup")
	holder := db.Connect(t)
	tx := begin(t, holder, pgx.ReadCommitted)
	mustExec(t, tx, `SELECT pg_advisory_xact_lock($1)`, gate)
	p = command(t, []string{"REPACK_DSN=" + db.DSN}, "run", "--table", "app.t", "--strategy", strategy, "--batch-size", "100", "--jobs", "1")
	p.start(t)
	pgtest.WaitBlockedBy(t, db.Pool, holder.PgConn().PID())
	chunks := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM repack_registry.chunk`)
	if s := statusOf(t, db, "app.t"); s.Stage != repack.Backfill || s.StageDone || s.Runner == nil || s.State != "running" || chunks < 3 {
		t.Fatalf("stopped after %d chunks at %+v, not in the middle of the backfill", chunks, s)
	}
	return p, func() { commit(t, tx) }
}

// TestKilled kills the program in the middle of a chunk. The same command goes
// on at once, while the server may not have noticed.
func TestKilled(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		s := givenGate(t, db)
		p, release := stopMidBackfill(t, db, strategy)
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if code := p.wait(t); code != -1 {
			t.Fatalf("killed program ended with %d:\n%s", code, p.stderr.String())
		}
		release()
		s.write(t)
		cli(t, db, 0, "run", "--table", "app.t", "--strategy", strategy)
		s.restored(t)
	})
}

// TestInterrupted does the same with SIGINT and SIGTERM, which the program
// answers with 130 and gives the job back.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for n, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(fmt.Sprint(signal), func(t *testing.T) {
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				s := givenGate(t, db)
				p, release := stopMidBackfill(t, db, strategy)
				if err := p.cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				if code := p.wait(t); code != 130 {
					t.Errorf("exit code %d, want 130\n%s", code, p.stderr.String())
				}
				release()
				if got := statusOf(t, db, "app.t"); got.Runner != nil || got.Stage != repack.Backfill {
					t.Errorf("status after %s: %+v", signal, got)
				}
				s.write(t)
				cli(t, db, 0, "run", "--table", "app.t")
				s.restored(t)
			})
		})
	}
}

// TestSnapshotHeld ends with 4 before the swap, naming the transaction.
func TestSnapshotHeld(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL+`; CREATE TABLE app.other ()`)
	cli(t, db, 0, "run", "--table", "app.t", "--until", "post_sync_update")
	holder := db.Connect(t)
	tx := begin(t, holder, pgx.RepeatableRead)
	mustExec(t, tx, "TABLE app.other")
	p := cli(t, db, 4, "run", "--table", "app.t", "--max-snapshot-wait", "300ms")
	p.says(t, fmt.Sprintf("pid %d", holder.PgConn().PID()))
	if strings.Contains(p.stderr.String(), "panic") {
		t.Error(p.stderr.String())
	}
	commit(t, tx)
	cli(t, db, 0, "run", "--table", "app.t")
}
