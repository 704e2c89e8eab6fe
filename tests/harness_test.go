// Package tests runs whole repacks against a real server, and judges them by
// what PostgreSQL says, not by the code under test.
package tests

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/migrations"
	"github.com/repack-go/repack/repack"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var strategies = []string{repack.ChangeLog, repack.DirectTrigger}

// withRegistry is a database in which the tool was before: to migrate the registry takes a
// fifth of what a small table does. Tests of how the registry comes about, or by whom, of
// refusals, and those that count what is sent take pgtest.New.
var withRegistry = pgtest.NewTemplate(func(ctx context.Context, config *pgx.ConnConfig) error {
	conn, err := session.Connect(ctx, session.NewTarget(config, session.NoPooler))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return migrations.Apply(ctx, conn, repack.DefaultRegistrySchema)
})

// eachStrategy runs a test once a strategy, in parallel, on databases of their own
// in which the tool was before: a test of setup, of the backfill or of sync_schema. What
// comes later is the same code for both (inTurn).
func eachStrategy(t *testing.T, test func(t *testing.T, db *pgtest.Database, strategy string)) {
	t.Helper()
	eachStrategyIn(t, withRegistry.New, test)
}

// eachStrategyIn is eachStrategy with databases of another kind.
func eachStrategyIn(t *testing.T, newDatabase func(testing.TB) *pgtest.Database, test func(t *testing.T, db *pgtest.Database, strategy string)) {
	t.Helper()
	for _, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			test(t, newDatabase(t), strategy)
		})
	}
}

// inTurn runs the nth case of a test with one strategy: from one n to the next it is
// the other.
func inTurn(t *testing.T, n int, test func(t *testing.T, db *pgtest.Database, strategy string)) {
	t.Helper()
	inTurnIn(t, n, withRegistry.New, test)
}

// inTurnIn is inTurn with a database of another kind.
func inTurnIn(t *testing.T, n int, newDatabase func(testing.TB) *pgtest.Database, test func(t *testing.T, db *pgtest.Database, strategy string)) {
	t.Helper()
	for _, strategy := range turn(n) {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			test(t, newDatabase(t), strategy)
		})
	}
}

// turn is whose turn it is in case n.
func turn(n int) []string {
	if thorough() {
		return strategies
	}
	return strategies[n%2 : n%2+1]
}

// thoroughEnv makes tests do for each strategy what they otherwise do for one of
// the two in turn, and by itself what they otherwise do on one table with others,
// and sample more. `make test-thorough` sets it.
const thoroughEnv = "REPACK_THOROUGH"

func thorough() bool { return os.Getenv(thoroughEnv) != "" }

// eachHalf runs a test of two halves, each with a strategy: from one n to the next
// they change places.
func eachHalf(t *testing.T, n int, test func(t *testing.T, db *pgtest.Database, first, second string)) {
	t.Helper()
	first, second := strategies[n%2], strategies[1-n%2]
	pairs := [][2]string{{first, second}}
	if thorough() {
		pairs = append(pairs, [2]string{second, first})
	}
	for _, p := range pairs {
		t.Run(p[0]+", "+p[1], func(t *testing.T) {
			t.Parallel()
			test(t, withRegistry.New(t), p[0], p[1])
		})
	}
}

// options are those of an impatient user: what is held up is held up by the
// test, on purpose. Which way foreign keys go must not depend on how slow the machine
// is.
func options(t *testing.T, table, strategy string) repack.Options {
	return repack.Options{
		Table: table, Strategy: strategy, Jobs: 2, ForeignKeys: repack.ForeignKeysTogether,
		LockTimeout: 300 * time.Millisecond, LockRetries: 5, MaxSnapshotWait: 20 * time.Second,
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func newRepack(t *testing.T, db *pgtest.Database, o repack.Options) *repack.Repack {
	t.Helper()
	r, err := repack.New(db.Config(t), o)
	if err != nil {
		t.Fatalf("new repack: %v", err)
	}
	return r
}

// run repacks to the end of o.Until and fails the test if that fails.
func run(t *testing.T, db *pgtest.Database, o repack.Options) {
	t.Helper()
	if err := newRepack(t, db, o).Run(testContext(t)); err != nil {
		t.Fatalf("run: %v", err)
	}
}

// runUntil is run with another last stage.
func runUntil(t *testing.T, db *pgtest.Database, o repack.Options, until repack.Stage) {
	t.Helper()
	o.Until = until
	run(t, db, o)
}

// startRun runs in the background; the channel yields what Run returned.
func startRun(t *testing.T, db *pgtest.Database, o repack.Options) <-chan error {
	t.Helper()
	r := newRepack(t, db, o)
	ctx := testContext(t)
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	return done
}

// await waits for what startRun has started.
func await(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(2 * time.Minute):
		t.Fatal("run did not end")
		return nil
	}
}

// mustEnd waits for a run that startRun has started; the test fails if that does.
func mustEnd(t *testing.T, done <-chan error) {
	t.Helper()
	if err := await(t, done); err != nil {
		t.Fatalf("run: %v", err)
	}
}

// testContext bounds what is done for a test, and ends with a trial of the
// torture.
func testContext(t *testing.T) context.Context {
	end := time.Now().Add(3 * time.Minute)
	if trial, ok := trialEnds.Load(t.Name()); ok {
		end = trial.(time.Time)
	}
	ctx, cancel := context.WithDeadline(context.Background(), end)
	t.Cleanup(cancel)
	return ctx
}

func begin(t *testing.T, conn *pgx.Conn, isolation pgx.TxIsoLevel) pgx.Tx {
	t.Helper()
	tx, err := conn.BeginTx(testContext(t), pgx.TxOptions{IsoLevel: isolation})
	if err != nil {
		t.Fatalf("begin: %v", err)
	}
	return tx
}

type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

func mustExec(t *testing.T, conn execer, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(testContext(t), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func commit(t *testing.T, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(testContext(t)); err != nil {
		t.Fatalf("commit: %v", err)
	}
}

// oneAtATime is a hook that keeps what it has seen: builds of indexes end beside each
// other.
func oneAtATime(hook func(context.Context, string) error) func(context.Context, string) error {
	var mu sync.Mutex
	return func(ctx context.Context, step string) error {
		mu.Lock()
		defer mu.Unlock()
		return hook(ctx, step)
	}
}

// atStep calls do once, when the run has done the step of that name. Builds of
// indexes end beside each other: those that are not the first go on.
func atStep(o repack.Options, step string, do func()) repack.Options {
	var called atomic.Bool
	o.Hooks.AfterStep = func(_ context.Context, name string) error {
		if name == step && called.CompareAndSwap(false, true) {
			do()
		}
		return nil
	}
	return o
}
