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

// hold bounds for how long a transaction may hold up others: from when the first
// strong lock is asked for, as they stand behind us from then on, to its end. Past
// it what the session does is cancelled, statement after statement. Where the work
// has not been told of (Works) the time is taken and not bounded.
type hold struct {
	pool  *pgxpool.Pool
	pid   uint32
	bound time.Duration

	mu    sync.Mutex
	began time.Time // zero: no strong lock has been asked for
	over  bool      // the bound has passed
	whole Work      // what is to be done under the locks
	done  int       // of its steps
	stop  func()
	group sync.WaitGroup
}

// cancelAgain is how long after a cancellation that may have met no statement the
// next one is cancelled.
const cancelAgain = 10 * time.Millisecond

// begin starts the clock, once.
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

// cancelTimeout is how long it may take to cancel a statement.
const cancelTimeout = 5 * time.Second

// cancel is not cut short by the end of the watch: what it does must not come later.
func (h *hold) cancel(ctx context.Context) {
	cancelCtx, done := context.WithTimeout(context.WithoutCancel(ctx), cancelTimeout)
	defer done()
	// An error would be that of the session as well.
	_, _ = h.pool.Exec(cancelCtx, `SELECT pg_cancel_backend($1)`, int32(h.pid))
}

// checkBound ends the watch before COMMIT, which must not be cancelled: one that waits for
// a synchronous standby would end without it. Where the bound has passed it is
// ErrNoTime, and all is rolled back.
func (h *hold) checkBound() error {
	if h.end() == 0 {
		return nil
	}
	if took := time.Since(h.began); h.over || h.whole.Steps > 0 && took > h.bound {
		return &noTimeError{work: h.whole, needs: took}
	}
	return nil
}

// end ends the watch and says for how long locks have been held.
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

// explain makes ErrNoTime of a cancellation that is ours.
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

// Work is what is done under the locks of a transaction, and has to be done in time.
type Work struct {
	What  string // such as "the exchange of app.t"
	Keys  int    // foreign keys that it is for
	Steps int    // about as long as one another
}

// noTimeError is ErrNoTime with what the work would have taken.
type noTimeError struct {
	work  Work
	needs time.Duration // about, with the waits for the locks
	err   error         // of the cancelled statement, or nil
}

func (e *noTimeError) Error() string {
	if e.work.Keys == 0 {
		return fmt.Sprintf("%s needs about %d ms", e.work.What, e.needs.Milliseconds())
	}
	return fmt.Sprintf("%s needs about %d ms for %d foreign keys", e.work.What, e.needs.Milliseconds(), e.work.Keys)
}

// Is has the error be ErrNoTime.
func (e *noTimeError) Is(target error) bool { return target == ErrNoTime }

// Unwrap returns the server's error.
func (e *noTimeError) Unwrap() error { return e.err }

// Works says what the transaction does under its locks, before the first is asked
// for: waits and work together are bounded by Policy.Timeout from then on.
func (t *Tx) Works(w Work) {
	if t.hold != nil {
		t.hold.mu.Lock()
		t.hold.whole = w
		t.hold.mu.Unlock()
	}
}

// Done says that so many steps of the work are done.
func (t *Tx) Done(steps int) {
	if t.hold != nil {
		t.hold.mu.Lock()
		t.hold.done += steps
		t.hold.mu.Unlock()
	}
}

// LockAll sends statements that take locks together, as every round trip is time
// under the first of them. All of them together wait no longer than Do would: the
// server bounds only the wait for each.
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

// errLocksTimedOut reports that several locks were not granted within their common bound.
var errLocksTimedOut = errors.New("the locks were not granted in time")
