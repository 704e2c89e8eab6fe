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
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Policy says how long and how often to try.
type Policy struct {
	Timeout time.Duration // of all lock waits of one attempt together
	Retries int           // attempts after the first
	// KillAfter is how long to try before blockers are cancelled, and with the
	// next attempt terminated; zero: never.
	KillAfter time.Duration
	Pool      *pgxpool.Pool // to see from whom the waiting session waits
	Log       *slog.Logger
}

// TimeoutError reports that locks on Relation were not granted in time. Nothing
// has changed; running again continues the job.
type TimeoutError struct {
	Relation string
	Attempts int
	Waited   time.Duration // in the last attempt
	Blockers []Blocker
	Err      error // the *pgconn.PgError, SQLSTATE 55P03 or 40P01, or ErrNoTime
}

func (e *TimeoutError) Error() string {
	msg := fmt.Sprintf("lock on %s not obtained in %d attempts of %s",
		e.Relation, e.Attempts, e.Waited.Round(time.Millisecond))
	if errors.Is(e.Err, ErrNoTime) {
		msg = fmt.Sprintf("lock on %s would have had to be held for too long in %d attempts (%s)", e.Relation, e.Attempts, e.Err)
	}
	for _, b := range e.Blockers {
		msg += "; in the way: " + b.String()
	}
	return msg + "; nothing has changed, run the same command again when the blockers are gone, " +
		"or raise --lock-timeout or --lock-retries"
}

// Unwrap returns the server's error.
func (e *TimeoutError) Unwrap() error { return e.Err }

// Tx is a transaction whose lock waits share one bound.
type Tx struct {
	pgx.Tx
	// Attempt counts from one: where no order of locking suits everybody, the
	// next attempt may try another.
	Attempt  int
	bounds   bounds
	deadline time.Time // zero until the first strong lock is asked for
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
// settle that of Settle.
type bounds struct{ strong, settle time.Duration }

// settleMargin is what an autovacuum is given to heed its cancellation.
const settleMargin = 3 * time.Second

// Transact runs work in a transaction and commits it. When a lock is not
// granted in time it rolls back, pauses (exponentially longer, with jitter)
// and runs work again; after Policy.Retries it returns *TimeoutError.
// relation is for the message, oids are the tables whose lock holders it names.
func Transact(ctx context.Context, conn *pgxpool.Conn, p Policy, relation string, oids []uint32, work func(context.Context, *Tx) error) error {
	deadlockTimeout, err := readDeadlockTimeout(ctx, conn)
	if err != nil {
		return err
	}
	bounds := bounds{
		strong: min(p.Timeout, deadlockTimeout*4/5),
		settle: deadlockTimeout + settleMargin,
	}
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval = 200 * time.Millisecond
	pauses.MaxInterval = 10 * time.Second
	first, signalled := time.Now(), 0
	for attempt := 1; ; attempt++ {
		began := time.Now()
		blockers, err := attemptOnce(ctx, conn, p, bounds, oids, attempt, work)
		if err == nil || !Denied(err) && !Moved(err) {
			return err
		}
		if attempt > p.Retries && Moved(err) {
			return err
		}
		if attempt > p.Retries {
			return &TimeoutError{Relation: relation, Attempts: attempt, Waited: time.Since(began), Blockers: blockers, Err: err}
		}
		if p.KillAfter > 0 && time.Since(first) > p.KillAfter && signalled < len(signals) {
			send(ctx, p, signals[signalled], blockers)
			signalled++
		}
		pause := pauses.NextBackOff()
		if errors.Is(err, errDeadlock) || Moved(err) {
			pause = min(pause, deadlockPause)
		}
		p.Log.Warn("lock not obtained", "table", relation, "attempt", attempt, "retry_in", pause, "blockers", blockers)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// attemptOnce runs work once and returns whom it has waited for last.
func attemptOnce(ctx context.Context, conn *pgxpool.Conn, p Policy, b bounds, oids []uint32, attempt int,
	work func(context.Context, *Tx) error,
) ([]Blocker, error) {
	seen := &watch{pool: p.Pool, pid: conn.Conn().PgConn().PID(), oids: oids}
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() { seen.run(ctx, stop, watchInterval(b.strong)) })
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		bounded := &Tx{Tx: tx, Attempt: attempt, bounds: b}
		// Every wait is bounded, also those for rows.
		if err := bounded.exec(ctx, b.strong, ""); err != nil {
			return err
		}
		return work(ctx, bounded)
	})
	close(stop)
	group.Wait()
	blockers, deadlock := seen.seen()
	if err != nil && deadlock && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", errDeadlock, err)
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
	return errors.Is(err, errDeadlock) || errors.Is(err, ErrNoTime) || errors.As(err, &pgErr) &&
		(pgErr.Code == pgerrcode.LockNotAvailable || pgErr.Code == pgerrcode.DeadlockDetected)
}

// Moved reports that a row we wanted to lock has gone to another partition: our
// transactions that lock rows are READ COMMITTED, in which nothing else fails so.
func Moved(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == pgerrcode.SerializationFailure
}

// pg_settings would have all settings listed for the one, each time.
const deadlockTimeoutSQL = `
SELECT (1000 * extract(epoch FROM current_setting('deadlock_timeout')::interval))::bigint`

func readDeadlockTimeout(ctx context.Context, conn *pgxpool.Conn) (time.Duration, error) {
	var ms int64
	if err := conn.QueryRow(ctx, deadlockTimeoutSQL).Scan(&ms); err != nil {
		return 0, fmt.Errorf("read deadlock_timeout: %w", err)
	}
	return time.Duration(ms) * time.Millisecond, nil
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

// Lock takes a table lock within what is left of the transaction's bound.
func (t *Tx) Lock(ctx context.Context, table, mode string) error {
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
	return t.exec(ctx, time.Until(t.deadline), sql)
}

// Left is what is left of the transaction's bound, at least least: work under a
// lock that has been waited for keeps others waiting for as long again.
func (t *Tx) Left(least time.Duration) time.Duration { return t.LeftOf(t.bounds.strong, least) }

// LeftOf is what is left of another bound on locks and work together.
func (t *Tx) LeftOf(bound, least time.Duration) time.Duration {
	if t.deadline.IsZero() {
		return max(bound, least)
	}
	return max(time.Until(t.deadline)-t.bounds.strong+bound, least)
}

func (t *Tx) exec(ctx context.Context, timeout time.Duration, sql string) error {
	ms := max(timeout.Milliseconds(), 1) // zero would mean no bound at all
	_, err := t.Tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d;\n%s", ms, sql))
	return err
}
