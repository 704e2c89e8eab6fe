package tests

import (
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// TestRowTypeOIDs: OIDs of functions of the row type that are stored as data are found,
// and rewritten when they are named.
func TestRowTypeOIDs(t *testing.T) {
	t.Parallel()
	inTurnIn(t, 0, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); CREATE FUNCTION app.f(app.t) RETURNS int LANGUAGE sql AS 'SELECT 1';
			CREATE FUNCTION app.f(app.t[]) RETURNS int LANGUAGE sql AS 'SELECT 2'; CREATE FUNCTION app.g() RETURNS app.t LANGUAGE sql AS 'TABLE app.t';
			CREATE TABLE app.job (call regprocedure, name regproc, them oid[]);
			INSERT INTO app.job VALUES ('app.f(app.t[])', 'app.g', ARRAY['app.f(app.t)'::regprocedure::oid, 'app.t'::regclass::oid]), ('now()', 'now', '{}')`)
		o := options(t, "app.t", strategy)
		o.LockTimeout = queuing
		refused(t, db, "app.t", "app.job.call", "app.job.name", "app.job.them", "--update-oid")
		o.UpdateOID = []string{"app.job.call", "app.job.name", "app.job.them"}
		means := func(when string) {
			t.Helper()
			const want = "app.f(app.t[]),app.g,app.f(app.t),app.t|now(),now,,"
			if got := db.QueryString(t, `SELECT string_agg(concat_ws(',', call, name, coalesce(them[1]::regprocedure::text, ''), coalesce(them[2]::regclass::text, '')), '|' ORDER BY call::text) FROM app.job`); got != want {
				t.Errorf("%s: %s, want %s", when, got, want)
			}
		}
		means("before")
		runUntil(t, db, o, repack.Swap)
		means("after swap")
		revert(t, db, o)
		means("after revert")
		run(t, db, o)
		means("after the end")
	})
}
