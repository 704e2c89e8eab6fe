package tests

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
	"github.com/repack-go/repack/stages/throttle"
)

// TestThrottleQuery stops a run by a query of the user's, and lets it go on. Nothing is begun that
// could not be read.
func TestThrottleQuery(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := givenItems(t, db, repack.ChangeLog)
	db.Exec(t, `CREATE TABLE gate (closed boolean); INSERT INTO gate VALUES (true)`)
	before := db.Dump(t)
	for _, c := range []struct{ query, says string }{
		{`SELECT nonsense`, "nonsense"},
		{`SELECT 'text'`, "neither boolean nor a number"},
		{`SELECT`, "no columns"},
		{`SELECT count(*) > 0 FROM pg_sleep(100)`, "longer than 2s"},
		{`INSERT INTO public.gate VALUES (true) RETURNING true`, "read-only"},
	} {
		bad := o
		bad.Limits.Query = c.query
		var refused *repack.RefusedError
		if err := newRepack(t, db, bad).Run(testContext(t)); !errors.As(err, &refused) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want a refusal that says %q", c.query, err, c.says)
		}
	}
	o.Limits.Query = `SELECT closed, 'gate' FROM public.gate`
	stopped := watch(&o, workStopped)
	done := startRun(t, db, o)
	awaitLog(t, stopped, done)
	if after := db.Dump(t); after != before {
		t.Error("a run that is stopped from the beginning has created something")
	}
	db.Exec(t, `UPDATE gate SET closed = false`)
	mustEnd(t, done)
	alike(t, db, "items")

	// What cannot be read any more stops the work, and giving up is no failure.
	o = givenItemsAgain(t, o)
	o.Limits.Query, o.GiveUpAfter = `SELECT closed FROM public.gate`, 2*time.Second
	o = beforeStage(o, repack.Backfill, func() {
		db.Exec(t, `ALTER TABLE gate RENAME TO gone`)
		began := time.Now()
		pgtest.WaitFor(t, func() bool { return time.Since(began) > 1200*time.Millisecond }, "the reading to be too old")
	})
	var ended *repack.StoppedError
	if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &ended) || !strings.Contains(err.Error(), "gate") {
		t.Errorf("a query that fails later: %v", err)
	}
	o.Limits.Query, o.Hooks = "", repack.Hooks{}
	run(t, db, o)
	alike(t, db, "items")
}

// givenItemsAgain returns fresh options for the same table.
func givenItemsAgain(t *testing.T, o repack.Options) repack.Options {
	t.Helper()
	again := options(t, o.Table, o.Strategy)
	again.BatchSize = o.BatchSize
	return again
}

// rowsSQL is a table of 42 MB.
const rowsSQL = `
CREATE TABLE @rows (id int PRIMARY KEY, note text NOT NULL);
INSERT INTO @rows SELECT g, repeat(md5(g::text), 24) FROM generate_series(1, 48000) g`

// TestWALLimits stops while a slot that nobody reads retains too much: it is no more than a chunk
// for each of two connections beyond the limit. Then the server writes at most what it may in any ten seconds of the backfill.
func TestWALLimits(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, map[string]string{"autovacuum": "off"}) // which would write, too
	db := pgtest.NewOn(t, server)
	twins(t, db, rowsSQL)
	db.Exec(t, `CHECKPOINT`) // so that the slot begins here
	db.Exec(t, `SELECT pg_create_physical_replication_slot('dead', true)`)
	const limit, rate = 10 << 20, 2 << 20
	o := options(t, "app.rows", repack.ChangeLog)
	o.Jobs, o.Limits.MaxSlotRetained = 2, limit
	stopped := watch(&o, workStopped)
	done := startRun(t, db, o)
	awaitLog(t, stopped, done)
	pgtest.WaitFor(t, func() bool { return statusOf(t, db, "app.rows").WaitingFor != nil }, "the run to record what it waits for")
	retained := pgtest.Query[int64](t, db.Pool, `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn)::bigint FROM pg_replication_slots`)
	if copied := statusOf(t, db, "app.rows").RowsCopied; retained < limit || retained > 2*limit || copied == 0 || copied == 48000 {
		t.Errorf("the slot retains %d bytes when %d rows are copied, limit %d", retained, copied, limit)
	}
	must(t, elsewhere(t, db, "app.rows").Set(testContext(t), map[string]string{"max-slot-retained": "0", "max-wal-rate": "2MB/s"}))
	seen := everyTenth(t, db, func() bool { return statusOf(t, db, "app.rows").Stage == repack.Backfill })
	for i := 100; i < len(seen); i++ {
		if mean := (seen[i] - seen[i-100]) / 10; mean > rate*11/10 {
			t.Fatalf("%d bytes a second were written in the ten seconds until %d s, limit %d", mean, i/10, rate)
		}
	}
	if len(seen) < 100 {
		t.Errorf("the rest of the backfill took %d tenths of a second", len(seen))
	}
	mustEnd(t, done)
	alike(t, db, "rows")
}

// everyTenth reads where the write-ahead log is, each tenth of a second as long as a condition
// holds.
func everyTenth(t *testing.T, db *pgtest.Database, holds func() bool) (seen []int64) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for holds() {
		seen = append(seen, pgtest.Query[int64](t, db.Pool, `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint`))
		<-tick.C
	}
	return seen
}

// TestLimitsNeedRights refuses what the role could never read, with the GRANT, before anything is
// changed.
func TestLimitsNeedRights(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role := db.Role(t)
	db.Exec(t, `CREATE SCHEMA app AUTHORIZATION `+role+`; GRANT CREATE ON DATABASE `+pgtest.Query[string](t, db.Pool, `SELECT quote_ident(current_database())`)+` TO `+role)
	db.Exec(t, `CREATE TABLE app.items (id int PRIMARY KEY); ALTER TABLE app.items OWNER TO `+role)
	for flag, want := range map[string]string{
		"--max-replica-lag=5s": "GRANT pg_read_all_stats TO", "--max-active=3": "GRANT pg_read_all_stats TO",
		"--min-free-disk=1GB": "GRANT pg_read_all_settings TO", "--disk-limit=1TB": "GRANT pg_monitor TO",
		"--free-disk-command=echo lots": "--min-free-disk",
	} {
		p := command(t, nil, "run", "app.items", "--dsn", db.DSNAs(role), flag)
		p.start(t)
		if code := p.wait(t); code != 3 {
			t.Errorf("%s: exit code %d", flag, code)
		}
		p.says(t, want)
	}
	plan := command(t, nil, "plan", "app.items", "--dsn", db.DSNAs(role))
	plan.start(t)
	if code := plan.wait(t); code != 0 {
		t.Errorf("plan: exit code %d", code)
	}
	for _, reading := range []string{"--max-replica-lag    cannot be read: the role sees standbys, but not how far they are; GRANT pg_read_all_stats TO ", "--max-wal-rate       the server writes"} {
		if !strings.Contains(plan.stdout.String(), reading) {
			t.Errorf("plan does not say %q:\n%s", reading, plan.stdout.String())
		}
	}
	cli(t, db, 3, "plan", "app.items", "--throttle-query", "SELECT nonsense").says(t, "nonsense")
	db.Exec(t, `GRANT pg_monitor TO `+role)
	granted := command(t, nil, "run", "app.items", "--dsn", db.DSNAs(role), "--max-replica-lag=1h", "--max-slot-retained=10TB", "--max-wal-rate=10TB",
		"--max-active=1000", "--min-free-disk=1MB", "--disk-limit=100TB")
	granted.start(t)
	if code := granted.wait(t); code != 0 {
		t.Errorf("with pg_monitor: exit code %d\n%s", code, granted.stderr.String())
	}
	cli(t, db, 2, "run", "app.items", "--max-replica-lag", "soon")
	cli(t, db, 0, "run", "app.items", "--min-free-disk", "1MB", "--disk-limit", "10TB", "--max-active", "1000", "--max-wal-rate", "10GB", "--nice", "0.1", "--max-replica-lag", "1h")
	cli(t, db, 0, "run", "app.items", "--min-free-disk", "1%", "--free-disk-command", "")
}

// noticing is a throttler of a user of the library.
type noticing struct{ kinds chan throttle.Work }

func (g noticing) Check(_ context.Context, work repack.Work) (repack.Verdict, error) {
	if g.kinds == nil {
		return repack.Verdict{}, errors.New("not connected")
	}
	select {
	case g.kinds <- work:
	default:
	}
	return repack.Verdict{}, nil
}

// TestThrottlers asks before every kind of work.
func TestThrottlers(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		g := noticing{make(chan throttle.Work, 1000)}
		o.Throttlers, o.Verify = []repack.Throttler{g}, repack.VerifyFull
		o = beforeStage(o, repack.PostSyncUpdate, func() { both(t, db.Pool, `UPDATE @items SET note = 'written'`) })
		unable := o
		unable.Throttlers = []repack.Throttler{g, noticing{}}
		var refused *repack.RefusedError
		if err := newRepack(t, db, unable).Run(testContext(t)); !errors.As(err, &refused) || !strings.Contains(err.Error(), "not connected") {
			t.Errorf("a throttler that cannot tell: %v, want a refusal", err)
		}
		run(t, db, o)
		close(g.kinds)
		seen := map[repack.Work]bool{}
		for work := range g.kinds {
			seen[work] = true
		}
		if !seen[repack.Copying] || !seen[repack.Comparing] || !seen[repack.Swapping] || strategy == repack.ChangeLog && !seen[repack.Replaying] {
			t.Errorf("kinds of work that were asked for: %v", seen)
		}
	})
}

// TestReplicaLag stops while a standby replays nothing, names it, and goes on when it replays. A
// standby that is expected and not connected stops too.
func TestReplicaLag(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, nil)
	standby := givenStandby(t, server, "behind")
	db := pgtest.NewOn(t, server)
	o := givenItems(t, db, repack.ChangeLog)
	standbyHas(t, db, standby)
	reader, err := pgx.Connect(t.Context(), standby.ConnString("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close(context.Background())
	mustExec(t, reader, `SELECT pg_wal_replay_pause()`)
	o.Limits.MaxReplicaLag = time.Second
	stopped := watch(&o, workStopped)
	o = beforeStage(o, repack.Backfill, func() { // so that the standby is behind for longer than the limit
		both(t, db.Pool, `UPDATE @items SET note = 'written'`)
		began := time.Now()
		pgtest.WaitFor(t, func() bool { return time.Since(began) > 2*time.Second }, "the standby to be behind")
	})
	done := startRun(t, db, o)
	awaitLog(t, stopped, done)
	var got repack.Status
	pgtest.WaitFor(t, func() bool { got = statusOf(t, db, "app.items"); return got.WaitingFor != nil }, "the run to record what it waits for")
	if name := pgtest.Query[string](t, db.Pool, `SELECT application_name FROM pg_stat_replication`); !strings.Contains(*got.WaitingFor, "replica "+name+" is ") {
		t.Errorf("the run waits for %q, not for %s", *got.WaitingFor, name)
	}
	mustExec(t, reader, `SELECT pg_wal_replay_resume()`)
	mustEnd(t, done)
	alike(t, db, "items")

	o = givenItemsAgain(t, o)
	o.Limits.ExpectReplicas, o.GiveUpAfter = 2, time.Second
	var ended *repack.StoppedError
	if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &ended) || !strings.Contains(err.Error(), "connected replicas: 1, expected: 2") {
		t.Errorf("a standby is missing: %v", err)
	}
}

// TestChangeLogFull: a change log that is larger than its limit is told once, or the job is removed
// and nothing of it is left.
func TestChangeLogFull(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := givenItems(t, db, repack.ChangeLog)
	before := db.Dump(t)
	o.Jobs, o.MaxChangeLog = 1, 16<<10
	grow := func() { both(t, db.Pool, strings.Repeat(`UPDATE @items SET note = note || 'x';`, 20)) }
	first := o
	warned := watch(&first, "change log larger than its limit")
	held := holdAtChunk(t, db, first)
	grow()
	awaitLog(t, warned, held.done)
	held.release()
	held.mustEnd(t)
	alike(t, db, "items")

	o.OnChangeLogFull = repack.ChangeLogReset
	written := false
	o.Hooks.AfterChunk = func(ctx context.Context, _ repack.Progress) error {
		if !written {
			written = true
			grow()
		}
		<-ctx.Done()
		return ctx.Err()
	}
	var ended *repack.StoppedError
	if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &ended) || !strings.Contains(err.Error(), "limit 16 kB") {
		t.Errorf("a run whose change log is full: %v", err)
	}
	if got := statusOf(t, db, "app.items"); got.State != "reset" {
		t.Errorf("status of the job that was removed: %+v", got)
	}
	sameDump(t, db, before)
	noArtefacts(t, db)
	o.MaxChangeLog, o.Hooks = 0, repack.Hooks{}
	run(t, db, o)
	alike(t, db, "items")
}
