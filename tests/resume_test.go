package tests

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// TestStopAfterEachStage stops once, after each stage, and goes on.
func TestStopAfterEachStage(t *testing.T) {
	t.Parallel()
	for n, stage := range stagesOfJob {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				s := newScenario(t, db)
				o := options(t, "app.t", strategy)
				runUntil(t, db, o, stage)
				if got := statusOf(t, db, "app.t"); got.Stage != stage || !got.StageDone || got.Runner != nil ||
					got.Swapped != !stageBefore(stage, repack.Swap) {
					t.Errorf("status after %s: %+v", stage, got)
				}
				s.write(t)
				s.same(t)
				run(t, db, o)
				s.restored(t)
			})
		})
	}
}

// TestStopAfterAllStages stops after every stage of one job, with writes
// between, and asks for each stage twice.
func TestStopAfterAllStages(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		s := newScenario(t, db)
		o := options(t, "app.t", strategy)
		runUntil(t, db, o, repack.PreValidate)
		if list, err := newRepack(t, db, repack.Options{}).Status(testContext(t)); err != nil || len(list) != 0 {
			t.Fatalf("after pre_validate: %v, %v; want no job", list, err)
		}
		sameDump(t, db, s.before)
		for _, stage := range stagesOfJob[:len(stagesOfJob)-1] {
			runUntil(t, db, o, stage)
			runUntil(t, db, o, stage)
			s.write(t)
			s.same(t)
		}
		run(t, db, o)
		if got := statusOf(t, db, "app.t"); got.State != "done" || got.FinishedAt == nil || got.Job != 1 {
			t.Errorf("status at the end: %+v", got)
		}
		s.restored(t)
	})
}

// Between stages a job is stopped by the tests above.
var runPlaces = atEachPlace([]repack.Stage{repack.Setup}, []string{
	repack.StepLoggedKeysRemoved, repack.StepIndexBuilt, repack.StepCaughtUp,
	repack.StepWritingThrough, repack.StepDrained, repack.StepExchanged, repack.StepCaptureEnded,
})

// TestCancelledRunResumes cancels at every place a run passes, and runs again.
func TestCancelledRunResumes(t *testing.T) {
	t.Parallel()
	for n, place := range append(runPlaces, afterChunks(3)) {
		t.Run(place.name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				s := newScenario(t, db)
				o := options(t, "app.t", strategy)
				o.BatchSize = 100
				runUntil(t, db, o, repack.Setup)
				if place.name == beforeSetup || place.name == afterSetup {
					if err := newRepack(t, db, o).Reset(testContext(t)); err != nil {
						t.Fatal(err)
					}
				}
				s.write(t)
				cancelled(t, db, o, place, func(r *repack.Repack, ctx context.Context) error { return r.Run(ctx) })
				s.write(t)
				run(t, db, o)
				s.restored(t)
			})
		})
	}
}

// afterChunks stops in the middle of the backfill.
func afterChunks(n int) stopAt {
	return stopAt{name: midBackfill, hooks: func(stop func()) repack.Hooks {
		var seen atomic.Int64 // chunks end in several goroutines
		return repack.Hooks{AfterChunk: func(context.Context, repack.Progress) error {
			if seen.Add(1) == int64(n) {
				stop()
			}
			return nil
		}}
	}}
}

// TestFailingHookResumes has the run fail, rather than be cancelled, and finds
// the failure in the status.
func TestFailingHookResumes(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		s := newScenario(t, db)
		o := options(t, "app.t", strategy)
		failure := errors.New("a failure of the test")
		o.Hooks.AfterChunk = func(context.Context, repack.Progress) error { return failure }
		if err := newRepack(t, db, o).Run(testContext(t)); !errors.Is(err, failure) {
			t.Fatalf("run: %v, want the hook's error", err)
		}
		got := statusOf(t, db, "app.t")
		if got.State != "failed" || got.LastError == nil || got.Stage != repack.Backfill || got.StageDone {
			t.Errorf("status after the failure: %+v", got)
		}
		o.Hooks = repack.Hooks{}
		s.write(t)
		run(t, db, o)
		if got := statusOf(t, db, "app.t"); got.State != "done" || got.LastError != nil {
			t.Errorf("status at the end: %+v", got)
		}
		s.restored(t)
	})
}

// TestResumedBackfillKeepsItsChunks shows that what has been copied is not
// copied again.
func TestResumedBackfillKeepsItsChunks(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		s := newScenario(t, db)
		db.Exec(t, `ANALYZE app.t`)
		o := options(t, "app.t", strategy)
		o.Jobs, o.BatchSize = 1, 100
		cancelled(t, db, o, afterChunks(3), func(r *repack.Repack, ctx context.Context) error { return r.Run(ctx) })
		const chunks = `SELECT string_agg(first_block || '-' || end_block || ' ' || ended, ', ' ORDER BY first_block)
		                FROM repack_registry.chunk WHERE ended <= $1::timestamptz`
		now := db.QueryString(t, `SELECT clock_timestamp()`)
		before := db.QueryString(t, chunks, now)
		runUntil(t, db, o, repack.Backfill)
		if after := db.QueryString(t, chunks, now); after != before || before == pgtest.Null {
			t.Errorf("chunks were %s, are %s", before, after)
		}
		gaps := db.QueryString(t, `
			SELECT count(*) FROM (SELECT first_block, lag(end_block, 1, 0) OVER (ORDER BY first_block) AS last
			FROM repack_registry.chunk) c WHERE first_block <> last`)
		if gaps != "0" {
			t.Errorf("%s gaps or overlaps between chunks", gaps)
		}
		run(t, db, o)
		s.restored(t)
	})
}
