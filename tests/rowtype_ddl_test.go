package tests

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const computedSQL = `
CREATE FUNCTION app.label(app.t) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1.b';
CREATE FUNCTION app.next(int) RETURNS SETOF app.t LANGUAGE sql AS 'SELECT * FROM app.t ORDER BY id LIMIT $1';
CREATE VIEW app.v AS SELECT id, app.label(t) FROM app.t;
CREATE POLICY p ON app.t USING (app.label(t) <> '');`

const functionsOfAppSQL = `
SELECT string_agg(concat_ws(' ', pg_get_functiondef(oid), proacl, obj_description(oid, 'pg_proc')), E'\n' ORDER BY oid::regprocedure::text)
FROM   pg_proc
WHERE  pronamespace = 'app'::regnamespace`

// TestRowTypeDDLDuringJob: what becomes of the functions while a job goes on, the new
// table has.
func TestRowTypeDDLDuringJob(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		r := givenRoles(t, db)
		db.Exec(t, r.in(carriedTableSQL)+computedSQL)
		o := options(t, "app.t", strategy)
		o.LockTimeout = queuing
		runUntil(t, db, o, repack.Backfill)
		const anew = `CREATE OR REPLACE FUNCTION app.label(app.t) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'new ' || $1.b $$`
		db.Exec(t, anew)
		db.Exec(t, r.in(`REVOKE ALL ON FUNCTION app.label FROM PUBLIC; COMMENT ON FUNCTION app.label IS 'new';
			DROP FUNCTION app.next; CREATE FUNCTION app.next(int, int DEFAULT 0) RETURNS app.t LANGUAGE sql AS 'SELECT * FROM app.t WHERE id = $1 + $2';
			CREATE FUNCTION app.quoted(app.t[]) RETURNS int LANGUAGE sql AS 'SELECT cardinality($1)'; GRANT EXECUTE ON FUNCTION app.quoted TO {bob}`))
		functions := db.QueryString(t, functionsOfAppSQL)
		runUntil(t, db, o, repack.Swap)
		if got := db.QueryString(t, `SELECT (SELECT label FROM app.v WHERE id = 2) || (app.next(1, 2)).b || app.quoted('{}')`); got != "new b2b30" {
			t.Errorf("after the swap: %s", got)
		}

		// The old functions lack what has been done to the new ones since.
		for _, change := range []struct{ do, undo, says string }{
			{`CREATE OR REPLACE FUNCTION app.label(app.t) RETURNS text LANGUAGE sql AS 'SELECT 1::text'`, anew, "app.label(app.t)"},
			{`CREATE FUNCTION app.another(app.t) RETURNS int LANGUAGE sql AS 'SELECT 1'`, `DROP FUNCTION app.another`, "app.another(app.t)"},
			{r.in(`GRANT EXECUTE ON FUNCTION app.label TO {bob}`), r.in(`REVOKE EXECUTE ON FUNCTION app.label FROM {bob}`), "app.label(app.t)"},
		} {
			db.Exec(t, change.do)
			err := newRepack(t, db, o).Revert(testContext(t))
			var drift *repack.RevertDriftError
			if !errors.As(err, &drift) || !strings.Contains(err.Error(), change.says) {
				t.Errorf("revert after %s: %v, want it refused", change.do, err)
			}
			db.Exec(t, change.undo)
		}
		revert(t, db, o)
		if got := db.QueryString(t, functionsOfAppSQL); got != functions {
			t.Errorf("functions after revert:\n%s", firstDifference(functions, got))
		}
		noArtefacts(t, db)
		if got := db.QueryString(t, `SELECT (SELECT label FROM app.v WHERE id = 2) || (app.next(1, 2)).b`); got != "new b2b3" {
			t.Errorf("after revert: %s", got)
		}
	})
}

// TestRowTypeReplacedMeanwhile: a function that another session is replacing when the
// exchange comes is carried over as it is then.
func TestRowTypeReplacedMeanwhile(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		r := givenRoles(t, db)
		db.Exec(t, r.in(carriedTableSQL)+computedSQL)
		o := options(t, "app.t", strategy)
		o.LockTimeout = queuing
		tx := begin(t, db.Connect(t), pgx.ReadCommitted)
		o = atStep(o, repack.StepDrained, func() {
			mustExec(t, tx, `CREATE OR REPLACE FUNCTION app.label(app.t) RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'replaced' $$`)
		})
		done := startRun(t, db, o)
		pgtest.WaitBlockedBy(t, db.Pool, pid(tx))
		commit(t, tx)
		mustEnd(t, done)
		if got := db.QueryString(t, `SELECT label FROM app.v WHERE id = 2`); got != "replaced" {
			t.Errorf("the function gives %q: the change is lost", got)
		}
	})
}

// TestRowTypeMatviews: a materialized view that calls functions of the row type is
// rebuilt with those of the new table.
func TestRowTypeMatviews(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		r := givenRoles(t, db)
		db.Exec(t, r.in(carriedTableSQL)+computedSQL+`
			CREATE MATERIALIZED VIEW app.mv AS SELECT t.id, app.label(t) AS label, (SELECT n.b FROM app.next(1) n) AS first FROM app.t;
			CREATE UNIQUE INDEX ON app.mv (id)`)
		schema := schemaOf(t, db)
		o := options(t, "app.t", strategy)
		o.RebuildMatviews, o.LockTimeout = true, queuing
		runUntil(t, db, o, repack.Swap)
		revert(t, db, o)
		sameSchema(t, db, "after revert", schema)
		run(t, db, o)
		sameSchema(t, db, "after the end", schema)
		db.Exec(t, `REFRESH MATERIALIZED VIEW CONCURRENTLY app.mv`)
		if got := db.QueryString(t, `SELECT label || first FROM app.mv WHERE id = 2`); got != "b2b1" {
			t.Errorf("the view has %q", got)
		}
	})
}
