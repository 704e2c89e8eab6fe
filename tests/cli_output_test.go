package tests

import (
	"bufio"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// TestStatusOfVirginDatabase answers with nothing and creates nothing.
func TestStatusOfVirginDatabase(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL)
	before := db.CatalogDump(t)
	p := cli(t, db, 0, "status", "--format", "json")
	if got := p.stdout.String(); got != "[]\n" || p.stderr.Len() != 0 {
		t.Errorf("status: %q, %q", got, p.stderr.String())
	}
	if got := cli(t, db, 0, "status").stdout.String(); got != "no jobs\n" {
		t.Errorf("status: %q", got)
	}
	for _, table := range []string{"app.t", "app.absent"} {
		cli(t, db, 3, "status", "--table", table)
	}
	if after := db.CatalogDump(t); after != before {
		t.Errorf("status changed the database:\n%s", textDiff(before, after))
	}
	if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'repack%'`); n != 0 {
		t.Error("status created a schema")
	}
}

// statusKeys is what scripts rely on.
const statusKeys = "alteration batch cascade_of change_log_bytes eta_seconds finished_at heartbeat_at index_builds job last_error longest_lock_ms name paused pending_changes rate revertible rows_copied rows_total " +
	"runner schema settings stage stage_done started_at state strategy swapped table updated_at waiting_for waiting_since"

func TestStatusOutput(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL+`; CREATE SCHEMA "Odd"; CREATE TABLE "Odd"."T 2" (id int PRIMARY KEY)`)
	cli(t, db, 0, "run", "--table", "app.t", "--until", "backfill")
	cli(t, db, 0, "run", "--table", `"Odd"."T 2"`, "--strategy", "direct-trigger")
	db.Exec(t, `UPDATE app.t SET a = 'b' WHERE id <= 7`)

	var list []map[string]any
	p := cli(t, db, 0, "status", "--format", "json")
	if err := json.Unmarshal(p.stdout.Bytes(), &list); err != nil || len(list) != 2 {
		t.Fatalf("status is not a list of two: %v\n%s", err, p.stdout.String())
	}
	for _, job := range list {
		if got := strings.Join(slices.Sorted(maps.Keys(job)), " "); got != statusKeys {
			t.Errorf("keys %s\nwant %s", got, statusKeys)
		}
	}
	for key, want := range map[string]any{
		"table": `"app"."t"`, "schema": "app", "name": "t", "strategy": "change-log", "stage": "backfill", "stage_done": true,
		"state": "stopped", "swapped": false, "rows_copied": 1000.0, "rows_total": 1000.0, "pending_changes": 7.0,
		"last_error": nil, "runner": nil, "finished_at": nil, "job": 1.0,
	} {
		if got := list[1][key]; got != want {
			t.Errorf("%s of app.t is %v, want %v", key, got, want)
		}
	}
	for key, want := range map[string]any{"table": `"Odd"."T 2"`, "state": "done", "stage": "clean_up", "swapped": true, "strategy": "direct-trigger"} {
		if got := list[0][key]; got != want {
			t.Errorf("%s of T 2 is %v, want %v", key, got, want)
		}
	}
	if text := cli(t, db, 0, "status", "--table", `"Odd"."T 2"`, "--format", "json").stdout.String(); strings.Contains(text, `"schema": "app"`) {
		t.Errorf("status of one table shows another:\n%s", text)
	}

	text := strings.Split(regexp.MustCompile(` +`).ReplaceAllString(cli(t, db, 0, "status").stdout.String(), " "), "\n")
	want := []string{
		"JOB TABLE STRATEGY STAGE STATE ROWS COPIED OF ABOUT PENDING ROWS/S ETA RUN BY",
		`2 "Odd"."T 2" direct-trigger clean_up done 0 0 0 0 - -`,
		`1 "app"."t" change-log backfill stopped 1000 1000 7 N - -`,
	}
	for i, line := range want {
		pattern := "^" + strings.ReplaceAll(regexp.QuoteMeta(line), "N", `\d+`) + "$"
		if strings.Contains(line, "JOB") {
			pattern = "^" + regexp.QuoteMeta(line) + "$"
		}
		if len(text) <= i || !regexp.MustCompile(pattern).MatchString(text[i]) {
			t.Errorf("status line %d is %q, want %q", i, text[i], line)
		}
	}
	db.Exec(t, `ALTER TABLE app.t ADD c int`)
	cli(t, db, 1, "run", "--table", "app.t")
	if text := cli(t, db, 0, "status").stdout.String(); !strings.Contains(text, "failed") || !strings.Contains(text, "last error of job 1") {
		t.Errorf("status after a failure:\n%s", text)
	}
}

// TestStatusWatch ends when it is interrupted.
func TestStatusWatch(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	p := command(t, []string{"REPACK_DSN=" + db.DSN}, "status", "--watch", "--format", "json")
	p.cmd.Stdout = nil
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.start(t)
	lines := bufio.NewScanner(out)
	for range 2 { // it shows the status again
		if !lines.Scan() || lines.Text() != "[]" {
			t.Fatalf("status --watch: %q", lines.Text())
		}
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(t); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
}

// TestLogs looks where what is written.
func TestLogs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL)
	for _, level := range []string{"debug", "info", "error"} {
		p := cli(t, db, 0, "run", "--table", "app.t", "--log-format", "json", "--log-level", level)
		if p.stdout.Len() != 0 {
			t.Errorf("run writes to standard output: %q", p.stdout.String())
		}
		lines := 0
		for line := range strings.Lines(p.stderr.String()) {
			var entry map[string]any
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				t.Errorf("log line %q: %v", line, err)
			}
			if entry["level"] == "DEBUG" && level != "debug" {
				t.Errorf("debug line at level %s: %s", level, line)
			}
			lines++
		}
		if (lines == 0) != (level == "error") {
			t.Errorf("%d log lines at level %s", lines, level)
		}
	}
	if p := cli(t, db, 0, "run", "--table", "app.t", "--quiet"); p.stderr.Len() != 0 || p.stdout.Len() != 0 {
		t.Errorf("--quiet writes %q and %q", p.stdout.String(), p.stderr.String())
	}
}

// TestNoPassword has the program fail, and explain itself, with a password in
// every place it can come from.
func TestNoPassword(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	for _, dsn := range []string{
		"postgres://u:hunter2@127.0.0.1:1/x", "postgres://u:hunter2@127.0.0.1:port/x", "postgres://u:hunter2@[::1/x", "postgres://u:hunter2@h/x?sslmode=odd",
		"host=127.0.0.1 port=1 password=hunter2", "host=127.0.0.1 port=odd password=hunter2",
		"password=hunter2 nonsense", "password='hunter2", "password = 'hunter2' sslmode=odd",
		"postgres://u:hun ter2@127.0.0.1/x", "postgresql://127.0.0.1:1/x?password=hunter2",
		"postgresql://127.0.0.1:odd/x?password=hunter2", "postgres:/u:hunter2@127.0.0.1/x",
		"postgre://u:hunter2@127.0.0.1/x",
	} {
		for _, args := range [][]string{{"status"}, {"run", "--table", "t"}, {"run", "--help"}} {
			for _, how := range []string{"flag", "REPACK_DSN=", "DATABASE_URL="} {
				p := command(t, nil, args...)
				if how == "flag" {
					p.cmd.Args = append(p.cmd.Args[:2:2], append([]string{"--dsn", dsn, "--log-level", "debug"}, p.cmd.Args[2:]...)...)
				} else {
					p.cmd.Env = append(p.cmd.Env, how+dsn)
				}
				p.start(t)
				if code := p.wait(t); (code == 0) != slices.Contains(args, "--help") {
					t.Errorf("%s %q %q: exit code %d", how, dsn, args, code)
				}
				for _, half := range []string{secret, "ter2"} {
					if strings.Contains(p.stdout.String()+p.stderr.String(), half) {
						t.Errorf("%s %q %q prints the password:\n%s%s", how, dsn, args, p.stdout.String(), p.stderr.String())
					}
				}
			}
		}
	}
}

// TestConnectionPrecedence makes every source but the one that counts useless.
func TestConnectionPrecedence(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL)
	cli(t, db, 0, "run", "--table", "app.t", "--until", "setup")
	config := db.Config(t)
	const bad = "postgres://nobody@127.0.0.1:1/x"
	pg := []string{"PGHOST=" + config.Host, "PGPORT=5432", "PGUSER=" + config.User, "PGDATABASE=" + config.Database}
	service := filepath.Join(t.TempDir(), "services")
	text := "[mine]\nhost=" + config.Host + "\nport=5432\nuser=" + config.User + "\ndbname=" + config.Database + "\n"
	if err := os.WriteFile(service, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env, args []string
	}{
		"flag":         {[]string{"REPACK_DSN=" + bad, "DATABASE_URL=" + bad, "PGHOST=127.0.0.1", "PGPORT=1"}, []string{"--dsn", db.DSN}},
		"REPACK_DSN":   {[]string{"REPACK_DSN=" + db.DSN, "DATABASE_URL=" + bad, "PGHOST=127.0.0.1", "PGPORT=1"}, nil},
		"DATABASE_URL": {[]string{"DATABASE_URL=" + db.DSN, "PGHOST=127.0.0.1", "PGPORT=1", "PGDATABASE=absent", "PGUSER=nobody"}, nil},
		"PG variables": {pg, nil},
		"empty ones":   {append([]string{"REPACK_DSN=", "DATABASE_URL="}, pg...), nil},
		"service":      {[]string{"PGSERVICEFILE=" + service, "PGSERVICE=mine"}, nil},
	} {
		p := command(t, c.env, append([]string{"status", "--format", "json"}, c.args...)...)
		p.start(t)
		if code := p.wait(t); code != 0 || !strings.Contains(p.stdout.String(), `"setup"`) {
			t.Errorf("%s: exit code %d\n%s%s", name, code, p.stdout.String(), p.stderr.String())
		}
	}
}
