package stages

import (
	"context"
	"fmt"
	"reflect"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/stages/control"
	"github.com/repack-go/repack/stages/copier"
	"github.com/repack-go/repack/stages/events"
	"github.com/repack-go/repack/stages/matviews"
	"github.com/repack-go/repack/stages/neighbours"
	"github.com/repack-go/repack/stages/preflight"
	"github.com/repack-go/repack/stages/replay"
	"github.com/repack-go/repack/stages/shadow"
	"github.com/repack-go/repack/stages/signals"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/stages/throttle"
	"github.com/repack-go/repack/strategy"
)

// Env is what the stages of one run work with.
type Env struct {
	steps.Request

	Jobs        int                // connections that work at the same time, at most
	Throttle    *throttle.Throttle // asked before each piece of work of those connections
	Control     *control.Control   // what the run is told from elsewhere
	Hours       throttle.Hours     // at which work may begin
	Signals     *signals.Set       // limits of the server and around it
	LogLimit    *LogLimit          // how large the change log may become; nil: as it likes
	Events      *events.Teller     // nil: nobody is told of events
	BatchSize   int                // about how many rows a chunk or batch has; 0: by time
	Transfer    copier.Transfer    // how the backfill's rows are transferred
	Verify      registry.VerifyMode
	ForeignKeys neighbours.ForeignKeys // how foreign keys are moved
	// MaintenanceWorkMem is the memory that an index build, a sort and VACUUM may each
	// use; empty: the setting of the session.
	MaintenanceWorkMem string

	// Restored reports whether Job belongs to another database: see ResetRestored.
	Restored bool

	bounded   bool                   // no row that does not fit the other table is to be expected
	views     alter.Views            // on the table in use, that cannot be replaced
	validated bool                   // preValidate has passed in this run
	capture   registry.Options       // with which the dry build has captured changes
	key       []catalog.KeyColumn    // key of the source, as the dry build has read it
	verified  *registry.Verification // the last verification of this run
}

// clone returns an environment whose job, source and link can be replaced without e.
func (e *Env) clone() *Env {
	c := *e
	c.Request = e.Clone()
	return &c
}

// Open makes job, which exists, the job of e. It returns *RestoredError if the job
// belongs to another database. Such a job can be reset, and nothing else.
func (e *Env) Open(ctx context.Context, job *registry.Job) error {
	source, err := job.SourceDescription()
	if err != nil {
		return err
	}
	e.Source, e.OrderBy = source, job.Options.OrderBy
	if e.Alteration, err = alter.Decode(job.Alteration); err != nil {
		return fmt.Errorf("job %d: %w", job.ID, err)
	}
	if other, err := foreign(ctx, e.Pool, job); err != nil {
		return err
	} else if other {
		return e.openRestored(ctx, job)
	}
	e.Job = job
	asked := job.Options
	asked.KeepOld = asked.KeepOld || e.KeepOld // the user may ask for it until clean_up
	asked.RebuildMatviews = asked.RebuildMatviews || e.RebuildMatviews
	asked.PublishedOK = asked.PublishedOK || e.PublishedOK
	asked = asked.WithOIDs(e.UpdateOID, e.IgnoreOID)
	if !reflect.DeepEqual(asked, job.Options) || e.Partitioned != nil {
		err := e.WriteJob(ctx, func(_ pgx.Tx, job *steps.JobRow) error {
			job.Options = asked
			if e.Partitioned != nil {
				job.Partitioned = e.Partitioned
			}
			return nil
		})
		if err != nil {
			return err
		}
		job = e.Job
	}
	if e.Strategy, err = strategy.New(job.Strategy); err != nil {
		return err
	}
	// The key is looked up by the table's OID, not by its name: the shadow may have been
	// moved to any schema by now.
	key, err := catalog.ReadKey(ctx, e.Pool, e.InUse(), e.KeyIndex())
	if err != nil {
		return err
	}
	e.SetLink(key)
	return nil
}

// replayer replays the change log of the job.
func (e *Env) replayer() *replay.Replayer {
	return &replay.Replayer{Worker: e.Worker, Jobs: e.Jobs, BatchSize: e.BatchSize, Throttle: e.Throttle}
}

// builder makes the shadow of the job's table.
func (e *Env) builder() *shadow.Builder {
	b := &shadow.Builder{
		Worker: e.Worker, Strategy: e.Strategy, Jobs: e.Jobs, Throttle: e.Throttle, MaintenanceWorkMem: e.MaintenanceWorkMem,
	}
	if e.OrderBy != "" {
		b.Order = e.Order
	}
	return b
}

// preflight looks for what cannot be carried over.
func (e *Env) preflight() *preflight.Inspector {
	return &preflight.Inspector{Request: e.Request, Asked: e.ForeignKeys}
}

// rebuilder rebuilds the materialized views on the table.
func (e *Env) rebuilder() *matviews.Rebuilder { return &matviews.Rebuilder{Worker: e.Worker} }

// mover moves the foreign keys between the table and its neighbours.
func (e *Env) mover() *neighbours.Mover {
	return &neighbours.Mover{Worker: e.Worker, Asked: e.ForeignKeys, Bounded: e.bounded}
}

// copier copies the rows.
func (e *Env) copier() *copier.Copier {
	return &copier.Copier{
		Request: e.Request, Jobs: e.Jobs, BatchSize: e.BatchSize, Throttle: e.Throttle, Transfer: e.Transfer,
		MaintenanceWorkMem: e.MaintenanceWorkMem,
	}
}
