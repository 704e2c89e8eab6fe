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

// givenSessionAtWork has a session work until it is told to end.
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
		<-worked
	}
}

func take(t *testing.T, turns *throttle.Throttle, within time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return turns.Take(ctx)
}

// TestTurnsRest has the next turn come as late as the last one was long, but only
// while another session is at work.
func TestTurnsRest(t *testing.T) {
	db := pgtest.New(t)
	pool := givenPool(t, db)
	endWork := givenSessionAtWork(t, db)
	givenRest := func(rest time.Duration) *throttle.Throttle {
		turns := throttle.New(pool, 2, true)
		if err := take(t, turns, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		turns.Rest(rest)
		return turns
	}
	if err := take(t, givenRest(time.Millisecond), 10*time.Second); err != nil {
		t.Errorf("a turn after the rest: %v", err)
	}
	turns := givenRest(time.Hour)
	if err := take(t, turns, time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a turn while it rests: %v", err)
	}
	endWork()
	if err := take(t, turns, 10*time.Second); err != nil {
		t.Errorf("a turn while nobody is at work: %v", err)
	}
}

// TestTurnsYield has one turn at a time while another session is at work, and
// as many as allowed when it has ended. The tests of this package have a server of
// their own, where nobody else is at work.
func TestTurnsYield(t *testing.T) {
	db := pgtest.New(t)
	pool := givenPool(t, db)
	endWork := givenSessionAtWork(t, db)
	turns := throttle.New(pool, 2, true)
	take := func(within time.Duration) error { return take(t, turns, within) }
	if err := take(10 * time.Second); err != nil {
		t.Fatalf("the first turn is always there: %v", err)
	}
	if err := take(time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second turn while somebody is at work: %v", err)
	}
	insistent := throttle.New(pool, 2, false)
	for range 2 {
		if err := insistent.Take(t.Context()); err != nil {
			t.Errorf("told not to yield: %v", err)
		}
	}

	endWork()
	if err := take(10 * time.Second); err != nil {
		t.Errorf("a second turn when nobody is: %v", err)
	}
	if err := take(time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third turn of two: %v", err)
	}
	turns.End()
	if err := take(10 * time.Second); err != nil {
		t.Errorf("a turn that was given back: %v", err)
	}
}

// TestTurnsBesideALook has the server not answer who is at work: turns are given back,
// and taken, all the same, and who waits for the answer waits no longer than its
// context.
func TestTurnsBesideALook(t *testing.T) {
	db := pgtest.New(t)
	pool := givenPool(t, db)
	turns := throttle.New(pool, 2, true)
	if err := take(t, turns, 10*time.Second); err != nil {
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
	go func() { _, err := turns.Busy(looking); looked <- err }()
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, db.Pool, `SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'pg_stat_activity'::regclass AND NOT granted)`)
	}, "the look to wait")

	done := make(chan error, 1)
	go func() { turns.End(); done <- turns.Take(t.Context()) }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("take a turn: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a turn waits for the look")
	}
	short, end := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer end()
	if _, err := turns.Busy(short); !errors.Is(err, context.DeadlineExceeded) {
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
