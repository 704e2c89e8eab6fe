package lock_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/internal/tooling/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// given returns a database with table held, a connection, and a policy that makes the
// given number of attempts.
func given(t *testing.T, attempts int) (db *pgtest.Database, conn *pgxpool.Conn, p lock.Policy, oid uint32) {
	t.Helper()
	db = pgtest.New(t)
	db.Exec(t, `CREATE TABLE held (id int PRIMARY KEY); INSERT INTO held VALUES (1)`)
	pool, err := session.Pool(t.Context(), session.NewTarget(db.Config(t), session.NoPooler), 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if conn, err = pool.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Release)
	p = lock.Policy{Timeout: 100 * time.Millisecond, Retries: attempts - 1, Pool: pool, Log: slog.New(slog.DiscardHandler)}
	return db, conn, p, pgtest.Query[uint32](t, db.Pool, `SELECT 'held'::regclass::oid`)
}

func hold(t *testing.T, db *pgtest.Database, mode string) (pid uint32, release func()) {
	t.Helper()
	conn := db.Connect(t)
	if _, err := conn.Exec(t.Context(), `BEGIN; LOCK TABLE held IN `+mode+` MODE`); err != nil {
		t.Fatal(err)
	}
	return conn.PgConn().PID(), func() {
		if _, err := conn.Exec(t.Context(), `COMMIT`); err != nil {
			t.Error(err)
		}
	}
}

func TestTransactNamesTheHolder(t *testing.T) {
	t.Parallel()
	db, conn, p, oid := given(t, 2)
	pid, release := hold(t, db, "ROW EXCLUSIVE")
	attempts := 0
	take := func(ctx context.Context, tx *lock.Tx) error {
		attempts++
		if _, err := tx.Exec(ctx, `INSERT INTO public.held VALUES (100)`); err != nil {
			return err
		}
		return tx.Lock(ctx, "public.held", "SHARE ROW EXCLUSIVE")
	}
	began := time.Now()
	err := lock.Transact(t.Context(), conn, p, "held", []uint32{oid}, take)
	var timeout *lock.TimeoutError
	if !errors.As(err, &timeout) || timeout.Attempts != 2 || attempts != 2 {
		t.Fatalf("after %d attempts: %v, want a timeout after 2", attempts, err)
	}
	if len(timeout.Blockers) != 1 || timeout.Blockers[0].PID != int32(pid) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d of postgres", pid)) {
		t.Errorf("blockers %v, want pid %d\n%v", timeout.Blockers, pid, err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("two attempts of 100ms took %s", took)
	}
	release()
	if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM held`); n != 1 {
		t.Errorf("%d rows: an attempt was not rolled back", n)
	}
	if err := lock.Transact(t.Context(), conn, p, "held", []uint32{oid}, take); err != nil || attempts != 3 {
		t.Errorf("attempt %d, nobody in the way: %v", attempts, err)
	}
	if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM held`); n != 2 {
		t.Errorf("%d rows: the last attempt was not committed", n)
	}
}

func TestTransactRetriesOnlyLocks(t *testing.T) {
	t.Parallel()
	_, conn, p, oid := given(t, 5)
	attempts, failure := 0, errors.New("not a lock")
	err := lock.Transact(t.Context(), conn, p, "held", []uint32{oid}, func(context.Context, *lock.Tx) error {
		attempts++
		return failure
	})
	if !errors.Is(err, failure) || attempts != 1 {
		t.Errorf("%d attempts, %v; want one", attempts, err)
	}
}

// TestBoundsAreSharedAndBelowDeadlockTimeout asks the server for lock_timeout.
func TestBoundsAreSharedAndBelowDeadlockTimeout(t *testing.T) {
	t.Parallel()
	_, conn, p, oid := given(t, 1)
	p.Timeout = time.Hour
	err := lock.Transact(t.Context(), conn, p, "held", []uint32{oid}, func(ctx context.Context, tx *lock.Tx) error {
		setting := func() int {
			return pgtest.Query[int](t, tx, `SELECT setting::int FROM pg_settings WHERE name = 'lock_timeout'`)
		}
		if got := setting(); got > 800 || got <= 0 {
			t.Errorf("lock_timeout of an attempt is %dms, want at most four fifths of deadlock_timeout", got)
		}
		if err := tx.Lock(ctx, "public.held", "SHARE"); err != nil {
			return err
		}
		first := setting()
		if err := tx.Do(ctx, `SELECT pg_sleep(0.2)`); err != nil {
			return err
		}
		if err := tx.Lock(ctx, "public.held", "ACCESS EXCLUSIVE"); err != nil {
			return err
		}
		if second := setting(); second <= 0 || second > first-200 {
			t.Errorf("lock_timeout was %dms, and 200ms later %dms", first, second)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTransactEndsWithItsContext(t *testing.T) {
	t.Parallel()
	db, conn, p, oid := given(t, 1000)
	hold(t, db, "ACCESS SHARE")
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	err := lock.Transact(ctx, conn, p, "held", []uint32{oid}, func(ctx context.Context, tx *lock.Tx) error {
		return tx.Lock(ctx, "public.held", "ACCESS EXCLUSIVE")
	})
	if ctx.Err() == nil || err == nil {
		t.Errorf("Transact ended with %v before its context", err)
	}
}

func TestDenied(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{
		pgerrcode.LockNotAvailable: true, pgerrcode.DeadlockDetected: true, pgerrcode.UniqueViolation: false, pgerrcode.QueryCanceled: false,
	} {
		if got := lock.Denied(fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code})); got != want {
			t.Errorf("Denied(%s) = %t", code, got)
		}
	}
	if lock.Denied(nil) || lock.Denied(errors.New("lock timeout")) {
		t.Error("Denied of what the server did not say")
	}
}

// TestLeftIsWhatTheWaitLeft checks that the wait for a lock shortens the time for the
// work under it.
func TestLeftIsWhatTheWaitLeft(t *testing.T) {
	t.Parallel()
	db, conn, p, oid := given(t, 1)
	p.Timeout = 700 * time.Millisecond
	pid, release := hold(t, db, "ROW EXCLUSIVE")
	const waited, least = 100 * time.Millisecond, 50 * time.Millisecond
	var before, after time.Duration
	done := make(chan error, 1)
	go func() {
		done <- lock.Transact(t.Context(), conn, p, "held", []uint32{oid}, func(ctx context.Context, tx *lock.Tx) error {
			before = tx.Left(least)
			err := tx.Lock(ctx, "public.held", "SHARE ROW EXCLUSIVE")
			after = tx.Left(least)
			return err
		})
	}()
	blocked := pgtest.WaitBlockedBy(t, db.Pool, pid)
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, db.Pool, `SELECT clock_timestamp() - waitstart > $2::interval FROM pg_locks WHERE pid = $1 AND NOT granted`,
			int32(blocked), waited)
	}, "a wait of some length")
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if before != p.Timeout || after > p.Timeout-waited || after < least {
		t.Errorf("%s left before the wait and %s after it, of %s", before, after, p.Timeout)
	}
}

// TestVary checks that each attempt has all items, and that every order occurs.
func TestVary(t *testing.T) {
	items := []string{"a", "b", "c"}
	seen := map[string]bool{}
	for attempt := range 1000 {
		order := lock.Vary(&lock.Tx{Attempt: attempt}, items)
		text := strings.Join(order, "")
		if want, ok := map[int]string{0: "abc", 1: "abc", 2: "cba"}[attempt]; ok && text != want {
			t.Errorf("attempt %d takes %s, want %s", attempt, text, want)
		}
		seen[text] = true
	}
	if len(seen) != 6 {
		t.Errorf("orders %v, want all six", seen)
	}
}

// TestGivenBackIsNotCalledNotObtained checks the messages about a lock that was
// acquired, and released because the work under it was not done in time.
func TestGivenBackIsNotCalledNotObtained(t *testing.T) {
	t.Parallel()
	_, conn, p, oid := given(t, 2)
	var log strings.Builder
	p.Log = slog.New(slog.NewTextHandler(&log, nil))
	err := lock.Transact(t.Context(), conn, p, "held", []uint32{oid}, func(ctx context.Context, tx *lock.Tx) error {
		if err := tx.Lock(ctx, "public.held", "ACCESS EXCLUSIVE"); err != nil {
			return err
		}
		return lock.ErrNoTime
	})
	var timeout *lock.TimeoutError
	if !errors.As(err, &timeout) || !strings.Contains(log.String(), "given back") {
		t.Fatalf("%v, log %s", err, log.String())
	}
	for _, text := range []string{err.Error(), log.String()} {
		if strings.Contains(text, "not obtained") || strings.Contains(text, "blockers are gone") {
			t.Errorf("said of a lock that was obtained: %s", text)
		}
	}
}

// TestWorkUnderLocksIsCutShort checks that waits and work together stay within the
// bound, however long a statement would run.
func TestWorkUnderLocksIsCutShort(t *testing.T) {
	t.Parallel()
	_, conn, p, oid := given(t, 2)
	began := time.Now()
	err := lock.Transact(t.Context(), conn, p, "held", []uint32{oid}, func(ctx context.Context, tx *lock.Tx) error {
		tx.Works(lock.Work{What: "the work", Steps: 2})
		if err := tx.Lock(ctx, "public.held", "ACCESS EXCLUSIVE"); err != nil {
			return err
		}
		tx.Done(1)
		_, err := tx.Exec(ctx, `SELECT pg_sleep(30)`)
		return err
	})
	var timeout *lock.TimeoutError
	if !errors.As(err, &timeout) || !strings.Contains(err.Error(), "the work needs about") {
		t.Errorf("%v, want a *TimeoutError that says what the work needs", err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("two attempts of 100ms took %s", took)
	}
}

// signalled calls do with each log message of package lock.
type signalled struct {
	slog.Handler
	do func(message string)
}

func (h *signalled) Handle(_ context.Context, r slog.Record) error {
	h.do(r.Message)
	return nil
}

func (h *signalled) Enabled(context.Context, slog.Level) bool { return true }

// TestBlockersHaveClocksOfTheirOwn checks that a session that begins to block us after
// another was cancelled gets its own time.
func TestBlockersHaveClocksOfTheirOwn(t *testing.T) {
	t.Parallel()
	db, conn, p, oid := given(t, 1000)
	p.KillAfter = 300 * time.Millisecond
	first, second := db.Connect(t), db.Connect(t)
	exec := func(conn *pgx.Conn, sql string) {
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Error(err)
		}
	}
	exec(first, `BEGIN; LOCK TABLE held IN ACCESS SHARE MODE`)
	signals, attempts := 0, 0
	p.Log = slog.New(&signalled{Handler: slog.DiscardHandler, do: func(message string) {
		switch {
		case message == "blocker signalled" && signals == 0:
			signals++
			exec(second, `BEGIN; LOCK TABLE held IN ACCESS SHARE MODE`)
			exec(first, `COMMIT`)
		case message == "blocker signalled":
			signals++
		case message == "lock not obtained" && signals > 0:
			if attempts++; attempts == 2 {
				exec(second, `COMMIT`)
			}
		}
	}})
	err := lock.Transact(t.Context(), conn, p, "held", []uint32{oid}, func(ctx context.Context, tx *lock.Tx) error {
		return tx.Lock(ctx, "public.held", "ACCESS EXCLUSIVE")
	})
	if err != nil {
		t.Error(err)
	}
	for _, conn := range []*pgx.Conn{first, second} {
		exec(conn, `SELECT 1`)
	}
	if signals == 0 {
		t.Error("nobody was signalled")
	}
}

// TestBlockerIsKilledInTheEnd checks that a blocker that stays is cancelled and,
// because it is idle, terminated.
func TestBlockerIsKilledInTheEnd(t *testing.T) {
	t.Parallel()
	db, conn, p, oid := given(t, 1000)
	p.KillAfter = 200 * time.Millisecond
	_, _ = hold(t, db, "ACCESS SHARE")
	err := lock.Transact(t.Context(), conn, p, "held", []uint32{oid}, func(ctx context.Context, tx *lock.Tx) error {
		return tx.Lock(ctx, "public.held", "ACCESS EXCLUSIVE")
	})
	if err != nil {
		t.Error(err)
	}
}
