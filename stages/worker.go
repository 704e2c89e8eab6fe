package stages

import (
	"context"
	"log/slog"
	"reflect"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/strategy"
)

// Worker is a process that works on a job: what every stage and every mechanism shares. Its
// transactions are fenced: they commit only while the process still holds the job.
type Worker struct {
	Pool     *pgxpool.Pool // sessions configured by internal/session
	Registry *registry.Registry
	Runner   registry.Runner
	Locks    lock.Policy
	Log      *slog.Logger
	Hooks    Hooks
	// SnapshotWait limits the wait for older snapshots.
	SnapshotWait time.Duration

	Job    *registry.Job  // nil before setup
	Source *catalog.Table // the source as at setup
	Link   *strategy.Link // from which table to which the changes go; nil before setup
	// Reprints is what is known of how the server prints definitions that it parses again.
	Reprints catalog.Reprints

	// Held makes sure, before a write, that the process still holds the job. If it is nil,
	// nothing checks this.
	Held func(ctx context.Context) error

	longest time.Duration // the longest time of the locks that this run has recorded
}

// Clone returns a worker whose job, source and link can be replaced without w.
func (w *Worker) Clone() *Worker {
	c := *w
	return &c
}

func (w *Worker) step(ctx context.Context, name string) error {
	w.Log.Debug("step done", "job", w.Job.ID, "step", name)
	if w.Hooks.AfterStep == nil {
		return nil
	}
	return w.Hooks.AfterStep(ctx, name)
}

// transact runs work in a fenced transaction. Waits for locks are bounded by the policy. If
// necessary, it runs work again.
func (w *Worker) transact(ctx context.Context, work func(ctx context.Context, tx *lock.Tx) error) error {
	return w.transactBy(ctx, w.Locks, work)
}

func (w *Worker) transactBy(ctx context.Context, policy lock.Policy, work func(ctx context.Context, tx *lock.Tx) error) error {
	if err := w.held(ctx); err != nil {
		return err
	}
	policy.Held = w.noteLocked
	oids := w.lockable()
	return w.withConn(ctx, func(conn *pgxpool.Conn) error {
		return lock.Transact(ctx, conn, policy, w.Source.Name.String(), oids, func(ctx context.Context, tx *lock.Tx) error {
			if err := w.Registry.Fence(ctx, tx, w.Job.ID, w.Runner.Claim); err != nil {
				return err
			}
			return work(ctx, tx)
		})
	})
}

// lockable returns the tables whose lock holders are worth naming.
func (w *Worker) lockable() []uint32 {
	oids := []uint32{w.Source.OID}
	if w.Job != nil && w.Job.Shadow != nil {
		oids = append(oids, *w.Job.Shadow)
	}
	return oids
}

// ofRows returns the policy of transactions that read and write many rows.
func (w *Worker) ofRows(settings ...string) lock.Policy {
	policy := w.Locks
	policy.Settings = slices.Concat(policy.Settings, settings, []string{session.CustomPlansSQL})
	return policy
}

// write runs work in a fenced transaction. work acquires no lock that conflicts with the
// application.
func (w *Worker) write(ctx context.Context, work func(tx pgx.Tx) error) error {
	if err := w.held(ctx); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		if err := w.Registry.Fence(ctx, tx, w.Job.ID, w.Runner.Claim); err != nil {
			return err
		}
		return work(tx)
	})
}

func (w *Worker) held(ctx context.Context) error {
	if w.Held == nil {
		return nil
	}
	return w.Held(ctx)
}

func (w *Worker) withConn(ctx context.Context, work func(conn *pgxpool.Conn) error) error {
	conn, err := w.Pool.Acquire(ctx)
	if err != nil {
		return session.Failed(err)
	}
	defer conn.Release()
	return work(conn)
}

// jobRow is a copy of the job's row, for a transaction to change.
type jobRow struct {
	registry.Job
	queued bool // the transaction has written the row itself
}

// changeJob does what transactBy does, and gives work the job's row. It writes the changes
// to the row before the commit. After the commit, they become the worker's. If work runs
// again, it gets a new copy.
func (w *Worker) changeJob(ctx context.Context, policy lock.Policy, work func(ctx context.Context, tx *lock.Tx, job *jobRow) error) error {
	var job *jobRow
	err := w.transactBy(ctx, policy, func(ctx context.Context, tx *lock.Tx) error {
		job = w.row()
		if err := work(ctx, tx, job); err != nil {
			return err
		}
		return w.save(ctx, tx, job)
	})
	return w.keep(job, err)
}

// writeJob does what write does, and gives work the job's row, as changeJob does.
func (w *Worker) writeJob(ctx context.Context, work func(tx pgx.Tx, job *jobRow) error) error {
	job := w.row()
	err := w.write(ctx, func(tx pgx.Tx) error {
		if err := work(tx, job); err != nil {
			return err
		}
		return w.save(ctx, tx, job)
	})
	return w.keep(job, err)
}

// noteJob changes the job's row with one statement.
func (w *Worker) noteJob(ctx context.Context, change func(job *jobRow)) error {
	job := w.row()
	change(job)
	return w.keep(job, w.save(ctx, w.Pool, job))
}

func (w *Worker) row() *jobRow { return &jobRow{Job: *w.Job} }

// keep is the only place that replaces the worker's job by what a transaction has made of
// it. err is what came of the transaction.
func (w *Worker) keep(job *jobRow, err error) error {
	if err == nil {
		w.Job = &job.Job
	}
	return err
}

// save writes the row, unless it is unchanged or has been queued.
func (w *Worker) save(ctx context.Context, q catalog.Querier, job *jobRow) error {
	if job.queued || reflect.DeepEqual(job.Job, *w.Job) {
		return nil
	}
	return w.Registry.Update(ctx, q, &job.Job, w.Runner.Claim)
}

// queueJob writes the row as a part of b. This saves a round trip.
func (w *Worker) queueJob(b *pgx.Batch, job *jobRow) {
	job.queued = true
	w.Registry.QueueUpdate(b, &job.Job, w.Runner.Claim)
}

func (w *Worker) endStage(ctx context.Context, q catalog.Querier, stage registry.Stage) error {
	return w.Registry.EndStage(ctx, q, w.Job.ID, w.Runner.Claim, stage)
}

// noteLocked logs how long a transaction of the job held strong locks, while other sessions
// may have waited behind it. It keeps the longest time in the registry.
func (w *Worker) noteLocked(ctx context.Context, took time.Duration) {
	w.Log.Info("strong locks released", "job", w.Job.ID, "table", w.Source.Name.String(), "locked", took.Round(time.Millisecond))
	if took <= w.longest {
		return
	}
	w.longest = took
	noteCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recording)
	defer cancel()
	if err := w.Registry.NoteLocked(noteCtx, w.Pool, w.Job.ID, w.Runner.Claim, took); err != nil {
		w.Log.Warn("time of locks not recorded", "job", w.Job.ID, "error", err)
	}
}
