package tests

import (
	"errors"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// outlivedCases have a check that rows once passed and do not pass any more. The
// refusal must name the check and the row.
var outlivedCases = []struct {
	name, sql string
	says      []string
}{
	{
		"function of the server",
		`
			CREATE TABLE app.t (id int PRIMARY KEY, at timestamptz CONSTRAINT future CHECK (at > clock_timestamp()));
			INSERT INTO app.t SELECT g, now() + interval '30 days' FROM generate_series(1, 1000) g;
			INSERT INTO app.t VALUES (4711, clock_timestamp() + interval '10 ms');
			SELECT pg_sleep(0.05)`,
		[]string{`check "future"`, `id = "4711"`},
	},
	{
		"only row",
		`
			CREATE TABLE app.t (id int PRIMARY KEY, at timestamptz CONSTRAINT future CHECK (at > clock_timestamp()));
			INSERT INTO app.t VALUES (1, clock_timestamp() + interval '10 ms');
			SELECT pg_sleep(0.05)`,
		[]string{`check "future"`, `id = "1"`},
	},
	{
		"date of today and a key of two columns",
		`
			CREATE TABLE app.t (
			    a     int,
			    "B b" text,
			    day   date CONSTRAINT late CHECK (day >= current_date),
			    PRIMARY KEY (a, "B b")
			);
			INSERT INTO app.t VALUES (1, 'x', 'infinity'), (2, 'y', 'infinity');
			SET session_replication_role = replica;
			ALTER TABLE app.t DROP CONSTRAINT late;
			UPDATE app.t SET day = '2001-01-01' WHERE a = 2;
			ALTER TABLE app.t ADD CONSTRAINT late CHECK (day >= current_date) NOT VALID;
			UPDATE pg_constraint SET convalidated = true WHERE conname = 'late';
			RESET session_replication_role`,
		[]string{`check "late"`, `a = "2"`, `B b = "y"`},
	},
	{
		"volatile function that reads another table",
		`
			CREATE TABLE app.known (k text);
			INSERT INTO app.known VALUES ('a'), ('b');
			CREATE FUNCTION app.is_known(text) RETURNS boolean LANGUAGE sql
			    AS 'SELECT EXISTS (SELECT FROM app.known WHERE k = $1)';
			CREATE TABLE app.t (id int PRIMARY KEY, k text CONSTRAINT known CHECK (app.is_known(k)));
			INSERT INTO app.t VALUES (1, 'a'), (2, 'b');
			DELETE FROM app.known WHERE k = 'b'`,
		[]string{`check "known"`, `id = "2"`},
	},
	{
		"function that says it is immutable",
		`
			CREATE TABLE app.known (k text);
			INSERT INTO app.known VALUES ('a'), ('b');
			CREATE FUNCTION app.is_known(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql
			    AS 'BEGIN RETURN EXISTS (SELECT FROM app.known WHERE k = $1); END';
			CREATE TABLE app.t (id int PRIMARY KEY, k text CONSTRAINT known CHECK (app.is_known(k)));
			INSERT INTO app.t VALUES (1, 'a'), (2, 'b');
			DELETE FROM app.known WHERE k = 'b'`,
		[]string{`check "known"`, `id = "2"`},
	},
	{
		"generated column of some rows",
		`
			CREATE FUNCTION app.f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1';
			CREATE TABLE app.t (a int PRIMARY KEY, b int GENERATED ALWAYS AS (app.f(a)) STORED);
			CREATE FUNCTION app.g(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1';
			INSERT INTO app.t SELECT generate_series(1, 1000);
			CREATE OR REPLACE FUNCTION app.f(int) RETURNS int IMMUTABLE LANGUAGE sql
			    AS 'SELECT $1 + CASE $1 WHEN 500 THEN 2 ELSE 1 END'`,
		[]string{`column "b"`, `a = "500"`, "generated"},
	},
	{
		"function that fails for a row",
		`
			CREATE FUNCTION app.f(int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
			CREATE TABLE app.t (id int PRIMARY KEY CHECK (app.f(id)));
			INSERT INTO app.t SELECT generate_series(1, 100);
			CREATE OR REPLACE FUNCTION app.f(int) RETURNS boolean LANGUAGE plpgsql
			    AS 'BEGIN IF $1 = 77 THEN RAISE ''no %'', $1; END IF; RETURN true; END'`,
		[]string{"no 77", "app.f(integer)"},
	},
	{
		"operator on such a function",
		`
			CREATE TABLE app.known (k text);
			INSERT INTO app.known VALUES ('a'), ('b');
			CREATE FUNCTION app.is_known(text, int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql
			    AS 'BEGIN RETURN EXISTS (SELECT FROM app.known WHERE k = $1); END';
			CREATE OPERATOR app.@@@ (LEFTARG = text, RIGHTARG = int, FUNCTION = app.is_known);
			CREATE TABLE app.t (id int PRIMARY KEY, k text CONSTRAINT known CHECK (k OPERATOR(app.@@@) 1));
			INSERT INTO app.t VALUES (1, 'a'), (2, 'b');
			DELETE FROM app.known WHERE k = 'b'`,
		[]string{`check "known"`, `id = "2"`},
	},
}

func TestOutlivedChecks(t *testing.T) {
	t.Parallel()
	for _, c := range outlivedCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, "CREATE SCHEMA app")
			db.Exec(t, c.sql)
			refused(t, db, "app.t", c.says...)
		})
	}
}

// TestMutableChecksThatHold has checks of the same kinds that every row passes, NULL
// among them, and one that is not valid.
func TestMutableChecksThatHold(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `
			CREATE SCHEMA app;
			CREATE TABLE app.t (id int PRIMARY KEY, at timestamptz CHECK (at > clock_timestamp()), k text);
			INSERT INTO app.t VALUES (1, 'infinity', 'a'), (2, NULL, 'b');
			ALTER TABLE app.t ADD CONSTRAINT later CHECK (at < now()) NOT VALID`)
		before := db.Dump(t)
		run(t, db, options(t, "app.t", strategy))
		sameDump(t, db, before)
		noArtefacts(t, db)
	})
}

// TestCheckExpiresDuringJob has a row pass its check for the last time when setup
// has ended. Mended, the same command goes on.
func TestCheckExpiresDuringJob(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `
			CREATE SCHEMA app;
			CREATE TABLE app.known (k text);
			INSERT INTO app.known VALUES ('a'), ('b');
			CREATE FUNCTION app.is_known(text) RETURNS boolean STABLE LANGUAGE sql
			    AS 'SELECT EXISTS (SELECT FROM app.known WHERE k = $1)';
			CREATE TABLE app.t (id int PRIMARY KEY, k text CONSTRAINT known CHECK (app.is_known(k)));
			INSERT INTO app.t VALUES (1, 'a'), (2, 'b')`)
		o := options(t, "app.t", strategy)
		runUntil(t, db, o, repack.Setup)
		db.Exec(t, `DELETE FROM app.known WHERE k = 'b'`)
		err := newRepack(t, db, o).Run(testContext(t))
		var outlived *repack.OutlivedError
		if !errors.As(err, &outlived) {
			t.Fatalf("run: %v, want *OutlivedError", err)
		}
		for _, word := range []string{`check "known"`, `id = "2"`, "any more", "run the same command again", "repack reset"} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("the message does not say %q:\n%v", word, err)
			}
		}
		db.Exec(t, `UPDATE app.t SET k = 'a' WHERE id = 2`)
		run(t, db, o)
		noArtefacts(t, db)
		if got := db.QueryString(t, `SELECT string_agg(k, '' ORDER BY id) FROM app.t`); got != "aa" {
			t.Errorf("rows %q", got)
		}
	})
}

// TestOutlivedDomain has rows that do not satisfy the checks of their columns' types
// any more, which is no matter for a copy: values keep their type. So it is where the
// type's check is not valid.
func TestOutlivedDomain(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `
			CREATE SCHEMA app;
			CREATE TABLE app.known (k text);
			INSERT INTO app.known VALUES ('a'), ('b');
			CREATE FUNCTION app.is_known(text) RETURNS boolean STABLE LANGUAGE sql
			    AS 'SELECT EXISTS (SELECT FROM app.known WHERE k = $1)';
			CREATE DOMAIN app.d AS text CHECK (app.is_known(VALUE));
			CREATE TYPE app.c AS (d app.d);
			CREATE TABLE app.t (id int PRIMARY KEY, k app.d, ks app.d[], c app.c);
			INSERT INTO app.t SELECT g, 'b', '{b,a}', '(b)' FROM generate_series(1, 100) g;
			DELETE FROM app.known WHERE k = 'b';
			ALTER DOMAIN app.d ADD CONSTRAINT short CHECK (length(VALUE) < 1) NOT VALID`)
		before := db.Dump(t)
		o := options(t, "app.t", strategy)
		runUntil(t, db, o, repack.Backfill)
		db.Exec(t, `UPDATE app.t SET id = id + 1000 WHERE id > 50`)
		run(t, db, o)
		sameDump(t, db, before)
		noArtefacts(t, db)
		if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM app.t WHERE k::text = 'b'`); n != 100 {
			t.Errorf("%d rows, want 100", n)
		}
	})
}
