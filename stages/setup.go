package stages

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/steps"
)

// setup creates the shadow, the change log, the capture triggers and the job's row, in one
// transaction.
//
// It takes SHARE ROW EXCLUSIVE on the source, as late as it can, until commit. CREATE
// TRIGGER waits for running writers. So no write is missed by what repack measures or reads
// after the commit.
func setup(ctx context.Context, e *Env) error {
	index, _ := e.Source.Key() // preValidate has refused a table without one
	description, err := catalog.Encode(e.Source)
	if err != nil {
		return err
	}
	alteration, err := e.Alteration.Encode()
	if err != nil {
		return err
	}
	var id int64
	create := func(ctx context.Context, tx *lock.Tx) error {
		job := e.newJob(id)
		job.Options.RowTriggers, job.Options.CountRows = e.capture.RowTriggers, e.capture.CountRows
		job.KeyIndex, job.Description, job.Alteration = index.Name, description, alteration
		e.Job = job
		e.SetLink(e.key)
		return e.creation().Do(ctx, tx)
	}
	err = e.WithConn(ctx, func(conn *pgxpool.Conn) error {
		if id, err = e.nextJob(ctx, conn); err != nil {
			return err
		}
		policy := e.Locks
		policy.Held = e.NoteLocked
		return lock.Transact(ctx, conn, policy, e.Source.Name.String(), []uint32{e.Source.OID}, create)
	})
	if err != nil {
		e.Job = nil // nothing was committed
		return err
	}
	return e.preflight().TellPublished(ctx)
}

func planSetup(ctx context.Context, p *planner) ([]steps.Step, error) {
	return p.Steps(ctx, p.creation())
}

const takenSQL = `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname IN ($1, $2))`

// nextJob returns the number of a new job. It commits before setup's transaction begins,
// because other new jobs wait until then. If the registry is new, or is not the only one, there may
// already be schemas with that number, left by jobs of another registry. nextJob skips such
// numbers.
func (e *Env) nextJob(ctx context.Context, q catalog.Querier) (int64, error) {
	for {
		id, err := e.Registry.NextID(ctx, q)
		if err != nil {
			return 0, err
		}
		job := e.newJob(id)
		if !job.OwnSchemas {
			return id, nil
		}
		var taken bool
		if err := q.QueryRow(ctx, takenSQL, job.ShadowSchema, job.OldSchema).Scan(&taken); err != nil {
			return 0, fmt.Errorf("look for schemas of job %d: %w", id, err)
		}
		if !taken {
			return id, nil
		}
	}
}

func (e *Env) newJob(id int64) *registry.Job {
	job := e.JobNumbered(fmt.Sprint(id))
	job.ID = id
	return job
}

// creation creates everything that the job needs. If the statement that creates the shadow
// reads the source, the shadow is created after the strong lock is acquired. A transaction
// must not acquire the weaker lock first: see lock.Tx.Settle.
func (e *Env) creation() steps.Transaction {
	capture := e.Strategy.Capture(e.Link)
	shadow := append(e.builder().CreateShadow(), steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error {
		return e.Registry.Insert(ctx, tx, e.Job, e.Runner) // the job's row has the shadow's OID
	}))
	actions := [][]steps.Action{e.builder().CreateSchemas(), e.builder().CreateCapture(capture), shadow, e.stop()}
	if e.builder().Target().Verbatim() {
		actions = [][]steps.Action{e.builder().CreateSchemas(), e.builder().CreateCapture(capture), e.stop(), shadow}
	}
	return steps.Transaction{
		Does:    "create the registry where it is missing, the shadow and the change log; capture what is written from now on",
		Locks:   (*steps.Planner).Stopping,
		Actions: append(slices.Concat(actions...), steps.Send(capture.Triggers...)),
	}
}

// stop takes the lock under which the triggers are created. It makes sure that the shadow is
// like the table as it is now, and that no other job has been set up meanwhile.
func (e *Env) stop() []steps.Action {
	return append(e.StopWriters(), steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error {
		if err := e.CheckDrift(ctx, tx); err != nil {
			return err
		}
		reasons, err := checks.Look(ctx, tx, []checks.Check{checks.OtherCapture}, e.Source.OID)
		if err != nil {
			return err
		}
		if len(reasons) > 0 {
			return &checks.RefusedError{Table: e.Source.Name, Reasons: reasons}
		}
		return nil
	}))
}
