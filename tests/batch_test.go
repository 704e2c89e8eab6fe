package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const manyTablesSQL = `
CREATE SCHEMA app;
CREATE TABLE app.orders (id int PRIMARY KEY, note text); INSERT INTO app.orders SELECT g, 'note' FROM generate_series(1, 3000) g;
CREATE TABLE app.oaders (id int PRIMARY KEY);
CREATE TABLE app.items (id int PRIMARY KEY, note text); INSERT INTO app.items SELECT g, 'note' FROM generate_series(1, 1000) g;
CREATE TABLE app.whole (id int, n int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE app.part PARTITION OF app.whole FOR VALUES FROM (0) TO (100); INSERT INTO app.whole SELECT g, g FROM generate_series(1, 50) g;
CREATE TABLE app.keyless (n int);
CREATE TABLE app.viewed (id int PRIMARY KEY); CREATE MATERIALIZED VIEW app.seen AS SELECT * FROM app.viewed`

const filesSQL = `
SELECT relname || ' ' || relfilenode
FROM   pg_class
WHERE  relnamespace = 'app'::regnamespace AND relkind = 'r'
ORDER  BY 1`

// rewritten names the tables that work has given another file.
func rewritten(t *testing.T, db *pgtest.Database, work func()) (names []string) {
	t.Helper()
	before := pgtest.Column[string](t, db.Pool, filesSQL)
	work()
	for _, file := range pgtest.Column[string](t, db.Pool, filesSQL) {
		if !slices.Contains(before, file) {
			names = append(names, strings.Fields(file)[0])
		}
	}
	return names
}

// TestSelection repacks exactly the tables that are named, by names, patterns and schemas.
func TestSelection(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, manyTablesSQL)
	for _, c := range []struct {
		args string
		code int
		want []string
		says string
	}{
		{"app.orders app.items", 0, []string{"items", "orders"}, ""},
		{"-t app.orders -t app.items", 0, []string{"items", "orders"}, ""},
		{"-t app.orders app.orders", 0, []string{"orders"}, ""},
		{"-t app.o?ders", 0, []string{"oaders", "orders"}, ""},
		{"-t ap*.(items|orders)", 0, []string{"items", "orders"}, ""},
		{"-t app.o* -T app.oa*", 0, []string{"orders"}, ""},
		{"-t app.whole -t app.items", 0, []string{"items", "part"}, ""},
		{"-t app.part -t app.whole", 0, []string{"part"}, ""},
		{"--schema app", 0, []string{"items", "oaders", "orders", "part"}, "skipped: app.keyless"},
		{"--all -T app.o*", 0, []string{"items", "part"}, "skipped: app.viewed"},
		{"--all -T app.part -T app.o*", 0, []string{"items"}, ""},
		{"-t app.whole -t app.items -T app.part", 0, []string{"items"}, ""},
		{"--all --strict", 3, nil, "keyless"},
		{"app.orders app.keyless", 3, []string{"orders"}, "keyless"},
		{"app.orders app.item", 3, nil, "items"},
		{"-t app.x* app.orders", 3, nil, "app.x*"},
		{"app.orders -T app.orders", 3, nil, "excluded"},
		{"app.orders app.items --min-size 1GB", 0, nil, "nothing to do"},
		{"app.orders app.items --min-bloat 99%", 0, nil, "nothing to do"},
		{"--schema app --max-size 1kB", 0, nil, ""},
	} {
		got := rewritten(t, db, func() {
			p := cli(t, db, c.code, append([]string{"run", "--lock-timeout", "4s"}, strings.Fields(c.args)...)...)
			p.says(t, c.says)
		})
		if !slices.Equal(got, c.want) {
			t.Errorf("run %s: %v have another file, want %v", c.args, got, c.want)
		}
	}
	noArtefacts(t, db)
}

// TestBatchContinues stops a batch in its second table: the next call continues with it, and leaves
// the first one alone. When the batch has ended, the next call begins another.
func TestBatchContinues(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, manyTablesSQL)
	b := repack.Batch{Selection: repack.Selection{Tables: []string{"app.orders", "app.items", "app.oaders", "app.whole"}}}
	o := options(t, "", repack.ChangeLog)
	o.Table = ""
	failure := errors.New("a failure of the test")
	stages := 0
	o.Hooks.BeforeStage = func(_ context.Context, stage repack.Stage) error {
		if stage == repack.SyncSchema {
			if stages++; stages == 2 {
				return failure
			}
		}
		return nil
	}
	first := rewritten(t, db, func() {
		results, err := newRepack(t, db, o).RunBatch(testContext(t), b)
		if !errors.Is(err, failure) || len(results) != 4 || results[0].Result != "done" || results[1].Result != "failed" || results[2].Result != "not_begun" {
			t.Errorf("batch: %+v, %v", results, err)
		}
	})
	if !slices.Equal(first, []string{"orders"}) {
		t.Errorf("the batch has rewritten %v before it failed", first)
	}
	if got := statusOf(t, db, "app.items").Batch; got == nil || got.Tables != 4 || got.Done != 1 || got.BytesDone == 0 || got.BytesDone >= got.Bytes {
		t.Errorf("status of the batch: %+v", got)
	}
	o.Hooks = repack.Hooks{}
	again := rewritten(t, db, func() {
		if results, err := newRepack(t, db, o).RunBatch(testContext(t), b); err != nil || len(results) != 4 || results[0].BytesAfter == nil {
			t.Errorf("batch: %+v, %v", results, err)
		}
	})
	if !slices.Equal(again, []string{"items", "oaders", "part"}) {
		t.Errorf("the batch went on with %v", again)
	}
	another := rewritten(t, db, func() {
		if _, err := newRepack(t, db, o).RunBatch(testContext(t), b); err != nil {
			t.Error(err)
		}
	})
	if len(another) != 4 {
		t.Errorf("another batch has rewritten %v", another)
	}
	noArtefacts(t, db)
}

// TestBudgets ends a batch by each of its limits, with exit code 5. The same command ends it.
func TestBudgets(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, manyTablesSQL)
	for _, c := range []struct {
		name string
		set  func(*repack.Batch)
		done int
	}{
		{"tables", func(b *repack.Batch) { b.MaxTables = 1 }, 1},
		{"duration", func(b *repack.Batch) { b.MaxDuration = time.Nanosecond }, 0},
		{"written", func(b *repack.Batch) { b.MaxWritten = 8192 }, 1},
	} {
		b := repack.Batch{Selection: repack.Selection{Tables: []string{"app.orders", "app.items"}, Order: repack.OrderSmallest}}
		o := options(t, "", repack.ChangeLog)
		o.Table = ""
		limited := b
		c.set(&limited)
		results, err := newRepack(t, db, o).RunBatch(testContext(t), limited)
		var stopped *repack.StoppedError
		if !errors.As(err, &stopped) || len(results) != 2 || results[0].Name != "items" {
			t.Fatalf("%s: %+v, %v", c.name, results, err)
		}
		done := 0
		for _, r := range results {
			if r.Result == "done" {
				done++
			}
		}
		if done != c.done {
			t.Errorf("%s: %d tables are done: %+v", c.name, done, results)
		}
		if _, err := newRepack(t, db, o).RunBatch(testContext(t), b); err != nil {
			t.Errorf("%s: the same command again: %v", c.name, err)
		}
	}
	noArtefacts(t, db)
}

// givenHalfEmptyOrders creates the tables of manyTablesSQL, and deletes every second order. A session
// may report the rows that it has changed after an ANALYZE, which then seem to have changed since: so
// it ends first, and the report is waited for.
func givenHalfEmptyOrders(t *testing.T, db *pgtest.Database) {
	t.Helper()
	db.Exec(t, manyTablesSQL+`; DELETE FROM app.orders WHERE id % 2 = 0`)
	db.Pool.Reset()
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[int64](t, db.Pool, `SELECT n_mod_since_analyze FROM pg_stat_all_tables WHERE relid = 'app.orders'::regclass`) >= 4500
	}, "the server to count changes")
	db.Exec(t, `ANALYZE app.orders; ANALYZE app.items`)
}

// TestPlanOfSelection lists what a run would do, and changes nothing.
func TestPlanOfSelection(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	givenHalfEmptyOrders(t, db)
	before := db.Dump(t)
	p := cli(t, db, 0, "run", "--schema", "app", "--dry-run", "--format", "json", "--order", "wasted")
	var plan struct{ Tables []repack.PlannedTable }
	if err := json.Unmarshal(p.stdout.Bytes(), &plan); err != nil {
		t.Fatal(err)
	}
	if p := cli(t, db, 0, "run", "--schema", "app", "--min-size", "1GB", "--format", "json"); !strings.Contains(p.stdout.String(), `"tables": []`) {
		t.Errorf("summary of nothing to do: %s", p.stdout.String())
	}
	cli(t, db, 2, "run", "--all", "--format", "xml").says(t, "--format")
	byName := map[string]repack.PlannedTable{}
	for _, table := range plan.Tables {
		byName[table.Name] = table
	}
	if len(plan.Tables) != 6 || plan.Tables[0].Name != "orders" || byName["keyless"].Refused == "" || byName["orders"].Refused != "" ||
		byName["orders"].WastedBytes == nil || *byName["orders"].WastedBytes < 40000 || byName["orders"].DiskBytes == nil {
		t.Errorf("plan: %s", fmt.Sprint(plan))
	}
	sameDump(t, db, before)
	db.Exec(t, `CREATE TABLE app.rest PARTITION OF app.whole DEFAULT PARTITION BY RANGE (id);
		CREATE TABLE app.high PARTITION OF app.rest FOR VALUES FROM (200) TO (300); CREATE TABLE app.other PARTITION OF app.rest DEFAULT`)
	for exclude, want := range map[string][]string{"app.part": {"high", "other"}, "app.rest": {"part"}, "app.high": {"other", "part"}, "app.whole": nil} {
		list, err := newRepack(t, db, repack.Options{}).PlanBatch(testContext(t), repack.Batch{Selection: repack.Selection{
			Tables: []string{"app.whole", "app.items"}, Exclude: []string{exclude},
		}})
		var names []string
		for _, table := range list {
			if table.Name != "items" {
				names = append(names, table.Name)
			}
		}
		slices.Sort(names)
		if err != nil || !slices.Equal(names, want) {
			t.Errorf("without %s: %v, want %v; %v", exclude, names, want, err)
		}
	}
}

// TestBloatCommand shows what is wasted, and what frees it. It reads no block of a table.
func TestBloatCommand(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	givenHalfEmptyOrders(t, db)
	db.Exec(t, `CREATE TABLE app.never (id int);
		CREATE TABLE app.docs (doc text); ALTER TABLE app.docs ALTER doc SET STORAGE external; INSERT INTO app.docs VALUES (repeat('x', 10000)); ANALYZE app.docs`)
	p := cli(t, db, 0, "bloat", "--schema", "app")
	for _, want := range []string{"repack run -t app.orders", "app.never: not known: it has never been analyzed", "app.part", "ANALYZE app.never", "repack bloat --measure -t app.docs"} {
		if !strings.Contains(p.stdout.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, p.stdout.String())
		}
	}
	var list []repack.Bloat
	if err := json.Unmarshal(cli(t, db, 0, "bloat", "app.orders", "--format", "json").stdout.Bytes(), &list); err != nil || len(list) != 1 {
		t.Fatalf("%v: %+v", err, list)
	}
	if b := list[0]; b.WastedPercent == nil || *b.WastedPercent < 40 || *b.WastedPercent > 60 || b.Indexes.SizeBytes == 0 || b.By != "statistics" {
		t.Errorf("bloat of orders: %+v", b)
	}
	cli(t, db, 3, "bloat", "app.orders", "--measure").says(t, "CREATE EXTENSION pgstattuple;")
	cli(t, db, 3, "bloat", "app.nothing").says(t, "app.nothing")
}
