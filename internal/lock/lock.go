// Package lock takes table locks without standing in the application's way.
//
// A waiting strong lock stops everybody who comes after it. So every wait is
// bounded, all locks of one transaction share one bound, and the bound stays
// below the server's deadlock_timeout: in a deadlock with the application it
// is always we who give way, because a session looks for deadlocks only after
// having waited for deadlock_timeout. We look every few milliseconds.
//
// https://www.postgresql.org/docs/current/explicit-locking.html
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

// Policy says how long and how often to try.
type Policy struct {
	Timeout time.Duration // of all lock waits of one attempt together
	Retries int           // attempts after the first
	// KillAfter is how long to try before blockers are cancelled, and with the
	// next attempt terminated; zero: never.
	KillAfter time.Duration
	// Held is told for how long a committed transaction kept strong locks, from when
	// the first was asked for; nil: nobody is.
	Held func(ctx context.Context, took time.Duration)
	Pool *pgxpool.Pool // to see from whom the waiting session waits
	// Settings are statements that each transaction begins with.
	Settings []string
	Log      *slog.Logger
}

// TimeoutError reports that locks on Relation were not granted in time. Nothing
// has changed; running again continues the job.
type TimeoutError struct {
	Relation string
	Attempts int
	Waited   time.Duration // in the last attempt
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
	// Attempt counts from one: where no order of locking suits everybody, the
	// next attempt may try another.
	Attempt  int
	queue    *queue // nil: nobody is looked for
	bounds   bounds
	deadline time.Time    // zero until the first strong lock is asked for
	strong   bool         // whether what is asked for next is a strong lock
	hold     *hold        // of those and the work under them together
	asking   *atomic.Bool // of the watch
}

// Vary is items in the order in which this attempt locks them: as they are, then
// the other way round, then at random, since the order in which the application
// comes to them is not known.
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

// bounds limit lock waits: strong those the application may stand behind,
// settle that of Settle. whole is that on such waits and the work under the locks
// together.
type bounds struct{ strong, settle, whole time.Duration }

// strong bounds each wait that the application may stand behind: it stays below the
// server's deadlock_timeout, so that in a deadlock it is we who give way.
func (p Policy) strong(deadlockTimeout time.Duration) time.Duration {
	return min(p.Timeout, deadlockTimeout*4/5)
}

// settleMargin is what an autovacuum is given to heed its cancellation.
const settleMargin = 3 * time.Second

// Transact runs work in a transaction and commits it. When a lock is not
// granted in time it rolls back, pauses (exponentially longer, with jitter)
// and runs work again; after Policy.Retries it returns *TimeoutError. Where a lock
// is held by somebody who will not let go in time it is not asked for: the time that
// an attempt and the pause after it have is spent beside the queue.
// relation is for the message, oids are the tables whose lock holders it names.
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

// retryMessage is what is logged of an attempt. A lock that was obtained, and given back
// because what it was taken for took too long, is not one that was not.
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

// series is what the attempts of one Transact share.
type series struct {
	conn   *pgxpool.Conn
	policy Policy
	bounds bounds
	oids   []uint32
	work   func(context.Context, *Tx) error
	queue  *queue
	pauses *backoff.ExponentialBackOff
	// pauseLeft is what pauses beside the queue have had left when they were over:
	// there are more attempts then, and no less time.
	pauseLeft time.Duration
}

// try is one attempt: work is done at once, or when nobody is in the way any more
// who would not let go in time, if that is within the time that an attempt may wait.
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

// pause is how long the one after an attempt may take.
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

// waitToRetry is the pause. It ends early where an attempt may succeed.
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

// once runs work once and returns whom it has waited for last.
func (s *series) once(ctx context.Context, attempt int) ([]Blocker, error) {
	seen := &watch{
		pool: s.policy.Pool, pid: s.conn.Conn().PgConn().PID(), oids: s.oids, attempt: attempt, kill: s.queue.kill,
		maxAge: s.policy.Timeout + s.bounds.strong,
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() { seen.run(ctx, stop, watchInterval(s.bounds.strong)) })
	held := &hold{pool: s.policy.Pool, pid: seen.pid, bound: s.bounds.whole}
	// Every wait is bounded, also those for rows.
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

// ErrNoTime is for work to report that it was not done with what the locks are
// for when others had waited for long enough.
var ErrNoTime = errors.New("the work under the lock was not done in time")

// errDeadlock reports that we have given way in a deadlock.
var errDeadlock = errors.New("deadlock with the application avoided")

// deadlockPause lets the others go on; their transactions are not the kind that
// takes long, or they would not have come to wait for us.
const deadlockPause = 100 * time.Millisecond

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Denied reports whether err is the server's refusal of a lock.
func Denied(err error) bool {
	var pgErr *pgconn.PgError
	return errors.Is(err, errDeadlock) || errors.Is(err, ErrNoTime) || errors.Is(err, ErrHeld) || errors.Is(err, errLocksTimedOut) || errors.As(err, &pgErr) &&
		(pgErr.Code == pgerrcode.LockNotAvailable || pgErr.Code == pgerrcode.DeadlockDetected)
}

// Moved reports that a row we wanted to lock has gone to another partition: our
// transactions that lock rows are READ COMMITTED, in which nothing else fails so.
func Moved(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == pgerrcode.SerializationFailure
}

// deadlockTimeoutKey is where a connection keeps what it was told, which few
// administrators change and none from one minute to the next.
const deadlockTimeoutKey = "repack deadlock_timeout"

// known is an answer that holds good for a while.
type known struct {
	timeout time.Duration
	until   time.Time
}

// pg_settings would have all settings listed for the one, each time.
const deadlockTimeoutSQL = `
SELECT (1000 * extract(epoch FROM current_setting('deadlock_timeout')::interval))::bigint`

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

const settleSQL = `
SAVEPOINT settle;
%s;
ROLLBACK TO SAVEPOINT settle;
RELEASE SAVEPOINT settle`

// Settle takes SHARE UPDATE EXCLUSIVE on table, and gives it back: reads and
// writes pass, but vacuum does not. An autovacuum that is in the way is
// cancelled by the server once we have waited for deadlock_timeout, which a
// strong lock of ours never does; so Settle waits longer, in front of nobody,
// and the strong locks that follow meet no autovacuum.
//
// The lock is not kept: a session that holds another lock on the table and
// asks for a stronger one would be in a deadlock with us as soon as we queue,
// and the server would at once choose it.
func (t *Tx) Settle(ctx context.Context, table string) error {
	return t.SettleBy(ctx, SQL(table, "SHARE UPDATE EXCLUSIVE"))
}

// SettleBy is Settle by another statement that takes SHARE UPDATE EXCLUSIVE, for
// relations that LOCK does not know. What it does is rolled back.
func (t *Tx) SettleBy(ctx context.Context, statement string) error {
	if err := t.exec(ctx, t.bounds.settle, fmt.Sprintf(settleSQL, statement)); err != nil {
		return fmt.Errorf("settle by %q: %w", statement, err)
	}
	return nil
}

const lockSQL = `LOCK TABLE %s IN %s MODE`

// SQL is the statement that takes a table lock.
func SQL(table, mode string) string { return fmt.Sprintf(lockSQL, table, mode) }

// Lock takes a table lock within what is left of the transaction's bound, and only
// where there is Room.
func (t *Tx) Lock(ctx context.Context, table, mode string) error {
	if err := t.Room(ctx, Want{Relation: table, Mode: mode}); err != nil {
		return fmt.Errorf("lock %s in %s mode: %w", table, mode, err)
	}
	if err := t.Do(ctx, SQL(table, mode)); err != nil {
		return fmt.Errorf("lock %s in %s mode: %w", table, mode, err)
	}
	return nil
}

// Do runs statements, separated by semicolons, that may wait for locks, within
// what is left of the transaction's bound.
func (t *Tx) Do(ctx context.Context, sql string) error {
	if t.deadline.IsZero() {
		t.deadline = time.Now().Add(t.bounds.strong)
	}
	if t.strong {
		t.hold.begin(ctx)
	}
	return t.exec(ctx, time.Until(t.deadline), sql)
}

// Left is what is left of the transaction's bound, at least least: work under a
// lock that has been waited for keeps others waiting for as long again.
func (t *Tx) Left(least time.Duration) time.Duration {
	if t.deadline.IsZero() {
		return max(t.bounds.strong, least)
	}
	return max(time.Until(t.deadline), least)
}

func (t *Tx) exec(ctx context.Context, timeout time.Duration, sql string) error {
	if t.asking != nil {
		t.asking.Store(true)
		defer t.asking.Store(false)
	}
	_, err := t.Tx.Exec(ctx, boundSQL(timeout)+";\n"+sql)
	return err
}

// boundSQL bounds each wait for a lock; zero would mean no bound at all.
func boundSQL(timeout time.Duration) string {
	return fmt.Sprintf("SET LOCAL lock_timeout = %d", max(timeout.Milliseconds(), 1))
}
