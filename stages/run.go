package stages

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/stages/throttle"
	"github.com/repack-go/repack/strategy"
)

// stage is one stage. run carries out its transactions, and plan prints them.
type stage struct {
	name registry.Stage
	run  func(context.Context, *Env) error
	plan func(context.Context, *planner) ([]steps.Step, error)
}

var order = []stage{
	{registry.PreValidate, preValidate, planPreValidate},
	{registry.Setup, setup, planSetup},
	{registry.Backfill, backfill, planBackfill},
	{registry.SyncSchema, syncSchema, planSyncSchema},
	{registry.PostSyncUpdate, postSyncUpdate, planPostSyncUpdate},
	{registry.Swap, swap, planSwap},
	{registry.CleanUp, cleanUp, planCleanUp},
}

// Run takes the job through its stages, from where it stands, up to and including until.
func Run(ctx context.Context, e *Env, until registry.Stage) error {
	work, end := context.WithCancelCause(ctx)
	defer end(nil)
	err := e.runStages(work, end, until)
	var full *logFull
	if err != nil && ctx.Err() == nil && errors.As(context.Cause(work), &full) {
		return e.removeFull(ctx, full, err)
	}
	return err
}

// runStages runs the stages. It calls end if the job is to be removed.
func (e *Env) runStages(ctx context.Context, end context.CancelCauseFunc, until registry.Stage) error {
	began := time.Now()
	resumed, following := e.Job != nil, false
	for _, s := range order {
		if until.Before(s.name) {
			return nil
		}
		if e.Job != nil && !following {
			stop, err := e.Control.Follow(ctx, e.Job.ID, resumed)
			if err != nil {
				return err
			}
			defer stop()
			defer e.watchLog(ctx, e.Job.ID, end)()
			e.Events.Follow(ctx, e.Job.ID)
			following = true
		}
		if e.finished(s.name) {
			continue
		}
		if s.name == registry.CleanUp {
			return e.runLast(ctx, s, began)
		}
		if err := e.runStage(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// runLast runs the last stage. It measures sizes before, because afterwards there is no old
// table to measure.
func (e *Env) runLast(ctx context.Context, s stage, began time.Time) error {
	before, after, err := e.sizes(ctx)
	if err != nil {
		e.Log.Warn("sizes not known", "job", e.Job.ID, "error", err)
	}
	if err := e.runStage(ctx, s); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	job, err := e.Registry.Get(ctx, e.Pool, e.Job.ID)
	if err != nil {
		return err
	}
	e.Job = job
	e.ended(ctx, began, before, after)
	return nil
}

func (e *Env) finished(s registry.Stage) bool {
	if e.Job == nil {
		return s == registry.PreValidate && e.validated
	}
	return s.Before(e.Job.Stage) || s == e.Job.Stage && e.Job.StageDone
}

func (e *Env) runStage(ctx context.Context, s stage) error {
	if err := e.fits(ctx, s.name); err != nil {
		return err
	}
	if err := call(ctx, e.Hooks.BeforeStage, s.name); err != nil {
		return err
	}
	began := time.Now()
	e.Log.Info("stage started", "table", e.Source.Name.String(), "stage", s.name)
	if e.Job != nil {
		if err := e.begin(ctx, s.name); err != nil {
			return err
		}
	}
	if err := s.run(ctx, e); err != nil {
		return e.failed(ctx, err)
	}
	if e.Job != nil {
		job := *e.Job
		job.Stage, job.StageDone = s.name, true
		e.Job = &job
	}
	e.Log.Info("stage finished", "table", e.Source.Name.String(), "stage", s.name, "took", time.Since(began).Round(time.Millisecond))
	return call(ctx, e.Hooks.AfterStage, s.name)
}

func call(ctx context.Context, hook func(context.Context, registry.Stage) error, s registry.Stage) error {
	if hook == nil {
		return nil
	}
	return hook(ctx, s)
}

// begin records the stage and looks for DDL on the source since setup.
func (e *Env) begin(ctx context.Context, s registry.Stage) error {
	if err := e.StillHeld(ctx); err != nil {
		return err
	}
	if err := e.Registry.BeginStage(ctx, e.Pool, e.Job.ID, e.Runner.Claim, s); err != nil {
		if e.givesWay(err) {
			return e.failed(ctx, err)
		}
		return err
	}
	e.Job.Stage, e.Job.StageDone = s, false
	if e.Job.Swapped() {
		return nil
	}
	if err := e.refresh(ctx); err != nil {
		return e.failed(ctx, err)
	}
	return nil
}

// refresh reads the source again. It accepts the changes that need no other shadow. A
// trigger, for example, only changes how writes are carried over.
func (e *Env) refresh(ctx context.Context) error {
	b := &pgx.Batch{}
	now := catalog.Queue(b, e.Job.Source, e.Source)
	var reasons []checks.Reason
	e.queueChecks(b, &reasons, e.Job.Source, e.Source)
	failed := e.Pool.SendBatch(ctx, b).Close()
	if failed != nil && !errors.Is(failed, strategy.ErrNotCapturing) {
		return e.GoneOr(failed)
	}
	if err := catalog.Complete(ctx, e.Pool, now, e.Source); err != nil {
		return err
	}
	if err := e.Drift(now); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	if err := e.checkAgain(ctx, e.Pool, now, e.Source, reasons); err != nil {
		return err
	}
	e.Source = now
	e.SetLink(e.Link.Key)
	return nil
}

// failed records err in the registry. If DDL on the source may be the cause, it returns an
// error that says so, because the user must know that first.
func (e *Env) failed(ctx context.Context, err error) error {
	var stopped *throttle.StoppedError
	if e.Job != nil && ctx.Err() == nil && errors.As(err, &stopped) {
		return e.stopped(ctx, err, stopped.Reason)
	}
	gaveWay := ctx.Err() == nil && e.givesWay(err)
	if gaveWay {
		err = e.giveWay(ctx, err)
	}
	if e.Job == nil || ctx.Err() != nil { // if the context has ended, its owner records why
		return err
	}
	noteCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), steps.RecordingTime)
	defer cancel()
	var drift *steps.DriftError
	if !gaveWay && !e.Job.Swapped() && !errors.As(err, &drift) {
		if found := e.CheckDrift(noteCtx, e.Pool); errors.As(found, &drift) {
			err = fmt.Errorf("%w (after: %w)", found, err)
		}
	}
	err = e.preflight().Expired(noteCtx, e.forbidden(noteCtx, steps.Detailed(err)))
	err = e.stranded(e.kept(err))
	if noteErr := e.Registry.Fail(noteCtx, e.Pool, e.Job.ID, e.Runner.Claim, err.Error()); noteErr != nil {
		e.Log.Warn("failure not recorded", "job", e.Job.ID, "error", noteErr)
	}
	return err
}

// stopped records that the run ends because it was told to, which is not a failure.
func (e *Env) stopped(ctx context.Context, err error, reason string) error {
	noteCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), steps.RecordingTime)
	defer cancel()
	if noteErr := e.Registry.Stopped(noteCtx, e.Pool, e.Job.ID, e.Runner.Claim, reason); noteErr != nil {
		e.Log.Warn("end of the run not recorded", "job", e.Job.ID, "error", noteErr)
	}
	return err
}

// forbidden turns the error of a missing privilege into a DriftError that names the GRANT. A
// privilege can go missing during a job, for example when the table gets another owner.
func (e *Env) forbidden(ctx context.Context, err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.InsufficientPrivilege {
		return err
	}
	now, readErr := catalog.Read(ctx, e.Pool, e.InUse())
	if readErr != nil {
		return err
	}
	as := e.clone()
	as.Source = now
	missing, lookErr := as.preflight().MissingPrivileges(ctx)
	if lookErr != nil || len(missing) == 0 {
		return err
	}
	return fmt.Errorf("%w (after: %w)", &steps.DriftError{Table: now.Name, Reasons: missing}, err)
}

// queueChecks adds the checks to b, except those that checks.Complete adds. It also asks
// whether changes are being captured; if not, b returns strategy.ErrNotCapturing. like is the
// table as it was.
func (e *Env) queueChecks(b *pgx.Batch, reasons *[]checks.Reason, oid uint32, like *catalog.Table) {
	checks.QueueTable(b, reasons, oid, e.Allowed(), like, e.Link)
	found := b.QueuedQueries[b.Len()-1]
	take := found.Fn
	found.Fn = func(results pgx.BatchResults) error {
		err := take(results)
		if err == nil && slices.ContainsFunc(*reasons, func(r checks.Reason) bool { return r.Why == checks.NotCapturing }) {
			return strategy.ErrNotCapturing
		}
		return err
	}
}

// checkAgain looks for what preValidate would have refused and what has appeared since.
// Otherwise a later stage would fail because of it, clean_up at the latest. t is the table
// as it is now. like and reasons are those of queueChecks.
func (e *Env) checkAgain(ctx context.Context, q catalog.Querier, t, like *catalog.Table, reasons []checks.Reason) error {
	found, err := checks.Complete(ctx, q, t, like, e.Allowed(), reasons)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return &steps.DriftError{Table: e.Source.Name, Reasons: found}
	}
	return nil
}
