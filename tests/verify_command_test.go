package tests

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
	"github.com/repack-go/repack/strategy"
)

// TestVerifyWhileWritten compares again and again while writers do everything
// at once, before the swap, inside runs and after it, and is never alarmed.
func TestVerifyWhileWritten(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		givenWorkload(t, db, workloadRows)
		w := startWorkload(t, db, randomSeed(t))
		o := options(t, "app.t", strategy)
		o.LockRetries, o.BatchSize, o.Verify = 100, 2000, repack.VerifyFull
		runUntil(t, db, o, repack.PostSyncUpdate)
		for range 3 {
			verify(t, db, o)
		}
		runUntil(t, db, o, repack.Swap)
		var pending int64
		for range 3 {
			pending += verify(t, db, o).Pending
		}
		run(t, db, o)
		run(t, db, o)
		w.end(t)
		alike(t, db, "t")
		if pending == 0 {
			t.Errorf("nothing was ever pending: the writers did not write")
		}
	})
}

// TestVerifySeesOnlyWhatIsCommitted: a transaction that is open all the while
// is in neither table nor the log, and in all of them when it commits.
func TestVerifySeesOnlyWhatIsCommitted(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenDocs(t, db, strategy)
		runUntil(t, db, o, repack.SyncSchema)
		tx := begin(t, db.Connect(t), pgx.ReadCommitted)
		mustExec(t, tx, `UPDATE app.docs SET note = 'open' WHERE id < 100`)
		mustExec(t, tx, `DELETE FROM app.docs WHERE id > 900`)
		runUntil(t, db, o, repack.PostSyncUpdate)
		wantEqual(t, verify(t, db, o), 1000)
		commit(t, tx)
		if v := verify(t, db, o); !v.Equal() || v.Pending != 199 {
			t.Errorf("want 199 pending differences, got %+v", v)
		}
	})
}

// TestVerifyLeavesWritersAlone: it holds no more than ACCESS SHARE, waits for
// no lock beyond the bound, and says who holds it.
func TestVerifyLeavesWritersAlone(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := givenDocs(t, db, repack.ChangeLog)
	runUntil(t, db, o, repack.PostSyncUpdate)
	holder := begin(t, db.Connect(t), pgx.ReadCommitted)
	mustExec(t, holder, `LOCK TABLE app.docs IN EXCLUSIVE MODE`)
	wantEqual(t, verify(t, db, o), 1000)
	mustExec(t, holder, `LOCK TABLE app.docs IN ACCESS EXCLUSIVE MODE`)
	o.LockRetries = -1
	_, err := newRepack(t, db, o).Verify(testContext(t))
	var locked *repack.LockTimeoutError
	if !errors.As(err, &locked) {
		t.Errorf("want *LockTimeoutError, got: %v", err)
	}
}

// TestVerifyComesAfterTruncate: a comparison that has waited for a TRUNCATE
// sees it in the log, and not a table that is empty for no reason.
func TestVerifyComesAfterTruncate(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := givenDocs(t, db, repack.ChangeLog)
	o.LockRetries = 100
	runUntil(t, db, o, repack.PostSyncUpdate)
	holder := begin(t, db.Connect(t), pgx.ReadCommitted)
	mustExec(t, holder, `TRUNCATE app.docs`)
	r := newRepack(t, db, o)
	done := make(chan error, 1)
	var v repack.Verification
	go func() {
		var err error
		v, err = r.Verify(context.Background())
		done <- err
	}()
	pgtest.WaitBlockedBy(t, db.Pool, pid(holder))
	commit(t, holder)
	if err := await(t, done); err != nil {
		t.Fatalf("verify: %v", err)
	}
	if v.Pending != 1000 {
		t.Errorf("want 1000 pending differences, got %+v", v)
	}
}

// TestVerifySample compares the first range, every sixteenth and the last.
func TestVerifySample(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, sql string
		found     bool
	}{
		{"first", `DELETE FROM repack_job_1.wide WHERE id = 1`, true},
		{"last", `DELETE FROM repack_job_1.wide WHERE id = 1000`, true},
		{"between", `UPDATE repack_job_1.wide SET n = -1, pad = '' WHERE id = 401`, false}, // stays in block 200
		{"lost between", `DELETE FROM repack_job_1.wide WHERE id = 401`, true},             // by its number
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.wide (id int PRIMARY KEY, n int, pad text)`)
			db.Exec(t, `ALTER TABLE app.wide ALTER COLUMN pad SET STORAGE PLAIN`)
			db.Exec(t, `INSERT INTO app.wide SELECT i, i, repeat('x', 4000) FROM generate_series(1, 1000) AS i`)
			o := options(t, "app.wide", repack.ChangeLog)
			o.Jobs = 1 // the copy lies as the source does
			o.Until = repack.PostSyncUpdate
			err := newRepack(t, db, corrupted(t, db, o, c.sql)).Run(testContext(t))
			if c.found {
				mismatches(t, err)
				return
			}
			if err != nil {
				t.Fatalf("run: %v", err)
			}
			// Found by a full comparison, it cannot be passed with a sample.
			_, err = newRepack(t, db, withVerify(o, repack.VerifyFull)).Verify(testContext(t))
			mismatches(t, err)
			o.Until = repack.Swap
			mismatches(t, newRepack(t, db, o).Run(testContext(t)))
		})
	}
}

func withVerify(o repack.Options, mode repack.VerifyMode) repack.Options {
	o.Verify = mode
	return o
}

// TestVerifyOff compares nothing; a later run that wants it does, before it
// swaps.
func TestVerifyOff(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenDocs(t, db, strategy)
		o.Verify = repack.VerifyOff
		runUntil(t, db, corrupted(t, db, o, `DELETE FROM `+shadowDocs+` WHERE id = 42`), repack.PostSyncUpdate)
		wantMismatches(t, newRepack(t, db, withVerify(o, repack.VerifyFull)).Run(testContext(t)), "missing[42] []")
		wantMismatches(t, newRepack(t, db, o).Run(testContext(t)), "missing[42] []")
		db.Exec(t, `INSERT INTO `+shadowDocs+` OVERRIDING SYSTEM VALUE
			SELECT id, note, amount, ratio, doc, list, fixed, long FROM app.docs WHERE id = 42`)
		run(t, db, o) // compared in full, for it had failed
	})
}

// TestVerifyOffSwapsWhatever shows that the tests above would fail without the
// comparison.
func TestVerifyOffSwapsWhatever(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := withVerify(givenDocs(t, db, repack.ChangeLog), repack.VerifyOff)
	run(t, db, corrupted(t, db, o, `DELETE FROM `+shadowDocs+` WHERE id = 42`))
	if n := pgtest.Query[int](t, db.Pool, `SELECT count(*)::int FROM app.docs`); n != 999 {
		t.Errorf("%d rows, want 999", n)
	}
}

// TestVerifyFromPostSyncUpdateToCleanUp: at other times there is nothing to
// compare.
func TestVerifyFromPostSyncUpdateToCleanUp(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenDocs(t, db, strategy)
		refuses := func(want error) {
			t.Helper()
			if _, err := newRepack(t, db, o).Verify(testContext(t)); !errors.Is(err, want) {
				t.Errorf("want %v, got: %v", want, err)
			}
		}
		refuses(repack.ErrNoJob)
		runUntil(t, db, o, repack.SyncSchema)
		refuses(repack.ErrNothingToVerify)
		runUntil(t, db, o, repack.PostSyncUpdate)
		wantEqual(t, verify(t, db, o), 1000)
		runUntil(t, db, o, repack.Swap)
		wantEqual(t, verify(t, db, o), 1000)
		db.Exec(t, `UPDATE app.docs SET note = 'later' WHERE id <= 10; DELETE FROM app.docs WHERE id = 11`)
		if v := verify(t, db, o); !v.Equal() || v.Pending != 11 || !v.Swapped {
			t.Errorf("want 11 pending differences, got %+v", v)
		}
		db.Exec(t, `
			UPDATE repack_job_1_old.docs SET note = 'wrong' WHERE id IN (5, 500);
			DELETE FROM repack_job_1_old.docs WHERE id = 700`)
		_, err := newRepack(t, db, o).Verify(testContext(t))
		wantMismatches(t, err, "different[500] [note loud]", "missing[700] []")
		var differs *repack.VerifyError
		if errors.As(err, &differs) && !differs.Swapped {
			t.Errorf("want Swapped, got %+v", differs)
		}
		run(t, db, o) // the new table is what the application has written
		refuses(repack.ErrNoJob)
	})
}

// TestVerifyWaitsForNoRun: a job is one process's at a time.
func TestVerifyWaitsForNoRun(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := givenDocs(t, db, repack.ChangeLog)
	running := o
	held := holdAtStep(t, db, running, repack.StepCaughtUp)
	_, err := newRepack(t, db, o).Verify(testContext(t))
	var busy *repack.BusyError
	if !errors.As(err, &busy) {
		t.Errorf("want *BusyError, got: %v", err)
	}
	held.release()
	held.mustEnd(t)
}

// TestVerifyKeys finds rows, and names them, by keys of all sorts.
func TestVerifyKeys(t *testing.T) {
	t.Parallel()
	cases := []struct{ name, columns, key, row, want string }{
		{"uuid", `k uuid PRIMARY KEY`, "k", `md5(i::text)::uuid`, "c4ca4238-a0b9-2382-0dcc-509a6f75849b"},
		{"text", `k text COLLATE "C" PRIMARY KEY`, "k", `'it''s "' || i || '", \ {}'`, `it's "1", \ {}`},
		{"composite", `"A b" int, k text, PRIMARY KEY (k, "A b")`, `"A b", k`, `-i, 'NULL'`, "NULL -1"},
		{
			"unique",
			`k timestamptz NOT NULL UNIQUE`,
			"k",
			`'2020-01-01 00:00Z'::timestamptz + i * interval '0.000001s'`,
			"2020-01-01 00:00:00.000001+00",
		},
		{"float", `k float8 PRIMARY KEY`, "k", `i / 3.0::float8`, "0.3333333333333333"},
		{"char", `k char(8) PRIMARY KEY`, "k", `'a' || i`, "a1      "},
		{"numeric", `k numeric PRIMARY KEY`, "k", `i * 1.00`, "1.00"},
		{"bytes", `k bytea PRIMARY KEY`, "k", `decode(md5(i::text), 'hex')`, `\xc4ca4238a0b923820dcc509a6f75849b`},
		{
			"nulls",
			`k app.pair PRIMARY KEY`,
			"k",
			`CASE i WHEN 1 THEN ROW(NULL, NULL)::app.pair ELSE ROW(i, NULL)::app.pair END`,
			"(,)",
		},
		{"range", `k int4range PRIMARY KEY`, "k", `int4range(i, i + 1)`, "[1,2)"},
	}
	for n, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			db.Exec(t, fmt.Sprintf(`CREATE SCHEMA app; CREATE TYPE app.pair AS (a int, b int); CREATE TABLE app.t (%s, n int);
				INSERT INTO app.t (%s, n) SELECT %s, i FROM generate_series(1, 100) AS i`, c.columns, c.key, c.row))
			o := withVerify(options(t, "app.t", strategies[n%len(strategies)]), repack.VerifyFull)
			pending := func() { db.Exec(t, `UPDATE app.t SET n = -n WHERE n > 50; DELETE FROM app.t WHERE n = 20`) }
			runUntil(t, db, atStep(o, repack.StepCaughtUp, pending), repack.PostSyncUpdate)
			wantEqual(t, verify(t, db, o), 99)
			db.Exec(t, `UPDATE repack_job_1.t SET n = 0 WHERE n = 1`)
			_, err := newRepack(t, db, o).Verify(testContext(t))
			wantMismatches(t, err, "different["+c.want+"] [n]")
		})
	}
}

// TestVerifyKeysThatAreAlmostEqual: the key says that two rows are the same
// one, and their bytes that they are not.
func TestVerifyKeysThatAreAlmostEqual(t *testing.T) {
	t.Parallel()
	cases := []struct{ name, prepare, column string }{
		{"citext", `CREATE EXTENSION citext SCHEMA public`, `public.citext`},
		{
			"collation",
			`CREATE COLLATION app.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`,
			`text COLLATE app.nocase`,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			db.Exec(t, `CREATE SCHEMA app`)
			if _, err := db.Pool.Exec(testContext(t), c.prepare); err != nil {
				t.Skipf("this server has not what it takes: %v", err)
			}
			db.Exec(t, fmt.Sprintf(`
				CREATE TABLE app.t (k %s PRIMARY KEY, n int);
				INSERT INTO app.t SELECT 'key ' || i, i FROM generate_series(1, 100) AS i`, c.column))
			o := withVerify(options(t, "app.t", repack.ChangeLog), repack.VerifyFull)
			runUntil(t, db, o, repack.PostSyncUpdate)
			db.Exec(t, `UPDATE app.t SET k = upper(k::text) WHERE n = 2`)
			if v := verify(t, db, o); !v.Equal() || v.Pending != 1 {
				t.Errorf("want one pending difference, got %+v", v)
			}
			db.Exec(t, `UPDATE repack_job_1.t SET k = upper(k::text) WHERE n = 7`)
			_, err := newRepack(t, db, o).Verify(testContext(t))
			wantMismatches(t, err, "different[KEY 7] [k]")
		})
	}
}

// TestComparisonMapsColumns: a column need not have the same name or place in
// the copy.
func TestComparisonMapsColumns(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE TABLE public.a (id int PRIMARY KEY, x text, y text, g text GENERATED ALWAYS AS (x || y) STORED);
		CREATE TABLE public.b (y2 text, x2 text, id2 int PRIMARY KEY, g text GENERATED ALWAYS AS (x2 || y2) STORED);
		CREATE TABLE public.log (k1 int, truncated boolean);
		INSERT INTO public.a SELECT i, 'x' || i, 'y' || i FROM generate_series(1, 10) AS i;
		INSERT INTO public.b SELECT y, x, id FROM public.a;
		UPDATE public.b SET x2 = y2, y2 = x2 WHERE id2 = 3;
		UPDATE public.b SET x2 = NULL WHERE id2 IN (4, 5);
		INSERT INTO public.log VALUES (4), (4)`)
	conn, err := session.Connect(testContext(t), session.NewTarget(db.Config(t), session.NoPooler))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	oid := pgtest.Query[uint32](t, db.Pool, `SELECT 'public.a'::regclass::oid`)
	table, err := catalog.Read(testContext(t), conn, oid)
	if err != nil {
		t.Fatal(err)
	}
	key, err := catalog.ReadKey(testContext(t), conn, oid, "a_pkey")
	if err != nil {
		t.Fatal(err)
	}
	name := func(s string) catalog.Name { return catalog.Name{Schema: "public", Name: s} }
	link := &strategy.Link{
		From: name("a"), To: name("b"), Log: name("log"), Key: key,
		Columns: []strategy.Mapping{{From: "id", To: "id2"}, {From: "x", To: "x2"}, {From: "y", To: "y2"}},
	}
	c := strategy.NewComparison(link, table)
	tx := begin(t, conn, pgx.ReadCommitted)
	mustExec(t, tx, c.BeginSQL())
	found, err := c.CopyRange(testContext(t), tx, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(found.Rows, found.Pending, found.Mismatches)
	if want := "10 [[4]] [{different [3] [x y g]} {different [5] [x g]}]"; got != want {
		t.Errorf("found %s, want %s", got, want)
	}
}

// TestVerifyReadsRanges: however eager the server is to work in parallel, each
// chunk reads its own blocks and not the whole of an index.
func TestVerifyReadsRanges(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	o := givenDocs(t, db, repack.ChangeLog)
	for _, setting := range []string{
		"parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size", "min_parallel_index_scan_size",
	} {
		db.Exec(t, fmt.Sprintf(`ALTER DATABASE %s SET %s = 0`, db.Name, setting))
	}
	o.BatchSize = 250
	runUntil(t, db, withVerify(o, repack.VerifyOff), repack.PostSyncUpdate)
	const readSQL = `
		SELECT coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_all_indexes WHERE schemaname = 'repack_job_1'`
	ended := func() bool {
		return pgtest.Query[bool](t, db.Pool, `
			SELECT NOT EXISTS (SELECT FROM pg_stat_activity
			       WHERE datname = current_database() AND application_name LIKE 'repack %')`)
	}
	pgtest.WaitFor(t, ended, "the run's sessions to end")
	before := pgtest.Query[int64](t, db.Pool, readSQL)
	wantEqual(t, verify(t, db, o), 1000)
	pgtest.WaitFor(t, func() bool {
		return ended() && pgtest.Query[int64](t, db.Pool, readSQL) >= before+1000
	}, "the reads to be counted")
	if read := pgtest.Query[int64](t, db.Pool, readSQL) - before; read > 1500 {
		t.Errorf("%d index entries of the copy were read to find 1000 rows", read)
	}
}
