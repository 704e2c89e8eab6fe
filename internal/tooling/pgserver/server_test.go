package pgserver_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgserver"
)

func TestCommittedRowsSurviveACrash(t *testing.T) {
	t.Parallel()
	s := start(t, pgserver.Options{})
	mustExec(t, s, `CREATE TABLE kept AS SELECT 1 AS n`)

	for _, mode := range []pgserver.Mode{pgserver.Immediate, pgserver.Fast} {
		if err := s.Stop(mode); err != nil {
			t.Fatal(err)
		}
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := ask(t, s, `SELECT n::text FROM kept`); got != "1" {
			t.Errorf("after a %s stop: kept holds %q, want 1", mode, got)
		}
	}
}

func TestRestartOfARunningServer(t *testing.T) {
	t.Parallel()
	s := start(t, pgserver.Options{})
	mustExec(t, s, `ALTER SYSTEM SET max_connections = 33`)
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, s, `SHOW max_connections`); got != "33" {
		t.Errorf("max_connections = %s after ALTER SYSTEM and a restart, want 33", got)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	value := `it's a \ back-slash`
	s := start(t, pgserver.Options{Settings: map[string]string{
		"app.quoted": value, "fsync": "on",
	}})
	for name, want := range map[string]string{
		"app.quoted":                value,
		"fsync":                     "on",
		"synchronous_commit":        "on",
		"wal_level":                 "logical",
		"max_prepared_transactions": "20",
		"autovacuum":                "on",
		"listen_addresses":          "",
		"server_encoding":           "UTF8",
	} {
		if got := ask(t, s, `SELECT current_setting($1)`, name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
}

func TestStartReportsTheServersLog(t *testing.T) {
	t.Parallel()
	parent := sharedDir(t)
	_, err := pgserver.Start(t.Context(), pgserver.Options{
		ParentDir: parent,
		Settings:  map[string]string{"shared_preload_libraries": "no_such_library"},
	})
	if err == nil || !strings.Contains(err.Error(), "no_such_library") {
		t.Errorf("error %v does not carry the server's log", err)
	}
	wantEmpty(t, parent)
}

func TestStartIsBoundedByItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	parent := sharedDir(t)
	if _, err := pgserver.Start(ctx, pgserver.Options{ParentDir: parent}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	wantEmpty(t, parent)
}

func TestLogReceivesWhatTheFileDoes(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	s := start(t, pgserver.Options{Log: &log})
	if err := s.Stop(pgserver.Fast); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(s.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	if log.String() != string(file) || len(file) == 0 {
		t.Errorf("Log holds %q, LogFile %q", log.String(), file)
	}
}

func start(t *testing.T, opts pgserver.Options) *pgserver.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := pgserver.Start(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func connect(t *testing.T, s *pgserver.Server) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func mustExec(t *testing.T, s *pgserver.Server, sql string) {
	t.Helper()
	conn := connect(t, s)
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func ask(t *testing.T, s *pgserver.Server, sql string, args ...any) (answer string) {
	t.Helper()
	conn := connect(t, s)
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// sharedDir is a directory that the server's user may enter, unlike
// t.TempDir's, whose parents only we may.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgserver-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestCopiesOfOneInitdb has the second server be a copy of what initdb has made of
// the first one, and no more: not its settings, nor its rows.
func TestCopiesOfOneInitdb(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	first := start(t, pgserver.Options{Cache: cache, Settings: map[string]string{"max_connections": "33"}})
	mustExec(t, first, `CREATE TABLE kept AS SELECT 1 AS n`)
	second := start(t, pgserver.Options{Cache: cache})
	const systemSQL = `SELECT system_identifier::text FROM pg_control_system()`
	if a, b := ask(t, first, systemSQL), ask(t, second, systemSQL); a != b {
		t.Errorf("initdb has made system %s and system %s", a, b)
	}
	if got := ask(t, second, `SHOW max_connections`); got != "200" {
		t.Errorf("max_connections = %s, want the default, 200", got)
	}
	if got := ask(t, second, `SELECT count(*)::text FROM pg_class WHERE relname = 'kept'`); got != "0" {
		t.Error("the copy has a table of the first server")
	}
	if other := start(t, pgserver.Options{}); ask(t, other, systemSQL) == ask(t, first, systemSQL) {
		t.Error("without a cache, initdb has made the same system")
	}
}
