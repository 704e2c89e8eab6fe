package tests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// orderedSQL is a table whose rows come in no order, each as long as the next:
// a shorter one may fill a gap that longer ones have left behind.
var orderedSQL = fixture("rows_in_no_order")

// givenOrdered makes app.t and its control; every index but the key is dropped
// where only the table is wanted.
func givenOrdered(t *testing.T, db *pgtest.Database) {
	t.Helper()
	db.Exec(t, orderedSQL)
	db.Exec(t, `
		CREATE SCHEMA control;
		CREATE TABLE control.t (LIKE app.t INCLUDING GENERATED);
		INSERT INTO control.t (id, a, b, placed, "Odd, ""one""", "desc", "nulls first")
		SELECT id, a, b, placed, "Odd, ""one""", "desc", "nulls first" FROM app.t`)
}

// inOrder fails the test unless the rows that where selects lie in an order;
// how many follow one that they should not is counted by the ranks.
func inOrder(t *testing.T, db *pgtest.Database, order, where string) {
	t.Helper()
	var all, wrong int64
	err := db.Pool.QueryRow(testContext(t), fmt.Sprintf(`
		SELECT count(*), count(*) FILTER (WHERE r < before)
		FROM  (SELECT r, lag(r) OVER (ORDER BY place) AS before
		       FROM  (SELECT ctid AS place, rank() OVER (ORDER BY %s) AS r FROM app.t WHERE %s) o) l`, order, where)).Scan(&all, &wrong)
	if err != nil {
		t.Fatal(err)
	}
	if wrong > 0 || all < 1000 {
		t.Errorf("%d of %d rows are not in the order of %s", wrong, all, order)
	}
}

func TestOrderBy(t *testing.T) {
	t.Parallel()
	for asked, order := range map[string]string{
		`a`:                         `a`,
		`a DESC NULLS LAST, B , id`: `a DESC NULLS LAST, b, id`,
		`b, placed desc`:            `b, placed DESC`,
		`"Odd, ""one""" DESC`:       `"Odd, ""one""" DESC`,
		`"desc" desc nulls first`:   `"desc" DESC`,
		`"nulls first"`:             `"nulls first"`,
		`twice`:                     `id`,
		`id ASC`:                    `id`,
		`t_pkey`:                    `id`,
		`by_a`:                      `a DESC NULLS LAST, id DESC`,
		`BY_expression`:             `abs(id - 2000) DESC, (b || 'x') COLLATE app.backwards NULLS FIRST`,
		`by_collation`:              `b COLLATE app.backwards, "desc"`,
		`by_pattern`:                `b::text USING ~>~, id`,
		`"By, ""Name"""`:            `"Odd, ""one"""`,
	} {
		t.Run(asked, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			givenOrdered(t, db)
			before := db.Dump(t)
			o := options(t, "app.t", repack.ChangeLog)
			o.OrderBy = asked
			run(t, db, o)
			inOrder(t, db, order, "true")
			alike(t, db, "t")
			sameDump(t, db, before)
			noArtefacts(t, db)
		})
	}
}

// TestOrderByPlan shows what is done.
func TestOrderByPlan(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	givenOrdered(t, db)
	out := cli(t, db, 0, "plan", "--sql", "--table", "app.t", "--order-by", "by_a", "--maintenance-work-mem", "9MB").stdout.String()
	for _, want := range []string{
		"copy the rows with one statement, in the order of by_a; interrupted, it begins again",
		"SET LOCAL maintenance_work_mem = '9MB';\n\n      SELECT set_config('work_mem', current_setting('maintenance_work_mem'), true);\n",
		"ORDER BY f.a USING OPERATOR(pg_catalog.>) NULLS LAST, f.id USING OPERATOR(pg_catalog.>) NULLS FIRST;",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the plan has no %q:\n%s", want, out)
		}
	}
}

// TestOrderByWithWriters writes at every place the run passes: nothing is lost,
// and what was not written to lies in order.
func TestOrderByWithWriters(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	givenOrdered(t, db)
	before := db.Dump(t)
	o := options(t, "app.t", repack.ChangeLog)
	o.OrderBy = `"desc" DESC`
	var mu sync.Mutex // indexes are built two at a time
	round := 0
	write := func() {
		mu.Lock()
		defer mu.Unlock()
		round++
		both(t, db.Pool, fmt.Sprintf(`
			UPDATE @t SET "desc" = -"desc" WHERE id %% 100 = %[1]d;
			DELETE FROM @t WHERE id %% 100 = 50 + %[1]d;
			INSERT INTO @t (id, a, b, "Odd, ""one""", "desc", "nulls first")
			SELECT 5000 + 10 * %[1]d + i, 1, 'new', i, i, i FROM generate_series(1, 5) i`, round))
	}
	at := func(context.Context, repack.Stage) error { write(); return nil }
	o.Hooks = repack.Hooks{
		BeforeStage: at, AfterStage: at,
		AfterChunk: func(context.Context, repack.Progress) error { write(); return nil },
		AfterStep:  func(context.Context, string) error { write(); return nil },
	}
	run(t, db, o)
	if round < 15 {
		t.Fatalf("only %d rounds of writes", round)
	}
	alike(t, db, "t")
	inOrder(t, db, `"desc" DESC`, fmt.Sprintf("id <= 4000 AND id %% 100 NOT BETWEEN 1 AND %d", round))
	o.Hooks = repack.Hooks{}
	run(t, db, o) // and once more, all of it
	inOrder(t, db, `"desc" DESC`, "true")
	sameDump(t, db, before)
}

// TestOrderByResumes ends the copy in its middle; the job keeps its order, also
// when it is gone on with without the option or with another.
func TestOrderByResumes(t *testing.T) {
	t.Parallel()
	for name, asked := range map[string]string{"without": "", "another": "b", "the same": "by_a"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			givenOrdered(t, db)
			before := db.Dump(t)
			o := options(t, "app.t", repack.ChangeLog)
			o.OrderBy = "by_a"
			runUntil(t, db, o, repack.Setup)
			cutCopy(t, db, o)
			for _, schema := range []string{"app", "control"} {
				db.Exec(t, `DELETE FROM `+schema+`.t WHERE id = 17`)
			}
			var log bytes.Buffer
			o.Logger = slog.New(slog.NewTextHandler(&log, nil))
			o.OrderBy = asked
			run(t, db, o)
			inOrder(t, db, "a DESC NULLS LAST, id DESC", "true")
			if first := db.QueryString(t, `SELECT min(ctid) FROM app.t`); !strings.HasPrefix(first, "(0,") {
				t.Errorf("the first row is at %s, behind what the copy that was cut off has left", first)
			}
			alike(t, db, "t")
			sameDump(t, db, before)
			if told := strings.Contains(log.String(), "job keeps the order it was begun with"); told != (name == "another") {
				t.Errorf("told of another order: %t\n%s", told, log.String())
			}
		})
	}
}

// cutCopy runs the backfill, and ends its backend when it has written about
// half of the rows: a check of the shadow's waits there.
func cutCopy(t *testing.T, db *pgtest.Database, o repack.Options) {
	t.Helper()
	o.RetryFor = -1 // the run ends with its connection
	db.Exec(t, `CREATE FUNCTION app.hold(int) RETURNS bool LANGUAGE plpgsql AS
		$$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN true; END $$`)
	db.Exec(t, `ALTER TABLE repack_job_1.t ADD CONSTRAINT hold CHECK (a IS DISTINCT FROM 0 OR app.hold(id))`)
	holder := begin(t, db.Connect(t), pgx.ReadCommitted)
	mustExec(t, holder, `SELECT pg_advisory_xact_lock(7)`)
	done := startRun(t, db, o)
	pid := pgtest.WaitBlockedBy(t, db.Pool, holder.Conn().PgConn().PID())
	db.Exec(t, `SELECT pg_terminate_backend($1::int8::int)`, pid)
	if err := await(t, done); err == nil || !strings.Contains(err.Error(), "copy blocks 0 to") {
		t.Errorf("run: %v, want its copy ended", err)
	}
	commit(t, holder)
	if n := pgtest.Query[int64](t, db.Pool, `
		SELECT pg_relation_size('repack_job_1.t') / current_setting('block_size')::int`); n < 10 {
		t.Errorf("%d blocks have been written when the copy is cut off", n)
	}
	db.Exec(t, `ALTER TABLE repack_job_1.t DROP CONSTRAINT hold; DROP FUNCTION app.hold`)
	if got := statusOf(t, db, "app.t"); got.Stage != repack.Backfill || got.StageDone || got.RowsCopied != 0 {
		t.Errorf("status after the copy was ended: %+v", got)
	}
}

// TestOrderByRewritten has the source rewritten between the measuring and the
// copy that succeeds.
func TestOrderByRewritten(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	givenOrdered(t, db)
	o := options(t, "app.t", repack.ChangeLog)
	o.OrderBy = "by_a"
	runUntil(t, db, o, repack.Setup)
	cutCopy(t, db, o)
	db.Exec(t, `VACUUM FULL app.t`)
	run(t, db, o)
	inOrder(t, db, "a DESC NULLS LAST, id DESC", "true")
	alike(t, db, "t")
}

// TestOrderByErrors tells what could have been asked for, before anything is
// touched.
func TestOrderByErrors(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	givenOrdered(t, db)
	db.Exec(t, `CREATE TABLE app.one (id int PRIMARY KEY); CREATE UNIQUE INDEX only_one ON app.one ((true))`)
	before := db.CatalogDump(t)
	for asked, says := range map[string][]string{
		`absent`:        {`no column "absent"`, `"id", "a", "b", "placed"`, `"by_a"`, `"By, ""Name"""`},
		`"A"`:           {`no column "A"`},
		`gone`:          {`no column "gone"`},
		`ctid`:          {`no column "ctid"`},
		`by_hash`:       {"not a btree"},
		`by_a DESC`:     {`no column "by_a"`},
		`a, by_a`:       {`no column "by_a"`},
		`id`:            {"both a column and an index"},
		`doc`:           {"json"},
		`lower(b)`:      {"begins with no name"},
		`a DESC ASC`:    {"neither ASC or DESC"},
		`a; DROP TABLE`: {"begins with no name"},
		`a,`:            {"missing"},
		`"a`:            {"does not end"},
		` `:             {"missing"},
		`app.t_pkey`:    {"begins with no name"},
		`a b`:           {"neither ASC or DESC"},
	} {
		o := options(t, "app.t", repack.ChangeLog)
		o.OrderBy = asked
		var usage *repack.UsageError
		err := newRepack(t, db, o).Run(testContext(t))
		if !errors.As(err, &usage) {
			t.Errorf("order by %s: %v, want a usage error", asked, err)
			continue
		}
		for _, word := range says {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("order by %s does not say %q:\n%v", asked, word, err)
			}
		}
	}
	cli(t, db, 2, "run", "--table", "app.t", "--order-by", "absent").says(t, `"absent"`, `"by_collation"`)
	cli(t, db, 2, "plan", "--table", "app.t", "--order-by", "absent").says(t, `"absent"`)
	cli(t, db, 2, "run", "--table", "app.t", "--order-by", "a", "--strategy", "direct-trigger").says(t, "change-log")
	if db.Version() >= 15 { // before, ORDER BY took a constant
		cli(t, db, 2, "run", "--table", "app.one", "--order-by", "only_one").says(t, "only_one")
	}
	cli(t, db, 3, "run", "--table", "app.t", "--order-by", "partial").says(t, "index partial", "WHERE")
	out := cli(t, db, 3, "plan", "--format", "json", "--table", "app.t", "--order-by", "partial").stdout.String()
	if !strings.Contains(out, `"object": "index partial"`) {
		t.Errorf("the plan of a refused order:\n%s", out)
	}
	if after := db.CatalogDump(t); after != before {
		t.Errorf("an error changed the database:\n%s", textDiff(before, after))
	}
	cli(t, db, 0, "run", "--table", "app.t", "--order-by", `"Odd, ""one""" desc, a`)
	inOrder(t, db, `"Odd, ""one""" DESC`, "true")
	alike(t, db, "t")
}

// TestOrderByEmpty has nothing to put in order, and no block to record.
func TestOrderByEmpty(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY)`)
	o := options(t, "app.t", repack.ChangeLog)
	o.OrderBy = "id DESC"
	o = atStage(o, repack.Setup, func() { db.Exec(t, `INSERT INTO app.t VALUES (1)`) })
	run(t, db, o)
	if n := pgtest.Query[int64](t, db.Pool, `SELECT count(*) FROM app.t`); n != 1 {
		t.Errorf("%d rows, want one", n)
	}
}

// TestOrderByOfPartitions orders the rows of each partition.
func TestOrderByOfPartitions(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `CREATE SCHEMA app;
		CREATE TABLE app.t (id int PRIMARY KEY, a int) PARTITION BY RANGE (id);
		CREATE TABLE app.low PARTITION OF app.t FOR VALUES FROM (0) TO (2000);
		CREATE TABLE app.high PARTITION OF app.t FOR VALUES FROM (2000) TO (4000);
		INSERT INTO app.t SELECT i, hashint4(i) FROM generate_series(0, 3999) i`)
	keepCopy(t, db, "app.t")
	before := db.Dump(t)
	cli(t, db, 2, "run", "--table", "app.t", "--order-by", "low_pkey").says(t, `"app"."high"`, `"high_pkey"`)
	cli(t, db, 0, "run", "--table", "app.t", "--order-by", "a DESC")
	for _, partition := range []string{"low", "high"} {
		wrong := pgtest.Query[int64](t, db.Pool, `
			SELECT count(*)
			FROM   (SELECT a > lag(a) OVER (ORDER BY ctid) AS late FROM app.`+partition+`) l
			WHERE  late`)
		if wrong > 0 {
			t.Errorf("%d rows of %s are not in order", wrong, partition)
		}
	}
	alike(t, db, "t")
	sameDump(t, db, before)
}
