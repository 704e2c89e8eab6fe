package tests

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// forgeModulesSQL lists the modules of testdata/forge.sql.
const forgeModulesSQL = `
SELECT   regexp_replace(relname, '_users$', '')
FROM     pg_class
WHERE    relnamespace = 'forge'::regnamespace AND relkind = 'r' AND relname ~ '_users$'
ORDER BY 1`

// forgeTablesSQL lists the tables of a module. A partitioned table stands for its partitions.
const forgeTablesSQL = `
SELECT   relname::text
FROM     pg_class
WHERE    relnamespace = 'forge'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
AND      relname ~ ('^' || $1 || '_')
ORDER BY 1`

// readOnceMoreSQL makes the checks from the text that the server prints for them. This is
// what a dump and restore would do, and a repack does.
const readOnceMoreSQL = `
DO $$
DECLARE
    c record;
BEGIN
    FOR c IN SELECT conrelid::regclass AS of, conname, pg_get_constraintdef(oid) AS definition
             FROM   pg_constraint
             WHERE  connamespace = 'forge'::regnamespace AND contype = 'c' AND conrelid <> 0
    LOOP
        EXECUTE format('ALTER TABLE %1$s DROP CONSTRAINT %2$I, ADD CONSTRAINT %2$I %3$s', c.of, c.conname, c.definition);
    END LOOP;
END $$`

// forgeLog is the table without a key.
const forgeLog = "core_log"

// forgeShare says how many tables make test takes: one of so many of each module.
const forgeShare = 6

// TestEveryTableOfAForge repacks the tables of a large application, with one strategy and
// the other in turn. The only table that is refused is the one without a key. With
// make test-thorough, all 300 tables are repacked.
func TestEveryTableOfAForge(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	text, err := testdata.ReadFile("testdata/forge.sql")
	if err != nil {
		t.Fatal(err)
	}
	load(t, db.Connect(t), string(text))
	modules := pgtest.Column[string](t, db.Pool, forgeModulesSQL)
	rows := forgeRows(t, db)
	t.Run("modules", func(t *testing.T) {
		for n, module := range modules {
			t.Run(module, func(t *testing.T) {
				t.Parallel()
				for i, table := range pgtest.Column[string](t, db.Pool, forgeTablesSQL, module) {
					if (i+n)%forgeShare == 0 || table == forgeLog || thorough() {
						repackOfForge(t, db, table, strategies[(i+n/2)%2])
					}
				}
			})
		}
	})
	db.Exec(t, readOnceMoreSQL) // changes those that have not been repacked, and no others
	read := withRegistry.New(t)
	load(t, read.Connect(t), string(text))
	read.Exec(t, readOnceMoreSQL)
	sameDump(t, db, read.Dump(t))
	for table, checksum := range forgeRows(t, db) {
		if checksum != rows[table] {
			t.Errorf("%s: %s, want %s", table, checksum, rows[table])
		}
	}
}

func repackOfForge(t *testing.T, db *pgtest.Database, table, strategy string) {
	t.Helper()
	o := options(t, "forge."+table, strategy)
	o.RebuildMatviews, o.LockRetries = true, 30
	err := newRepack(t, db, o).Run(testContext(t))
	var refused *repack.RefusedError
	switch {
	case table == forgeLog:
		if !errors.As(err, &refused) || len(refused.Reasons) != 1 || !strings.Contains(err.Error(), "no key") {
			t.Errorf("%s: %v, want one refusal, that it has no key", table, err)
		}
	case err != nil:
		t.Errorf("%s, %s: %v", table, strategy, err)
	}
}

// forgeRows returns a checksum of the rows of each table.
func forgeRows(t *testing.T, db *pgtest.Database) map[string]string {
	t.Helper()
	rows := map[string]string{}
	for _, table := range pgtest.Column[string](t, db.Pool, forgeTablesSQL, "[a-z]+") {
		rows[table] = pgtest.Query[string](t, db.Pool, fmt.Sprintf(
			`SELECT count(*) || ' ' || coalesce(md5(string_agg(r::text, ' ' ORDER BY r::text)), '') FROM forge.%s r`, table))
	}
	if len(rows) != 300 {
		t.Fatalf("%d tables, want 300", len(rows))
	}
	return rows
}
