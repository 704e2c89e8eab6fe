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

// A connection may be lost at any moment, and the server may be restarted. What was
// committed is in the registry. So a run connects again, acquires the advisory lock
// again, makes sure that no other process has taken the job, and continues where the
// registry says.

// tenure is what this process knows about its jobs while it is not connected.
type tenure struct {
	connected bool             // at least once; a first failure is reported at once
	claims    map[string]bool  // claims of this process
	jobs      map[string]int64 // by table: jobs that this process held
	lost      int              // how often the connection was lost
	cascade   *registry.Job    // a job of the cascade of the table that was looked up, or nil
	registry  bool             // exists, is up to date, and may be used
}

func newTenure() *tenure { return &tenure{claims: map[string]bool{}, jobs: map[string]int64{}} }

// maxLosses is the number of lost connections after which a run ends. The run itself
// may be the reason why the server crashes.
const maxLosses = 20

// persist runs work, and runs it again each time that the connection was lost. It gives
// up when it has had no connection for Options.RetryFor.
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

// reconnect waits until the server accepts a connection. cause is the error of the last
// try.
func (r *Repack) reconnect(ctx context.Context, cause error) error {
	return r.retrying(ctx, cause, func() error {
		conn, err := session.Connect(ctx, r.config)
		if err == nil {
			session.Close(ctx, conn)
		}
		return err
	})
}

// retrying calls try, with growing pauses, while it fails for one of two reasons: there
// is no connection, or the server has not noticed yet that our old session is gone.
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

// byUs reports whether a session of this process holds the lock.
func byUs(err error) bool {
	var busy *BusyError
	host, _ := os.Hostname() // without a name it counts as another host
	return errors.As(err, &busy) && busy.PID == int32(os.Getpid()) && host != "" && busy.Host == host
}

// holding is the connection that holds the advisory lock of a job.
type holding struct {
	*Repack
	conn *pgx.Conn
	key  uint32
	name catalog.Name
	env  *stages.Env

	lost    atomic.Pointer[error] // set by the watch: why conn has ended
	unwatch func()                // ends the watch of conn, so that conn can be used
	turn    chan struct{}         // one worker at a time reconnects
}

// watch notices when the connection ends. Nothing else arrives on it.
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

// check makes sure, before each write, that this process still holds the lock. If the
// connection was lost, it acquires the lock again. It returns registry.ErrStageMoved if
// another process has had the job since.
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
	if cause == nil { // another worker has reconnected
		return nil
	}
	if h.options.RetryFor < 0 {
		return fmt.Errorf("the connection that held the lock of %s was lost: %w", h.name, *cause)
	}
	return h.retrying(ctx, *cause, func() error { return h.regain(ctx) })
}

// regain acquires the lock on a new connection.
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
	// The lock must outlive the workers, so the watch does not end with their context:
	// pgx would then close the connection.
	h.watch(context.WithoutCancel(ctx))
	h.options.Logger.Info("connected again", "table", h.name.String())
	return nil
}

// still makes sure that the job's claim is ours.
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

// close releases the job and ends the connection. If the release fails, committed work
// stays: the lock ends with the session, and the next process claims the job.
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

// resume makes sure, under the lock and after a lost connection, that the job is as
// this process left it. over says that the job has ended: a COMMIT whose answer was
// lost may have been the last one.
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
