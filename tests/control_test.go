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
)

// workStopped is what a run logs when it begins to wait for leave to work.
const workStopped = "waiting"

// elsewhere is another process, which tells runs of a table, or of every table.
func elsewhere(t *testing.T, db *pgtest.Database, table string) *repack.Repack {
	t.Helper()
	return newRepack(t, db, repack.Options{Table: table})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestPause pauses a run in the middle of its backfill, and a run that begins while the job
// is paused. Writes go on, and the rows are right in the end.
func TestPause(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		told, stopped := watch(&o, "told to pause"), watch(&o, workStopped)
		ctx, kill := context.WithCancel(testContext(t))
		h := newHalt(t)
		first := o
		first.Jobs = 1
		first.Hooks.AfterChunk = func(context.Context, repack.Progress) error { h.stop(); return nil }
		ended := make(chan error, 1)
		go func() { ended <- newRepack(t, db, first).Run(ctx) }()
		h.await(t, ended)
		must(t, elsewhere(t, db, "app.items").Pause(testContext(t), "deploy", false))
		awaitLog(t, told, ended)
		h.release()
		awaitLog(t, stopped, ended)
		both(t, db.Pool, `UPDATE @items SET note = 'paused'`, `DELETE FROM @items WHERE id = 3`)
		var got repack.Status
		pgtest.WaitFor(t, func() bool { got = statusOf(t, db, "app.items"); return got.WaitingFor != nil }, "the run to record what it waits for")
		if got.Paused == nil || got.Paused.Reason != "deploy" || got.Paused.By == "" || got.Paused.All || got.State != "running" ||
			got.WaitingSince == nil || got.HeartbeatAt == nil {
			t.Errorf("status while paused: %+v", got)
		}
		kill()
		if err := await(t, ended); !errors.Is(err, context.Canceled) {
			t.Fatalf("a paused run that is interrupted: %v", err)
		}

		second := o
		again := watch(&second, workStopped)
		done := startRun(t, db, second)
		awaitLog(t, again, done)
		must(t, elsewhere(t, db, "app.items").Resume(testContext(t)))
		mustEnd(t, done)
		alike(t, db, "items")
		noArtefacts(t, db)
	})
}

// TestPauseAll holds a table that is begun only then. Nothing is created for it.
func TestPauseAll(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := givenItems(t, db, repack.ChangeLog)
	before := db.Dump(t)
	must(t, elsewhere(t, db, "").Pause(testContext(t), "", false))
	stopped := watch(&o, workStopped)
	done := startRun(t, db, o)
	awaitLog(t, stopped, done)
	if after := db.Dump(t); after != before {
		t.Error("a run that is held has created something")
	}
	must(t, elsewhere(t, db, "").Resume(testContext(t)))
	mustEnd(t, done)
	alike(t, db, "items")
}

// TestPauseNow ends a chunk that waits for a lock.
func TestPauseNow(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := givenItems(t, db, repack.ChangeLog)
	o.LockTimeout = queuing
	ended := watch(&o, "the chunk under way was ended, and will be copied again")
	held := holdAtChunk(t, db, o)
	blocker := begin(t, db.Connect(t), pgx.ReadCommitted)
	mustExec(t, blocker, `LOCK TABLE app.items IN ACCESS EXCLUSIVE MODE`)
	held.release()
	pgtest.WaitBlockedBy(t, db.Pool, pid(blocker))
	must(t, elsewhere(t, db, "app.items").Pause(testContext(t), "", true))
	awaitLog(t, ended, held.done)
	commit(t, blocker)
	must(t, elsewhere(t, db, "app.items").Resume(testContext(t)))
	held.mustEnd(t)
	alike(t, db, "items")
}

// TestStop ends a run after the piece of work under way. That is no failure, and the next run
// is not told to stop.
func TestStop(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := givenItems(t, db, repack.DirectTrigger)
	told := watch(&o, "told to stop")
	held := holdBefore(t, db, o, repack.Swap)
	must(t, elsewhere(t, db, "app.items").StopRun(testContext(t)))
	awaitLog(t, told, held.done)
	held.release()
	var stopped *repack.StoppedError
	if err := await(t, held.done); !errors.As(err, &stopped) {
		t.Fatalf("a run that was told to stop: %v", err)
	}
	if got := statusOf(t, db, "app.items"); got.State != "stopped" || got.LastError != nil || got.Runner != nil || got.Swapped {
		t.Errorf("status of a stopped job: %+v", got)
	}
	run(t, db, o)
	alike(t, db, "items")
}

// TestWaitForSwap replays until the swap is allowed.
func TestWaitForSwap(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		o.WaitForSwap = true
		told, stopped := watch(&o, "told to swap"), watch(&o, workStopped)
		done := startRun(t, db, o)
		awaitLog(t, stopped, done)
		both(t, db.Pool, `UPDATE @items SET note = 'waited'`, `INSERT INTO @items VALUES (1000, 'new', 'new')`)
		replayed := func() bool {
			return pgtest.Query[bool](t, db.Pool, `SELECT EXISTS (SELECT FROM `+shadowItems+` WHERE id = 1000)`)
		}
		pgtest.WaitFor(t, replayed, "the run to replay while it waits")
		must(t, elsewhere(t, db, "app.items").AllowSwap(testContext(t), time.Now().Add(time.Hour)))
		awaitLog(t, told, done)
		if got := statusOf(t, db, "app.items"); got.Swapped {
			t.Error("the tables are swapped an hour early")
		}
		must(t, elsewhere(t, db, "app.items").AllowSwap(testContext(t), time.Time{}))
		mustEnd(t, done)
		alike(t, db, "items")
		noArtefacts(t, db)
	})
}

// TestControlOfNoJob says that there is no job, or no such table.
func TestControlOfNoJob(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	givenItems(t, db, repack.ChangeLog)
	for _, table := range []string{"app.items", "app.nowhere"} {
		r := elsewhere(t, db, table)
		for name, tell := range map[string]func() error{
			"pause":  func() error { return r.Pause(testContext(t), "", false) },
			"resume": func() error { return r.Resume(testContext(t)) },
			"stop":   func() error { return r.StopRun(testContext(t)) },
			"swap":   func() error { return r.AllowSwap(testContext(t), time.Time{}) },
		} {
			if err := tell(); !errors.Is(err, repack.ErrNoJob) {
				t.Errorf("%s of %s: %v", name, table, err)
			}
		}
	}
}

// TestSet closes the window of a run that is at work. The run ends, later runs of the job do
// not work either, and when there is no window any more, the next one does.
func TestSet(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := givenItems(t, db, repack.ChangeLog)
	told := watch(&o, "options changed")
	held := holdBefore(t, db, o, repack.Swap)
	r := elsewhere(t, db, "app.items")
	later := time.Now().Add(2 * time.Hour)
	must(t, r.Set(testContext(t), map[string]string{"window": later.Format("15:04") + "-" + later.Add(time.Hour).Format("15:04"), "jobs": "1"}))
	awaitLog(t, told, held.done)
	held.release()
	var stopped *repack.StoppedError
	if err := await(t, held.done); !errors.As(err, &stopped) {
		t.Fatalf("a run whose window was closed: %v", err)
	}
	if got := statusOf(t, db, "app.items"); got.State != "stopped" || got.Settings["jobs"].Value != "1" || got.Settings["jobs"].By == "" {
		t.Errorf("status of a stopped job: %+v", got)
	}
	if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &stopped) {
		t.Fatalf("the next run: %v", err)
	}
	var usage *repack.UsageError
	for _, bad := range []map[string]string{{"jbos": "1"}, {"jobs": "none"}, {"jobs": "0"}, {"window": "never"}} {
		if err := r.Set(testContext(t), bad); !errors.As(err, &usage) {
			t.Errorf("set %v: %v", bad, err)
		}
	}
	must(t, r.Set(testContext(t), map[string]string{"window": ""}))
	run(t, db, o)
	alike(t, db, "items")
}

// TestWindow begins nothing outside the window.
func TestWindow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	o := givenItems(t, db, repack.ChangeLog)
	before := db.Dump(t)
	later := time.Now().Add(2 * time.Hour)
	o.Window = []string{later.Format("15:04") + "-" + later.Add(time.Hour).Format("15:04")}
	var stopped *repack.StoppedError
	if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &stopped) {
		t.Fatalf("a run outside its window: %v", err)
	}
	if after := db.Dump(t); after != before {
		t.Error("a run outside its window has changed something")
	}
	o.SwapWindow, o.Window = o.Window, nil
	if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &stopped) {
		t.Fatalf("a run outside the window of its swap: %v", err)
	}
	if got := statusOf(t, db, "app.items"); got.State != "stopped" || got.Swapped || got.Stage != repack.Swap {
		t.Errorf("status outside the window of the swap: %+v", got)
	}
	o.SwapWindow = nil
	run(t, db, o)
	alike(t, db, "items")
}

// TestHistoryAndPrune shows the stages of a table's jobs, and forgets those that ended long ago.
func TestHistoryAndPrune(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := givenItems(t, db, repack.ChangeLog)
	run(t, db, o)
	runUntil(t, db, o, repack.Backfill)
	history := cli(t, db, 0, "status", "app.items", "--history").stdout.String()
	for _, want := range []string{"backfill", "clean_up", "TOOK"} {
		if !strings.Contains(history, want) {
			t.Errorf("the history does not say %q:\n%s", want, history)
		}
	}
	cli(t, db, 3, "status", "app.nothing", "--history")
	watched := cli(t, db, 0, "status", "app.items", "--format", "json").stdout.String()
	db.Exec(t, `UPDATE repack_registry.job SET finished_at = now() - interval '100 days' WHERE state = 'done'`)
	if got := cli(t, db, 0, "prune", "--dry-run").stdout.String(); got != "1 jobs would be forgotten\n" {
		t.Errorf("prune --dry-run says %q", got)
	}
	if got := cli(t, db, 0, "prune", "--older-than", "365d").stdout.String(); got != "0 jobs forgotten\n" {
		t.Errorf("prune --older-than 365d says %q", got)
	}
	if got := cli(t, db, 0, "prune").stdout.String(); got != "1 jobs forgotten\n" {
		t.Errorf("prune says %q", got)
	}
	cli(t, db, 2, "prune", "--older-than", "long")
	if got := cli(t, db, 0, "status", "app.items", "--format", "json").stdout.String(); got != watched {
		t.Errorf("the unfinished job has changed:\n%s", textDiff(watched, got))
	}
	run(t, db, o)
	lines := cli(t, db, 0, "status", "app.items", "--watch", "--until-done", "--format", "json").stdout.String()
	if strings.Count(lines, "\n") != 1 || !strings.Contains(lines, `"state":"done"`) {
		t.Errorf("status --watch --until-done: %s", lines)
	}
	cli(t, db, 2, "status", "--until-done")
	alike(t, db, "items")
}
