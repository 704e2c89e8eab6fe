package tests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// workloadSQL makes the table and a twin, to which every transaction of the workload does
// the same. The twin has no key to a parent: no writer touches one. Each writer has keys
// of its own, so that no statement's effect depends on when the others commit.
var workloadSQL = fixture("workload")

// operations are what a transaction is made of; $1 is the writer, $2 a random number.
var operations = []string{
	`
		INSERT INTO @t (id, owner, email, pos, note)
		VALUES (1000000 * ($1::int + 1) + $2::int, $1, 'i' || $1::int || '/' || $2::int, 1000000 + $2::int, 'in')
		ON CONFLICT (id) DO UPDATE SET note = 'upserted', pos = EXCLUDED.pos`,
	`
		INSERT INTO @t (id, owner, pos, note)
		SELECT 5000000000 + 1000000 * ($1::int + 1) + $2::int * 10 + g, $1, 2000000 + $2::int * 10 + g, 'bulk'
		FROM   generate_series(1, 9) g
		ON CONFLICT (id) DO NOTHING`,
	`UPDATE @t SET note = 'U' || $2::int WHERE owner = $1 AND id = $1::int + {writers} * ($2::int % 400)`,
	`UPDATE @t SET note = note || 'x' WHERE owner = $1 AND pos BETWEEN $2::int AND $2::int + 60`,
	`DELETE FROM @t WHERE owner = $1 AND id = $1::int + {writers} * ($2::int % 900)`,
	`DELETE FROM @t WHERE owner = $1 AND id BETWEEN 5000000000 + 1000000 * ($1::int + 1) + $2::int * 10 - 90
	 AND 5000000000 + 1000000 * ($1::int + 1) + $2::int * 10`,
	`
		UPDATE @t
		SET    pos = $2::int + mod(pos - $2::int + {writers}, 64)
		WHERE  owner = $1 AND pos BETWEEN $2::int AND $2::int + 63`,
	`UPDATE @t a SET pos = b.pos FROM @t b WHERE a.owner = $1 AND b.owner = $1 AND a.pos < 100000 AND b.pos < 100000
	 AND (a.id, b.id) IN (SELECT m.id, n.id FROM (SELECT min(id) AS id FROM @t WHERE owner = $1 AND id > $2::int) m,
	                             (SELECT max(id) AS id FROM @t WHERE owner = $1) n WHERE m.id <> n.id
	                      UNION ALL
	                      SELECT n.id, m.id FROM (SELECT min(id) AS id FROM @t WHERE owner = $1 AND id > $2::int) m,
	                             (SELECT max(id) AS id FROM @t WHERE owner = $1) n WHERE m.id <> n.id)`,
	`WITH gone AS (UPDATE @t SET email = NULL WHERE owner = $1 AND id = $1::int + {writers} * ($2::int % 700) RETURNING id)
	 SELECT count(*) FROM gone`,
	`UPDATE @t SET email = 'e' || id || '/' || $2::int WHERE owner = $1 AND email IS NULL`,
	`UPDATE @t SET id = id + 7000000000 WHERE owner = $1 AND id = $1::int + {writers} * ($2::int % 900)`,
	`
		UPDATE @t
		SET    up = (SELECT max(id) FROM @t WHERE owner = $1)
		WHERE  owner = $1 AND id = $1::int + {writers} * ($2::int % 300)`,
	`
		WITH d
		    AS (DELETE FROM @t
		    WHERE owner = $1 AND id = $1::int + {writers} * ($2::int % 900) AND id NOT IN (SELECT t FROM @child)
		    AND NOT EXISTS (SELECT FROM @t x WHERE x.up = t.id)
		    RETURNING *) INSERT INTO @t (id, owner, email, pos, note) SELECT id, owner, email, pos, 'again' FROM d`,
}

const (
	writers      = 4
	workloadRows = 20000
)

func fill(sql string) string { return strings.ReplaceAll(sql, "{writers}", strconv.Itoa(writers)) }

// givenWorkload makes the tables of the workload, and returns the dump of them.
func givenWorkload(t *testing.T, db *pgtest.Database, rows int) (dump string) {
	t.Helper()
	db.Exec(t, strings.ReplaceAll(fill(workloadSQL), "{rows}", strconv.Itoa(rows)))
	return db.Dump(t)
}

// workload is a set of writers and what they have seen.
type workload struct {
	db           *pgtest.Database
	outlives     bool // lost connections are the test's doing: the writers connect again
	stop         chan struct{}
	group        sync.WaitGroup
	transactions atomic.Int64
	retries      atomic.Int64
	longest      atomic.Int64 // nanoseconds
	mu           sync.Mutex
	failures     []error
}

func startWorkload(t *testing.T, db *pgtest.Database, seed uint64) *workload {
	t.Helper()
	w := &workload{db: db, stop: make(chan struct{})}
	w.start(t, writers, seed)
	return w
}

// startOutlivingWorkload has writers that outlive the server; half as many, as
// they have to let a run with its many repetitions get ahead of them.
func startOutlivingWorkload(t *testing.T, db *pgtest.Database, seed uint64) *workload {
	t.Helper()
	w := &workload{db: db, outlives: true, stop: make(chan struct{})}
	w.start(t, writers/2, seed)
	return w
}

// writersPause is between two transactions of a writer of the workload: writers that do
// not pause have the processors for themselves, and a run among them takes several times
// as long, and meets no more. With make test-thorough and make torture they do not.
const writersPause = 5 * time.Millisecond

func (w *workload) start(t *testing.T, count int, seed uint64) {
	config, pause := w.db.Config(t), writersPause
	if _, torture := trialEnds.Load(t.Name()); torture || thorough() {
		pause = 0
	}
	for n := range count {
		conn := w.db.Connect(t)
		random := rand.New(rand.NewPCG(seed, uint64(n)))
		w.group.Go(func() {
			for ; !w.stopped(); time.Sleep(pause) {
				err := w.transaction(conn, n, random)
				if err != nil && w.outlives && lost(err) {
					conn, err = w.reconnect(t, config)
				}
				if err != nil {
					w.mu.Lock()
					w.failures = append(w.failures, err)
					w.mu.Unlock()
					return
				}
			}
		})
	}
}

func (w *workload) stopped() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}

// lost reports whether err is the end of a connection. Whether its last COMMIT
// went through need not be known: table and twin are in one transaction.
func lost(err error) bool {
	var pgErr *pgconn.PgError
	return !errors.As(err, &pgErr) || pgerrcode.IsOperatorIntervention(pgErr.Code)
}

// reconnect waits until there is a server again. The test bounds the wait.
func (w *workload) reconnect(t *testing.T, config *pgx.ConnConfig) (*pgx.Conn, error) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		conn, err := pgx.ConnectConfig(context.Background(), config)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close(context.Background()) }) // may be lost
		}
		if err == nil || !lost(err) || w.stopped() {
			return conn, err
		}
		<-ticker.C
	}
}

// end stops the writers and fails the test for every error the application
// would not have had alone.
func (w *workload) end(t *testing.T) {
	t.Helper()
	close(w.stop)
	w.group.Wait()
	for _, err := range w.failures {
		t.Errorf("the application noticed: %v", err)
	}
	t.Logf("%d transactions, %d serialization retries, longest statement %s",
		w.transactions.Load(), w.retries.Load(), time.Duration(w.longest.Load()))
}

var isolations = []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}

// transaction does one to four operations, to table and twin alike, a third
// of them in a savepoint that is rolled back, and sometimes rolls back all.
func (w *workload) transaction(conn *pgx.Conn, writer int, random *rand.Rand) error {
	ctx := context.Background()
	isolation := isolations[random.IntN(len(isolations))]
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: isolation})
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	operations := 1 + random.IntN(4)
	for range operations {
		if err := w.operation(ctx, tx, writer, random); err != nil {
			return w.retried(isolation, err)
		}
	}
	if random.IntN(10) == 0 {
		return nil
	}
	if err := tx.Commit(ctx); err != nil {
		return w.retried(isolation, err)
	}
	w.transactions.Add(1)
	tried.writes.Add(int64(operations))
	return nil
}

// retried counts what SERIALIZABLE may answer to anybody. REPEATABLE READ may
// not: no two writers touch the same row.
func (w *workload) retried(isolation pgx.TxIsoLevel, err error) error {
	var pgErr *pgconn.PgError
	if isolation == pgx.Serializable && errors.As(err, &pgErr) && pgErr.Code == pgerrcode.SerializationFailure {
		w.retries.Add(1)
		return nil
	}
	return fmt.Errorf("%s: %w", isolation, err)
}

func (w *workload) operation(ctx context.Context, tx pgx.Tx, writer int, random *rand.Rand) error {
	operation, number, undo := operations[random.IntN(len(operations))], random.IntN(5000), random.IntN(3) == 0
	if undo {
		inner, err := tx.Begin(ctx)
		if err != nil {
			return err
		}
		defer inner.Rollback(ctx)
		tx = inner
	}
	for _, sql := range twinned(fill(operation)) {
		began := time.Now()
		if _, err := tx.Exec(ctx, sql, writer, number); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
		if took := int64(time.Since(began)); took > w.longest.Load() {
			w.longest.Store(took)
		}
	}
	return nil
}

// TestRandomWorkload repacks under writers that do everything at once, with one
// strategy to the end, with the other to the swap and back again;
// TestRandomWorkloadInShares has it the other way round.
func TestRandomWorkload(t *testing.T) {
	for _, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			underWorkload(t, strategy, randomSeed(t), func(db *pgtest.Database, o repack.Options) {
				if strategy == repack.ChangeLog || thorough() {
					run(t, db, o)
				}
				if strategy == repack.DirectTrigger || thorough() {
					o.BatchSize = 0
					thereAndBack(t, db, o)
				}
			})
		})
	}
}

// randomRuns are the two halves of TestRandomWorkload.
func randomRuns(strategy string) []trial {
	return []trial{
		{"random runs", strategy + "/there", func(t *testing.T, seed uint64) {
			underWorkload(t, strategy, seed, func(db *pgtest.Database, o repack.Options) { run(t, db, o) })
		}},
		{"random runs", strategy + "/there and back", func(t *testing.T, seed uint64) {
			underWorkload(t, strategy, seed, func(db *pgtest.Database, o repack.Options) { thereAndBack(t, db, o) })
		}},
	}
}

// thereAndBack swaps the tables and reverts.
func thereAndBack(t *testing.T, db *pgtest.Database, o repack.Options) {
	t.Helper()
	runUntil(t, db, o, repack.Swap)
	revert(t, db, o)
}

// starvedMargin is waitMargin where writers that never pause leave the tool what
// is left of the processors, also while it holds a lock.
const starvedMargin = time.Second

// underWorkload does work among writers that do everything at once.
func underWorkload(t *testing.T, strategy string, seed uint64, work func(*pgtest.Database, repack.Options)) {
	t.Helper()
	db := withRegistry.New(t)
	before := givenWorkload(t, db, workloadRows)
	w := startWorkload(t, db, seed)
	seen, stop := watchWaits(t, db)
	o := options(t, "app.t", strategy)
	o.LockRetries, o.BatchSize, o.Hooks = 100, 2000, atPlaces(seen.at)
	work(db, o)
	stop()
	w.end(t)
	seen.within(t, o.LockTimeout+starvedMargin)
	alike(t, db, "t")
	sameDump(t, db, before)
}
