package steps

import (
	"context"
	"errors"
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
	"github.com/repack-go/repack/stages/alter"
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
	// Alteration is what the job changes; or nil.
	Alteration *alter.Alteration
	// Reprints is what is known of how the server prints definitions that it parses again.
	Reprints catalog.Reprints

	// Held makes sure, before a write, that the process still holds the job. If it is nil,
	// nothing checks this.
	Held func(ctx context.Context) error

	longest time.Duration // the longest time of the locks that this run has recorded
}

// clone returns a worker whose job, source and link can be replaced without w.
func (w *Worker) clone() *Worker {
	c := *w
	return &c
}

// Step tells the hook that a step of that name has been committed: see Hooks.AfterStep.
func (w *Worker) Step(ctx context.Context, name string) error {
	w.Log.Debug("step done", "job", w.Job.ID, "step", name)
	if w.Hooks.AfterStep == nil {
		return nil
	}
	return w.Hooks.AfterStep(ctx, name)
}

// Transact runs work in a fenced transaction. Waits for locks are bounded by the policy. If
// necessary, it runs work again.
func (w *Worker) Transact(ctx context.Context, work func(ctx context.Context, tx *lock.Tx) error) error {
	return w.TransactBy(ctx, w.Locks, work)
}

// TransactBy does what Transact does, with another policy.
func (w *Worker) TransactBy(ctx context.Context, policy lock.Policy, work func(ctx context.Context, tx *lock.Tx) error) error {
	if err := w.StillHeld(ctx); err != nil {
		return err
	}
	policy.Held = w.NoteLocked
	oids := w.Lockable()
	return w.WithConn(ctx, func(conn *pgxpool.Conn) error {
		return lock.Transact(ctx, conn, policy, w.Source.Name.String(), oids, func(ctx context.Context, tx *lock.Tx) error {
			if err := w.Registry.Fence(ctx, tx, w.Job.ID, w.Runner.Claim); err != nil {
				return err
			}
			return work(ctx, tx)
		})
	})
}

// errUndone rolls back what TryBy has done.
var errUndone = errors.New("it has been tried")

// TryBy runs work as TransactBy does, and rolls it back, whatever comes of it.
func (w *Worker) TryBy(ctx context.Context, policy lock.Policy, work func(ctx context.Context, tx *lock.Tx) error) error {
	err := w.TransactBy(ctx, policy, func(ctx context.Context, tx *lock.Tx) error {
		if err := work(ctx, tx); err != nil {
			return err
		}
		return errUndone
	})
	if errors.Is(err, errUndone) {
		return nil
	}
	return err
}

// Lockable returns the tables whose lock holders are worth naming.
func (w *Worker) Lockable() []uint32 {
	oids := []uint32{w.Source.OID}
	if w.Job != nil && w.Job.Shadow != nil {
		oids = append(oids, *w.Job.Shadow)
	}
	return oids
}

// OfRows returns the policy of transactions that read and write many rows.
func (w *Worker) OfRows(settings ...string) lock.Policy {
	policy := w.Locks
	policy.Settings = slices.Concat(policy.Settings, settings, []string{session.CustomPlansSQL})
	return policy
}

// Write runs work in a fenced transaction. work acquires no lock that conflicts with the
// application.
func (w *Worker) Write(ctx context.Context, work func(tx pgx.Tx) error) error {
	if err := w.StillHeld(ctx); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
		if err := w.Registry.Fence(ctx, tx, w.Job.ID, w.Runner.Claim); err != nil {
			return err
		}
		return work(tx)
	})
}

// StillHeld returns an error if the process has lost the job: see Held.
func (w *Worker) StillHeld(ctx context.Context) error {
	if w.Held == nil {
		return nil
	}
	return w.Held(ctx)
}

// WithConn runs work on a connection of the pool.
func (w *Worker) WithConn(ctx context.Context, work func(conn *pgxpool.Conn) error) error {
	conn, err := w.Pool.Acquire(ctx)
	if err != nil {
		return session.Failed(err)
	}
	defer conn.Release()
	return work(conn)
}

// JobRow is a copy of the job's row, for a transaction to change.
type JobRow struct {
	registry.Job
	queued bool // the transaction has written the row itself
}

// ChangeJob does what TransactBy does, and gives work the job's row. It writes the changes
// to the row before the commit. After the commit, they become the worker's. If work runs
// again, it gets a new copy.
func (w *Worker) ChangeJob(ctx context.Context, policy lock.Policy, work func(ctx context.Context, tx *lock.Tx, job *JobRow) error) error {
	var job *JobRow
	err := w.TransactBy(ctx, policy, func(ctx context.Context, tx *lock.Tx) error {
		job = w.row()
		if err := work(ctx, tx, job); err != nil {
			return err
		}
		return w.save(ctx, tx, job)
	})
	return w.keep(job, err)
}

// WriteJob does what Write does, and gives work the job's row, as ChangeJob does.
func (w *Worker) WriteJob(ctx context.Context, work func(tx pgx.Tx, job *JobRow) error) error {
	job := w.row()
	err := w.Write(ctx, func(tx pgx.Tx) error {
		if err := work(tx, job); err != nil {
			return err
		}
		return w.save(ctx, tx, job)
	})
	return w.keep(job, err)
}

// NoteJob changes the job's row with one statement.
func (w *Worker) NoteJob(ctx context.Context, change func(job *JobRow)) error {
	job := w.row()
	change(job)
	return w.keep(job, w.save(ctx, w.Pool, job))
}

func (w *Worker) row() *JobRow { return &JobRow{Job: *w.Job} }

// keep is the only place that replaces the worker's job by what a transaction has made of
// it. err is what came of the transaction.
func (w *Worker) keep(job *JobRow, err error) error {
	if err == nil {
		w.Job = &job.Job
	}
	return err
}

// save writes the row, unless it is unchanged or has been queued.
func (w *Worker) save(ctx context.Context, q catalog.Querier, job *JobRow) error {
	if job.queued || reflect.DeepEqual(job.Job, *w.Job) {
		return nil
	}
	return w.Registry.Update(ctx, q, &job.Job, w.Runner.Claim)
}

// QueueJob writes the row as a part of b. This saves a round trip.
func (w *Worker) QueueJob(b *pgx.Batch, job *JobRow) {
	job.queued = true
	w.Registry.QueueUpdate(b, &job.Job, w.Runner.Claim)
}

// EndStage records, by q, that the stage has ended.
func (w *Worker) EndStage(ctx context.Context, q catalog.Querier, stage registry.Stage) error {
	return w.Registry.EndStage(ctx, q, w.Job.ID, w.Runner.Claim, stage)
}

// NoteLocked logs how long a transaction of the job held strong locks, while other sessions
// may have waited behind it. It keeps the longest time in the registry.
func (w *Worker) NoteLocked(ctx context.Context, took time.Duration) {
	w.Log.Info("strong locks released", "job", w.Job.ID, "table", w.Source.Name.String(), "locked", took.Round(time.Millisecond))
	if took <= w.longest {
		return
	}
	w.longest = took
	noteCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), RecordingTime)
	defer cancel()
	if err := w.Registry.NoteLocked(noteCtx, w.Pool, w.Job.ID, w.Runner.Claim, took); err != nil {
		w.Log.Warn("time of locks not recorded", "job", w.Job.ID, "error", err)
	}
}

// RecordingTime bounds the time to record a failure.
const RecordingTime = 5 * time.Second
