package tests

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// matviewSQL has a matview with something of everything, one that reads it and
// the table, views and other things that read it, one that only reads a view
// of the table, and one that is not populated.
var matviewSQL = fixture("matviews")

// matviewRows are what every one of them holds.
const matviewRowsSQL = `
SELECT (SELECT md5(string_agg(m::text, ',' ORDER BY "It's")) FROM app."The; mv" m) || (SELECT count(*)
       FROM app.a_second) || (SELECT * FROM app.above_above) || (SELECT *
       FROM other.third) || app.f() || (SELECT count(*) FROM other.indirect)`

func rebuilding(t *testing.T, strategy string) repack.Options {
	o := options(t, "app.t", strategy)
	o.RebuildMatviews = true
	return o
}

// followsTable fails the test unless a REFRESH of each matview shows what has
// just been written to the table.
func followsTable(t *testing.T, db *pgtest.Database, when string) {
	t.Helper()
	got := result(t, db, `
		INSERT INTO app.t VALUES (9000, 5, 'fresh');
		REFRESH MATERIALIZED VIEW app."The; mv";
		REFRESH MATERIALIZED VIEW app.a_second;
		REFRESH MATERIALIZED VIEW other.third;
		REFRESH MATERIALIZED VIEW other.empty;
		REFRESH MATERIALIZED VIEW other.indirect;
		REFRESH MATERIALIZED VIEW other.on_above;
		SELECT b, (SELECT a FROM app.a_second WHERE "It's" = 9000), (SELECT max FROM other.empty),
		       (SELECT max(id) FROM other.indirect), (SELECT count(*) FROM app.above WHERE "It's" = 9000),
		       (SELECT count(*) FROM other.on_above WHERE "It's" = 9000)
		FROM   app."The; mv"
		WHERE  "It's" = 9000`)
	if want := "fresh|5|9000|9000|1|1"; got != want {
		t.Errorf("%s: matviews show %q, want %q", when, got, want)
	}
}

// TestMatviews: there and back, and there again, nothing about them changes.
func TestMatviews(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, givenRoles(t, db).in(matviewSQL))
		schema, rows := schemaOf(t, db), db.QueryString(t, matviewRowsSQL)
		o := rebuilding(t, strategy)
		same := func(when string) {
			t.Helper()
			if got := db.QueryString(t, matviewRowsSQL); got != rows {
				t.Errorf("%s: matviews hold %s, want %s", when, got, rows)
			}
			followsTable(t, db, when)
		}
		runUntil(t, db, o, repack.Backfill)
		reset(t, db, o)
		sameSchema(t, db, "after reset", schema)
		same("after reset")
		runUntil(t, db, o, repack.Swap)
		same("after swap")
		db.Exec(t, `UPDATE app.t SET b = b || '!' WHERE id % 9 = 0`)
		before := db.Checksum(t, "app.t")
		revert(t, db, repack.Options{Table: "app.t", Logger: o.Logger, LockTimeout: o.LockTimeout})
		if after := db.Checksum(t, "app.t"); after != before {
			t.Errorf("rows %s after revert, want %s", after, before)
		}
		sameSchema(t, db, "after revert", schema)
		followsTable(t, db, "after revert")
		noArtefacts(t, db)
		run(t, db, o)
		sameSchema(t, db, "after the end", schema)
		followsTable(t, db, "after the end")
		noArtefacts(t, db)
	})
}

// TestMatviewsKilledAnywhere ends a run and a revert at every step, and goes on.
func TestMatviewsKilledAnywhere(t *testing.T) {
	t.Parallel()
	steps := []string{repack.StepExchanged, repack.StepMatviewsCreated, repack.StepMatviewBuilt, repack.StepMatviewsExchanged}
	for _, step := range steps {
		for skip := range 3 {
			if skip > 0 && !strings.HasSuffix(step, "built") { // passed once only
				continue
			}
			t.Run(fmt.Sprintf("%s %d", step, skip), func(t *testing.T) {
				t.Parallel()
				db := withRegistry.New(t)
				db.Exec(t, givenRoles(t, db).in(matviewSQL))
				schema := schemaOf(t, db)
				o := rebuilding(t, repack.ChangeLog)
				cancelled(t, db, o, nth(step, skip), func(r *repack.Repack, ctx context.Context) error { return r.Run(ctx) })
				followsTable(t, db, "when killed")
				db.Exec(t, `DELETE FROM app.t WHERE id % 50 = 0`)
				if skip%2 == 1 {
					revert(t, db, o)
					sameSchema(t, db, "after revert", schema)
					followsTable(t, db, "after revert")
				}
				o.RebuildMatviews = skip%2 == 1 // a job keeps what it was told
				runUntil(t, db, o, repack.Swap)
				followsTable(t, db, "after swap")
				if at := strings.Replace(step, repack.StepExchanged, repack.StepExchangedBack, 1); skip < 2 {
					cancelled(t, db, o, nth(at, skip), func(r *repack.Repack, ctx context.Context) error { return r.Revert(ctx) })
					followsTable(t, db, "when killed reverting")
					revert(t, db, o)
					sameSchema(t, db, "after the second revert", schema)
				} else {
					run(t, db, o)
					sameSchema(t, db, "after the end", schema)
				}
				followsTable(t, db, "after the end")
				noArtefacts(t, db)
			})
		}
	}
}

// nth stops at a step that has been passed skip times before.
func nth(step string, skip int) stopAt {
	return stopAt{name: step, hooks: func(stop func()) repack.Hooks {
		return repack.Hooks{AfterStep: func(_ context.Context, name string) error {
			if name == step {
				if skip--; skip < 0 {
					stop()
				}
			}
			return nil
		}}
	}}
}

// TestMatviewRefreshedMeanwhile: what the application has refreshed while the
// successor was built is not taken back.
func TestMatviewRefreshedMeanwhile(t *testing.T) {
	t.Parallel()
	for n, refresh := range []string{"REFRESH MATERIALIZED VIEW", "REFRESH MATERIALIZED VIEW CONCURRENTLY"} {
		t.Run(refresh, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				db.Exec(t, `
					CREATE SCHEMA app;
					CREATE TABLE app.t (id int PRIMARY KEY);
					INSERT INTO app.t SELECT generate_series(1, 9);
					CREATE MATERIALIZED VIEW app.m AS TABLE app.t;
					CREATE UNIQUE INDEX ON app.m (id)`)
				run(t, db, atStep(rebuilding(t, strategy), repack.StepMatviewBuilt, func() {
					db.Exec(t, `INSERT INTO app.t VALUES (100); DELETE FROM app.t WHERE id = 2`)
					db.Exec(t, refresh+` app.m`)
				}))
				if got := db.QueryString(t, `SELECT string_agg(id::text, ',' ORDER BY id) FROM app.m`); got != "1,3,4,5,6,7,8,9,100" {
					t.Errorf("matview holds %s", got)
				}
			})
		})
	}
}

// TestMatviewIsNeverMissing reads it all the while.
func TestMatviewIsNeverMissing(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, givenRoles(t, db).in(matviewSQL))
	ctx, stop := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	conn := db.Connect(t)
	go func() {
		for ctx.Err() == nil {
			var n int
			err := conn.QueryRow(context.WithoutCancel(ctx), `
				SELECT count(*) FROM app."The; mv" m JOIN app.above USING ("It's") JOIN app.a_second USING ("It's")`).Scan(&n)
			if err == nil && n < 100 {
				err = fmt.Errorf("%d rows", n)
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	o := rebuilding(t, repack.ChangeLog)
	o.LockRetries = 20 // it reads without a pause
	runUntil(t, db, o, repack.Swap)
	revert(t, db, o)
	run(t, db, o)
	stop()
	if err := <-done; err != nil {
		t.Errorf("reader: %v", err)
	}
}

// TestMatviewBehindALongReader: an exchange that does not get its lock changes
// nothing, and says who is in the way.
func TestMatviewBehindALongReader(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, givenRoles(t, db).in(matviewSQL))
	reader := begin(t, db.Connect(t), pgx.ReadCommitted)
	mustExec(t, reader, `SELECT FROM app."The; mv"`)
	o := rebuilding(t, repack.ChangeLog)
	o.LockRetries, o.MaxSnapshotWait = 1, time.Second
	var denied *repack.LockTimeoutError
	if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &denied) {
		t.Fatalf("run: %v, want a lock not obtained", err)
	}
	commit(t, reader)
	run(t, db, o)
	followsTable(t, db, "after the end")
}

// TestMatviewRefused: what is joined to a matview and cannot be carried over is
// named before anything is touched.
func TestMatviewRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, sql string
		says      []string
	}{
		{
			"property graph",
			`CREATE PROPERTY GRAPH app.graph VERTEX TABLES (app.m KEY (id))`,
			[]string{"property graph app.graph: has it", "DROP PROPERTY GRAPH"},
		},
		{
			"row type",
			`CREATE FUNCTION app.f(app.m) RETURNS int LANGUAGE sql AS 'SELECT 1'`,
			[]string{"function app.f(app.m)", "app.m"},
		},
		{
			"row type of one above",
			`CREATE MATERIALIZED VIEW app.n AS TABLE app.m; CREATE TABLE app.o (n app.n)`,
			[]string{"app.o", `"app"."n"`},
		},
		{
			"names",
			`CREATE SCHEMA other; CREATE MATERIALIZED VIEW other.m AS TABLE app.m`,
			[]string{"m: is the name of more than one"},
		},
		{
			"name of the table",
			`CREATE SCHEMA other; CREATE MATERIALIZED VIEW other.t AS TABLE app.m`,
			[]string{"t: is the name of more than one"},
		},
		{
			"invalid index",
			`
				CREATE INDEX broken ON app.m (id);
				UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'app.broken'::regclass`,
			[]string{"broken"},
		},
		{"row type of the table", `CREATE MATERIALIZED VIEW app.w AS SELECT x FROM app.t x`, []string{"app.w"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			if c.name == "property graph" {
				needs19(t, db)
			}
			db.Exec(t, `
				CREATE SCHEMA app;
				CREATE TABLE app.t (id int PRIMARY KEY);
				CREATE MATERIALIZED VIEW app.m AS TABLE app.t;`+c.sql)
			before := db.Dump(t)
			var refusal *repack.RefusedError
			err := newRepack(t, db, rebuilding(t, repack.ChangeLog)).Run(testContext(t))
			if !errors.As(err, &refusal) {
				t.Fatalf("run: %v, want it refused", err)
			}
			for _, word := range c.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("refusal does not say %q:\n%v", word, err)
				}
			}
			sameDump(t, db, before)
			refused(t, db, "app.t", "app.m", "--rebuild-matviews")
		})
	}
}

// TestMatviewBesideItsArrayTypesName has tables with the names that array types
// would have.
func TestMatviewBesideItsArrayTypesName(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `
		CREATE SCHEMA app;
		CREATE TABLE app.t (id int PRIMARY KEY);
		INSERT INTO app.t VALUES (1);
		CREATE MATERIALIZED VIEW app.m AS TABLE app.t;
		CREATE MATERIALIZED VIEW app.n AS TABLE app.m;
		CREATE TABLE app._m (x int);
		CREATE TABLE app._n (x int)`)
	before := db.Dump(t)
	o := rebuilding(t, repack.ChangeLog)
	runUntil(t, db, o, repack.Swap)
	revert(t, db, o)
	sameDump(t, db, before)
	run(t, db, o)
	sameDump(t, db, before)
}

// TestMatviewAppearsDuringJob: without the flag the swap is not made.
func TestMatviewAppearsDuringJob(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); INSERT INTO app.t VALUES (1)`)
	o := options(t, "app.t", repack.ChangeLog)
	runUntil(t, db, o, repack.Backfill)
	db.Exec(t, `CREATE MATERIALIZED VIEW app.m AS TABLE app.t`)
	var drift *repack.DriftError
	if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &drift) || !strings.Contains(err.Error(), "app.m") {
		t.Fatalf("run: %v, want it stopped", err)
	}
	before := db.Dump(t)
	run(t, db, rebuilding(t, repack.ChangeLog))
	if got := result(t, db, `
		INSERT INTO app.t VALUES (2);
		REFRESH MATERIALIZED VIEW app.m;
		SELECT count(*) FROM app.m`); got != "2" {
		t.Errorf("matview has %s rows", got)
	}
	if strings.Contains(before, "repack_job") { // the shadow was in it
		noArtefacts(t, db)
	}
}

// TestPlanOfMatviews: what the plan shows for them is what a run sends.
func TestPlanOfMatviews(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, givenRoles(t, db).in(matviewSQL))
	planIsSent(t, db, rebuilding(t, repack.ChangeLog))
}

// planIsSent runs, and compares what is sent with the plan.
func planIsSent(t *testing.T, db *pgtest.Database, o repack.Options) {
	t.Helper()
	o.Verify = repack.VerifyOff
	o.Transfer = repack.TransferServer // a tracer does not see COPY
	plan := planned(planOf(t, db, o))
	trace := &statements{open: map[*pgx.Conn][]string{}}
	config := db.Config(t)
	config.Tracer = trace
	r, err := repack.New(config, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(testContext(t)); err != nil {
		t.Fatalf("run: %v", err)
	}
	planEquals(t, plan, trace, "SHARE OF f SKIP LOCKED") // nothing to replay
}
