package tests

import (
	"errors"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const viewedSQL = `
CREATE SCHEMA app;
CREATE SCHEMA other;
CREATE TABLE app.t (id int PRIMARY KEY, n int NOT NULL DEFAULT 5, note text);
INSERT INTO app.t SELECT g, g, 'note ' || g FROM generate_series(1, 50) g;
`

// What hangs on the views that read app.t: privileges, comments, options, a default, a rule, a
// trigger, and other views.
const viewsOfSQL = `
CREATE VIEW app.one WITH (security_barrier) AS SELECT id, n, note FROM app.t WHERE n > 0;
COMMENT ON VIEW app.one IS 'the first';
COMMENT ON COLUMN app.one.id IS 'the key';
GRANT SELECT, INSERT ON app.one TO pg_monitor WITH GRANT OPTION;
GRANT UPDATE (note) ON app.one TO PUBLIC;
ALTER VIEW app.one ALTER COLUMN note SET DEFAULT 'by default';
CREATE VIEW other.two AS SELECT id, count(*) AS n FROM app.one GROUP BY id;
CREATE FUNCTION app.instead() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER instead INSTEAD OF INSERT ON other.two FOR EACH ROW EXECUTE FUNCTION app.instead();
COMMENT ON TRIGGER instead ON other.two IS 'in place of';
CREATE VIEW app.three AS SELECT t.note, two.n, one.id FROM app.t JOIN app.one USING (id) JOIN other.two USING (id);
CREATE RULE redirect AS ON DELETE TO app.three DO INSTEAD NOTHING;
COMMENT ON RULE redirect ON app.three IS 'nothing';
CREATE VIEW app.apart AS SELECT note FROM app.t;
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
			db.Exec(t, `INSERT INTO app.t VALUES (51, 51, 'new')`)
			if got := pgtest.Query[int64](t, db.Pool, `SELECT count(*) FROM app.three`); got != 51 {
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

// TestViewsCast keeps the types of the views' columns.
func TestViewsCast(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, viewedSQL+`
			CREATE VIEW app.sums (number, note, id) AS SELECT sum(n), max(note), id FROM app.t GROUP BY id;
			CREATE VIEW app.above AS SELECT id FROM app.sums;
			CREATE FUNCTION app.reads() RETURNS SETOF app.sums LANGUAGE sql AS 'SELECT * FROM app.sums'`)
		before := db.Dump(t)
		o := options(t, "app.t", strategy)
		o.ToBigint, o.Views = true, "cast"
		runUntil(t, db, o, repack.Swap)
		types := pgtest.Column[string](t, db.Pool, `SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid IN ('app.sums'::regclass, 'app.t'::regclass, 'app.above'::regclass) AND attname = 'id' ORDER BY attrelid::regclass::text`)
		if got := strings.Join(types, ", "); got != "integer, integer, bigint" {
			t.Errorf("types of id in above, sums and t: %s", got)
		}
		db.Exec(t, `INSERT INTO app.t VALUES (51, 51, 'new')`)
		if got := pgtest.Query[int64](t, db.Pool, `SELECT count(*) FROM app.reads()`); got != 51 {
			t.Errorf("%d rows in the view after the swap", got)
		}
		revert(t, db, o)
		sameDump(t, db, before)
		run(t, db, o)
		noArtefacts(t, db)
	})
}

// TestViewsRefused names the views and what would be lost, before anything is changed.
func TestViewsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, views, sql, named string }{
		{"default", "", `CREATE VIEW app.v AS SELECT id FROM app.t`, `--views recreate`},
		{"recreate, function of the row type", "recreate", `CREATE VIEW app.v AS SELECT id FROM app.t;
			CREATE FUNCTION app.f(app.v) RETURNS int LANGUAGE sql AS 'SELECT 1'`, "function app.f(app.v)"},
		{"recreate, materialized view", "recreate", `CREATE VIEW app.v AS SELECT id FROM app.t; CREATE MATERIALIZED VIEW app.m AS SELECT * FROM app.v`, "app.m"},
		{"cast, can be written to", "cast", `CREATE VIEW app.v AS SELECT id FROM app.t`, "rows can be written through it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, viewedSQL+c.sql)
			before := db.Dump(t)
			o := options(t, "app.t", repack.ChangeLog)
			o.ToBigint, o.Views = true, c.views
			var refused *repack.RefusedError
			if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &refused) || !strings.Contains(err.Error(), c.named) {
				t.Errorf("run: %v, want a refusal that names %q", err, c.named)
			}
			sameDump(t, db, before)
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
	held.release()
	held.mustEnd(t)
	if got := pgtest.Query[string](t, db.Pool, `SELECT pg_typeof(w.id)::text FROM app.w JOIN app.v USING (id) WHERE v.note = 'note 7'`); got != "bigint" {
		t.Errorf("type of the view's column: %s", got)
	}
	noArtefacts(t, db)
}
