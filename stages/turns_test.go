package stages_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/pgtest"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/stages"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func givenPool(t *testing.T, db *pgtest.Database) *pgxpool.Pool {
	t.Helper()
	pool, err := session.Pool(t.Context(), db.Config(t), 3)
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

// TestTurnsYield has one turn at a time while another session is at work, and
// as many as allowed when it has ended. The tests of this package have a server of
// their own, where nobody else is at work.
func TestTurnsYield(t *testing.T) {
	db := pgtest.New(t)
	pool := givenPool(t, db)
	worker := db.Connect(t)
	worked := make(chan error, 1)
	go func() {
		_, err := worker.Exec(context.Background(), `SELECT count(*) FROM generate_series(1, 1000000000000)`)
		worked <- err
	}()
	pgtest.WaitFor(t, func() bool { return pgtest.Query[bool](t, db.Pool, workingSQL) }, "a session to be at work")

	turns := stages.NewTurns(pool, 2, true)
	take := func(within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		return turns.Take(ctx)
	}
	if err := take(10 * time.Second); err != nil {
		t.Fatalf("the first turn is always there: %v", err)
	}
	if err := take(time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second turn while somebody is at work: %v", err)
	}
	insistent := stages.NewTurns(pool, 2, false)
	for range 2 {
		if err := insistent.Take(t.Context()); err != nil {
			t.Errorf("told not to yield: %v", err)
		}
	}

	db.Exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%1000000000000%' AND pid <> pg_backend_pid()`)
	<-worked
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
