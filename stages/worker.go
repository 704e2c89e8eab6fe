package stages

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
)

// Worker is a process at work on a job: what every stage and every mechanism shares.
// Its transactions are fenced: they commit only while the process still holds the job.
type Worker struct {
	Pool     *pgxpool.Pool // sessions configured by internal/session
	Registry *registry.Registry
	Runner   registry.Runner
	Locks    lock.Policy
	Log      *slog.Logger
	Hooks    Hooks

	Job    *registry.Job  // nil before setup
	Source *catalog.Table // the source as at setup

	// Held makes sure, before something is written, that the process still has
	// the job; nil: nothing does.
	Held func(ctx context.Context) error

	longest time.Duration // of the locks of this run that were noted
}

func (w *Worker) step(ctx context.Context, name string) error {
	w.Log.Debug("step done", "job", w.Job.ID, "step", name)
	if w.Hooks.AfterStep == nil {
		return nil
	}
	return w.Hooks.AfterStep(ctx, name)
}

// transact runs work in a fenced transaction that waits for no lock longer
// than the policy allows, again if need be.
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

// lockable are the tables whose lock holders are worth naming.
func (w *Worker) lockable() []uint32 {
	oids := []uint32{w.Source.OID}
	if w.Job != nil && w.Job.Shadow != nil {
		oids = append(oids, *w.Job.Shadow)
	}
	return oids
}

// ofRows is the policy of transactions that read and write many rows.
func (w *Worker) ofRows(settings ...string) lock.Policy {
	policy := w.Locks
	policy.Settings = slices.Concat(policy.Settings, settings, []string{session.CustomPlansSQL})
	return policy
}

// write runs work in a fenced transaction that takes no lock the application
// could want.
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

// update writes changed fields of the job. They are set on a copy,
// and kept only when the transaction commits.
func (w *Worker) update(ctx context.Context, q catalog.Querier, change func(j *registry.Job)) (*registry.Job, error) {
	job := *w.Job
	change(&job)
	return &job, w.Registry.Update(ctx, q, &job, w.Runner.Claim)
}

// queueUpdate is update as a part of b. The job is to be kept when b has been answered
// and the transaction has committed.
func (w *Worker) queueUpdate(b *pgx.Batch, change func(j *registry.Job)) *registry.Job {
	job := *w.Job
	change(&job)
	w.Registry.QueueUpdate(b, &job, w.Runner.Claim)
	return &job
}

func (w *Worker) endStage(ctx context.Context, q catalog.Querier, stage registry.Stage) error {
	return w.Registry.EndStage(ctx, q, w.Job.ID, w.Runner.Claim, stage)
}

// noteLocked logs for how long a transaction of the job held strong locks, others
// waiting behind it meanwhile, and keeps the longest time in the registry.
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
