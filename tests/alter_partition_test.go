package tests

import (
	"errors"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const looseSQL = `
CREATE SCHEMA app;
CREATE TABLE app.whole (a bool, id bigint, b smallint, note text, at date NOT NULL, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
CREATE TABLE app.p1 PARTITION OF app.whole FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE app.p2 PARTITION OF app.whole FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE INDEX ON app.whole (b);
INSERT INTO app.whole SELECT g % 2 = 0, g, g % 100, 'note ' || g, date '2026-01-01' + g % 50 FROM generate_series(1, 500) g`

// TestAlterPartitions changes of partitions what leaves them attachable, of one and of all, while
// rows are written through the partitioned table.
func TestAlterPartitions(t *testing.T) {
	t.Parallel()
	for n, table := range []string{"app.p1", "app.whole"} {
		inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
			db.Exec(t, looseSQL+`; CREATE SCHEMA control; CREATE TABLE control.whole AS TABLE app.whole`)
			before := db.Dump(t)
			o := options(t, table, strategy)
			o.ColumnOrder, o.Alter = "packed", []string{`SET (fillfactor = 70), ALTER note SET STORAGE external`}
			o = beforeStage(o, repack.Swap, func() {
				both := `UPDATE @whole SET note = 'written'; INSERT INTO @whole (a, id, b, note, at) VALUES (true, 9001, 1, 'new', '2026-01-15')`
				for _, schema := range []string{"app.", "control."} {
					db.Exec(t, strings.ReplaceAll(both, "@", schema))
				}
			})
			runUntil(t, db, o, repack.Swap)
			revert(t, db, o)
			sameDump(t, db, before)
			o.Hooks = repack.Hooks{}
			run(t, db, o)
			noArtefacts(t, db)
			db.EqualTables(t, `(SELECT a, id, b, note, at FROM app.whole)`, `(SELECT a, id, b, note, at FROM control.whole)`)
			const layoutSQL = `SELECT string_agg(attname, ' ' ORDER BY attnum) || ' ' || reloptions::text FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
				WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped GROUP BY reloptions`
			want := map[string]bool{"app.p1": true, "app.p2": table == "app.whole"}
			for partition, changed := range want {
				got := pgtest.Query[*string](t, db.Pool, layoutSQL, partition)
				if (got != nil && *got == "id at b a note {fillfactor=70}") != changed {
					t.Errorf("repacked %s: layout of %s: %v", table, partition, got)
				}
			}
		})
	}
}

// TestAlterPartitionRefused refuses what one partition cannot have alone, and what the partitioned
// table would have to have.
func TestAlterPartitionRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, looseSQL)
	before := db.Dump(t)
	for _, table := range []string{"app.p1", "app.whole"} {
		for _, alter := range []string{`ALTER b TYPE int`, `DROP note`, `ADD c int`, `ALTER b SET NOT NULL`, `RENAME note TO remark`} {
			o := options(t, table, repack.ChangeLog)
			o.Alter = []string{alter}
			var refused *repack.RefusedError
			if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &refused) || !strings.Contains(err.Error(), "attached") {
				t.Errorf("%s of %s: %v", alter, table, err)
			}
		}
	}
	sameDump(t, db, before)
}
