package tests

import (
	"errors"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// foreignPartitionsSQL has a foreign table in each place: beside other partitions, as the
// default partition, and a level lower. Nothing can read them.
const foreignPartitionsSQL = `
CREATE TABLE @p (id int NOT NULL, a text) PARTITION BY RANGE (id);
CREATE INDEX ON @p (a);
CREATE TABLE @p1 PARTITION OF @p (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (1000);
CREATE TABLE @p2 PARTITION OF @p FOR VALUES FROM (1000) TO (2000) PARTITION BY RANGE (id);
CREATE TABLE @p21 PARTITION OF @p2 (PRIMARY KEY (id)) FOR VALUES FROM (1000) TO (1500);
CREATE FOREIGN TABLE @far PARTITION OF @p FOR VALUES FROM (2000) TO (3000) SERVER s;
CREATE FOREIGN TABLE @"Further" PARTITION OF @p DEFAULT SERVER s;
CREATE FOREIGN TABLE @lower PARTITION OF @p2 DEFAULT SERVER s;
INSERT INTO @p SELECT g, 'a' || g FROM generate_series(0, 1499) g`

// TestForeignPartitions: partitions that are foreign tables are left alone, and named.
func TestForeignPartitions(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w`)
		twins(t, db, foreignPartitionsSQL)
		before, oids := db.Dump(t), partitionOIDs(t, db)
		o := options(t, "app.p", strategy)
		left := watch(&o, "partition is a foreign table, whose rows are elsewhere, and left alone")
		write := func() {
			both(t, db.Pool,
				`UPDATE @p1 SET a = a || '!' WHERE id % 7 = 0`,
				`DELETE FROM @p21 WHERE id = (SELECT max(id) FROM @p21)`)
		}
		same := func() {
			t.Helper()
			alike(t, db, "p1", "p21")
			sameDump(t, db, before)
			noArtefacts(t, db)
		}
		runUntil(t, db, everyStep(o, write), repack.Swap)
		select {
		case <-left:
		default:
			t.Error("the log does not name what is left alone")
		}
		write()
		revert(t, db, o)
		same()
		run(t, db, o)
		same()
		for name, oid := range partitionOIDs(t, db) {
			if other := name == "app.p1" || name == "app.p21"; other == (oid == oids[name]) {
				t.Errorf("%s had the OID %s and has %s", name, oids[name], oid)
			}
		}
		var usage *repack.UsageError
		_, err := newRepack(t, db, o).Plan(testContext(t))
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), `left alone: "app"."Further" "app"."far" "app"."lower"`) {
			t.Errorf("plan: %v, want the foreign tables named", err)
		}
		db.Exec(t, `DROP SCHEMA repack_registry CASCADE`)
		refused(t, db, "app.far", "ordinary table")

		db.Exec(t, `DROP TABLE app.p1, app.p2 CASCADE`)
		run(t, db, o) // only foreign tables are left
		if pgtest.Query[bool](t, db.Pool, `SELECT to_regnamespace('repack_registry') IS NOT NULL`) {
			t.Error("a registry was created for nothing")
		}
	})
}
