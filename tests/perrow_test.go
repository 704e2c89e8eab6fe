package tests

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const bulkPartitionSQL = `
CREATE TABLE @p (id int, a text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE @items PARTITION OF @p FOR VALUES FROM (0) TO (1000000);
INSERT INTO @p SELECT g, 'a' FROM generate_series(1, 1000) g`

// idsUsed is how many transaction ids a transaction of those statements takes.
func idsUsed(t *testing.T, db *pgtest.Database, statements ...string) int64 {
	t.Helper()
	const next = `SELECT pg_current_xact_id()::text::bigint`
	first := pgtest.Query[int64](t, db.Pool, next)
	tx := begin(t, db.Connect(t), pgx.ReadCommitted)
	for _, sql := range statements {
		mustExec(t, tx, inApp.Replace(sql))
	}
	commit(t, tx)
	used := pgtest.Query[int64](t, db.Pool, next) - first
	for _, sql := range statements {
		mustExec(t, db.Pool, inControl.Replace(sql))
	}
	return used
}

// TestPartitionBulkTakesFewIDs has statements on many rows of a partition take a
// number of transaction ids that does not depend on the rows, while it is being
// filled by direct-trigger, written through to, and after the swap.
func TestPartitionBulkTakesFewIDs(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, nil) // transaction ids are those of all databases
	for _, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			db := pgtest.NewOn(t, server)
			twins(t, db, bulkPartitionSQL)
			n := 0
			bulk := func(place string) {
				n++
				for _, sql := range []string{
					fmt.Sprintf(`INSERT INTO @p SELECT g, 'b' FROM generate_series(%d, %d) g`, 20000*n, 20000*n+19999),
					fmt.Sprintf(`UPDATE @p SET a = 'c' WHERE id BETWEEN %d AND %d`, 20000*n, 20000*n+5000),
					fmt.Sprintf(`DELETE FROM @items WHERE id BETWEEN %d AND %d`, 20000*n+5000, 20000*n+9000),
				} {
					if used := idsUsed(t, db, sql); used > 100 {
						t.Errorf("%s: %s takes %d transaction ids", place, sql, used)
					}
				}
				// A few rows are written through.
				both(t, db.Pool, fmt.Sprintf(`UPDATE @p SET a = 'few' WHERE id BETWEEN %d AND %d`, 20000*n, 20000*n+9))
			}
			o := options(t, "app.items", strategy)
			o.Hooks.BeforeStage = func(_ context.Context, s repack.Stage) error {
				if s == repack.Backfill {
					bulk("backfill")
				}
				return nil
			}
			o = atStep(o, repack.StepWritingThrough, func() { bulk("writing through") })
			runUntil(t, db, o, repack.Swap)
			alike(t, db, "p")
			bulk("after the swap")
			revert(t, db, o)
			alike(t, db, "p")
			noArtefacts(t, db)
		})
	}
}

// TestFewRowsOfAPartitionAreWrittenThrough has nothing pending for rows that are few.
func TestFewRowsOfAPartitionAreWrittenThrough(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	twins(t, db, bulkPartitionSQL)
	o := atStep(options(t, "app.items", repack.ChangeLog), repack.StepDrained, func() {
		both(t, db.Pool, `
			INSERT INTO @p SELECT g, 'new' FROM generate_series(2001, 2020) g`, `UPDATE @p SET a = 'few' WHERE id <= 20`)
		if n := pgtest.Query[int64](t, db.Pool, `SELECT count(*) FROM `+itemsLog); n > 0 {
			t.Errorf("%d changes are pending", n)
		}
	})
	run(t, db, o)
	alike(t, db, "p")
}

// TestTempFileLimit has a role that may have few temporary files write many rows at
// every place of a run, as it can without one.
func TestTempFileLimit(t *testing.T) {
	t.Parallel()
	limits := map[string]string{
		"role":             `ALTER ROLE %[1]s SET temp_file_limit = '1MB'`,
		"database":         `ALTER DATABASE %[2]s SET temp_file_limit = '1MB'`,
		"role in database": `ALTER ROLE %[1]s IN DATABASE %[2]s SET temp_file_limit = '1MB'`,
	}
	for n, name := range slices.Sorted(maps.Keys(limits)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				if name == "role" { // is for all databases, those of other tests among them
					db = pgtest.NewOn(t, pgtest.NewServer(t, nil))
				}
				role := db.Role(t)
				twins(t, db, `CREATE TABLE @acct (id bigint PRIMARY KEY, a text, b int);
					INSERT INTO @acct SELECT g, repeat(md5(g::text), 3), 0 FROM generate_series(1, 40000) g`)
				db.Exec(t, fmt.Sprintf(`GRANT USAGE ON SCHEMA app, control TO %[1]s; GRANT ALL ON app.acct, control.acct TO %[1]s;
					ALTER ROLE %[1]s SET work_mem = '64kB'`, role))
				db.Exec(t, fmt.Sprintf(limits[name], role, db.Name))
				config := db.Config(t)
				config.User = role
				write := func() {
					conn, err := pgx.ConnectConfig(testContext(t), config)
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close(context.WithoutCancel(t.Context()))
					both(t, conn,
						`UPDATE @acct SET b = b + 1`,
						`UPDATE @acct SET id = -id WHERE id % 1000 = 0`,
						`DELETE FROM @acct WHERE id % 1000 = 7`,
						`
							INSERT INTO @acct
							SELECT 1000000 + coalesce(max(id), 0) + g, 'new', 0
							FROM   @acct, generate_series(1, 3) g
							GROUP BY g`)
				}
				o := options(t, "app.acct", strategy)
				o.Hooks.AfterStage = func(_ context.Context, s repack.Stage) error {
					if s == repack.Setup || s == repack.Backfill || s == repack.PostSyncUpdate {
						write()
					}
					return nil
				}
				o = atStep(o, repack.StepWritingThrough, write)
				runUntil(t, db, o, repack.Swap)
				alike(t, db, "acct")
				write()
				revert(t, db, o)
				alike(t, db, "acct")
				noArtefacts(t, db)
			})
		})
	}
}
