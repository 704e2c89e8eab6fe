package tests

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const viewedSQL = `
CREATE SCHEMA app;
CREATE SCHEMA other;
CREATE TABLE app.t (id int PRIMARY KEY, n int NOT NULL DEFAULT 5, note text);
INSERT INTO app.t SELECT g, g, 'note ' || g FROM generate_series(1, 50) g;
`

// What hangs on the views that read app.t: owners, privileges and their grantors, comments, options,
// defaults, rules, a trigger, and other views. Some of their texts read otherwise once the types
// are others, and a rule leads from a view to one that reads it.
const viewsOfSQL = `
CREATE VIEW app.one WITH (security_barrier, check_option = cascaded) AS SELECT id, n, note FROM app.t WHERE n > 0;
COMMENT ON VIEW app.one IS 'the first';
COMMENT ON COLUMN app.one.id IS 'the key';
GRANT USAGE ON SCHEMA app TO pg_monitor;
GRANT SELECT, INSERT ON app.one TO pg_monitor WITH GRANT OPTION;
SET ROLE pg_monitor;
GRANT SELECT ON app.one TO pg_signal_backend;
RESET ROLE;
GRANT UPDATE (note) ON app.one TO PUBLIC;
ALTER VIEW app.one ALTER COLUMN note SET DEFAULT 'by default', ALTER COLUMN id SET DEFAULT 5::bigint + 1;
CREATE VIEW other.two AS SELECT id::bigint AS id, count(*) AS n FROM app.one GROUP BY one.id;
CREATE FUNCTION app.instead() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER instead INSTEAD OF INSERT ON other.two FOR EACH ROW EXECUTE FUNCTION app.instead();
COMMENT ON TRIGGER instead ON other.two IS 'in place of';
ALTER VIEW other.two OWNER TO pg_read_all_stats;
GRANT SELECT ON app.one TO pg_read_all_stats;
CREATE VIEW app.three AS SELECT t.note, two.n, one.id FROM app.t JOIN app.one USING (id) JOIN other.two USING (id);
CREATE RULE redirect AS ON DELETE TO app.three DO INSTEAD NOTHING;
COMMENT ON RULE redirect ON app.three IS 'nothing';
CREATE RULE upwards AS ON DELETE TO app.one DO INSTEAD DELETE FROM app.three WHERE id = old.id::bigint;
CREATE RULE through AS ON UPDATE TO app.three DO INSTEAD UPDATE app.t SET note = new.note WHERE id = old.id RETURNING note, 1::bigint, id;
CREATE VIEW app.apart AS SELECT note FROM app.t;
DO $$ BEGIN
    IF current_setting('server_version_num')::int >= 150000 THEN
        ALTER VIEW app.three SET (security_invoker = true);
    END IF;
END $$;
`

const dropViewsSQL = `DROP VIEW app.apart, app.three, other.two, app.one; DROP FUNCTION app.instead()`

// TestViewsRecreated drops the views that return a converted column, and those that read them,
// and creates them again with all that they have. Revert gives the first schema back.
func TestViewsRecreated(t *testing.T) {
	t.Parallel()
	for n, alteration := range [][]string{{"ALTER COLUMN id TYPE bigint"}, {"ALTER COLUMN id TYPE bigint", "RENAME COLUMN note TO remark"}} {
		inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
			db.Exec(t, viewedSQL+viewsOfSQL)
			before := db.Dump(t)
			o := options(t, "app.t", strategy)
			o.Alter, o.Views, o.NoCascade = alteration, "recreate", true
			runUntil(t, db, o, repack.Swap)
			db.Exec(t, `INSERT INTO app.t VALUES (51, 51, 'new'); UPDATE app.three SET note = 'by rule' WHERE id = 51`)
			if got := pgtest.Query[int64](t, db.Pool, `SELECT count(*) FROM app.three WHERE note <> 'new'`); got != 51 {
				t.Errorf("%d rows in the view after the swap", got)
			}
			revert(t, db, o)
			sameDump(t, db, before)
			run(t, db, o)
			noArtefacts(t, db)

			twin := controlDatabase(t, viewedSQL+viewsOfSQL, dropViewsSQL)
			for _, action := range alteration {
				twin.Exec(t, "ALTER TABLE app.t "+action)
			}
			if len(alteration) > 1 { // views keep the names of their columns
				twin.Exec(t, "ALTER TABLE app.t RENAME COLUMN remark TO note;"+viewsOfSQL+"; ALTER TABLE app.t RENAME COLUMN note TO remark")
			} else {
				twin.Exec(t, viewsOfSQL)
			}
			if got, want := db.Dump(t), twin.Dump(t); got != want {
				t.Errorf("%q: schema differs from a twin altered by hand:\n%s", alteration, textDiff(want, got))
			}
		})
	}
}

// TestViewsCast keeps the types of the views' columns, and their collations.
func TestViewsCast(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, viewedSQL+`
			CREATE VIEW app.sums (number, note, id) AS SELECT sum(n), max(note), id FROM app.t GROUP BY id;
			CREATE RULE put AS ON INSERT TO app.sums DO INSTEAD INSERT INTO app.t VALUES (new.id, new.number);
			CREATE VIEW app.above AS SELECT id FROM app.sums;
			CREATE FUNCTION app.reads() RETURNS SETOF app.sums LANGUAGE sql AS 'SELECT * FROM app.sums'`)
		before := db.Dump(t)
		o := options(t, "app.t", strategy)
		o.ToBigint, o.Alter, o.Views = true, []string{`ALTER note TYPE text COLLATE "C"`}, "cast"
		if lines := planOf(t, db, o).Alteration; !strings.Contains(strings.Join(lines, "\n"), `view "app"."sums": column "note" stays text; column "id" stays integer, by a cast`) {
			t.Errorf("the plan does not say what becomes of the view: %q", lines)
		}
		runUntil(t, db, o, repack.Swap)
		types := pgtest.Column[string](t, db.Pool, `SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid IN ('app.sums'::regclass, 'app.t'::regclass, 'app.above'::regclass) AND attname = 'id' ORDER BY attrelid::regclass::text`)
		if got := strings.Join(types, ", "); got != "integer, integer, bigint" {
			t.Errorf("types of id in above, sums and t: %s", got)
		}
		db.Exec(t, `INSERT INTO app.sums (id, number) VALUES (51, 51)`)
		if got := pgtest.Query[int64](t, db.Pool, `SELECT count(*) FROM app.reads()`); got != 51 {
			t.Errorf("%d rows in the view after the swap", got)
		}
		other := o
		other.Views = "recreate"
		var usage *repack.UsageError
		if err := newRepack(t, db, other).Run(testContext(t)); !errors.As(err, &usage) || !strings.Contains(err.Error(), "--views 'cast'") {
			t.Errorf("run with --views recreate: %v, want a *UsageError", err)
		}
		revert(t, db, o)
		sameDump(t, db, before)
		run(t, db, o)
		noArtefacts(t, db)
	})
}

// TestViewsReadMeanwhile reads views all the while, by statements, by a function with cached plans, and
// in transactions: none fails, and none sees fewer rows.
func TestViewsReadMeanwhile(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, viewedSQL+viewsOfSQL+`
			CREATE FUNCTION app.counted() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*)::text FROM app.three); END'`)
		o := options(t, "app.t", strategy)
		o.ToBigint, o.Views = true, "recreate"
		over, failed := make(chan struct{}), make(chan error, 3)
		for _, sql := range []string{`SELECT count(*)::text FROM app.three`, `SELECT app.counted()`, `BEGIN; SELECT count(*)::text FROM other.two; SELECT count(*)::text FROM app.three; COMMIT`} {
			conn := db.Connect(t).PgConn()
			go func() {
				for {
					select {
					case <-over:
						failed <- nil
						return
					case <-time.After(time.Millisecond):
					}
					results, err := conn.Exec(testContext(t), sql).ReadAll()
					for _, r := range results {
						if len(r.Rows) > 0 && string(r.Rows[0][0]) != "50" {
							err = errors.Join(err, fmt.Errorf("%s: %s rows", sql, r.Rows[0][0]))
						}
					}
					if err != nil {
						failed <- err
						return
					}
				}
			}()
		}
		runUntil(t, db, o, repack.Swap)
		revert(t, db, o)
		close(over)
		for range 3 {
			if err := <-failed; err != nil {
				t.Errorf("a reader: %v", err)
			}
		}
	})
}

// TestViewsRefused names the views, what would be lost, and what would not work with the other
// type, before anything is changed.
func TestViewsRefused(t *testing.T) {
	t.Parallel()
	const double = `CREATE FUNCTION app.double(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1';`
	widen, text, decimal := `ALTER id TYPE bigint`, `ALTER n DROP DEFAULT, ALTER n TYPE text`, `ALTER n TYPE numeric(10,2)`
	for _, c := range []struct{ name, views, alter, sql, named string }{
		{"default", "", widen, `CREATE VIEW app.v AS SELECT id FROM app.t`, `use --views recreate (it is dropped and created again) or --views cast (its column stays integer)`},
		{"recreate, function of the row type", "recreate", widen, `CREATE VIEW app.v AS SELECT id FROM app.t;
			CREATE FUNCTION app.f(app.v) RETURNS int LANGUAGE sql AS 'SELECT 1'`, "function app.f(app.v)"},
		{"recreate, materialized view", "recreate", widen, `CREATE VIEW app.v AS SELECT id FROM app.t; CREATE MATERIALIZED VIEW app.m AS SELECT * FROM app.v`, "app.m"},
		{"recreate, function with a body", "recreate", widen, `CREATE VIEW app.v AS SELECT id FROM app.t; CREATE FUNCTION app.f() RETURNS int BEGIN ATOMIC SELECT max(id) FROM app.v; END`, "function app.f()"},
		{"recreate, rule of a table", "recreate", widen, `CREATE VIEW app.v AS SELECT id FROM app.t; CREATE TABLE app.log (id int); CREATE RULE r AS ON INSERT TO app.log DO INSTEAD SELECT id FROM app.v`, "rule r on table app.log"},
		{"recreate, a view above fails", "recreate", text, `CREATE VIEW app.v AS SELECT id, n FROM app.t; CREATE VIEW other.w AS SELECT id FROM app.v WHERE n = 5`, `view "other"."w": could not be created again`},
		{"recreate, its rule fails", "recreate", text, `CREATE VIEW app.v AS SELECT id, n FROM app.t; CREATE TABLE app.log (n int); CREATE RULE r AS ON INSERT TO app.v DO INSTEAD INSERT INTO app.log VALUES (new.n)`, `what belongs to view "app"."v"`},
		{"recreate, a circle", "recreate", widen, `CREATE VIEW app.v AS SELECT id FROM app.t; CREATE VIEW app.a AS SELECT id FROM app.v; CREATE VIEW app.b AS SELECT id FROM app.a;
			CREATE OR REPLACE VIEW app.a AS SELECT b.id FROM app.b, app.v`, `it reads itself`},
		{"cast, can be written to", "cast", widen, `CREATE VIEW app.v AS SELECT id FROM app.t`, "rows can be written through it"},
		{"cast, would lose a part", "cast", decimal, `CREATE VIEW app.v AS SELECT DISTINCT n FROM app.t`, "a value that does not fit would lose a part without an error; use --views recreate, or allow it with --allow-lossy n"},
		{"cast, has no cast", "cast", `ALTER n DROP DEFAULT, ALTER n TYPE int[] USING ARRAY[n]`, `CREATE VIEW app.v AS SELECT DISTINCT n FROM app.t`, "cannot cast type integer[] to integer"},
		{"cast, its rule fails", "cast", widen, `CREATE VIEW app.v AS SELECT DISTINCT id FROM app.t; CREATE RULE r AS ON INSERT TO app.v DO INSTEAD INSERT INTO app.t VALUES (new.id) RETURNING id`, "rule r ON app.v: would not work"},
		{"rule of a table fails", "", widen, `CREATE TABLE app.log (id int); CREATE RULE r AS ON INSERT TO app.log DO INSTEAD INSERT INTO app.t VALUES (new.id) RETURNING id`, "rule r ON app.log: would not work"},
		{"policy of a table fails", "", widen, double + `CREATE TABLE other.log (id int); CREATE POLICY p ON other.log USING (id IN (SELECT app.double(id) FROM app.t))`, "policy p ON other.log: would not work"},
		{"function fails", "", widen, double + `CREATE FUNCTION app.f() RETURNS int BEGIN ATOMIC SELECT max(app.double(id)) FROM app.t; END`, "function app.f(): would not work"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, viewedSQL+c.sql)
			before := db.Dump(t)
			o := options(t, "app.t", repack.ChangeLog)
			o.Alter, o.Views = []string{c.alter}, c.views
			o.NoRevert = c.alter != widen // the way back is not what this is about
			_, err := newRepack(t, db, o).Plan(testContext(t))
			var refused *repack.RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.named) {
				t.Errorf("plan: %v, want a refusal that names %q", err, c.named)
			}
			if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &refused) || !strings.Contains(err.Error(), c.named) {
				t.Errorf("run: %v, want a refusal that names %q", err, c.named)
			}
			sameDump(t, db, before)
		})
	}
}

// TestViewsTogether: a view compares a converted column with that of another view. Neither works with
// the other as it was.
func TestViewsTogether(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, viewedSQL+`CREATE VIEW app.v AS SELECT id, n FROM app.t; CREATE VIEW app.both AS SELECT t.id FROM app.t JOIN app.v ON v.n = t.n`)
	before := db.Dump(t)
	o := options(t, "app.t", repack.ChangeLog)
	o.Alter, o.Views = []string{`ALTER n DROP DEFAULT, ALTER n TYPE text`}, "recreate"
	runUntil(t, db, o, repack.Swap)
	if got := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM app.both`); got != 50 {
		t.Errorf("the view shows %d rows", got)
	}
	revert(t, db, o)
	sameDump(t, db, before)
	noArtefacts(t, db)
}

// TestViewsLossyCast: the user allows that the values a view shows lose a part.
func TestViewsLossyCast(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, viewedSQL+`CREATE VIEW app.v AS SELECT DISTINCT n FROM app.t`)
	o := options(t, "app.t", repack.DirectTrigger)
	o.Alter, o.Views, o.AllowLossy, o.NoRevert = []string{`ALTER n TYPE numeric(10,2)`}, "cast", []string{"n"}, true
	run(t, db, o)
	db.Exec(t, `INSERT INTO app.t VALUES (51, 100.6)`)
	if got := pgtest.Query[int](t, db.Pool, `SELECT max(n) FROM app.v`); got != 101 {
		t.Errorf("the view shows %d", got)
	}
	noArtefacts(t, db)
}

// TestViewsOfRoles recreates views of other owners. What the role lacks is named with its GRANT.
func TestViewsOfRoles(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	runner, owner, grantee := db.Role(t), db.Role(t), db.Role(t)
	db.Exec(t, strings.NewReplacer("{runner}", runner, "{owner}", owner, "{grantee}", grantee, "{database}", pgx.Identifier{db.Name}.Sanitize()).Replace(viewedSQL+`
		GRANT CREATE ON DATABASE {database} TO {runner};
		ALTER SCHEMA app OWNER TO {runner};
		ALTER TABLE app.t OWNER TO {runner};
		GRANT USAGE ON SCHEMA app TO {owner};
		GRANT USAGE ON SCHEMA other TO {owner}, {runner}, {grantee};
		CREATE VIEW app.v AS SELECT id FROM app.t;
		ALTER VIEW app.v OWNER TO {runner};
		GRANT SELECT ON app.v TO {owner};
		CREATE VIEW other.w AS SELECT id FROM app.v;
		ALTER VIEW other.w OWNER TO {owner};
		ALTER DEFAULT PRIVILEGES FOR ROLE {runner} GRANT SELECT ON TABLES TO PUBLIC;
		SET ROLE {owner};
		GRANT SELECT ON other.w TO {grantee} WITH GRANT OPTION;
		SET ROLE {grantee};
		GRANT SELECT ON other.w TO {runner};
		RESET ROLE;
		REVOKE USAGE ON SCHEMA other FROM {grantee}`))
	before := db.Dump(t)
	o := options(t, "app.t", repack.ChangeLog)
	o.ToBigint, o.Views = true, "recreate"
	config := db.Config(t)
	config.User = runner
	r, err := repack.New(config, o)
	if err != nil {
		t.Fatal(err)
	}
	with := ""
	if db.Version() >= 16 {
		with = " WITH INHERIT TRUE, SET TRUE"
	}
	wanted := []string{
		"GRANT " + owner + " TO " + runner + with + ";", "GRANT " + grantee + " TO " + runner + with + ";",
		"GRANT CREATE ON SCHEMA other TO " + runner + ";", "GRANT CREATE ON SCHEMA other TO " + owner + ";",
		"GRANT USAGE ON SCHEMA other TO " + grantee + ";",
	}
	var refused *repack.RefusedError
	err = r.Run(testContext(t))
	for _, grant := range wanted {
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), grant) {
			t.Errorf("run: %v, want a refusal with %q", err, grant)
		}
	}
	sameDump(t, db, before)
	db.Exec(t, strings.Join(wanted, "\n"))
	before = db.Dump(t)
	if err := r.Run(testContext(t)); err != nil {
		t.Fatalf("run: %v", err)
	}
	if after := db.Dump(t); after != strings.ReplaceAll(before, "id integer", "id bigint") {
		t.Errorf("schema differs:\n%s", textDiff(before, after))
	}
}

// TestViewsSinceSwap goes back with views that have been created since the swap, or changed.
func TestViewsSinceSwap(t *testing.T) {
	t.Parallel()
	both := []string{`ALTER id TYPE bigint`, `RENAME note TO remark`}
	for n, c := range []struct {
		name, views, before string
		alter               []string
		since               string
		refused             string // what revert names
		then                string // after which revert works
		want                string // makes the views since the swap as they are after the revert
	}{
		{"renamed column", "", ``, both[1:], `CREATE VIEW app.v AS SELECT remark FROM app.t`, "", "", `CREATE VIEW app.v AS SELECT note AS remark FROM app.t`},
		{
			"recreate", "recreate", `CREATE VIEW app.first AS SELECT id::bigint, note FROM app.t;`, both,
			`CREATE VIEW app.v AS SELECT id, remark FROM app.t; CREATE VIEW app.w AS SELECT v.id + 1 AS id, note FROM app.v JOIN app.first USING (id)`, "", "",
			`CREATE VIEW app.v AS SELECT id, note AS remark FROM app.t; CREATE VIEW app.w AS SELECT v.id + 1 AS id, note FROM app.v JOIN app.first USING (id)`,
		},
		{
			"recreate, changed", "recreate", `CREATE VIEW app.first AS SELECT id, n FROM app.t; CREATE VIEW app.up AS SELECT id::bigint FROM app.first;`, both[:1],
			`CREATE OR REPLACE VIEW app.up AS SELECT id, n FROM app.first`, "", "", `DROP VIEW app.up; CREATE VIEW app.up AS SELECT id, n FROM app.first`,
		},
		{
			"cast", "cast", `CREATE VIEW app.first AS SELECT DISTINCT id, note FROM app.t;`, both, `CREATE VIEW app.v AS SELECT DISTINCT id, remark FROM app.t`, "", "",
			`CREATE VIEW app.v AS SELECT r.id::bigint AS id, r.remark FROM (SELECT DISTINCT id, note AS remark FROM app.t) r`,
		},
		{"no consent", "", ``, both, `CREATE VIEW app.v AS SELECT id FROM app.t`, `view "app"."v": its column "id" would be integer and not bigint`, `DROP VIEW app.v`, ``},
		{"cast, can be written to", "cast", ``, both, `CREATE VIEW app.v AS SELECT id FROM app.t`, `drop it, and create it again after the revert`, `DROP VIEW app.v`, ``},
		{"added column", "", ``, []string{`ADD more int`, `RENAME note TO remark`}, `CREATE VIEW app.v AS SELECT more FROM app.t`, `"app"."v": would not work on the other table`, `DROP VIEW app.v`, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				db.Exec(t, viewedSQL+c.before)
				o := options(t, "app.t", strategy)
				o.Alter, o.Views, o.NoCascade = c.alter, c.views, true
				runUntil(t, db, o, repack.Swap)
				db.Exec(t, c.since)
				if c.refused != "" {
					var refused *repack.RefusedError
					if err := newRepack(t, db, o).Revert(testContext(t)); !errors.As(err, &refused) || !strings.Contains(err.Error(), c.refused) {
						t.Errorf("revert: %v, want a refusal that names %q", err, c.refused)
					}
					db.Exec(t, c.then)
				}
				revert(t, db, o)
				twin := controlDatabase(t, viewedSQL+c.before+c.want)
				if got, want := db.Dump(t), twin.Dump(t); got != want {
					t.Errorf("schema differs from a twin with the views:\n%s", textDiff(want, got))
				}
				noArtefacts(t, db)
			})
		})
	}
}

// TestViewsOfCascade: a view of two tables that are altered one after the other, and back in reverse
// order.
func TestViewsOfCascade(t *testing.T) {
	t.Parallel()
	for n, views := range []string{"recreate", "cast"} {
		t.Run(views, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				const joined = `CREATE VIEW app.joined AS SELECT DISTINCT t.id, c.t, c.id::bigint AS child FROM app.t JOIN app.child c ON c.t = t.id;
					CREATE VIEW app.above AS SELECT id + t AS sum FROM app.joined`
				ddl := viewedSQL + `CREATE TABLE app.child (id int PRIMARY KEY, t int REFERENCES app.t); INSERT INTO app.child SELECT id, id FROM app.t;` + joined
				db.Exec(t, ddl)
				before := db.Dump(t)
				o := options(t, "app.t", strategy)
				o.ToBigint, o.Cascade, o.Views = true, true, views
				runUntil(t, db, o, repack.Swap)
				if got := pgtest.Query[int64](t, db.Pool, `SELECT max(sum) FROM app.above`); got != 100 {
					t.Errorf("the view shows %d", got)
				}
				revert(t, db, o)
				sameDump(t, db, before)
				if views == "recreate" {
					run(t, db, o)
					twin := controlDatabase(t, ddl, `DROP VIEW app.above, app.joined; ALTER TABLE app.t ALTER id TYPE bigint; ALTER TABLE app.child ALTER t TYPE bigint;`+joined)
					sameDump(t, db, twin.Dump(t))
				}
				noArtefacts(t, db)
			})
		})
	}
}

// TestViewsRoundTrips: the round trips of the exchange under the lock do not grow with the number
// of views.
func TestViewsRoundTrips(t *testing.T) {
	t.Parallel()
	for n, views := range []string{"recreate", "cast"} {
		t.Run(views, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				o := options(t, "app.t", strategy)
				o.ToBigint, o.Views, o.LockTimeout = true, views, 5*time.Second
				sql := viewedSQL + `CREATE VIEW app.v0 AS SELECT DISTINCT id, n FROM app.t; GRANT SELECT ON app.v0 TO PUBLIC;`
				db.Exec(t, sql)
				few := underLock(t, through(t, db, 0, o), `"app"."t"`)
				sql = `DROP SCHEMA app, other CASCADE;` + sql
				for i := range 12 {
					sql += fmt.Sprintf(`CREATE VIEW app.v%[1]d AS SELECT DISTINCT id, note FROM app.t UNION ALL SELECT id, 'above' FROM app.v%[2]d;
						COMMENT ON VIEW app.v%[1]d IS 'x'; GRANT SELECT ON app.v%[1]d TO PUBLIC; ALTER VIEW app.v%[1]d ALTER id SET DEFAULT 1;`, i+1, i)
				}
				db.Exec(t, sql)
				many := underLock(t, through(t, db, 0, o), `"app"."t"`)
				t.Logf("%d round trips under the lock with many views, %d with one", many, few)
				if many > few+2 { // a long batch is counted twice if its answer begins before its end has been sent
					t.Error("they grow with the number of views")
				}
			})
		})
	}
}

// TestViewChangedBeforeSwap replaces a view, and adds one above it, while the run is about to
// swap.
func TestViewChangedBeforeSwap(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, viewedSQL+`CREATE VIEW app.v AS SELECT id, n FROM app.t`)
	o := options(t, "app.t", repack.ChangeLog)
	o.ToBigint, o.Views = true, "recreate"
	held := holdAtStep(t, db, o, repack.StepDrained)
	db.Exec(t, `CREATE OR REPLACE VIEW app.v AS SELECT id, n, note FROM app.t; CREATE VIEW app.w AS SELECT id FROM app.v`)
	lines := strings.Join(planOf(t, db, o).Alteration, "\n") // of a job
	for _, view := range []string{"v", "w"} {
		if !strings.Contains(lines, `view "app"."`+view+`": dropped and created again`) {
			t.Errorf("the plan does not name view %s:\n%s", view, lines)
		}
	}
	held.release()
	held.mustEnd(t)
	if got := pgtest.Query[string](t, db.Pool, `SELECT pg_typeof(w.id)::text FROM app.w JOIN app.v USING (id) WHERE v.note = 'note 7'`); got != "bigint" {
		t.Errorf("type of the view's column: %s", got)
	}
	noArtefacts(t, db)
}
