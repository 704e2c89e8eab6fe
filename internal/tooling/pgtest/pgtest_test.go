package pgtest_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgserver"
	"github.com/repack-go/repack/internal/tooling/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestNewDatabasesAreApartAndGoneAfterwards(t *testing.T) {
	t.Parallel()
	outer := pgtest.New(t)
	var names, roles []string
	for range pgtest.RetiredAtOnce {
		t.Run("inner", func(t *testing.T) {
			db := pgtest.New(t)
			if slices.Contains(append(names, outer.Name), db.Name) {
				t.Errorf("two tests share database %s", db.Name)
			}
			role := db.Role(t)
			names, roles = append(names, db.Name), append(roles, role)
			// What would keep the database or the role from being dropped.
			db.Exec(t, `GRANT CREATE ON DATABASE `+db.Name+` TO `+role)
			db.Exec(t, `CREATE TABLE owned (id int); ALTER TABLE owned OWNER TO `+role)
			conn := db.ConnectAs(t, role)
			if _, err := conn.Exec(t.Context(), `BEGIN; TABLE owned; PREPARE TRANSACTION 'left behind by `+role+`'`); err != nil {
				t.Fatal(err)
			}
		})
	}
	// Another test may be the one that drops them.
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, outer.Pool, `SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = $1)
			AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = $2)`, names[0], roles[0])
	}, "the first database and its role to be dropped")
}

// TestNothingIsLeftOfATest has one leave what could hold up others, which must be
// gone before its database is.
func TestNothingIsLeftOfATest(t *testing.T) {
	t.Parallel()
	outer := pgtest.New(t)
	var name string
	t.Run("inner", func(t *testing.T) {
		db := pgtest.New(t)
		name = db.Name
		db.Exec(t, `SELECT pg_create_logical_replication_slot('left_behind', 'pgoutput')`)
		conn := db.Connect(t)
		if _, err := conn.Exec(t.Context(), `BEGIN; CREATE TABLE t (); PREPARE TRANSACTION 'left behind'`); err != nil {
			t.Fatal(err)
		}
		stays, err := pgx.ConnectConfig(context.WithoutCancel(t.Context()), db.Config(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stays.Exec(t.Context(), `BEGIN; SELECT pg_current_xact_id()`); err != nil {
			t.Fatal(err)
		}
	})
	left := pgtest.Column[string](t, outer.Pool, `
		SELECT 'session ' || pid FROM pg_stat_activity WHERE datname = $1
		UNION ALL SELECT 'transaction ' || gid FROM pg_prepared_xacts WHERE database = $1
		UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = $1`, name)
	if len(left) > 0 {
		t.Errorf("still there: %q", left)
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

// TestDatabasesOfOwnServersAreDroppedAtOnce: such a server may have little room.
func TestDatabasesOfOwnServersAreDroppedAtOnce(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, nil)
	var name string
	t.Run("inner", func(t *testing.T) { name = pgtest.NewOn(t, server).Name })
	db := pgtest.NewOn(t, server)
	if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM pg_database WHERE datname = $1`, name); n != 0 {
		t.Errorf("database %s is still there", name)
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

var shelf = pgtest.NewTemplate(func(ctx context.Context, config *pgx.ConnConfig) error {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `CREATE TABLE book AS SELECT 1 AS id`)
	return err
})

func TestTemplate(t *testing.T) {
	t.Parallel()
	first, second := shelf.New(t), shelf.New(t)
	first.Exec(t, `INSERT INTO book VALUES (2)`)
	for db, want := range map[*pgtest.Database]string{first: "2", second: "1"} {
		if got := db.QueryString(t, `SELECT count(*) FROM book`); got != want {
			t.Errorf("a copy has %s books, want %s", got, want)
		}
	}
}
