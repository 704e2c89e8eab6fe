package tests

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// givenEncoding is a database of another encoding, and a connection that speaks
// client. SQL_ASCII is none, and takes any bytes.
func givenEncoding(t *testing.T, encoding, client string) (*pgtest.Database, *pgx.Conn) {
	t.Helper()
	beside := pgtest.New(t)
	name := beside.Name + "_" + strings.ToLower(encoding)
	beside.Exec(t, `CREATE DATABASE `+name+` TEMPLATE template0 ENCODING '`+encoding+`' LC_COLLATE 'C' LC_CTYPE 'C'`)
	t.Cleanup(func() { mustExec(t, beside.Pool, `DROP DATABASE `+name+` WITH (FORCE)`) })
	db := &pgtest.Database{Name: name, DSN: strings.ReplaceAll(beside.DSN, beside.Name, name)}
	config, err := pgx.ParseConfig(db.DSN)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["client_encoding"] = client
	conn, err := pgx.ConnectConfig(testContext(t), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(testContext(t)) })
	return db, conn
}

// TestNoEncoding has bytes that are no UTF-8 in a database without an encoding: in
// data and keys they are copied, in names and definitions they are refused in
// words.
func TestNoEncoding(t *testing.T) {
	t.Parallel()
	db, conn := givenEncoding(t, "SQL_ASCII", "SQL_ASCII")
	for _, c := range []struct{ name, sql, says string }{
		{"comment", "COMMENT ON TABLE app.t IS 'caf\xe9'", "relation"},
		{"comment of a column", "COMMENT ON COLUMN app.t.a IS 'caf\xe9'", "columns"},
		{"column", "ALTER TABLE app.t ADD \"caf\xe9\" int", "columns"},
		{"check", "ALTER TABLE app.t ADD CONSTRAINT ch CHECK (a <> 'caf\xe9 au lait')", "constraints"},
		{"default", "ALTER TABLE app.t ALTER a SET DEFAULT 'caf\xe9'", "columns"},
		{"index", "CREATE INDEX part ON app.t (id) WHERE a = 'caf\xe9'", "indexes"},
		{
			"trigger",
			"CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; " +
				"CREATE TRIGGER tr AFTER INSERT ON app.t FOR EACH ROW EXECUTE FUNCTION app.f('caf\xe9')",
			"triggers",
		},
		{"view", "CREATE VIEW app.v AS SELECT id, a || 'caf\xe9' AS b FROM app.t", "views"},
		{"table", "ALTER TABLE app.t RENAME TO \"t\xe9\"; CREATE VIEW app.t AS SELECT 1 AS one", "not an ordinary"},
	} {
		t.Run(c.name, func(t *testing.T) {
			mustExec(t, conn, `
				DROP SCHEMA IF EXISTS app CASCADE;
				CREATE SCHEMA app;
				CREATE TABLE app.t (id int PRIMARY KEY, a text)`)
			mustExec(t, conn, c.sql)
			for _, verb := range []string{"plan", "run"} {
				cli(t, db, 3, verb, "--table", "app.t").says(t, c.says, "cannot be repacked")
			}
		})
	}
	for _, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			mustExec(t, conn, "DROP SCHEMA IF EXISTS app CASCADE; CREATE SCHEMA app; CREATE TABLE app.t (id text PRIMARY KEY, a text)")
			mustExec(t, conn, "INSERT INTO app.t SELECT 'caf\xe9 ' || g, 'th\xe9' FROM generate_series(1, 1000) g")
			cli(t, db, 0, "run", "--table", "app.t", "--strategy", strategy, "--verify", "full")
			if n := pgtest.Query[int](t, conn, "SELECT count(*) FROM app.t WHERE id LIKE 'caf\xe9 %' AND a = 'th\xe9'"); n != 1000 {
				t.Errorf("%d rows are as they were", n)
			}
		})
	}
}

// latinSQL has letters that Latin 1 writes in one byte, and UTF-8 in two, in all that
// has a name or a text.
const latinSQL = `
CREATE SCHEMA app;
CREATE TABLE app.thé (id int PRIMARY KEY, café text DEFAULT 'déca' CONSTRAINT "pas de thé" CHECK (café <> 'thé'));
CREATE INDEX cafés ON app.thé (café) WHERE café <> 'naïve';
COMMENT ON TABLE app.thé IS 'café crème';
CREATE VIEW app.crème AS SELECT id, café || ' crème' AS crème FROM app.thé;
CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER déjà BEFORE INSERT ON app.thé FOR EACH ROW WHEN (NEW.café = 'déjà') EXECUTE FUNCTION app.f('vu, déjà');
INSERT INTO app.thé SELECT g, CASE WHEN g % 2 = 0 THEN 'crème ' || g ELSE 'déca' END FROM generate_series(1, 1000) g`

// latinStateSQL is what has become of it.
const latinStateSQL = `
SELECT concat_ws('; ',
       (SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), ', ' ORDER BY conname) FROM pg_constraint
       WHERE conrelid = 'app.thé'::regclass),
       (SELECT string_agg(pg_get_expr(adbin, adrelid), ', ') FROM pg_attrdef WHERE adrelid = 'app.thé'::regclass),
       (SELECT string_agg(pg_get_triggerdef(oid), ', ') FROM pg_trigger WHERE tgrelid = 'app.thé'::regclass),
       pg_get_indexdef('app.cafés'::regclass), obj_description('app.thé'::regclass),
       pg_get_viewdef('app.crème'::regclass), (SELECT md5(string_agg(café, ',' ORDER BY id)) FROM app.thé))`

// TestOtherEncoding repacks where the server stores names, definitions and data in
// another encoding than ours.
func TestOtherEncoding(t *testing.T) {
	t.Parallel()
	db, conn := givenEncoding(t, "LATIN1", "UTF8")
	for _, strategy := range strategies {
		mustExec(t, conn, `DROP SCHEMA IF EXISTS app CASCADE`)
		mustExec(t, conn, latinSQL)
		before, oid := pgtest.Query[string](t, conn, latinStateSQL), pgtest.Query[uint32](t, conn, `SELECT 'app.thé'::regclass::oid`)
		cli(t, db, 0, "run", "--table", "app.thé", "--strategy", strategy, "--verify", "full")
		if after := pgtest.Query[string](t, conn, latinStateSQL); after != before {
			t.Errorf("is  %s\nwas %s", after, before)
		}
		if pgtest.Query[uint32](t, conn, `SELECT 'app.thé'::regclass::oid`) == oid {
			t.Error("the table was not repacked")
		}
	}
}
