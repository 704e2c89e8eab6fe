package throttle_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/stages/throttle"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func givenPool(t *testing.T, db *pgtest.Database) *pgxpool.Pool {
	t.Helper()
	pool, err := session.Pool(t.Context(), session.NewTarget(db.Config(t), session.NoPooler), 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

const workingSQL = `
SELECT EXISTS (
    SELECT FROM pg_stat_activity
    WHERE  query LIKE '%1000000000000%' AND state = 'active' AND pid <> pg_backend_pid())`

// givenSessionAtWork starts a session that works until end is called.
func givenSessionAtWork(t *testing.T, db *pgtest.Database) (end func()) {
	t.Helper()
	worker := db.Connect(t)
	worked := make(chan error, 1)
	go func() {
		_, err := worker.Exec(context.Background(), `SELECT count(*) FROM generate_series(1, 1000000000000)`)
		worked <- err
	}()
	pgtest.WaitFor(t, func() bool { return pgtest.Query[bool](t, db.Pool, workingSQL) }, "a session to be at work")
	return func() {
		db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%1000000000000%' AND pid <> pg_backend_pid()`)
		<-worked //nolint:errcheck // it has been terminated
	}
}

func take(t *testing.T, slots *throttle.Throttle, within time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return slots.Take(ctx)
}

// TestThrottleRests: the next slot begins after a rest as long as the last slot, but only
// while another session is at work.
func TestThrottleRests(t *testing.T) {
	db := pgtest.New(t)
	pool := givenPool(t, db)
	endWork := givenSessionAtWork(t, db)
	givenRest := func(rest time.Duration) *throttle.Throttle {
		slots := throttle.New(pool, 2, true)
		if err := take(t, slots, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		slots.Rest(rest)
		return slots
	}
	if err := take(t, givenRest(time.Millisecond), 10*time.Second); err != nil {
		t.Errorf("a slot after the rest: %v", err)
	}
	slots := givenRest(time.Hour)
	if err := take(t, slots, time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a slot while it rests: %v", err)
	}
	endWork()
	if err := take(t, slots, 10*time.Second); err != nil {
		t.Errorf("a slot while nobody is at work: %v", err)
	}
}

// TestThrottleYields: there is one slot at a time while another session is at work, and
// as many as allowed when it has ended. The tests of this package have a server of their
// own, so no other session is at work there.
func TestThrottleYields(t *testing.T) {
	db := pgtest.New(t)
	pool := givenPool(t, db)
	endWork := givenSessionAtWork(t, db)
	slots := throttle.New(pool, 2, true)
	take := func(within time.Duration) error { return take(t, slots, within) }
	if err := take(10 * time.Second); err != nil {
		t.Fatalf("the first slot is always there: %v", err)
	}
	if err := take(time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second slot while somebody is at work: %v", err)
	}
	insistent := throttle.New(pool, 2, false)
	for range 2 {
		if err := insistent.Take(t.Context()); err != nil {
			t.Errorf("told not to yield: %v", err)
		}
	}

	endWork()
	if err := take(10 * time.Second); err != nil {
		t.Errorf("a second slot when nobody is: %v", err)
	}
	if err := take(time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third slot of two: %v", err)
	}
	slots.End()
	if err := take(10 * time.Second); err != nil {
		t.Errorf("a slot that was given back: %v", err)
	}
}

// TestThrottleBesideALook: while the server does not answer which sessions are at work,
// slots can still be given back and taken. A goroutine that waits for the answer waits no
// longer than its context allows.
func TestThrottleBesideALook(t *testing.T) {
	db := pgtest.New(t)
	pool := givenPool(t, db)
	slots := throttle.New(pool, 2, true)
	if err := take(t, slots, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	holder := db.Connect(t)
	for _, sql := range []string{`SET allow_system_table_mods = on`, `BEGIN`, `ALTER VIEW pg_stat_activity SET (security_barrier = false)`} {
		if _, err := holder.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	looking, cancel := context.WithCancel(t.Context())
	looked := make(chan error, 1)
	go func() { _, err := slots.Busy(looking); looked <- err }()
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, db.Pool, `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'pg_stat_activity'::regclass AND NOT granted)`)
	}, "the look to wait")

	done := make(chan error, 1)
	go func() { slots.End(); done <- slots.Take(t.Context()) }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("take a slot: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a slot waits for the look")
	}
	short, end := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer end()
	if _, err := slots.Busy(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second look: %v", err)
	}
	cancel()
	if err := <-looked; !errors.Is(err, context.Canceled) {
		t.Errorf("the look: %v", err)
	}
	if _, err := holder.Exec(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
}
