package lock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/session"
)

// Policy says how long and how often Transact tries.
type Policy struct {
	Timeout time.Duration // of all lock waits of one attempt together; at most 4/5 of deadlock_timeout is used
	Retries int           // number of attempts after the first
	// KillAfter is how long a transaction may block us before it is cancelled, and at
	// the next attempt terminated. Zero means never.
	KillAfter time.Duration
	// Held is called with the time for which a committed transaction held strong locks,
	// counted from the request for the first. It may be nil.
	Held func(ctx context.Context, took time.Duration)
	Pool *pgxpool.Pool // used to see which sessions block the waiting session
	// Settings are statements with which each transaction begins.
	Settings []string
	Log      *slog.Logger
}

// TimeoutError reports that locks on Relation were not granted in time, or that the
// work under them took too long. Nothing has changed. Running again continues the job.
type TimeoutError struct {
	Relation string
	Attempts int
	Waited   time.Duration // time of the last attempt; from Pairs, the bound on its wait
	Blockers []Blocker
	Err      error // the *pgconn.PgError, SQLSTATE 55P03 or 40P01, ErrHeld or ErrNoTime
}

func (e *TimeoutError) Error() string {
	msg := fmt.Sprintf("lock on %s not obtained in %d attempts of %s",
		e.Relation, e.Attempts, e.Waited.Round(time.Millisecond))
	var noTime *noTimeError
	switch {
	case errors.As(e.Err, &noTime):
		msg = fmt.Sprintf("%s: raise --lock-timeout; the locks on %s would have had to be held for too long in %d attempts",
			noTime, e.Relation, e.Attempts)
	case errors.Is(e.Err, ErrNoTime):
		msg = fmt.Sprintf("lock on %s would have had to be held for too long in %d attempts (%s)", e.Relation, e.Attempts, e.Err)
	}
	for _, b := range e.Blockers {
		msg += "; in the way: " + b.String()
	}
	when := ""
	if len(e.Blockers) > 0 {
		when = " when the blockers are gone"
	}
	return msg + "; nothing has changed, run the same command again" + when + ", or raise --lock-timeout or --lock-retries"
}

// Unwrap returns the server's error.
func (e *TimeoutError) Unwrap() error { return e.Err }

// Tx is a transaction whose lock waits share one bound.
type Tx struct {
	pgx.Tx
	// Attempt counts from 1. If no order of locks works for all sessions, the next
	// attempt may use another order.
	Attempt  int
	queue    *queue // nil: blockers are not looked for
	bounds   bounds
	deadline time.Time    // zero until the first lock is requested
	strong   bool         // the next lock is a strong lock
	hold     *hold        // bounds strong locks and the work under them
	asking   *atomic.Bool // tells the watch that a lock is being requested
}

// Vary returns items in the order in which this attempt locks them: first unchanged,
// then reversed, then random. The order in which the application locks them is not
// known.
func Vary[T any](tx *Tx, items []T) []T {
	order := slices.Clone(items)
	switch {
	case tx.Attempt == 2:
		slices.Reverse(order)
	case tx.Attempt > 2:
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	return order
}

// bounds limit waits for locks. strong is for locks behind which the application may
// have to wait. settle is for Settle. whole is for waits for strong locks and the work
// under them together.
type bounds struct{ strong, settle, whole time.Duration }

// strong is the bound on waits for locks behind which the application may have to wait.
// It is below the server's deadlock_timeout, so that in a deadlock our session times
// out first.
func (p Policy) strong(deadlockTimeout time.Duration) time.Duration {
	return min(p.Timeout, deadlockTimeout*4/5)
}

// settleMargin is the time that autovacuum may take to react to its cancellation.
const settleMargin = 3 * time.Second

// Transact runs work in a transaction and commits it. If a lock is not granted in time,
// it rolls back, pauses, and runs work again. Pauses grow exponentially from 200 ms to
// 10 s, with jitter. After Policy.Retries further attempts it returns *TimeoutError.
// Nothing has changed then. It also tries again if a row has moved to another partition
// (Moved), and returns that error after the last attempt. It returns other errors at
// once.
//
// If the holder of a lock will probably not release it in time, the lock is not
// requested. Instead Transact waits outside the lock queue, for as long as the attempt
// and the pause after it may take.
//
// relation is the name in messages. oids are the tables whose prepared transactions are
// named as blockers. Locks that work acquires are held until the commit.
func Transact(ctx context.Context, conn *pgxpool.Conn, p Policy, relation string, oids []uint32, work func(context.Context, *Tx) error) error {
	deadlockTimeout, err := readDeadlockTimeout(ctx, conn)
	if err != nil {
		return err
	}
	s := &series{
		conn: conn, policy: p, oids: oids, work: work, queue: newQueue(p),
		bounds: bounds{
			strong: p.strong(deadlockTimeout),
			settle: deadlockTimeout + settleMargin,
			whole:  p.Timeout,
		},
		pauses: backoff.NewExponentialBackOff(),
	}
	s.pauses.InitialInterval = 200 * time.Millisecond
	s.pauses.MaxInterval = 10 * time.Second
	for attempt := 1; ; attempt++ {
		began := time.Now()
		blockers, err := s.try(ctx, attempt)
		if err == nil || !Denied(err) && !Moved(err) {
			return err
		}
		last := attempt > p.Retries && (s.pauseLeft <= 0 || !errors.Is(err, ErrHeld))
		if last && Moved(err) {
			return err
		}
		if last {
			return &TimeoutError{Relation: relation, Attempts: attempt, Waited: time.Since(began), Blockers: blockers, Err: err}
		}
		pause := s.pause(attempt, err)
		p.Log.Warn(retryMessage(err), "table", relation, "attempt", attempt, "retry_in", pause, "blockers", blockers)
		if err := s.waitToRetry(ctx, attempt, pause, err); err != nil {
			return err
		}
	}
}

// retryMessage is the log message for a failed attempt. A lock that was acquired, and
// released because the work under it took too long, needs another message than a lock
// that was not acquired.
func retryMessage(err error) string {
	switch {
	case errors.Is(err, ErrNoTime):
		return "lock given back, the work under it took too long"
	case Moved(err):
		return "row moved to another partition while its lock was waited for"
	default:
		return "lock not obtained"
	}
}

// series is what all attempts of one Transact share.
type series struct {
	conn   *pgxpool.Conn
	policy Policy
	bounds bounds
	oids   []uint32
	work   func(context.Context, *Tx) error
	queue  *queue
	pauses *backoff.ExponentialBackOff
	// pauseLeft is the unused time of pauses that ended early. It pays for further
	// attempts, so that there are more attempts in the same total time.
	pauseLeft time.Duration
}

// try is one attempt. It runs work at once, or as soon as no session holds a
// conflicting lock for long, if that happens within the time that an attempt may wait.
func (s *series) try(ctx context.Context, attempt int) ([]Blocker, error) {
	for until := time.Now().Add(s.bounds.strong); ; {
		blockers, err := s.once(ctx, attempt)
		var held *heldError
		if !errors.As(err, &held) {
			return blockers, err
		}
		blockers, awaitErr := s.queue.awaitHolders(ctx, s.conn, held, attempt, until)
		if awaitErr != nil {
			return nil, awaitErr
		}
		if len(blockers) > 0 {
			return blockers, err
		}
	}
}

// pause returns how long the pause after an attempt may take.
func (s *series) pause(attempt int, err error) time.Duration {
	pause := s.pauses.NextBackOff()
	if errors.Is(err, errDeadlock) || Moved(err) {
		pause = min(pause, deadlockPause)
	}
	if attempt > s.policy.Retries {
		pause = min(pause, s.pauseLeft)
		s.pauseLeft -= pause
	}
	return pause
}

// waitToRetry waits for the pause. It ends early when an attempt may succeed.
func (s *series) waitToRetry(ctx context.Context, attempt int, pause time.Duration, err error) error {
	var held *heldError
	if !errors.As(err, &held) {
		return sleep(ctx, pause)
	}
	until := time.Now().Add(pause)
	_, err = s.queue.awaitHolders(ctx, s.conn, held, attempt, until)
	s.pauseLeft += max(time.Until(until), 0)
	return err
}

// once runs work once, and returns the sessions for which it last waited.
func (s *series) once(ctx context.Context, attempt int) ([]Blocker, error) {
	seen := &watch{
		pool: s.policy.Pool, pid: s.conn.Conn().PgConn().PID(), oids: s.oids, attempt: attempt, kill: s.queue.kill,
		maxAge: s.policy.Timeout + s.bounds.strong,
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() { seen.run(ctx, stop, watchInterval(s.bounds.strong)) })
	held := &hold{pool: s.policy.Pool, pid: seen.pid, bound: s.bounds.whole}
	// This bounds every wait, waits for row locks too.
	begin := session.Begin(append([]string{boundSQL(s.bounds.strong)}, s.policy.Settings...)...)
	err := pgx.BeginTxFunc(ctx, s.conn, begin, func(tx pgx.Tx) error {
		bounded := &Tx{Tx: tx, Attempt: attempt, queue: s.queue, bounds: s.bounds, hold: held, asking: &seen.asking}
		if err := s.work(ctx, bounded); err != nil {
			return err
		}
		return held.checkBound()
	})
	took := held.end()
	close(stop)
	group.Wait()
	blockers, cancelReason := seen.seen()
	switch {
	case err != nil && cancelReason != nil && ctx.Err() == nil:
		err = fmt.Errorf("%w: %w", cancelReason, err)
	case err != nil && ctx.Err() == nil:
		err = held.explain(err)
	case err == nil && took > 0 && s.policy.Held != nil:
		s.policy.Held(ctx, took)
	}
	return blockers, err
}

// ErrNoTime reports that the work under the locks was not done when other sessions had
// waited for the longest time allowed. Work may return it; Transact then tries again.
var ErrNoTime = errors.New("the work under the lock was not done in time")

// errDeadlock reports that we have cancelled our wait in a deadlock.
var errDeadlock = errors.New("deadlock with the application avoided")

// deadlockPause lets the other transactions continue. They are not of the kind that
// takes long, or they would not have come to wait for us.
const deadlockPause = 100 * time.Millisecond

// sleep waits for d, or returns the error of ctx if that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Denied reports whether err means that a lock was not granted or not kept: SQLSTATE
// 55P03 (lock_not_available) or 40P01 (deadlock_detected), ErrHeld, ErrNoTime, or a
// wait that we cancelled.
func Denied(err error) bool {
	var pgErr *pgconn.PgError
	return errors.Is(err, errDeadlock) || errors.Is(err, ErrNoTime) || errors.Is(err, ErrHeld) || errors.Is(err, errLocksTimedOut) || errors.As(err, &pgErr) &&
		(pgErr.Code == pgerrcode.LockNotAvailable || pgErr.Code == pgerrcode.DeadlockDetected)
}

// Moved reports whether err means that a row to lock has moved to another partition
// (SQLSTATE 40001). Our transactions that lock rows are READ COMMITTED, in which
// nothing else fails with this code.
func Moved(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == pgerrcode.SerializationFailure
}

// deadlockTimeoutKey is the key under which a connection keeps the value of
// deadlock_timeout. Few administrators change it, and not from one minute to the next.
const deadlockTimeoutKey = "repack deadlock_timeout"

// known is a value that stays valid until a time.
type known struct {
	timeout time.Duration
	until   time.Time
}

// deadlockTimeoutSQL uses current_setting, because pg_settings would list all settings
// each time.
const deadlockTimeoutSQL = `
SELECT (1000 * extract(epoch FROM current_setting('deadlock_timeout')::interval))::bigint`

// readDeadlockTimeout reads deadlock_timeout, at most once a minute per connection.
func readDeadlockTimeout(ctx context.Context, conn *pgxpool.Conn) (time.Duration, error) {
	kept := conn.Conn().PgConn().CustomData()
	if k, ok := kept[deadlockTimeoutKey].(known); ok && time.Now().Before(k.until) {
		return k.timeout, nil
	}
	var ms int64
	if err := conn.QueryRow(ctx, deadlockTimeoutSQL).Scan(&ms); err != nil {
		return 0, fmt.Errorf("read deadlock_timeout: %w", err)
	}
	timeout := time.Duration(ms) * time.Millisecond
	kept[deadlockTimeoutKey] = known{timeout, time.Now().Add(time.Minute)}
	return timeout, nil
}

// settleMode is the weakest mode that conflicts with itself and with VACUUM.
const settleMode = "SHARE UPDATE EXCLUSIVE"

// settleSQL releases the lock by rolling back to a savepoint.
const settleSQL = `
SAVEPOINT settle;
%s;
ROLLBACK TO SAVEPOINT settle;
RELEASE SAVEPOINT settle`

// Settle takes SHARE UPDATE EXCLUSIVE on table, and releases it at once. Reads and
// writes are not blocked, VACUUM is. It waits up to deadlock_timeout + 3 s.
//
// After waiting for deadlock_timeout, the server cancels an autovacuum that blocks a
// session. Our waits for strong locks are shorter, so they never reach that point.
// Settle waits longer, and no reads or writes wait behind it. The strong locks that
// follow then meet no autovacuum.
//
// The lock is not kept. Otherwise a session that holds another lock on the table and
// requests a stronger one would be in a deadlock with us as soon as we queue, and the
// server would choose that session at once.
//
// https://www.postgresql.org/docs/current/routine-vacuuming.html, "The Autovacuum Daemon"
func (t *Tx) Settle(ctx context.Context, table string) error {
	return t.SettleBy(ctx, settleLockSQL(table))
}

// SettleBy is Settle by another statement that takes SHARE UPDATE EXCLUSIVE, for
// relations that LOCK TABLE does not accept. The effects of the statement are rolled
// back.
func (t *Tx) SettleBy(ctx context.Context, statement string) error {
	if err := t.exec(ctx, t.bounds.settle, SettleBySQL(statement)); err != nil {
		return fmt.Errorf("settle by %q: %w", statement, err)
	}
	return nil
}

// settleLockSQL takes the lock that Settle takes.
func settleLockSQL(table string) string { return SQL(table, settleMode) }

// SettleSQL returns the statements that Settle sends.
func SettleSQL(table string) string { return SettleBySQL(settleLockSQL(table)) }

// SettleBySQL returns the statements that SettleBy sends.
func SettleBySQL(statement string) string { return fmt.Sprintf(settleSQL, statement) }

// lockSQL takes a table lock.
const lockSQL = `LOCK TABLE %s IN %s MODE`

// SQL returns the statement that takes a table lock. table is qualified and quoted;
// mode is written as in LOCK TABLE.
//
// https://www.postgresql.org/docs/current/sql-lock.html
func SQL(table, mode string) string { return fmt.Sprintf(lockSQL, table, mode) }

// Lock acquires a table lock until the transaction ends. It waits no longer than what
// is left of the transaction's bound, and requests the lock only if Room allows it.
// Return its error from work, so that Transact can try again.
func (t *Tx) Lock(ctx context.Context, table, mode string) error {
	if err := t.Room(ctx, Want{Relation: table, Mode: mode}); err != nil {
		return fmt.Errorf("lock %s in %s mode: %w", table, mode, err)
	}
	if err := t.Do(ctx, SQL(table, mode)); err != nil {
		return fmt.Errorf("lock %s in %s mode: %w", table, mode, err)
	}
	return nil
}

// Do runs statements that may wait for locks. Separate them by semicolons. Each wait is
// bounded by what is left of the transaction's bound. The bound starts with the first
// Do.
func (t *Tx) Do(ctx context.Context, sql string) error {
	if t.deadline.IsZero() {
		t.deadline = time.Now().Add(t.bounds.strong)
	}
	if t.strong {
		t.hold.begin(ctx)
	}
	return t.exec(ctx, time.Until(t.deadline), sql)
}

// Left returns what is left of the transaction's bound, but at least least. Use it to
// bound work under a lock: the work keeps other sessions waiting just as the wait for
// the lock did.
func (t *Tx) Left(least time.Duration) time.Duration {
	if t.deadline.IsZero() {
		return max(t.bounds.strong, least)
	}
	return max(time.Until(t.deadline), least)
}

// exec runs SQL, and bounds each of its lock waits by timeout.
func (t *Tx) exec(ctx context.Context, timeout time.Duration, sql string) error {
	if t.asking != nil {
		t.asking.Store(true)
		defer t.asking.Store(false)
	}
	_, err := t.Tx.Exec(ctx, boundSQL(timeout)+";\n"+sql)
	return err
}

// boundSQL bounds each wait for a lock. The minimum is 1 ms: zero would mean no bound.
func boundSQL(timeout time.Duration) string {
	return fmt.Sprintf("SET LOCAL lock_timeout = %d", max(timeout.Milliseconds(), 1))
}
