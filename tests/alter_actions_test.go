package tests

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// actionsDDL is a table with something of everything that an action can touch.
const actionsDDL = `
CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('calm', 'wild');
CREATE TABLE app.t (
    id   bigint PRIMARY KEY,
    s    serial,
    ident int GENERATED ALWAYS AS IDENTITY,
    a    text COLLATE "C" NOT NULL,
    n    int DEFAULT 3,
    m    int,
    old  text NOT NULL DEFAULT 'x',
    g    int GENERATED ALWAYS AS (n * 2) STORED,
    v    varchar(10) UNIQUE,
    mood text,
    r    real,
    CONSTRAINT positive CHECK (n > 0)
) WITH (fillfactor = 90, autovacuum_enabled = false);
CREATE INDEX i ON app.t (lower(a)) WHERE n > 5;
CREATE INDEX j ON app.t (m DESC NULLS LAST) INCLUDE (v);
CREATE STATISTICS app.s ON n, m FROM app.t;
COMMENT ON COLUMN app.t.a IS 'a';
COMMENT ON CONSTRAINT positive ON app.t IS 'positive';
COMMENT ON INDEX app.j IS 'j';
GRANT SELECT (a, m) ON app.t TO PUBLIC;
INSERT INTO app.t (id, a, n, m, v, mood, r) SELECT g, 'a' || g, g, g % 10, g, CASE WHEN g % 2 = 0 THEN 'calm' ELSE 'wild' END, g / 4.0 FROM generate_series(1, 200) g`

// TestAlterActions compares with a database in which plain SQL does the same: the dump, and
// the rows.
func TestAlterActions(t *testing.T) {
	t.Parallel()
	for n, c := range []struct {
		name    string
		alter   []string
		options func(*repack.Options)
		plain   []string // if it is not ALTER TABLE with each of alter
	}{
		{"add", []string{`ADD COLUMN b int, ADD c text DEFAULT 'new' NOT NULL`, `ADD d int GENERATED ALWAYS AS (n + m) STORED, ADD e app.mood DEFAULT 'calm'`, `ADD f varchar(3) UNIQUE, ADD h int CHECK (h > 0)`}, nil, nil},
		{"drop", []string{`DROP COLUMN m, DROP COLUMN IF EXISTS nothing, DROP s`, `DROP g, DROP COLUMN old`}, nil, nil},
		{"types", []string{
			`ALTER v TYPE text, ALTER COLUMN r SET DATA TYPE double precision, ALTER m TYPE numeric(10,2)`,
			`ALTER old TYPE text USING trim(old)`,
			`ALTER COLUMN mood TYPE app.mood USING CASE mood WHEN 'calm' THEN 'calm'::app.mood WHEN 'wild' THEN 'wild' END`,
		}, nil, nil},
		{"columns", []string{`ALTER n SET DEFAULT 9, ALTER old DROP DEFAULT, ALTER m SET NOT NULL, ALTER a DROP NOT NULL`, `ALTER a SET STORAGE EXTERNAL, ALTER a SET STATISTICS 500, ALTER m SET (n_distinct = 5)`, `ALTER g DROP EXPRESSION`}, nil, nil},
		{"names", []string{`RENAME COLUMN a TO z`, `RENAME m TO a`, `RENAME CONSTRAINT positive TO p`, `RENAME CONSTRAINT t_pkey TO pk`, `RENAME n TO "N m"`}, nil, nil},
		{"constraints", []string{`ADD CONSTRAINT u UNIQUE (a, n) DEFERRABLE, ADD CHECK (n < 1000000), ADD CONSTRAINT x EXCLUDE USING btree (a WITH =)`, `DROP CONSTRAINT positive, DROP CONSTRAINT t_v_key`, `DROP CONSTRAINT t_pkey, ADD CONSTRAINT pk PRIMARY KEY (id) INCLUDE (a)`}, nil, nil},
		{"options", []string{`SET (fillfactor = 70, toast.autovacuum_enabled = off)`, `RESET (autovacuum_enabled)`, `SET UNLOGGED`, `/* all of it */ ALTER TABLE IF EXISTS ONLY app.t SET (autovacuum_vacuum_threshold = 100);`}, nil, []string{
			`ALTER TABLE app.t SET (fillfactor = 70, toast.autovacuum_enabled = off)`, `ALTER TABLE app.t RESET (autovacuum_enabled)`, `ALTER TABLE app.t SET UNLOGGED`, `ALTER TABLE app.t SET (autovacuum_vacuum_threshold = 100)`,
		}},
		{"values", []string{`ADD length int NOT NULL`}, func(o *repack.Options) { o.Set = []string{`length = length(a)`, `v = v || '!'`} }, []string{
			`ALTER TABLE app.t ADD length int`, `UPDATE app.t SET length = length(a), v = v || '!'`, `ALTER TABLE app.t ALTER length SET NOT NULL`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				plain := c.plain
				for _, text := range c.alter {
					if c.plain == nil {
						plain = append(plain, "ALTER TABLE app.t "+text)
					}
				}
				const write = `INSERT INTO app.t (id, a, n, m, v, mood) VALUES (%[1]d, 'w%[1]d', 7, 1, 'w%[1]d', 'calm'); UPDATE app.t SET a = a || '+' WHERE id %% 5 = 0;
					DELETE FROM app.t WHERE id = %[1]d - 1000; UPDATE app.t SET id = id + 5000 WHERE id = %[1]d - 990`
				control := controlDatabase(t, append([]string{actionsDDL, fmt.Sprintf(write, 1001), fmt.Sprintf(write, 1002), fmt.Sprintf(write, 1003)}, plain...)...)
				db.Exec(t, actionsDDL)
				before := db.Dump(t)
				o := options(t, "app.t", strategy)
				o.Alter = c.alter
				if c.options != nil {
					c.options(&o)
				}
				runUntil(t, db, o, repack.Setup)
				db.Exec(t, fmt.Sprintf(write, 1001))
				runUntil(t, db, o, repack.SyncSchema)
				db.Exec(t, fmt.Sprintf(write, 1002))
				runUntil(t, db, atStep(o, repack.StepWritingThrough, func() { db.Exec(t, fmt.Sprintf(write, 1003)) }), repack.Swap)
				rows := func(db *pgtest.Database) string {
					return strings.Join(pgtest.Column[string](t, db.Pool, `SELECT t::text FROM app.t ORDER BY t::text`), "\n")
				}
				if got, want := rows(db), rows(control); got != want {
					t.Errorf("rows differ:\n%s", textDiff(want, got))
				}
				if n%2 == 0 || thorough() {
					revert(t, db, o)
					sameDump(t, db, before)
				}
				run(t, db, o)
				sameDump(t, db, control.Dump(t))
				if got, want := rows(db), rows(control); got != want && c.name != "values" { // they are set once more
					t.Errorf("rows differ after a revert and another run:\n%s", textDiff(want, got))
				}
				noArtefacts(t, db)
			})
		})
	}
}

// TestAlterAndDDL: what another session changes of the table meanwhile is carried over too, or
// refused by name.
func TestAlterAndDDL(t *testing.T) {
	t.Parallel()
	for n, c := range []struct {
		name, ddl string
		refused   string // what the error names; empty: it is carried over
	}{
		{"comment", `COMMENT ON COLUMN app.t.v IS 'changed'; COMMENT ON TABLE app.t IS 'changed'`, ""},
		{"default", `ALTER TABLE app.t ALTER n SET DEFAULT 11`, ""},
		{"default of a converted column", `ALTER TABLE app.t ALTER v SET DEFAULT 'x'`, ""},
		{"policy, trigger, grant", `ALTER TABLE app.t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON app.t USING (v <> 'z'); GRANT INSERT (v) ON app.t TO PUBLIC`, ""},
		{"index", `CREATE INDEX k ON app.t (r)`, "index k"},
		{"the requested type itself", `ALTER TABLE app.t ALTER v TYPE text`, "column v"},
		{"column", `ALTER TABLE app.t ADD z int`, "column z"},
		{"view of a converted column", `CREATE VIEW app.view AS SELECT v FROM app.t`, "view"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				db.Exec(t, actionsDDL)
				o := options(t, "app.t", strategy)
				o.Alter = []string{"ALTER v TYPE text, DROP COLUMN m"}
				runUntil(t, db, o, repack.Backfill)
				db.Exec(t, c.ddl)
				err := newRepack(t, db, o).Run(testContext(t))
				if c.refused != "" {
					if err == nil || !strings.Contains(err.Error(), c.refused) {
						t.Fatalf("run: %v, want an error that names %s", err, c.refused)
					}
					reset(t, db, o)
					return
				}
				if err != nil {
					t.Fatalf("run: %v", err)
				}
				alter := `ALTER TABLE app.t ALTER v TYPE text, DROP COLUMN m`
				statements := []string{actionsDDL, c.ddl, alter}
				if strings.Contains(c.ddl, "POLICY") { // plain SQL cannot alter the type of a column that a policy uses
					statements = []string{actionsDDL, alter, c.ddl}
				}
				control := controlDatabase(t, statements...)
				sameDump(t, db, control.Dump(t))
			})
		})
	}
}

// TestAlterOrder: the order of columns, and tablespaces.
func TestAlterOrder(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, actionsDDL)
		columns := func() string {
			return pgtest.Query[string](t, db.Pool, `SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'app.t'::regclass AND attnum > 0 AND NOT attisdropped`)
		}
		o := options(t, "app.t", strategy)
		o.ColumnOrder = "v, *, id"
		run(t, db, o)
		if got := columns(); got != "v s ident a n m old g mood r id" {
			t.Errorf("columns %s", got)
		}
		o.ColumnOrder = "packed"
		run(t, db, o)
		if got := columns(); got != "id s ident n m g r a old v mood" {
			t.Errorf("columns %s", got)
		}
		o.ColumnOrder = "id, nothing"
		var refused *repack.RefusedError
		if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &refused) || !strings.Contains(err.Error(), `"nothing"`) {
			t.Errorf("run: %v, want a refusal", err)
		}
	})
}

// TestAlterPlanByHand carries out the plan of an alteration: the database afterwards is that of
// plain SQL.
func TestAlterPlanByHand(t *testing.T) {
	t.Parallel()
	for n, name := range []string{"actions", "bigint", "views", "cast"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inTurnIn(t, n, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
				o := options(t, "app.t", strategy)
				o.Transfer = repack.TransferServer // COPY cannot be carried out by hand
				ddl, plain := actionsDDL, `ALTER TABLE app.t ALTER v TYPE text; ALTER TABLE app.t RENAME a TO z; ALTER TABLE app.t ADD b text DEFAULT 'it''s'`
				o.Alter = []string{`ALTER v TYPE text`, `RENAME a TO z`, `ADD b text DEFAULT 'it''s'`}
				if name == "bigint" {
					ddl = `CREATE SCHEMA app; CREATE TABLE app.t (id serial PRIMARY KEY, boss int REFERENCES app.t); INSERT INTO app.t (boss) SELECT g FROM generate_series(1, 50) g`
					plain = `ALTER TABLE app.t ALTER id TYPE bigint, ALTER boss TYPE bigint; ALTER SEQUENCE app.t_id_seq AS bigint`
					o.Alter, o.ToBigint = nil, true
				}
				if name == "bigint" {
					ddl += `; CREATE FUNCTION app.boss_of(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT boss FROM app.t WHERE id = n); END';
						CREATE FUNCTION app.other(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN n; END'`
				}
				if name == "views" {
					ddl, plain = viewedSQL+viewsOfSQL, dropViewsSQL+`; ALTER TABLE app.t ALTER id TYPE bigint;`+viewsOfSQL
					o.Alter, o.ToBigint, o.Views = nil, true, "recreate"
				}
				if name == "cast" {
					const view = `CREATE VIEW app.v WITH (security_barrier) AS `
					ddl = viewedSQL + view + `SELECT DISTINCT id, n FROM app.t`
					plain = `DROP VIEW app.v; ALTER TABLE app.t ALTER id TYPE bigint; ` + view + `SELECT r.id::int AS id, r.n FROM (SELECT DISTINCT id, n FROM app.t) r`
					o.Alter, o.ToBigint, o.Views = nil, true, "cast"
				}
				db.Exec(t, ddl)
				control := controlDatabase(t, ddl, plain)
				before := db.Dump(t)
				plan := planOf(t, db, o)
				sameDump(t, db, before)
				if len(plan.Alteration) == 0 {
					t.Error("the plan does not say what is altered")
				}
				mentioned := "function app.boss_of(integer): names the table and the old type, and is not changed"
				if slices.Contains(plan.Alteration, mentioned) != (name == "bigint") || strings.Contains(fmt.Sprint(plan.Alteration), "app.other") {
					t.Errorf("functions that the plan names: %q", plan.Alteration)
				}
				conn := db.Connect(t)
				mustExec(t, conn, `SET search_path = pg_catalog`)
				for _, stage := range plan.Stages {
					for _, step := range stage.Steps {
						carryOut(t, conn, step)
					}
				}
				sameDump(t, db, control.Dump(t))
				if got, want := db.Checksum(t, "app.t"), control.Checksum(t, "app.t"); got != want {
					t.Errorf("rows: %s, want %s", got, want)
				}
			})
		})
	}
}

// TestPlanNamesFunctions: those whose text names the table, and that have the old type as an argument,
// a result or a word.
func TestPlanNamesFunctions(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app."my t" (id int PRIMARY KEY, v varchar(10), n int)`)
	const body = ` LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'SELECT 1 FROM app."my t"'; END $$`
	db.Exec(t, `
		CREATE FUNCTION app.argument(int) RETURNS SETOF bigint`+body+`;
		CREATE FUNCTION app.outs(OUT a int, OUT b text) RETURNS SETOF record`+body+`;
		CREATE FUNCTION app.list(ids int[]) RETURNS SETOF bigint`+body+`;
		CREATE FUNCTION app.none(a bigint, b text) RETURNS SETOF bigint`+body+`;
		CREATE FUNCTION app.elsewhere(int) RETURNS SETOF bigint`+strings.ReplaceAll(body, "my t", "my tt")+`;
		CREATE FUNCTION app.variable() RETURNS void LANGUAGE plpgsql AS 'DECLARE x INT4; BEGIN SELECT id INTO x FROM app."my t"; END';
		CREATE FUNCTION app.short() RETURNS void LANGUAGE plpgsql AS 'DECLARE x varchar(10); BEGIN SELECT v INTO x FROM app."my t"; END';
		CREATE FUNCTION app.follows() RETURNS void LANGUAGE plpgsql AS 'DECLARE x app."my t".id%TYPE; BEGIN SELECT id INTO x FROM app."my t"; END'`)
	o := options(t, `app."my t"`, repack.ChangeLog)
	o.Alter = []string{"ALTER id TYPE bigint, ALTER v TYPE text"}
	var named []string
	for _, line := range planOf(t, db, o).Alteration {
		if name, is := strings.CutSuffix(line, ": names the table and the old type, and is not changed"); is {
			named = append(named, strings.TrimPrefix(name, "function app."))
		}
	}
	if got, want := strings.Join(named, " "), "argument(integer) list(integer[]) outs() short() variable()"; got != want {
		t.Errorf("named: %s, want %s", got, want)
	}
	o.Alter = []string{"ADD m int"}
	if lines := planOf(t, db, o).Alteration; strings.Contains(strings.Join(lines, " "), "function") {
		t.Errorf("no type changes, and the plan has %q", lines)
	}
}

// TestRecompress: values that are stored take the method of their column, those that are written
// during the job as well.
func TestRecompress(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		if !pgtest.Query[bool](t, db.Pool, `SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'`) {
			t.Skip("the server has no lz4")
		}
		db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, a text, b varchar(90000), c bytea, d jsonb, e text[], f json, n numeric);
			INSERT INTO app.t SELECT g, repeat('a', 9000), repeat('b', 9000), convert_to(repeat('c', 9000), 'UTF8'), jsonb_build_array(repeat('d', 9000)),
			                         ARRAY[repeat('e', 9000)], to_json(repeat('f', 9000)), g FROM generate_series(1, 50) g`)
		rows := db.Checksum(t, "app.t")
		o := options(t, "app.t", strategy)
		for _, column := range []string{"a", "b", "c", "d", "e", "f"} {
			o.Alter = append(o.Alter, "ALTER "+column+" SET COMPRESSION lz4")
		}
		o.Recompress = true
		runUntil(t, db, o, repack.Backfill)
		db.Exec(t, `UPDATE app.t SET n = n WHERE id % 2 = 0`)
		runUntil(t, db, atStep(o, repack.StepWritingThrough, func() { db.Exec(t, `UPDATE app.t SET n = n WHERE id % 3 = 0`) }), repack.CleanUp)
		if got := db.Checksum(t, "app.t"); got != rows {
			t.Errorf("rows: %s, want %s", got, rows)
		}
		if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM app.t WHERE ARRAY[pg_column_compression(a), pg_column_compression(b), pg_column_compression(c),
			pg_column_compression(d), pg_column_compression(e), pg_column_compression(f)] = array_fill('lz4'::text, '{6}')`); n != 50 {
			t.Errorf("%d rows have the new method, want 50", n)
		}
	})
}

// TestAlterDependents: views, functions and foreign keys that depend on a converted column are
// carried over, or refused by name, at whatever time they have been made.
func TestAlterDependents(t *testing.T) {
	t.Parallel()
	const ddl = `CREATE SCHEMA app; CREATE TABLE app.p (id int PRIMARY KEY); INSERT INTO app.p VALUES (1);
		CREATE TABLE app.t (id serial PRIMARY KEY, parent int, n int, other int REFERENCES app.p); INSERT INTO app.t (n, other) SELECT g, 1 FROM generate_series(1, 50) g`
	t.Run("printed otherwise", func(t *testing.T) {
		t.Parallel()
		inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
			db.Exec(t, ddl)
			db.Exec(t, `CREATE VIEW app.v AS SELECT id::bigint AS id, n FROM app.t; CREATE VIEW app.w AS SELECT n FROM app.t WHERE coalesce(id, 0) > 5 AND id IN (7, 8)`)
			o := options(t, "app.t", strategy)
			o.ToBigint = true
			runUntil(t, db, o, repack.Swap)
			revert(t, db, o)
			run(t, db, o)
			if n := pgtest.Query[int](t, db.Pool, `SELECT (SELECT count(*) FROM app.v) + (SELECT count(*) FROM app.w)`); n != 52 {
				t.Errorf("the views show %d rows, want 52", n)
			}
		})
	})
	t.Run("made during the job", func(t *testing.T) {
		t.Parallel()
		inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
			db.Exec(t, ddl)
			o := options(t, "app.t", strategy)
			o.ToBigint = true
			runUntil(t, db, o, repack.PostSyncUpdate)
			db.Exec(t, `CREATE VIEW app.v AS SELECT id FROM app.t`)
			var drift *repack.DriftError
			if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &drift) || !strings.Contains(err.Error(), `view "app"."v"`) {
				t.Fatalf("run: %v, want a *DriftError that names the view", err)
			}
			db.Exec(t, `DROP VIEW app.v`)
			runUntil(t, db, o, repack.Swap)
			db.Exec(t, `CREATE VIEW app.v AS SELECT id FROM app.t`)
			var refused *repack.RefusedError
			if err := newRepack(t, db, o).Revert(testContext(t)); !errors.As(err, &refused) || !strings.Contains(err.Error(), `view "app"."v"`) {
				t.Fatalf("revert: %v, want a *RefusedError that names the view", err)
			}
			run(t, db, o)
		})
	})
	t.Run("foreign key of a dropped column", func(t *testing.T) {
		t.Parallel()
		inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
			db.Exec(t, ddl)
			before := db.Dump(t)
			o := options(t, "app.t", strategy)
			o.Alter = []string{"DROP COLUMN other"}
			runUntil(t, db, o, repack.Swap)
			db.Exec(t, `INSERT INTO app.t (n) VALUES (51)`)
			revert(t, db, o)
			sameDump(t, db, before)
			run(t, db, o)
			sameDump(t, db, controlDatabase(t, ddl, `ALTER TABLE app.t DROP other`).Dump(t))
		})
	})
	t.Run("duplicates of a new key", func(t *testing.T) {
		t.Parallel()
		inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
			db.Exec(t, ddl)
			db.Exec(t, `UPDATE app.t SET n = 3 WHERE id = 4; UPDATE app.t SET n = NULL WHERE id IN (8, 9)`)
			o := options(t, "app.t", strategy)
			o.Alter = []string{"ADD UNIQUE (n, parent, other)", "ALTER parent SET DEFAULT 7", "ADD UNIQUE (n)"}
			names := func(lines ...string) {
				t.Helper()
				var unfit *repack.UnfitError
				err := newRepack(t, db, o).Run(testContext(t))
				if !errors.As(err, &unfit) || !unfit.Refused || len(unfit.Rows) != len(lines) {
					t.Fatalf("run: %v, want an *UnfitError of %d rows", err, len(lines))
				}
				for _, line := range lines {
					if !strings.Contains(err.Error(), "\n  "+line+"\n") {
						t.Errorf("run: %v, want a line %q", err, line)
					}
				}
			}
			const why = `: column n = 3: is not unique, and the index "t_n_key" must be`
			names("id=3"+why, "id=4"+why) // in the sample
			db.Exec(t, `UPDATE app.t SET n = 4 WHERE id = 4; INSERT INTO app.t (n, other) SELECT g, 1 FROM generate_series(51, 3000) g; UPDATE app.t SET n = 3 WHERE id > 2988`)
			var lines []string
			for id := 2989; id <= 2997; id++ { // and 3: ten at most
				lines = append(lines, fmt.Sprintf("id=%d%s", id, why))
			}
			names(append(lines, "id=3"+why)...)
			db.Exec(t, `UPDATE app.t SET n = id WHERE id > 2988`)
			run(t, db, o)
		})
	})
	t.Run("times", func(t *testing.T) {
		t.Parallel()
		inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
			db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, at timestamp, zoned timestamptz);
				INSERT INTO app.t SELECT g, '2026-03-29 00:30'::timestamp + g * interval '1 hour', '2026-03-29 00:30 UTC'::timestamptz + g * interval '1 hour' FROM generate_series(1, 50) g`)
			rows, before := db.Checksum(t, "app.t"), db.Dump(t)
			o := options(t, "app.t", strategy)
			o.Alter = []string{"ALTER at TYPE timestamptz USING at AT TIME ZONE 'UTC', ALTER zoned TYPE timestamp USING zoned AT TIME ZONE 'UTC'"}
			runUntil(t, db, o, repack.Swap)
			db.Exec(t, `BEGIN; SET LOCAL TimeZone = 'Europe/Paris'; UPDATE app.t SET at = at WHERE id < 20; COMMIT`)
			revert(t, db, o)
			sameDump(t, db, before)
			if got := db.Checksum(t, "app.t"); got != rows {
				t.Errorf("rows: %s, want %s", got, rows)
			}
		})
	})
	t.Run("space", func(t *testing.T) {
		t.Parallel()
		inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
			db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, amount numeric); INSERT INTO app.t SELECT g, g FROM generate_series(1, 20000) g;
				UPDATE app.t SET amount = 12345678901 WHERE id = 15000`)
			db.Exec(t, `VACUUM FULL app.t`)
			size := pgtest.Query[int](t, db.Pool, `SELECT pg_relation_size('app.t')`)
			o := options(t, "app.t", strategy)
			o.Alter = []string{"ALTER amount TYPE numeric(12,2)"}
			for range 3 {
				var unfit *repack.UnfitError
				if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &unfit) || len(unfit.Rows) != 1 || unfit.Rows[0].Key[0] != "15000" {
					t.Fatalf("run: %v, want an *UnfitError of row 15000", err)
				}
			}
			db.Exec(t, `UPDATE app.t SET amount = 1 WHERE id = 15000`)
			run(t, db, o)
			if got := pgtest.Query[int](t, db.Pool, `SELECT pg_relation_size('app.t')`); got > size*5/4 {
				t.Errorf("the table has %d bytes, and had %d", got, size)
			}
		})
	})
}
