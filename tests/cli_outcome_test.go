package tests

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// saysNot fails the test where the program has said one of the words.
func (p *process) saysNot(t *testing.T, words ...string) {
	t.Helper()
	for _, word := range words {
		if strings.Contains(p.stderr.String()+p.stdout.String(), word) {
			t.Errorf("the program says %q:\n%s%s", word, p.stdout.String(), p.stderr.String())
		}
	}
}

// TestInterruptedSaysHowToGoOn stops a run in the middle, by each signal that a
// terminal, a service manager or an ended session sends.
func TestInterruptedSaysHowToGoOn(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(fmt.Sprint(signal), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			s := givenGate(t, db)
			p, release := stopMidBackfill(t, db, "change-log")
			if err := p.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if code := p.wait(t); code != 130 {
				t.Errorf("exit code %d, want 130", code)
			}
			release()
			p.says(t, "interrupted in stage backfill", "run the same command again", `repack reset --table '"app"."t"'`)
			p.saysNot(t, "context canceled")
			got := statusOf(t, db, "app.t")
			if got.State != "interrupted" || got.LastError != nil {
				t.Errorf("state %s, error %v", got.State, got.LastError)
			}
			if text := cli(t, db, 0, "status").stdout.String(); !strings.Contains(text, "repack reset") {
				t.Errorf("status does not say how to go on:\n%s", text)
			}
			if left := pgtest.Column[string](t, db.Pool, `
				SELECT error FROM repack_registry.stage_history WHERE error IS NOT NULL`); len(left) != 1 || left[0] != "interrupted" {
				t.Errorf("history %q", left)
			}
			cli(t, db, 0, "run", "--table", "app.t", "--until", "sync_schema")
			if got := statusOf(t, db, "app.t"); got.State != "stopped" {
				t.Errorf("state %s after the run has gone on, want stopped", got.State)
			}
			cli(t, db, 0, "run", "--table", "app.t")
			s.restored(t)
		})
	}
}

// TestInterruptedWhileWaiting stops commands that wait for a lock: revert and
// clean_up after the swap, the run before there is a job.
func TestInterruptedWhileWaiting(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, until string
		args        []string
		says        string
		state       string
	}{
		{"setup", "", []string{"run"}, "run the same command again", ""},
		{"clean_up", "swap", []string{"run"}, "repack revert --table", "interrupted"},
		{"revert", "swap", []string{"revert"}, "run the same command again", "interrupted"},
		{"reset", "setup", []string{"reset"}, "run the same command again", "interrupted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, smallSQL)
			if c.until != "" {
				cli(t, db, 0, "run", "--table", "app.t", "--until", c.until)
			}
			holder := db.Connect(t)
			tx := begin(t, holder, pgx.ReadCommitted)
			mustExec(t, tx, `LOCK TABLE app.t IN SHARE UPDATE EXCLUSIVE MODE`)
			p := command(t, []string{"REPACK_DSN=" + db.DSN}, append(c.args, "--table", "app.t", "--lock-retries", "1000")...)
			p.start(t)
			pgtest.WaitBlockedBy(t, db.Pool, holder.PgConn().PID())
			if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if code := p.wait(t); code != 130 {
				t.Errorf("exit code %d, want 130", code)
			}
			p.says(t, "interrupted", c.says)
			p.saysNot(t, "context canceled")
			commit(t, tx)
			if c.state != "" {
				if got := statusOf(t, db, "app.t"); got.State != c.state || got.LastError != nil {
					t.Errorf("status %+v, want %s", got, c.state)
				}
			}
			cli(t, db, 0, append(c.args, "--table", "app.t")...)
		})
	}
}

// TestSecondInterruptEndsAtOnce holds up what a program that was interrupted still
// has to note: with a second signal it ends at once, as by default, and the job can
// be gone on with.
func TestSecondInterruptEndsAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := givenGate(t, db)
	p, release := stopMidBackfill(t, db, "change-log")
	holder := db.Connect(t)
	tx := begin(t, holder, pgx.ReadCommitted)
	mustExec(t, tx, `LOCK TABLE repack_registry.job IN SHARE MODE`)
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	pgtest.WaitBlockedBy(t, db.Pool, holder.PgConn().PID())
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	pgtest.WaitFor(t, func() bool { // one that comes while the first is still being taken in is not the second
		_ = p.cmd.Process.Signal(os.Interrupt) // who has ended hears nothing
		select {
		case <-ended: //nolint:errcheck // how it has ended is looked at below
			return true
		default:
			return false
		}
	}, "the program to end")
	if status := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGINT {
		t.Errorf("the program ended by itself, with %d:\n%s", p.cmd.ProcessState.ExitCode(), p.stderr.String())
	}
	commit(t, tx)
	release()
	cli(t, db, 0, "run", "--table", "app.t")
	s.restored(t)
}

// TestStatusWatchEndsInSilence for every signal.
func TestStatusWatchEndsInSilence(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, signal := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		p := command(t, []string{"REPACK_DSN=" + db.DSN}, "status", "--watch")
		p.cmd.Stdout = nil
		out, err := p.cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		p.start(t)
		if lines := bufio.NewScanner(out); !lines.Scan() || lines.Text() != "no jobs" {
			t.Fatalf("status --watch: %q", lines.Text())
		}
		if err := p.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if code := p.wait(t); code != 130 || p.stderr.Len() > 0 {
			t.Errorf("%s: exit code %d, standard error %q", signal, code, p.stderr.String())
		}
	}
}

// TestNoTableOrNoJob tells the two apart.
func TestNoTableOrNoJob(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL+`;
		CREATE TABLE app.parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
		CREATE TABLE app.part PARTITION OF app.parted DEFAULT`)
	for _, registry := range []bool{false, true} {
		if registry {
			db.Exec(t, `CREATE TABLE app.u (id int PRIMARY KEY)`)
			cli(t, db, 0, "run", "--table", "app.u")
		}
		for _, verb := range []string{"status", "reset", "revert", "verify"} {
			cli(t, db, 3, verb, "--table", "app.absent").says(t, `"app"."absent"`, "there is no such table")
			p := cli(t, db, 3, verb, "--table", "app.t")
			p.says(t, `"app"."t"`, "the table has no job")
			p.saysNot(t, "no such table")
			if verb != "verify" {
				cli(t, db, 3, verb, "--table", "app.parted").says(t, `"app"."parted"`, "the table has no job")
			}
		}
	}
	for _, verb := range []string{"reset", "revert"} {
		cli(t, db, 3, verb, "--table", "app.u").says(t, `"app"."u"`, "has no job under way", "is done")
	}
	cli(t, db, 0, "run", "--table", "app.t", "--until", "setup")
	db.Exec(t, `DROP TABLE app.t CASCADE`)
	if text := cli(t, db, 0, "status", "--table", "app.t").stdout.String(); !strings.Contains(text, "setup") {
		t.Errorf("status of a job whose table is gone:\n%s", text)
	}
	cli(t, db, 0, "reset", "--table", "app.t")
}

// TestWhatWasDone reads what the commands say at their end.
func TestWhatWasDone(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, smallSQL)
		run := func(verb string, args ...string) *process {
			t.Helper()
			return cli(t, db, 0, append([]string{verb, "--table", "app.t"}, args...)...)
		}
		run("run", "--until", "pre_validate", "--strategy", strategy).says(t, "app.t can be repacked", "nothing has been changed")
		for _, until := range []string{"setup", "backfill", "sync_schema", "post_sync_update"} {
			run("run", "--until", until, "--strategy", strategy).says(t, "stage "+until+" is done", "repack run --table 'app.t'", "repack reset --table 'app.t'")
		}
		run("run", "--until", "setup").says(t, "stage post_sync_update is done")
		run("reset").says(t, "app.t is reset")
		run("run", "--until", "swap", "--strategy", strategy).says(t, "app.t is swapped", "repack run --table 'app.t'", "repack revert --table 'app.t'")
		run("revert").says(t, "app.t is reverted")
		for _, verb := range []string{"reset", "revert"} {
			run("run", "--until", map[string]string{"reset": "setup", "revert": "swap"}[verb], "--quiet")
			if p := run(verb, "--quiet"); p.stdout.Len()+p.stderr.Len() > 0 {
				t.Errorf("%s --quiet says %q, %q", verb, p.stdout.String(), p.stderr.String())
			}
		}
		p := run("run", "--keep-old", "--strategy", strategy)
		old := regexp.MustCompile(`kept, .* as ("repack_job_\d+_old"."t"); drop it with: (.*)`).FindStringSubmatch(p.stderr.String())
		if old == nil {
			t.Fatalf("the old table is not named:\n%s", p.stderr.String())
		}
		db.EqualTables(t, old[1], "app.t")
		db.Exec(t, old[2])
		noArtefacts(t, db)
	})
}

// TestStatusNamesTheGrant runs what it asks for, until it is answered.
func TestStatusNamesTheGrant(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL)
	before := db.Dump(t)
	cli(t, db, 0, "run", "--table", "app.t", "--until", "backfill")
	watcher := db.Role(t)
	status := func(code int) *process {
		t.Helper()
		return cli(t, db, code, "status", "--format", "json", "--dsn", db.DSNAs(watcher))
	}
	grants := regexp.MustCompile(`GRANT .*;`)
	for range 2 { // the registry's, then that of the job
		p := status(3)
		p.saysNot(t, "SQLSTATE")
		found := grants.FindAllString(p.stderr.String(), -1)
		if len(found) != 2 {
			t.Fatalf("grants %q", found)
		}
		db.Exec(t, strings.Join(found, " "))
	}
	if text := status(0).stdout.String(); !strings.Contains(text, `"backfill"`) {
		t.Errorf("status with the rights it asked for:\n%s", text)
	}
	cli(t, db, 0, "run", "--table", "app.t")
	sameDump(t, db, before)
}

// TestNohup: a signal that is ignored when the program starts does not end it.
func TestNohup(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	p := command(t, []string{"REPACK_DSN=" + db.DSN}, "status", "--watch")
	p.cmd.Args = append([]string{"sh", "-c", `trap "" HUP; exec "$0" "$@"`}, append([]string{p.cmd.Path}, p.cmd.Args[1:]...)...)
	p.cmd.Path = "/bin/sh"
	p.cmd.Stdout = nil
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.start(t)
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("no status")
	}
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if !lines.Scan() {
		t.Error("SIGHUP has ended it")
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(t); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
}
