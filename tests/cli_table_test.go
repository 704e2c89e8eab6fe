package tests

import (
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// TestTableNames writes the name in every way that means the table.
func TestTableNames(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE SCHEMA app;
		CREATE SCHEMA "My App";
		CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE TABLE app."T" (id int PRIMARY KEY);
		CREATE TABLE public.t (id int PRIMARY KEY);
		CREATE TABLE "My App"."t.u ""x""" (id int PRIMARY KEY);
		ALTER DATABASE `+db.Name+` SET search_path = "My App", app`)
	for written, meant := range map[string]string{
		"t": `"app"."t"`, "T": `"app"."t"`, `"T"`: `"app"."T"`, "app.t": `"app"."t"`, "APP.T": `"app"."t"`, ` app . t `: `"app"."t"`, "public.t": `"public"."t"`,
		`"t.u ""x"""`: `"My App"."t.u ""x"""`, `"My App"."t.u ""x"""`: `"My App"."t.u ""x"""`,
	} {
		cli(t, db, 0, "run", "--table", written)
		last := db.QueryString(t, `
			SELECT format('"%s"."%s"', table_schema, replace(table_name, '"', '""'))
			FROM   repack_registry.job
			ORDER BY id DESC LIMIT 1`)
		if last != meant {
			t.Errorf("--table %q repacked %s, want %s", written, last, meant)
		}
		if out := cli(t, db, 0, "status", "--table", written, "--format", "json").stdout.String(); strings.Count(out, `"job"`) != 1 {
			t.Errorf("status --table %q: %s", written, out)
		}
	}
	cli(t, db, 3, "run", "--table", `"My App".t`).says(t, `"My App"."t"`)
}

// TestTableWithoutFlag names the table as most programs would have it, before
// and after the flags.
func TestTableWithoutFlag(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL)
	stage := func() string { return string(statusOf(t, db, "app.t").Stage) }
	cli(t, db, 0, "plan", "app.t", "--format", "json")
	cli(t, db, 0, "run", "app.t", "--until", "setup", "-j1")
	cli(t, db, 0, "run", "--until", "post_sync_update", "app.t")
	cli(t, db, 0, "verify", "app.t")
	if out := cli(t, db, 0, "status", "app.t").stdout.String(); !strings.Contains(out, "post_sync_update") {
		t.Errorf("status app.t: %s", out)
	}
	cli(t, db, 0, "reset", "app.t")
	cli(t, db, 0, "run", "app.t", "--table", "app.t", "--until", "swap")
	if stage() != "swap" {
		t.Errorf("stage %s", stage())
	}
	cli(t, db, 2, "revert", "app.t", "--table", "app.u").says(t, "app.u")
	cli(t, db, 0, "revert", "app.t")
	cli(t, db, 3, "run", "app.absent").says(t, "no such table")
}

// oldTableSQL describes what still joins the old table to others, or does
// something when it is written to.
const oldTableSQL = `
SELECT 'trigger ' || tgname
FROM   pg_trigger
WHERE  tgrelid = $1::regclass AND tgenabled <> 'D'
UNION ALL
SELECT 'foreign key ' || conname
FROM   pg_constraint
WHERE  contype = 'f' AND (conrelid = $1::regclass OR confrelid = $1::regclass)
UNION ALL
SELECT 'publication'
FROM   pg_publication_rel
WHERE  prrelid = $1::regclass
UNION ALL
SELECT 'default of ' || adnum
FROM   pg_attrdef d
JOIN   pg_attribute a ON (a.attrelid, a.attnum) = (adrelid, adnum)
WHERE  adrelid = $1::regclass AND attgenerated = ''
ORDER BY 1`

// TestKeepOld leaves the old table, as it was at clean_up, alone in its schema;
// the new one can be dropped without it.
func TestKeepOld(t *testing.T) {
	t.Parallel()
	for n, when := range []string{"from the start", "at clean_up"} {
		t.Run(when, func(t *testing.T) {
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				s := newScenario(t, db)
				db.Exec(t, `CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''fired''; END';
					CREATE TRIGGER later BEFORE TRUNCATE ON app.t FOR EACH STATEMENT EXECUTE FUNCTION app.f();
					CREATE VIEW app.v AS SELECT id, note FROM app.t; CREATE PUBLICATION p FOR TABLE app.t`)
				o := options(t, "app.t", strategy)
				o.KeepOld = when == "from the start"
				runUntil(t, db, o, repack.Swap)
				s.write(t)
				o.KeepOld = true
				run(t, db, o)
				const old = "repack_job_1_old.t"
				if db.QueryString(t, `SELECT to_regclass('`+old+`')`) == pgtest.Null {
					t.Fatal("the old table is gone")
				}
				db.EqualTables(t, old, "control.t")
				if links := pgtest.Column[string](t, db.Pool, oldTableSQL, old); len(links) > 0 {
					t.Errorf("the old table still has %q", links)
				}
				if left := pgtest.Column[string](t, db.Pool, `
					SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'repack\_job%'`); len(left) != 1 {
					t.Errorf("schemas %q", left)
				}
				if left := pgtest.Column[string](t, db.Pool, `
					SELECT oid::regprocedure::text
					FROM   pg_proc
					WHERE  pronamespace::regnamespace::text LIKE 'repack\_job%'`); len(left) > 0 {
					t.Errorf("functions of the old row type: %q", left)
				}
				was := db.Checksum(t, old)
				s.write(t)
				s.same(t)
				if is := db.Checksum(t, old); is != was {
					t.Errorf("the old table follows: %s, was %s", is, was)
				}
				db.Exec(t, `
					DROP VIEW app.v;
					DROP POLICY labelled ON app.t;
					DROP FUNCTION app.label, app.of_parent;
					ALTER TABLE app.child DROP CONSTRAINT child_t_fkey;
					DROP TABLE app.t;
					DROP TABLE app.parent`)
				if is := db.Checksum(t, old); is != was {
					t.Errorf("the old table went with the new: %s, was %s", is, was)
				}
				db.Exec(t, `DROP SCHEMA repack_job_1_old CASCADE`)
			})
		})
	}
}

// TestKeepOldTwice keeps two old tables apart.
func TestKeepOldTwice(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL)
	for range 2 {
		cli(t, db, 0, "run", "--table", "app.t", "--keep-old")
	}
	db.EqualTables(t, "repack_job_1_old.t", "app.t")
	db.EqualTables(t, "repack_job_2_old.t", "app.t")
}
