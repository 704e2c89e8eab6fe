package tests

import (
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// TestRowTypePartitions: each partition has a row type of its own, and so has the
// partitioned table.
func TestRowTypePartitions(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `CREATE SCHEMA app;
			CREATE TABLE app.t (id int PRIMARY KEY, b text) PARTITION BY RANGE (id);
			CREATE TABLE app.t1 PARTITION OF app.t FOR VALUES FROM (0) TO (10);
			CREATE TABLE app.t2 PARTITION OF app.t FOR VALUES FROM (10) TO (20);
			INSERT INTO app.t SELECT g, 'b' || g FROM generate_series(1, 15) g;
			CREATE FUNCTION app.label(app.t) RETURNS text LANGUAGE sql AS 'SELECT $1.b';
			CREATE FUNCTION app.label(app.t1) RETURNS text LANGUAGE sql AS 'SELECT $1.b || 1';
			CREATE FUNCTION app.second() RETURNS SETOF app.t2 LANGUAGE sql AS 'TABLE app.t2';
			CREATE VIEW app.v AS SELECT app.label(t1) FROM app.t1;
			CREATE POLICY p ON app.t1 USING (app.label(t1) <> '');
			CREATE POLICY p ON app.t USING (app.label(t) <> '')`)
		schema := schemaOf(t, db)
		o := options(t, "app.t", strategy)
		o.LockTimeout = queuing
		run(t, db, o)
		sameSchema(t, db, "after the end", schema)
		if got := db.QueryString(t, `SELECT (SELECT min(label) FROM app.v) || (SELECT count(app.label(t)) FROM app.t) || (SELECT count(*) FROM app.second())`); got != "b11156" {
			t.Errorf("the functions give %s", got)
		}
		o.Table = "app.t1"
		runUntil(t, db, o, repack.Swap)
		revert(t, db, o)
		sameSchema(t, db, "after revert", schema)
	})
}
