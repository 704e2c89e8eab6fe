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
	"github.com/repack-go/repack/strategy"
)

// stage is one stage. run carries out its transactions, and plan prints them.
type stage struct {
	name registry.Stage
	run  func(context.Context, *Env) error
	plan func(context.Context, *planner) ([]Step, error)
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
	began := time.Now()
	for _, s := range order {
		if until.Before(s.name) {
			return nil
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
	if err := e.held(ctx); err != nil {
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
	var reasons []Reason
	e.queueChecks(b, &reasons, e.Job.Source, e.Source)
	failed := e.Pool.SendBatch(ctx, b).Close()
	if failed != nil && !errors.Is(failed, strategy.ErrNotCapturing) {
		return e.goneOr(failed)
	}
	if err := catalog.Complete(ctx, e.Pool, now, e.Source); err != nil {
		return err
	}
	if err := e.drift(now); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	if err := e.checkAgain(ctx, e.Pool, now, e.Source, reasons); err != nil {
		return err
	}
	e.Source = now
	e.link(e.Link.Key)
	return nil
}

// recording bounds the time to record a failure.
const recording = 5 * time.Second

// failed records err in the registry. If DDL on the source may be the cause, it returns an
// error that says so, because the user must know that first.
func (e *Env) failed(ctx context.Context, err error) error {
	gaveWay := ctx.Err() == nil && e.givesWay(err)
	if gaveWay {
		err = e.giveWay(ctx, err)
	}
	if e.Job == nil || ctx.Err() != nil { // if the context has ended, its owner records why
		return err
	}
	noteCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recording)
	defer cancel()
	var drift *DriftError
	if !gaveWay && !e.Job.Swapped() && !errors.As(err, &drift) {
		if found := e.checkDrift(noteCtx, e.Pool); errors.As(found, &drift) {
			err = fmt.Errorf("%w (after: %w)", found, err)
		}
	}
	err = e.expired(noteCtx, e.forbidden(noteCtx, detailed(err)))
	err = e.stranded(e.kept(err))
	if noteErr := e.Registry.Fail(noteCtx, e.Pool, e.Job.ID, e.Runner.Claim, err.Error()); noteErr != nil {
		e.Log.Warn("failure not recorded", "job", e.Job.ID, "error", noteErr)
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
	oid := e.Job.Source
	if e.Job.Swapped() {
		oid = *e.Job.Shadow
	}
	now, readErr := catalog.Read(ctx, e.Pool, oid)
	if readErr != nil {
		return err
	}
	as := *e
	as.Source = now
	missing, lookErr := as.missingPrivileges(ctx)
	if lookErr != nil || len(missing) == 0 {
		return err
	}
	return fmt.Errorf("%w (after: %w)", &DriftError{Table: now.Name, Reasons: missing}, err)
}

// DriftError reports DDL on the table since setup that the shadow does not have. repack has
// not changed the table itself.
type DriftError struct {
	Table   catalog.Name
	Changes []catalog.Difference
	// Reasons are what preValidate would have refused.
	Reasons []Reason
	// Swapped is set if the table is gone since the swap. Then there is no way back, and a
	// run removes what is left of the job.
	Swapped bool
}

func (e *DriftError) Error() string {
	if e.Swapped {
		return fmt.Sprintf("%s has been dropped or renamed away since the swap; remove what is left of the job with: repack run --table '%s'", e.Table, e.Table)
	}
	if len(e.Changes)+len(e.Reasons) == 0 { // the table is gone
		return fmt.Sprintf("%s has been dropped or renamed away; remove what is left of the job with: repack reset --table '%s'", e.Table, e.Table)
	}
	msg := fmt.Sprintf("%s has been changed since the job began:", e.Table)
	for _, c := range e.Changes {
		msg += "\n  " + c.Text()
	}
	for _, o := range e.Reasons {
		msg += "\n  " + o.String()
	}
	return msg + fmt.Sprintf("\nundo the change and run again, or start afresh with: repack reset --table '%s'", e.Table)
}

// checkDrift compares the source with what it was at setup.
func (e *Env) checkDrift(ctx context.Context, q catalog.Querier) error {
	now, err := catalog.Read(ctx, q, e.Job.Source)
	if err != nil {
		return e.goneOr(err)
	}
	return e.drift(now)
}

// goneOr returns a DriftError if the table is gone, and otherwise err.
func (e *Env) goneOr(err error) error {
	if errors.Is(err, catalog.ErrNotFound) {
		return &DriftError{Table: e.Source.Name, Swapped: e.Job != nil && e.Job.Swapped()}
	}
	return err
}

// drift compares the parts of the table that the shadow is built from. Grants, comments,
// triggers and the like may change during a job: the exchange reads them again.
func (e *Env) drift(now *catalog.Table) error {
	changes, err := e.reprints.Diff(e.Source.Structure(), now.Structure())
	if err != nil {
		return err
	}
	if len(changes) > 0 {
		return &DriftError{Table: e.Source.Name, Changes: changes}
	}
	return nil
}

// queueChecks adds the checks to b, except those that checks.Complete adds. It also asks
// whether changes are being captured; if not, b returns strategy.ErrNotCapturing. like is the
// table as it was.
func (e *Env) queueChecks(b *pgx.Batch, reasons *[]Reason, oid uint32, like *catalog.Table) {
	checks.QueueTable(b, reasons, oid, e.allowed(), like, e.Link)
	found := b.QueuedQueries[b.Len()-1]
	take := found.Fn
	found.Fn = func(results pgx.BatchResults) error {
		err := take(results)
		if err == nil && slices.ContainsFunc(*reasons, func(r Reason) bool { return r.Why == checks.NotCapturing }) {
			return strategy.ErrNotCapturing
		}
		return err
	}
}

// checkAgain looks for what preValidate would have refused and what has appeared since.
// Otherwise a later stage would fail because of it, clean_up at the latest. t is the table
// as it is now. like and reasons are those of queueChecks.
func (e *Env) checkAgain(ctx context.Context, q catalog.Querier, t, like *catalog.Table, reasons []Reason) error {
	found, err := checks.Complete(ctx, q, t, like, e.allowed(), reasons)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return &DriftError{Table: e.Source.Name, Reasons: found}
	}
	return nil
}

const sameTablesSQL = `
SELECT coalesce(to_regclass($1)::oid = $2, false) AND coalesce(to_regclass($3)::oid = $4, false)`

// sameTables makes sure that the names that a statement has just used are those of the
// job's tables. Run it after the statement: the locks of the statement keep the names.
func (e *Env) sameTables(ctx context.Context, q catalog.Querier) error {
	return e.areSameTables(q.QueryRow(ctx, sameTablesSQL, e.names()...))
}

// queueSameTables does what sameTables does, as a part of b.
func (e *Env) queueSameTables(b *pgx.Batch) {
	b.Queue(sameTablesSQL, e.names()...).QueryRow(e.areSameTables)
}

// names returns the arguments of sameTablesSQL.
func (e *Env) names() []any {
	from, to := e.Job.Source, *e.Job.Shadow
	if e.Job.Swapped() {
		from, to = to, from
	}
	return []any{e.Link.From.String(), from, e.Link.To.String(), to}
}

func (e *Env) areSameTables(row pgx.Row) error {
	var ok bool
	if err := row.Scan(&ok); err != nil {
		return fmt.Errorf("look up %s: %w", e.Link.From, err)
	}
	if !ok {
		return &DriftError{Table: e.Source.Name}
	}
	return nil
}
