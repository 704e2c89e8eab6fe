package repack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/migrations"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/control"
	"github.com/repack-go/repack/stages/events"
	"github.com/repack-go/repack/stages/oids"
	"github.com/repack-go/repack/stages/preflight"
	"github.com/repack-go/repack/stages/signals"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/stages/throttle"
	"github.com/repack-go/repack/strategy"
)

// Repack works on one table of one database. Its methods open their own connections and
// close them.
type Repack struct {
	config   *session.Target
	options  Options
	registry *registry.Registry
	// partitioned is the repack of the partitioned table that this table is a partition
	// of.
	partitioned *int64
	tenure      *tenure // of one call: see persist
	member      bool    // the table is one of a cascade that another call goes through
	runs        bool    // the options must not ask for other changes than those of the job
	resets      bool    // a job of another database is no error
}

// New checks the options and does not connect. It returns *UsageError.
func New(config *pgx.ConnConfig, options Options) (*Repack, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Repack{config: session.NewTarget(config, session.Pooler(options.Pooler)), options: options, registry: registry.New(options.RegistrySchema), tenure: newTenure()}, nil
}

// Run takes the table through its stages up to Options.Until, from the beginning or
// from where its job stands.
//
// After an error Run may be called again. *RefusedError and *DriftError require a
// change first. If ctx ends, the error is an *InterruptedError. The package comment
// lists the other errors.
//
// Locks on the table: see package stages. A run waits for no lock longer than
// Options.LockTimeout.
//
// If the table is partitioned, Run repacks its partitions one after the other, after it
// has made sure that none will be refused. Partitions that are done are not repacked
// again until all are done.
func (r *Repack) Run(ctx context.Context) error {
	again := *r
	again.runs = true
	return again.persist(ctx, func(ctx context.Context, r *Repack) error {
		return r.visiting(ctx, r.runAny, func(p *partitioned) error { return p.run(ctx) })
	})
}

// runAny repacks a table, or the tables of a cascade.
func (r *Repack) runAny(ctx context.Context, v *visit) error {
	if !r.options.Cascade {
		err := r.runVisited(ctx, v)
		if !errors.Is(err, errCascade) {
			return err
		}
		if v, err = r.visit(ctx); err != nil {
			return err
		}
		defer v.close(ctx)
	}
	c, err := r.cascadeOf(ctx, v, true)
	if err != nil {
		return err
	}
	return c.run(ctx)
}

// visiting runs table for a table, or over for the partitions of a partitioned table.
func (r *Repack) visiting(ctx context.Context, table func(context.Context, *visit) error, over func(*partitioned) error) error {
	v, err := r.visit(ctx)
	if err != nil {
		return err
	}
	defer v.close(ctx)
	if !v.partitioned {
		return table(ctx, v)
	}
	p, err := r.overPartitions(ctx, v)
	if err != nil {
		return err
	}
	return over(p)
}

func (r *Repack) runTable(ctx context.Context) error {
	v, err := r.visit(ctx)
	if err != nil {
		return err
	}
	return r.runVisited(ctx, v)
}

func (r *Repack) runVisited(ctx context.Context, v *visit) error {
	err := r.hold(ctx, v, r.describe, r.noting(func(ctx context.Context, e *stages.Env) error {
		if e.Job != nil && (e.Job.State == registry.Reverting || e.Job.State == registry.Resetting) {
			return fmt.Errorf("the job of %s is %s: go on with repack revert or repack reset", e.Source.Name, e.Job.State)
		}
		if e.Job != nil && e.Alter.Cascade && !r.member {
			return errCascade
		}
		if err := r.throttlersReady(ctx, e); err != nil {
			return err
		}
		if e.Job == nil {
			if err := r.mayBegin(ctx, e); err != nil {
				return err
			}
			if err := r.noneOfCascade(e); err != nil {
				return err
			}
			if r.partitioned != nil && e.Source.Partition == nil {
				return errNoPartition // it has been detached since it was listed
			}
			if err := stages.Run(ctx, e, registry.PreValidate); err != nil || r.options.Until == PreValidate {
				return err
			}
			// The registry is created only now, because a refusal must leave nothing
			// behind.
			if !r.tenure.registry {
				if err := r.migrateOn(ctx, e.Pool); err != nil {
					return err
				}
				r.tenure.registry = true
			}
		}
		return stages.Run(ctx, e, r.options.Until)
	}))
	return unbegun(ctx, err)
}

// Revert puts the old table back, with every write made since the swap, and ends the
// job.
//
// It returns ErrNoJob, ErrNotSwapped or ErrFinishing if it cannot revert, and
// *RevertDriftError if DDL since the swap would be lost. After any other error it may
// be called again. Its locks are those of the swap: ACCESS EXCLUSIVE on the table for
// milliseconds.
func (r *Repack) Revert(ctx context.Context) error { return r.undo(ctx, stages.Revert) }

// Reset removes everything that a job has created before the swap. It returns ErrNoJob,
// ErrSwapped or ErrFinishing if it cannot reset. After any other error it may be called
// again. It takes ACCESS EXCLUSIVE on the table, to drop our triggers.
//
// A dump that was taken during a job may have brought the job's objects into this
// database. Reset removes these, too, by name: even after the swap, and even if the
// dump did not contain the registry.
func (r *Repack) Reset(ctx context.Context) error {
	again := *r
	again.resets = true
	return again.undo(ctx, stages.Reset)
}

// undo ends the job, or the jobs of all partitions.
func (r *Repack) undo(ctx context.Context, inverse func(context.Context, *stages.Env) error) error {
	return r.persist(ctx, func(ctx context.Context, r *Repack) error {
		table := func(ctx context.Context, v *visit) error { return r.undoAny(ctx, v, inverse) }
		return r.visiting(ctx, table, func(p *partitioned) error { return p.undo(ctx, inverse) })
	})
}

// undoAny ends the job of a table, or the jobs of a cascade.
func (r *Repack) undoAny(ctx context.Context, v *visit, inverse func(context.Context, *stages.Env) error) error {
	c, err := r.cascadeOf(ctx, v, false)
	if err != nil {
		return err
	}
	if len(c.members) == 0 {
		return r.undoVisited(ctx, v, inverse)
	}
	key, err := r.job(ctx, v.conn, v.oid, v.name)
	if err != nil {
		return err
	}
	return c.undo(ctx, key)
}

func (r *Repack) undoTable(ctx context.Context, inverse func(context.Context, *stages.Env) error) error {
	v, err := r.visit(ctx)
	if err != nil {
		return err
	}
	return r.undoVisited(ctx, v, inverse)
}

func (r *Repack) undoVisited(ctx context.Context, v *visit, inverse func(context.Context, *stages.Env) error) error {
	without := r.noJobHere
	if r.resets {
		without, inverse = r.removeOrphans, resetAny(inverse)
	}
	return unbegun(ctx, r.hold(ctx, v, without, r.noting(inverse)))
}

// releasing limits the time that is spent on releasing the job after a run was
// cancelled.
const releasing = 5 * time.Second

// hold makes this process the only one that works on the table, and runs work. If the
// table has no job, hold first calls without, which may return an error instead. hold
// ends the connection of v.
func (r *Repack) hold(ctx context.Context, v *visit, without func(context.Context, *stages.Env, uint32, catalog.Name) error,
	work func(context.Context, *stages.Env) error,
) error {
	conn := v.conn
	h := &holding{Repack: r, conn: conn, env: &stages.Env{Request: steps.Request{Worker: &steps.Worker{}}}, unwatch: func() {}, turn: make(chan struct{}, 1)}
	defer func() { h.close(ctx) }()
	if err := r.mayCall(ctx, conn, catalog.Name{Name: r.options.Table}); err != nil {
		return err
	}
	sized := *r
	var err error
	if sized.options.Jobs, err = r.fit(ctx, conn, catalog.Name{Name: r.options.Table}); err != nil {
		return err
	}
	job, err := r.find(ctx, v)
	if err != nil {
		return err
	}
	oid, name := v.oid, v.name
	if over, err := r.resume(ctx, conn, job); over || err != nil {
		return err
	}
	e, closePool, err := sized.env(ctx)
	if err != nil {
		return err
	}
	defer closePool()
	if job == nil {
		if err := without(ctx, e, oid, name); err != nil {
			return e.WithHolders(ctx, oid, name, preflight.Readable(name, err))
		}
	} else if err := r.claim(ctx, conn, e, job); err != nil {
		return err
	}
	r.tenure.claims[e.Runner.Claim] = true
	h.env, h.key, h.name, e.Held = e, oid, name, h.check
	if e.Job != nil {
		h.key = e.Job.Source
	}
	defer func() {
		if e.Job != nil {
			r.tenure.jobs[r.options.Table] = e.Job.ID
		}
	}()
	h.watch(context.WithoutCancel(ctx))
	err = work(ctx, e)
	if e.Job != nil {
		e.Events.End(ctx, e.Job.ID)
	} else {
		err = preflight.Readable(name, err)
	}
	return e.WithHolders(ctx, oid, name, err)
}

// find acquires the lock of the table. If a job of another process has ended during the
// wait, the name may mean another table now; then find looks it up again.
func (r *Repack) find(ctx context.Context, v *visit) (job *registry.Job, err error) {
	for {
		if job, err = r.lock(ctx, v.conn, v.oid, v.name); err != nil || job != nil {
			return job, err
		}
		was := v.oid
		another, err := v.again(ctx)
		if err != nil || !another {
			return nil, err
		}
		if err := registry.Unlock(ctx, v.conn, was); err != nil {
			return nil, err
		}
	}
}

// lock acquires the advisory lock of the table's job, or of the table if it has no job.
// It returns the job as it is under the lock.
func (r *Repack) lock(ctx context.Context, conn *pgx.Conn, oid uint32, name catalog.Name) (*registry.Job, error) {
	for {
		seen, err := r.job(ctx, conn, oid, name)
		if err != nil {
			return nil, err
		}
		key := oid
		if seen != nil {
			key = seen.Source
		}
		if err := registry.TryLock(ctx, conn, key, name.String()); err != nil {
			return nil, err
		}
		job, err := r.job(ctx, conn, oid, name)
		if err != nil {
			return nil, err
		}
		if job == nil && seen == nil || job != nil && job.Source == key {
			return job, nil
		}
		// Another process began or ended a job between the look-up and the lock.
		if err := registry.Unlock(ctx, conn, key); err != nil {
			return nil, err
		}
	}
}

// job returns the unfinished job, or nil. It does not create the registry, but upgrades
// an older one.
func (r *Repack) job(ctx context.Context, conn *pgx.Conn, oid uint32, name catalog.Name) (*registry.Job, error) {
	if ready, err := r.registryReady(ctx, conn, name); err != nil || !ready {
		return nil, err
	}
	job, member, err := r.registry.Find(ctx, conn, oid, name)
	r.tenure.cascade = member
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil
	}
	return job, err
}

// registryReady makes sure, once, that the registry has this version and that the role
// may use it. ready is false if there is no registry.
func (r *Repack) registryReady(ctx context.Context, conn *pgx.Conn, name catalog.Name) (ready bool, err error) {
	if r.tenure.registry {
		return true, nil
	}
	exists, missing, err := r.registry.Ready(ctx, conn, r.options.ShadowSchema != "")
	if err != nil || !exists {
		return false, err
	}
	if len(missing) > 0 {
		return false, &checks.RefusedError{Table: name, Reasons: checks.MissingPrivileges(missing)}
	}
	current, err := migrations.Current(ctx, conn, r.options.RegistrySchema)
	if err == nil && !current {
		err = r.migrate(ctx)
	}
	r.tenure.registry = err == nil
	return err == nil, err
}

// migrate upgrades the registry on a connection of its own.
func (r *Repack) migrate(ctx context.Context) error {
	conn, err := session.Connect(ctx, r.config)
	if err != nil {
		return err
	}
	defer session.Close(ctx, conn)
	return r.upgrade(ctx, conn)
}

// migrateOn is migrate on a connection of the pool.
func (r *Repack) migrateOn(ctx context.Context, pool *pgxpool.Pool) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return session.Failed(err)
	}
	defer conn.Release()
	err = r.upgrade(ctx, conn.Conn())
	if err != nil {
		session.Close(ctx, conn.Conn()) // it may hold a lock: see migrations.Try
	}
	return err
}

// upgrade creates or upgrades the registry. If there is no registry, it first tries
// whether one can be created, so that a refusal leaves nothing behind. After an error
// the caller must close conn.
func (r *Repack) upgrade(ctx context.Context, conn *pgx.Conn) error {
	exists, err := r.registry.Exists(ctx, conn)
	if err != nil {
		return err
	}
	if !exists {
		if failed := migrations.Try(ctx, conn, r.options.RegistrySchema); failed != nil {
			session.Close(ctx, conn) // the role may have few connections
			return r.noRegistry(ctx, failed)
		}
	}
	return migrations.Apply(ctx, conn, r.options.RegistrySchema)
}

// noRegistry returns the reason why there can be no registry. If another process has
// created one in the meantime, it upgrades that one.
func (r *Repack) noRegistry(ctx context.Context, failed error) error {
	v, err := r.visit(ctx)
	if err != nil {
		return errors.Join(failed, err)
	}
	defer v.close(ctx)
	if exists, err := r.registry.Exists(ctx, v.conn); err != nil {
		return err
	} else if exists {
		return migrations.Apply(ctx, v.conn, r.options.RegistrySchema)
	}
	return preflight.RefusalOf(ctx, v.conn, v.name, "the registry", failed)
}

// spareConns are connections for other work besides that of the workers, which have two
// each.
const spareConns = 2

func poolSize(jobs int) int { return 2*jobs + spareConns }

func (r *Repack) env(ctx context.Context) (*stages.Env, func(), error) {
	pool, err := session.Pool(ctx, r.config, poolSize(r.options.Jobs))
	if err != nil {
		return nil, nil, err
	}
	chosen, err := strategy.New(r.options.Strategy)
	if err == nil {
		err = r.tryMemory(ctx, pool)
	}
	var update []registry.OIDColumn
	if err == nil {
		update, err = r.updateOID(ctx, pool)
	}
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	o := r.options
	worker := &steps.Worker{
		Pool: pool, Registry: r.registry, Runner: registry.NewRunner(), Log: o.Logger, Hooks: o.Hooks,
		SnapshotWait: o.MaxSnapshotWait,
		Locks:        lock.Policy{Timeout: o.LockTimeout, Retries: o.LockRetries, KillAfter: o.KillBlockers, Pool: pool, Log: o.Logger},
	}
	slots := throttle.New(pool, o.Jobs, o.yield)
	told := &control.Control{Worker: worker, Throttle: slots, WaitForSwap: o.WaitForSwap}
	around := signals.New(r.config, o.Limits)
	log := &stages.LogLimit{Reset: o.OnChangeLogFull == ChangeLogReset}
	obey := func(o Options, around *signals.Set) {
		log.Set(o.MaxChangeLog)
		slots.AtMost(o.Jobs)
		slots.RestFor(o.Nice)
		slots.GiveUpAfter(o.GiveUpAfter)
		slots.Obey(o.Logger, slices.Concat(o.throttlers(), []throttle.Throttler{told}, around.Throttlers())...)
	}
	obey(o, around)
	told.Apply = func(set map[string]registry.Setting) {
		changed, unread := o.with(set)
		for _, err := range unread {
			o.Logger.Warn("option not changed", "error", err)
		}
		o.Logger.Info("options changed", "options", set)
		around.Close(context.WithoutCancel(ctx))
		around = signals.New(r.config, changed.Limits)
		obey(changed, around)
	}
	closeAll := func() {
		around.Close(context.WithoutCancel(ctx))
		pool.Close()
	}
	return &stages.Env{
		Request: steps.Request{
			Worker:   worker,
			Strategy: chosen, ShadowSchema: o.ShadowSchema, KeepOld: o.KeepOld, RebuildMatviews: o.RebuildMatviews, OrderBy: o.OrderBy,
			UpdateOID: update, IgnoreOID: o.IgnoreOID, PublishedOK: o.PublishedOK, Alter: o.alteration(), Partitioned: r.partitioned, Member: r.member,
		},
		Jobs: o.Jobs, Throttle: slots, Control: told, Hours: o.hours, BatchSize: o.BatchSize, Transfer: o.Transfer,
		Verify: o.Verify, MaintenanceWorkMem: o.MaintenanceWorkMem, ForeignKeys: o.ForeignKeys,
		Signals: around, LogLimit: log, Events: r.teller(pool),
	}, closeAll, nil
}

// teller returns what passes on events, or nil if nobody wants them.
func (r *Repack) teller(q catalog.Querier) *events.Teller {
	if r.options.OnEvent == nil {
		return nil
	}
	return events.New(r.registry, q, r.options.Logger, r.options.OnEvent)
}

const tryMemorySQL = `SELECT set_config('maintenance_work_mem', $1, true)`

// tryMemory makes sure that the server accepts the option, long before it is used.
func (r *Repack) tryMemory(ctx context.Context, pool *pgxpool.Pool) error {
	if r.options.MaintenanceWorkMem == "" {
		return nil
	}
	_, err := pool.Exec(ctx, tryMemorySQL, r.options.MaintenanceWorkMem)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InvalidParameterValue {
		return &UsageError{fmt.Errorf("maintenance work mem %q is not a size that the server takes, such as 512MB: %w", r.options.MaintenanceWorkMem, err)}
	}
	if err != nil {
		return fmt.Errorf("try maintenance work mem %q: %w", r.options.MaintenanceWorkMem, err)
	}
	return nil
}

// updateOID looks up the columns of Options.UpdateOID.
func (r *Repack) updateOID(ctx context.Context, pool *pgxpool.Pool) ([]registry.OIDColumn, error) {
	columns, err := oids.ReadColumns(ctx, pool, r.options.UpdateOID)
	var none *oids.ColumnError
	if errors.As(err, &none) {
		return nil, &UsageError{err}
	}
	return columns, err
}

// describe reads a table that has no job yet.
func (r *Repack) describe(ctx context.Context, e *stages.Env, oid uint32, name catalog.Name) (err error) {
	if oid == 0 {
		near, err := catalog.Near(ctx, e.Pool, name)
		if err != nil {
			return err
		}
		return &checks.RefusedError{Table: name, Reasons: []checks.Reason{{Why: "there is no such table", Remedy: notFound(near)}}}
	}
	if e.Source, err = catalog.Read(ctx, e.Pool, oid); err != nil || e.OrderBy == "" {
		return err
	}
	_, err = catalog.ReadOrder(ctx, e.Pool, e.Source, e.OrderBy)
	var noOrder *catalog.OrderError
	if errors.As(err, &noOrder) {
		return &UsageError{err}
	}
	return err
}

// claim takes over a job whose process is gone. For a run that asks for other changes
// than those of the job, it returns *UsageError and changes nothing.
func (r *Repack) claim(ctx context.Context, conn *pgx.Conn, e *stages.Env, job *registry.Job) error {
	if err := r.keepAlteration(e, job); err != nil {
		return err
	}
	if err := r.registry.Claim(ctx, conn, job, e.Runner); err != nil {
		return err
	}
	job, err := r.registry.Get(ctx, conn, job.ID)
	if err != nil {
		return err
	}
	if job.Strategy != r.options.Strategy {
		r.options.Logger.Debug("job keeps the strategy it was begun with", "job", job.ID, "strategy", job.Strategy)
	}
	if asked := r.options.OrderBy; asked != "" && asked != job.Options.OrderBy {
		r.options.Logger.Warn("job keeps the order it was begun with", "job", job.ID, "order_by", job.Options.OrderBy)
	}
	err = e.Open(ctx, job)
	var restored *RestoredError
	if r.resets && errors.As(err, &restored) {
		e.Restored = true
		return nil
	}
	return err
}
