package repack

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/migrations"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
	"github.com/repack-go/repack/stages/neighbours"
	"github.com/repack-go/repack/stages/preflight"
	"github.com/repack-go/repack/stages/signals"
	"github.com/repack-go/repack/stages/snapshots"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/stages/throttle"
)

// Plan and its parts. Their JSON field names are stable: see docs/plan.md.
type (
	// Plan is what Run would do with the table.
	Plan = stages.Plan
	// PlannedProperty is a kind of property that is carried over, with its objects.
	PlannedProperty = stages.Carried
	// PlannedStep is a part of a stage, mostly one transaction.
	PlannedStep = steps.Step
	// PlannedWait is a transaction that the run would have to wait for.
	PlannedWait = stages.Session
	// PlannedStandby is a standby on which the lock of the swap is replayed.
	PlannedStandby = snapshots.Standby
	// PlannedServerRepack says whether the server's own REPACK (CONCURRENTLY) would do.
	PlannedServerRepack = stages.ServerRepack
	// PlannedKeys says how foreign keys with other tables would be moved.
	PlannedKeys = neighbours.PlannedKeys
	// PlannedSignal is what now is of that by which work can be stopped.
	PlannedSignal = signals.Reading
	// PlannedLock is a lock that a step acquires.
	PlannedLock = steps.Lock
)

// Plan describes what Run would do with the table up to Options.Until, from where its
// job stands: the locks and statements of each stage, what is carried over, and what is
// needed.
//
// If Run would refuse the table, Plan returns *RefusedError and a plan that contains
// only the reasons. If Run would stop because the table has changed, it returns
// *DriftError. A partitioned table has no plan: *UsageError names its partitions, which
// have one each.
//
// Plan takes ACCESS SHARE on the table, in read-only sessions. It creates and changes
// nothing, does not wait for other processes, and may be called at any time.
func (r *Repack) Plan(ctx context.Context) (*Plan, error) {
	planning := *r
	planning.runs = true
	plan, err := planning.plan(ctx)
	if err == nil {
		plan.Signals = r.readings(ctx)
	}
	return plan, r.unable(ctx, err)
}

// readings says what is now of that by which work can be stopped, so that limits can be chosen.
// What has a limit already, such as a query, is read with it.
func (r *Repack) readings(ctx context.Context) []signals.Reading {
	l := r.options.Limits
	set(&l.MaxReplicaLag, 1)
	set(&l.MaxSlotRetained, 1)
	set(&l.MaxWALRate, 1)
	set(&l.MaxActive, 1)
	set(&l.MinFreeDisk, 1)
	set(&l.DiskLimit, 1)
	around := signals.New(r.config, l)
	defer around.Close(context.WithoutCancel(ctx))
	return around.Readings(ctx)
}

func (r *Repack) plan(ctx context.Context) (*Plan, error) {
	v, err := r.visit(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close(ctx)
	if v.partitioned {
		p, err := r.overPartitions(ctx, v)
		if err != nil {
			return nil, err
		}
		return nil, p.plan()
	}
	oid, name := v.oid, v.name
	e, closePool, err := r.readOnlyEnv(ctx)
	if err != nil {
		return nil, err
	}
	defer closePool()
	job, err := r.look(ctx, v)
	if err != nil {
		return nil, err
	}
	if job == nil {
		if err := r.describe(ctx, e, oid, name); err != nil {
			return nil, preflight.Readable(name, err)
		}
		plan, err := stages.NewPlan(ctx, e, r.options.Until, false)
		if err == nil && r.options.Cascade {
			err = r.planCascade(ctx, v, plan)
		}
		return plan, preflight.Readable(name, err)
	}
	if job.State == registry.Reverting || job.State == registry.Resetting {
		return nil, fmt.Errorf("the job of %s is %s: go on with repack revert or repack reset", name, job.State)
	}
	// Open would record options that are given only now, so they are set after it.
	keep, rebuild := e.KeepOld, e.RebuildMatviews
	e.KeepOld, e.RebuildMatviews = false, false
	update, ignore, published := e.UpdateOID, e.IgnoreOID, e.PublishedOK
	e.UpdateOID, e.IgnoreOID, e.PublishedOK = nil, false, false
	if err := r.keepAlteration(e, job); err != nil {
		return nil, err
	}
	if err := e.Open(ctx, job); err != nil {
		return nil, err
	}
	job.Options.KeepOld = job.Options.KeepOld || keep
	job.Options.RebuildMatviews = job.Options.RebuildMatviews || rebuild
	job.Options.PublishedOK = job.Options.PublishedOK || published
	job.Options = job.Options.WithOIDs(update, ignore)
	running, err := registry.Held(ctx, e.Pool, job.Source)
	if err != nil {
		return nil, err
	}
	return stages.NewPlan(ctx, e, r.options.Until, running)
}

// readOnlyEnv is env with a pool whose sessions cannot write.
func (r *Repack) readOnlyEnv(ctx context.Context) (*stages.Env, func(), error) {
	e, closePool, err := r.env(ctx)
	if err != nil {
		return nil, nil, err
	}
	config := e.Pool.Config()
	closePool()
	configure := config.AfterConnect
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if err := configure(ctx, conn); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "SET default_transaction_read_only = on")
		return err
	}
	if e.Pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, nil, fmt.Errorf("open connection pool: %w", err)
	}
	e.Locks.Pool = e.Pool
	e.Signals = signals.New(r.config, r.options.Limits)
	e.Throttle = throttle.New(e.Pool, e.Jobs, r.options.yield)
	return e, func() { e.Signals.Close(context.WithoutCancel(ctx)); e.Pool.Close() }, nil
}

// look is find without the upgrade of the registry.
func (r *Repack) look(ctx context.Context, v *visit) (*registry.Job, error) {
	if err := r.mayCall(ctx, v.conn, v.name); err != nil {
		return nil, err
	}
	exists, err := r.registry.Exists(ctx, v.conn)
	if err != nil || !exists {
		return nil, err
	}
	if _, err := migrations.Current(ctx, v.conn, r.options.RegistrySchema); err != nil {
		return nil, err
	}
	job, _, err := r.registry.Find(ctx, v.conn, v.oid, v.name)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil
	}
	return job, err
}
