package repack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
)

// A connection may be lost at any moment, and the server restarted. What was
// committed is in the registry: so the way on is to connect again, to take the
// advisory lock again, to make sure that no other process has taken the job
// meanwhile, and to begin where the registry says.

// tenure is what this process remembers of its jobs while it is not connected.
type tenure struct {
	connected bool             // at least once: a first failure is told at once
	claims    map[string]bool  // ours
	jobs      map[string]int64 // by table, those that were held
	lost      int              // how often the connection was
	registry  bool             // is there, up to date, and may be used
}

func newTenure() *tenure { return &tenure{claims: map[string]bool{}, jobs: map[string]int64{}} }

// maxLosses ends a run that itself may be why the server crashes.
const maxLosses = 20

// persist runs work, again when the connection was lost, until it has had no
// connection for Options.RetryFor.
func (r *Repack) persist(ctx context.Context, work func(ctx context.Context, r *Repack) error) error {
	again := *r
	again.tenure = newTenure()
	for {
		err := again.unable(ctx, work(ctx, &again))
		if ctx.Err() != nil || r.options.RetryFor < 0 || !again.tenure.connected || !session.Lost(err) {
			return err
		}
		if again.tenure.lost++; again.tenure.lost > maxLosses {
			return fmt.Errorf("the connection was lost %d times: %w", again.tenure.lost, err)
		}
		if err := again.reconnect(ctx, err); err != nil {
			return err
		}
	}
}

// reconnect waits until the server lets us in; cause is what the last try said.
func (r *Repack) reconnect(ctx context.Context, cause error) error {
	return r.retrying(ctx, cause, func() error {
		conn, err := session.Connect(ctx, r.config)
		if err == nil {
			session.Close(ctx, conn)
		}
		return err
	})
}

// retrying calls try, with growing pauses, until it does not fail for want of a
// connection, or because the server has not noticed yet that we had one.
func (r *Repack) retrying(ctx context.Context, cause error, try func() error) error {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 100*time.Millisecond, 10*time.Second
	for deadline := time.Now().Add(r.options.RetryFor); ; {
		pause := min(pauses.NextBackOff(), max(time.Until(deadline), time.Millisecond))
		r.options.Logger.Warn("connection lost", "error", cause, "retry_in", pause.Round(time.Millisecond))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		err := try()
		if err == nil || !session.Lost(err) && !byUs(err) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no connection for %s: %w", r.options.RetryFor, err)
		}
		cause = err
	}
}

// byUs reports whether it is a session of this process that has the lock.
func byUs(err error) bool {
	var busy *BusyError
	host, _ := os.Hostname() // without a name it is another's
	return errors.As(err, &busy) && busy.PID == int32(os.Getpid()) && host != "" && busy.Host == host
}

// holding is the connection that has the advisory lock of a job.
type holding struct {
	*Repack
	conn *pgx.Conn
	key  uint32
	name catalog.Name
	env  *stages.Env

	lost    atomic.Pointer[error] // why conn has ended, by the watch
	unwatch func()                // ends the watch of conn, which then may be used
	turn    chan struct{}         // of those who find it lost
}

// watch notices that the connection has ended: nothing else arrives on it.
func (h *holding) watch(ctx context.Context) {
	watchCtx, cancel := context.WithCancel(ctx)
	conn, done := h.conn, make(chan struct{})
	h.unwatch = func() { cancel(); <-done }
	go func() {
		defer close(done)
		for watchCtx.Err() == nil {
			err := conn.PgConn().WaitForNotification(watchCtx)
			if err != nil && watchCtx.Err() == nil {
				h.lost.Store(&err)
				return
			}
		}
	}()
}

// check makes sure, before anything is written, that this process has the lock.
// Where the connection was lost it takes the lock again; it returns
// registry.ErrStageMoved when the job has been another's since.
func (h *holding) check(ctx context.Context) error {
	if h.lost.Load() == nil {
		return nil
	}
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	cause := h.lost.Load()
	if cause == nil { // another worker has been here
		return nil
	}
	if h.options.RetryFor < 0 {
		return fmt.Errorf("the connection that held the lock of %s was lost: %w", h.name, *cause)
	}
	return h.retrying(ctx, *cause, func() error { return h.regain(ctx) })
}

// regain takes the lock on a new connection.
func (h *holding) regain(ctx context.Context) error {
	conn, err := session.Connect(ctx, h.config)
	if err != nil {
		return err
	}
	err = h.still(ctx, conn)
	if err == nil {
		err = registry.TryLock(ctx, conn, h.key, h.name.String())
	}
	if err == nil {
		err = h.still(ctx, conn)
	}
	if err != nil {
		session.Close(ctx, conn)
		return err
	}
	h.unwatch()
	h.conn = conn
	h.lost.Store(nil)
	// The workers' contexts end before the lock may.
	h.watch(context.WithoutCancel(ctx))
	h.options.Logger.Info("connected again", "table", h.name.String())
	return nil
}

// still makes sure that the job is ours.
func (h *holding) still(ctx context.Context, conn *pgx.Conn) error {
	if h.env.Job == nil {
		return nil
	}
	claim, err := h.registry.ClaimOf(ctx, conn, h.env.Job.ID)
	if err == nil && claim != h.env.Runner.Claim {
		err = fmt.Errorf("hold job %d: %w", h.env.Job.ID, registry.ErrStageMoved)
	}
	return err
}

// close gives the job back and ends the connection. What was done stays done
// when that fails: the lock ends with the session, and the next process claims
// the job for itself.
func (h *holding) close(ctx context.Context) {
	h.unwatch()
	defer session.Close(ctx, h.conn)
	if h.env.Job == nil || h.lost.Load() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releasing)
	defer cancel()
	if err := h.registry.Release(ctx, h.conn, h.env.Job.ID, h.env.Runner.Claim); err != nil {
		h.options.Logger.Warn("job not released", "job", h.env.Job.ID, "error", err)
	}
}

// resume makes sure, under the lock and after a connection was lost, that job is
// as this process has left it. over reports that it had come to its end: a COMMIT
// whose answer was lost may have been the last.
func (r *Repack) resume(ctx context.Context, conn *pgx.Conn, job *registry.Job) (over bool, err error) {
	id, held := r.tenure.jobs[r.options.Table]
	if !held || r.tenure.lost == 0 {
		return false, nil
	}
	if job != nil && job.ID != id {
		return false, fmt.Errorf("hold job %d: %w", id, registry.ErrStageMoved)
	}
	claim, err := r.registry.ClaimOf(ctx, conn, id)
	if err != nil {
		return false, err
	}
	if !r.tenure.claims[claim] {
		return false, fmt.Errorf("hold job %d: %w", id, registry.ErrStageMoved)
	}
	return job == nil, nil
}
