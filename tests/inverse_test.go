package tests

import (
	"context"
	"errors"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// TestResetFromEachStage resets after every stage before the swap, looks that
// nothing is left, and repacks after all.
func TestResetFromEachStage(t *testing.T) {
	t.Parallel()
	for n, stage := range []repack.Stage{repack.Setup, repack.Backfill, repack.SyncSchema, repack.PostSyncUpdate} {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				s := newScenario(t, db)
				o := options(t, "app.t", strategy)
				runUntil(t, db, o, stage)
				s.write(t)
				reset(t, db, o)
				if got := statusOf(t, db, "app.t"); got.State != "reset" || got.FinishedAt == nil {
					t.Errorf("status after reset: %+v", got)
				}
				s.restored(t)
				if err := newRepack(t, db, o).Reset(testContext(t)); !errors.Is(err, repack.ErrNoJob) {
					t.Errorf("second reset: %v, want ErrNoJob", err)
				}
				run(t, db, o)
				s.restored(t)
			})
		})
	}
}

func reset(t *testing.T, db *pgtest.Database, o repack.Options) {
	t.Helper()
	if err := newRepack(t, db, o).Reset(testContext(t)); err != nil {
		t.Fatalf("reset: %v", err)
	}
}

func revert(t *testing.T, db *pgtest.Database, o repack.Options) {
	t.Helper()
	if err := newRepack(t, db, o).Revert(testContext(t)); err != nil {
		t.Fatalf("revert: %v", err)
	}
}

// TestResetFromInside resets what was cancelled inside a stage.
func TestResetFromInside(t *testing.T) {
	t.Parallel()
	for n, place := range append(atEachPlace(nil, []string{
		repack.StepLoggedKeysRemoved, repack.StepIndexBuilt, repack.StepCaughtUp,
		repack.StepWritingThrough, repack.StepDrained,
	}), afterChunks(2)) {
		t.Run(place.name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				s := newScenario(t, db)
				o := options(t, "app.t", strategy)
				o.BatchSize = 100
				cancelled(t, db, o, place, func(r *repack.Repack, ctx context.Context) error { return r.Run(ctx) })
				s.write(t)
				reset(t, db, o)
				s.restored(t)
				run(t, db, o)
				s.restored(t)
			})
		})
	}
}

// TestRevert puts the old table back with what was written since, from a swap
// that is complete and from one that is not.
func TestRevert(t *testing.T) {
	t.Parallel()
	for n, place := range atEachPlace([]repack.Stage{repack.CleanUp}, []string{repack.StepExchanged}) {
		if place.name == afterCleanUp {
			continue
		}
		t.Run(place.name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				s := newScenario(t, db)
				before := db.QueryString(t, `SELECT 'app.t'::regclass::oid`)
				o := options(t, "app.t", strategy)
				runUntil(t, db, o, repack.Setup)
				s.write(t)
				cancelled(t, db, o, place, func(r *repack.Repack, ctx context.Context) error { return r.Run(ctx) })
				s.write(t)
				s.write(t)
				revert(t, db, o)
				if got := db.QueryString(t, `SELECT 'app.t'::regclass::oid`); got != before {
					t.Errorf("app.t has OID %s after the revert, had %s", got, before)
				}
				if got := statusOf(t, db, "app.t"); got.State != "reverted" || got.FinishedAt == nil {
					t.Errorf("status after revert: %+v", got)
				}
				s.restored(t)
				if err := newRepack(t, db, o).Revert(testContext(t)); !errors.Is(err, repack.ErrNoJob) {
					t.Errorf("second revert: %v, want ErrNoJob", err)
				}
				run(t, db, o)
				s.restored(t)
			})
		})
	}
}

// TestCancelledRevertResumes cancels a revert at every place it passes.
func TestCancelledRevertResumes(t *testing.T) {
	t.Parallel()
	for n, place := range atEachPlace(nil, []string{
		repack.StepWritingThrough, repack.StepDrained, repack.StepExchangedBack, repack.StepCaptureDropped,
	}) {
		t.Run(place.name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				s := newScenario(t, db)
				o := options(t, "app.t", strategy)
				runUntil(t, db, o, repack.Swap)
				s.write(t)
				cancelled(t, db, o, place, func(r *repack.Repack, ctx context.Context) error { return r.Revert(ctx) })
				s.write(t)
				s.same(t)
				revert(t, db, o)
				s.restored(t)
			})
		})
	}
}

// TestCancelledRevertThenRun goes forward again, where a revert was given up
// before it had exchanged the tables; afterwards only revert may go on.
func TestCancelledRevertThenRun(t *testing.T) {
	t.Parallel()
	for n, place := range atEachPlace(nil, []string{repack.StepWritingThrough, repack.StepDrained, repack.StepExchangedBack}) {
		t.Run(place.name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				s := newScenario(t, db)
				o := options(t, "app.t", strategy)
				runUntil(t, db, o, repack.Swap)
				s.write(t)
				cancelled(t, db, o, place, func(r *repack.Repack, ctx context.Context) error { return r.Revert(ctx) })
				s.write(t)
				err := newRepack(t, db, o).Run(testContext(t))
				s.write(t)
				if place.name == "at "+repack.StepExchangedBack {
					if err == nil {
						t.Error("run went on with a job that is being reverted")
					}
					if err := newRepack(t, db, o).Reset(testContext(t)); err == nil {
						t.Error("reset went on with a job that is being reverted")
					}
					s.write(t)
					revert(t, db, o)
				} else if err != nil {
					t.Fatalf("run: %v", err)
				}
				s.restored(t)
			})
		})
	}
}

// TestCancelledResetThenRun lets the user change his mind after a reset that
// was interrupted: whatever the run answers, it must not swap in a shadow that
// has missed writes.
func TestCancelledResetThenRun(t *testing.T) {
	t.Parallel()
	for n, stage := range []repack.Stage{repack.Setup, repack.PostSyncUpdate} {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				s := newScenario(t, db)
				o := options(t, "app.t", strategy)
				runUntil(t, db, o, stage)
				place := atEachPlace(nil, []string{repack.StepCaptureDropped})[0]
				cancelled(t, db, o, place, func(r *repack.Repack, ctx context.Context) error { return r.Reset(ctx) })
				s.write(t)
				again := o
				again.Hooks.AfterStage = func(_ context.Context, stage repack.Stage) error {
					if stage == repack.Backfill {
						s.write(t)
					}
					return nil
				}
				err := newRepack(t, db, again).Run(testContext(t))
				s.same(t)
				if err != nil {
					t.Logf("run after an interrupted reset: %v", err)
					reset(t, db, o)
				}
				s.restored(t)
			})
		})
	}
}

// TestCancelledCleanUpThenRevert does the same the other way: the old table no
// longer follows, so it must not come back without the writes since.
func TestCancelledCleanUpThenRevert(t *testing.T) {
	t.Parallel()
	for n, keepOld := range []bool{false, true} {
		t.Run(map[bool]string{false: "drop old", true: "keep old"}[keepOld], func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				s := newScenario(t, db)
				o := options(t, "app.t", strategy)
				o.KeepOld = keepOld
				place := atEachPlace(nil, []string{repack.StepCaptureEnded})[0]
				cancelled(t, db, o, place, func(r *repack.Repack, ctx context.Context) error { return r.Run(ctx) })
				s.write(t)
				err := newRepack(t, db, o).Revert(testContext(t))
				s.same(t)
				if err != nil {
					t.Logf("revert after an interrupted clean_up: %v", err)
					run(t, db, o)
				}
				s.write(t)
				s.same(t)
			})
		})
	}
}

// TestInversesOutOfPlace asks for what the stage does not allow; nothing changes.
func TestInversesOutOfPlace(t *testing.T) {
	t.Parallel()
	inTurnIn(t, 0, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
		s := newScenario(t, db)
		o := options(t, "app.t", strategy)
		for name, inverse := range map[string]func(*repack.Repack, context.Context) error{
			"reset":  func(r *repack.Repack, ctx context.Context) error { return r.Reset(ctx) },
			"revert": func(r *repack.Repack, ctx context.Context) error { return r.Revert(ctx) },
		} {
			if err := inverse(newRepack(t, db, o), testContext(t)); !errors.Is(err, repack.ErrNoJob) {
				t.Errorf("%s without a job: %v, want ErrNoJob", name, err)
			}
		}
		if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM pg_namespace WHERE nspname = 'repack_registry'`); n != 0 {
			t.Error("an inverse without a job created the registry")
		}
		for _, stage := range stagesOfJob[:4] {
			runUntil(t, db, o, stage)
			if err := newRepack(t, db, o).Revert(testContext(t)); !errors.Is(err, repack.ErrNotSwapped) {
				t.Errorf("revert after %s: %v, want ErrNotSwapped", stage, err)
			}
			s.write(t)
		}
		runUntil(t, db, o, repack.Swap)
		if err := newRepack(t, db, o).Reset(testContext(t)); !errors.Is(err, repack.ErrSwapped) {
			t.Errorf("reset after swap: %v, want ErrSwapped", err)
		}
		s.write(t)
		run(t, db, o)
		s.restored(t)
	})
}
