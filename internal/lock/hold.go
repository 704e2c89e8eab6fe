package lock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// hold bounds how long a transaction may keep other sessions waiting. The time runs
// from the request for the first strong lock, because sessions wait behind us from then
// on, to the end of the transaction. After the bound it cancels every statement of the
// session. If Works has not been called, the time is measured but not bounded.
type hold struct {
	pool  *pgxpool.Pool
	pid   uint32
	bound time.Duration

	mu    sync.Mutex
	began time.Time // zero until the first strong lock is requested
	over  bool      // the bound has passed
	whole Work      // the work under the locks
	done  int       // steps of the work that are done
	stop  func()
	group sync.WaitGroup
}

// cancelAgain is the time between two cancellations. The first may have arrived when no
// statement was running.
const cancelAgain = 10 * time.Millisecond

// begin starts the clock. Further calls do nothing.
func (h *hold) begin(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.began.IsZero() {
		return
	}
	watchCtx, cancel := context.WithCancel(ctx)
	h.began, h.stop = time.Now(), cancel
	if h.whole.Steps > 0 {
		h.group.Go(func() { h.watch(watchCtx) })
	}
}

// watch cancels the session's statements after the bound, until ctx ends.
func (h *hold) watch(ctx context.Context) {
	timer := time.NewTimer(h.bound)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		h.mu.Lock()
		h.over = true
		h.mu.Unlock()
		h.cancel(ctx)
		timer.Reset(cancelAgain)
	}
}

// cancelTimeout bounds the query that cancels a statement.
const cancelTimeout = 5 * time.Second

// cancel ignores the end of ctx: a cancellation must not arrive after the watch has
// ended.
func (h *hold) cancel(ctx context.Context) {
	cancelCtx, done := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer done()
	// Ignore an error: the session would fail too.
	_, _ = h.pool.Exec(cancelCtx, `SELECT pg_cancel_backend($1)`, int32(h.pid))
}

// checkBound ends the watch before COMMIT. COMMIT must not be cancelled: if it waits
// for a synchronous standby, it would end without the standby's answer. If the bound
// has passed, checkBound returns ErrNoTime, and the transaction must roll back.
//
// https://www.postgresql.org/docs/current/warm-standby.html, "Synchronous Replication"
func (h *hold) checkBound() error {
	if h.end() == 0 {
		return nil
	}
	if took := time.Since(h.began); h.over || h.whole.Steps > 0 && took > h.bound {
		return &noTimeError{work: h.whole, needs: took}
	}
	return nil
}

// end ends the watch and returns how long the locks have been held, or zero if none
// was.
func (h *hold) end() time.Duration {
	h.mu.Lock()
	began := h.began
	h.mu.Unlock()
	if began.IsZero() {
		return 0
	}
	h.stop()
	h.group.Wait()
	return time.Since(began)
}

// explain turns a cancellation by the watch into ErrNoTime, with an estimate of the
// time that the work needs. It returns other errors unchanged.
func (h *hold) explain(err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var pgErr *pgconn.PgError
	if !h.over || !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.QueryCanceled || errors.Is(err, ErrNoTime) {
		return err
	}
	needs := time.Since(h.began)
	if h.done > 0 && h.done < h.whole.Steps {
		needs = needs * time.Duration(h.whole.Steps) / time.Duration(h.done)
	}
	return &noTimeError{work: h.whole, needs: needs, err: err}
}

// Work describes what a transaction does under its locks within a bounded time.
type Work struct {
	What  string // such as "the exchange of app.t"
	Keys  int    // number of foreign keys that it moves
	Steps int    // number of steps of about equal length
}

// noTimeError is ErrNoTime with the time that the work would have taken.
type noTimeError struct {
	work  Work
	needs time.Duration // estimate, with the waits for the locks
	err   error         // of the cancelled statement, or nil
}

func (e *noTimeError) Error() string {
	if e.work.Keys == 0 {
		return fmt.Sprintf("%s needs about %d ms", e.work.What, e.needs.Milliseconds())
	}
	return fmt.Sprintf("%s needs about %d ms for %d foreign keys", e.work.What, e.needs.Milliseconds(), e.work.Keys)
}

// Is makes errors.Is match ErrNoTime.
func (e *noTimeError) Is(target error) bool { return target == ErrNoTime }

// Unwrap returns the server's error.
func (e *noTimeError) Unwrap() error { return e.err }

// Works declares the work that the transaction does under its locks. Call it before the
// first lock is requested: from then on, waits and work together are bounded by
// Policy.Timeout. After the bound Transact tries again.
func (t *Tx) Works(w Work) {
	if t.hold != nil {
		t.hold.mu.Lock()
		t.hold.whole = w
		t.hold.mu.Unlock()
	}
}

// Done adds steps to the number of completed steps of the work.
func (t *Tx) Done(steps int) {
	if t.hold != nil {
		t.hold.mu.Lock()
		t.hold.done += steps
		t.hold.mu.Unlock()
	}
}

// LockAll sends statements that take locks in one round trip, because each round trip
// is time under the first lock. All of them together wait no longer than Do would: the
// server's lock_timeout bounds only the wait for each lock. An error for which Denied
// is true means that the locks were not granted in time.
func (t *Tx) LockAll(ctx context.Context, statements []string) error {
	if t.hold == nil {
		for _, sql := range statements {
			if err := t.Do(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	}
	if t.deadline.IsZero() {
		t.deadline = time.Now().Add(t.bounds.strong)
	}
	late := make(chan bool, 1)
	timer := time.AfterFunc(time.Until(t.deadline), func() { t.hold.cancel(ctx); late <- true })
	err := t.Do(ctx, strings.Join(statements, ";\n"))
	if timer.Stop() {
		late <- false
	}
	var pgErr *pgconn.PgError
	if wasLate := <-late; wasLate && errors.As(err, &pgErr) && pgErr.Code == pgerrcode.QueryCanceled {
		return fmt.Errorf("%w: %w", errLocksTimedOut, err)
	}
	if err != nil {
		return fmt.Errorf("take locks: %w", err)
	}
	return nil
}

// errLocksTimedOut reports that several locks were not granted within their common
// bound.
var errLocksTimedOut = errors.New("the locks were not granted in time")
