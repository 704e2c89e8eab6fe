package tests

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// onceMore are commands whose trigger for INSERT meets a row of the copy that the trigger
// for UPDATE or DELETE of the same command will remove, or whose trigger for UPDATE meets
// one that the trigger for DELETE will remove.
var onceMore = []struct {
	name    string
	since   int
	ddl     string
	writes  []string
	readers bool // the command above READ COMMITTED, too
}{
	{
		name: "portions", since: 19, readers: true,
		ddl: `CREATE TABLE @t (id int, v int4range, a int, PRIMARY KEY (id, v WITHOUT OVERLAPS), UNIQUE (id, v));
			INSERT INTO @t SELECT g, '[1,100)', 1 FROM generate_series(1, 20) g`,
		writes: []string{
			`UPDATE @t FOR PORTION OF v FROM 3 TO 5 SET a = 2 WHERE id = 1`,
			`UPDATE @t FOR PORTION OF v FROM 4 TO 60 SET a = a + 1`,
			`DELETE FROM @t FOR PORTION OF v FROM 20 TO 30 WHERE id < 10`,
			`INSERT INTO @t VALUES (1, '[20,30)', 7); UPDATE @t FOR PORTION OF v FROM 25 TO 26 SET a = 9 WHERE id IN (1, 11); DELETE FROM @t WHERE id = 12`,
			`SAVEPOINT s; UPDATE @t FOR PORTION OF v FROM 70 TO 71 SET a = 9; ROLLBACK TO s; UPDATE @t FOR PORTION OF v FROM 71 TO 72 SET a = 10 WHERE id = 2`,
		},
	},
	{
		name: "portions of a partition", since: 19, readers: true,
		ddl: `CREATE TABLE @p (id int, v int4range, a int) PARTITION BY RANGE (id);
			CREATE TABLE @t PARTITION OF @p (PRIMARY KEY (id, v WITHOUT OVERLAPS), UNIQUE (id, v)) FOR VALUES FROM (0) TO (100);
			INSERT INTO @p SELECT g, '[1,100)', 1 FROM generate_series(1, 20) g`,
		writes: []string{
			`UPDATE @p FOR PORTION OF v FROM 3 TO 5 SET a = 2 WHERE id = 1`,
			`UPDATE @p FOR PORTION OF v FROM 4 TO 60 SET a = a + 1 WHERE id < 4`,
			`DELETE FROM @t FOR PORTION OF v FROM 20 TO 30 WHERE id = 10`,
		},
	},
	{
		name: "deletes and inserts", readers: true, ddl: movingValuesSQL,
		writes: []string{`WITH gone AS (DELETE FROM @t WHERE id IN (1, 2) RETURNING *) INSERT INTO @t SELECT id + 100, v, 2 FROM gone LIMIT 1`},
	},
	{
		name: "deletes and updates", ddl: movingValuesSQL,
		writes: []string{`WITH gone AS (DELETE FROM @t WHERE id IN (1, 2) RETURNING *)
			UPDATE @t t SET v = g.v, id = t.id + 200 FROM (SELECT * FROM gone LIMIT 1) g WHERE t.id = g.id + 10`},
	},
}

const movingValuesSQL = `CREATE TABLE @t (id int PRIMARY KEY, v text UNIQUE, a int); INSERT INTO @t SELECT g, g, 1 FROM generate_series(1, 20) g`

// TestWrittenThroughOnceMore: such commands leave nothing in the log, so a steady load of
// them does not keep the swap off.
func TestWrittenThroughOnceMore(t *testing.T) {
	t.Parallel()
	version := pgtest.New(t).Version()
	for n, c := range onceMore {
		if version < c.since {
			continue
		}
		for m, isolation := range isolationLevels {
			t.Run(c.name+" "+string(isolation), func(t *testing.T) {
				t.Parallel()
				db := withRegistry.New(t)
				if strings.Contains(c.ddl, "OVERLAPS") {
					givenExtension(t, db, "btree_gist")
				}
				twins(t, db, `SET search_path = ext, public;`+c.ddl+`; RESET search_path`)
				o := options(t, "app.t", strategies[(n+m)%2])
				written := func() {
					for _, sql := range c.writes {
						bothIn(t, db, isolation, strings.Split(sql, "; ")...)
						log := db.QueryString(t, `SELECT format('%I.%I', shadow_schema, change_log) FROM repack_registry.job`)
						pending := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM `+log)
						if (isolation == pgx.ReadCommitted || isolation == pgx.RepeatableRead && c.readers) && pending > 0 {
							t.Errorf("%d changes are pending after %s", pending, sql)
						}
					}
				}
				runUntil(t, db, atStep(o, repack.StepDrained, written), repack.Swap)
				alike(t, db, "t")
				if err := newRepack(t, db, atStep(o, repack.StepDrained, func() {
					bothIn(t, db, isolation, `UPDATE @t SET a = a + 1`)
				})).Revert(testContext(t)); err != nil {
					t.Fatalf("revert: %v", err)
				}
				alike(t, db, "t")
				noArtefacts(t, db)
			})
		}
	}
}

// TestLoggedElsewhere: what another table's trigger has logged in the same transaction, or
// the application has put into the setting, is let alone.
func TestLoggedElsewhere(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	twins(t, db, `CREATE TABLE @t (id int PRIMARY KEY, v text UNIQUE); INSERT INTO @t SELECT g, g FROM generate_series(1, 20) g`)
	o := options(t, "app.t", repack.ChangeLog)
	n := 0
	run(t, db, everyStep(o, func() {
		for _, set := range []string{"nonsense", "1(0,1) 1(", "(0,1)", "{}"} {
			n++
			tx := begin(t, db.Connect(t), pgx.ReadCommitted)
			mustExec(t, tx, fmt.Sprintf(`SET LOCAL repack.logged = '%s'`, set))
			both(t, tx, fmt.Sprintf(`UPDATE @t SET v = 'v%d' WHERE id = 1`, n), fmt.Sprintf(`INSERT INTO @t VALUES (%d, 'new %[1]d')`, 1000+n), `DELETE FROM @t WHERE id = 2`)
			commit(t, tx)
		}
	}))
	alike(t, db, "t")
}
