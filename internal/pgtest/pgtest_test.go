package pgtest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/pgserver"
	"github.com/repack-go/repack/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestNewDatabasesAreApartAndGoneAfterwards(t *testing.T) {
	t.Parallel()
	outer := pgtest.New(t)
	var name, role string
	t.Run("inner", func(t *testing.T) {
		db := pgtest.New(t)
		name, role = db.Name, db.Role(t)
		if name == outer.Name {
			t.Errorf("two tests share database %s", name)
		}
		// What would keep the database or the role from being dropped.
		db.Exec(t, `GRANT CREATE ON DATABASE `+name+` TO `+role)
		db.Exec(t, `CREATE TABLE owned (id int); ALTER TABLE owned OWNER TO `+role)
		conn := db.ConnectAs(t, role)
		if _, err := conn.Exec(t.Context(), `BEGIN; TABLE owned; PREPARE TRANSACTION 'left behind'`); err != nil {
			t.Fatal(err)
		}
	})
	if n := pgtest.Query[int](t, outer.Pool, `SELECT count(*) FROM pg_database WHERE datname = $1`, name); n != 0 {
		t.Errorf("database %s is still there", name)
	}
	if n := pgtest.Query[int](t, outer.Pool, `SELECT count(*) FROM pg_roles WHERE rolname = $1`, role); n != 0 {
		t.Errorf("role %s is still there", role)
	}
}

func TestReplicationSlotIsDropped(t *testing.T) {
	t.Parallel()
	outer := pgtest.New(t)
	t.Run("inner", func(t *testing.T) {
		pgtest.New(t).Exec(t, `SELECT pg_create_logical_replication_slot('left_behind', 'pgoutput')`)
	})
	if n := pgtest.Query[int](t, outer.Pool, `SELECT count(*) FROM pg_replication_slots`); n != 0 {
		t.Error("the slot is still there")
	}
}

func TestConnectAs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role := db.Role(t)
	if got := pgtest.Query[string](t, db.ConnectAs(t, role), `SELECT current_user::text`); got != role {
		t.Errorf("current_user is %s, want %s", got, role)
	}
	if dsn := db.DSNAs(role); !strings.Contains(dsn, "//"+role+"@") {
		t.Errorf("%s is not for role %s", dsn, role)
	}
}

func TestQueryString(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for sql, want := range map[string]string{
		`SELECT $1::int + 1`:                   "42",
		`SELECT $1::text`:                      "41",
		`SELECT ARRAY[1, $1::int]`:             "{1,41}",
		`SELECT nullif($1::int, 41)`:           pgtest.Null,
		`SELECT ROW($1::text, NULL)`:           "(41,)",
		`SELECT $1::int = 41`:                  "t",
		`SELECT 'epoch'::date + $1::int`:       "1970-02-11",
		`SELECT ('{"a": ' || $1 || '}')::json`: `{"a": 41}`,
	} {
		if got := db.QueryString(t, sql, "41"); got != want {
			t.Errorf("%s = %q, want %q", sql, got, want)
		}
	}
}

func TestWaitBlockedBy(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE TABLE held (id int)`)
	holder, waiter := db.Connect(t), db.Connect(t)
	if _, err := holder.Exec(t.Context(), `BEGIN; LOCK TABLE held`); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := waiter.Exec(t.Context(), `TABLE held`)
		done <- err
	}()
	want := waiter.PgConn().PID()
	if got := pgtest.WaitBlockedBy(t, db.Pool, holder.PgConn().PID()); got != want {
		t.Errorf("WaitBlockedBy = %d, want %d", got, want)
	}
	if _, err := holder.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestChecksumIgnoresOrderAndCounts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA "App";
	            CREATE TABLE "App".a (r json, s text);
	            CREATE TABLE b (LIKE "App".a);
	            CREATE TABLE twice (LIKE b);
	            CREATE TABLE nothing (LIKE b);
	            INSERT INTO "App".a VALUES ('{"n": 1}', 'x'), (NULL, 'y');
	            INSERT INTO b VALUES (NULL, 'y'), ('{"n": 1}', 'x');
	            INSERT INTO twice TABLE b; INSERT INTO twice TABLE b`)
	db.EqualTables(t, `"App".a`, `b`)
	a, b := db.Checksum(t, `"App".a`), db.Checksum(t, `b`)
	if a != b || !strings.HasPrefix(a, "2 rows") {
		t.Errorf("checksums %q and %q, want two alike, of 2 rows", a, b)
	}
	for _, other := range []string{`twice`, `nothing`} {
		if db.Checksum(t, other) == b {
			t.Errorf("checksum of %s is that of b", other)
		}
	}
}

func TestEqualTablesCountsRows(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE TABLE once AS SELECT 1 AS n;
	            CREATE TABLE twice AS SELECT 1 AS n FROM generate_series(1, 2)`)
	for _, pair := range [][2]string{{"once", "twice"}, {"twice", "once"}} {
		recorder := &recorder{TB: t}
		db.EqualTables(recorder, pair[0], pair[1])
		if len(recorder.errors) != 1 {
			t.Errorf("%v: errors %q, want one", pair, recorder.errors)
		}
	}
}

func TestNewServerIsApart(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, map[string]string{"max_connections": "11"})
	db := pgtest.NewOn(t, server)
	db.Exec(t, `CREATE TABLE kept (id int)`)
	if err := server.Stop(pgserver.Immediate); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := pgtest.Query[string](t, db.Connect(t), `SHOW max_connections`); got != "11" {
		t.Errorf("max_connections = %s, want 11", got)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	want := pgtest.Query[int](t, db.Pool, `SELECT current_setting('server_version_num')::int / 10000`)
	if db.Version() != want {
		t.Errorf("Version() = %d, want %d", db.Version(), want)
	}
	if _, err := os.Stat(filepath.Join(db.Server().BinDir(), "postgres")); err != nil {
		t.Error(err)
	}
}

// recorder keeps the errors that a helper reports instead of failing the test.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Errorf(format string, _ ...any) { r.errors = append(r.errors, format) }
