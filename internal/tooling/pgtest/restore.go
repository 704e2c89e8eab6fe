package pgtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Restored is a new database on the same server with what pg_dump, given args,
// writes of db. What fails there is passed over, as psql does by itself. ok is
// false where no pg_dump is new enough for the server.
func (db *Database) Restored(t testing.TB, args ...string) (other *Database, ok bool) {
	t.Helper()
	program, ok := dumperFor(db.server.BinDir(), db.Version())
	if !ok {
		return nil, false
	}
	file := filepath.Join(t.TempDir(), "dump.sql")
	out, err := run(t.Context(), program.path, append([]string{"--no-password", "--dbname=" + db.DSN}, args...)...)
	if err == nil {
		// A new database has these already.
		out = strings.ReplaceAll(out, "CREATE SCHEMA public;", "")
		err = os.WriteFile(file, []byte(out), 0o600)
	}
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	other = NewOn(t, db.server)
	psql := filepath.Join(filepath.Dir(program.path), "psql")
	if _, err := run(t.Context(), psql, "--no-psqlrc", "--quiet", "--no-password", "--file="+file, other.DSN); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return other, true
}
