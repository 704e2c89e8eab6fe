package tests

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// waitsSQL is who of the application waits for the tool, and since when, by the
// server's clock: waits for others, and the machine's other work, do not count.
const waitsSQL = `
SELECT l.pid,
       extract(epoch FROM clock_timestamp() - l.waitstart)::float8,
       a.query
FROM   pg_locks l
JOIN   pg_stat_activity a ON a.pid = l.pid
WHERE  NOT l.granted AND l.waitstart IS NOT NULL
AND    a.datname = current_database() AND a.application_name NOT LIKE 'repack %'
AND    EXISTS (SELECT FROM unnest(pg_blocking_pids(l.pid)) b
               JOIN   pg_stat_activity o ON o.pid = b WHERE o.application_name LIKE 'repack %')`

// waits are the longest waits of the application for the tool, by place.
type waits struct {
	mu      sync.Mutex
	place   string
	longest map[string]time.Duration
	queries map[string]string
}

// watchWaits samples until the function it returns is called.
func watchWaits(t *testing.T, db *pgtest.Database) (w *waits, stop func()) {
	t.Helper()
	w = &waits{place: "before the run", longest: map[string]time.Duration{}, queries: map[string]string{}}
	conn := db.Connect(t)
	ctx, cancel := context.WithCancel(testContext(t))
	var group sync.WaitGroup
	group.Go(func() {
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for ctx.Err() == nil {
			if err := w.sample(ctx, conn); err != nil && ctx.Err() == nil {
				t.Errorf("sample waits: %v", err)
				return
			}
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	})
	return w, func() { cancel(); group.Wait() }
}

func (w *waits) sample(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, waitsSQL)
	if err != nil {
		return err
	}
	var pid int32
	var seconds float64
	var query string
	_, err = pgx.ForEachRow(rows, []any{&pid, &seconds, &query}, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if took := time.Duration(seconds * float64(time.Second)); took > w.longest[w.place] {
			w.longest[w.place], w.queries[w.place] = took, query
		}
		return nil
	})
	return err
}

func (w *waits) at(place string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.place = place
}

// nuisance holds a lock on the table for longer than the tool is ready to wait.
type nuisance struct{ name, sql string }

var nuisances = []nuisance{
	{
		"idle in transaction",
		`UPDATE app.parent SET id = id WHERE id = 50; INSERT INTO app.t (id, owner, pos) VALUES (-1, -1, -1)`,
	},
	{"long reader", `SELECT FROM app.t LIMIT 1`},
	// Such an autovacuum does not let itself be cancelled.
	{"vacuum to prevent wraparound", `LOCK TABLE app.t IN SHARE UPDATE EXCLUSIVE MODE`},
}

// nuisancePlaces are followed by a lock of the tool's.
var nuisancePlaces = []string{beforeSetup, beforeSwap, repack.StepDrained, beforeCleanUp}

// holder is a nuisance in a transaction, which is rolled back when the tool has
// given way, or has come to its next place.
type holder struct {
	t       *testing.T
	mu      sync.Mutex
	conn    *pgx.Conn
	tx      pgx.Tx
	refused int
}

func (h *holder) hold(n nuisance) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tx = begin(h.t, h.conn, pgx.ReadCommitted)
	mustExec(h.t, h.tx, n.sql)
}

func (h *holder) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tx == nil {
		return
	}
	if err := h.tx.Rollback(context.Background()); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
		h.t.Errorf("release: %v", err)
	}
	h.tx = nil
}

// note gives way when the run has.
func (h *holder) note(message string) {
	if message == lockNotObtained {
		h.refused++
		h.release()
	}
}

// waitMargin is what an attempt may take over the lock timeout: to hold the lock
// it has got.
const waitMargin = 200 * time.Millisecond

// TestLongestWait measures how long statements of the application wait for the
// tool, in every stage, with others in its way.
func TestLongestWait(t *testing.T) {
	for m, n := range nuisances {
		t.Run(n.name, func(t *testing.T) {
			inTurn(t, m, func(t *testing.T, db *pgtest.Database, strategy string) {
				givenWorkload(t, db, crashRows)
				writers := startOutlivingWorkload(t, db, randomSeed(t))
				seen, stop := watchWaits(t, db)
				h := &holder{t: t, conn: db.Connect(t)}
				places := slices.Clone(nuisancePlaces)
				o := options(t, "app.t", strategy)
				o.Jobs, o.LockRetries = 1, 100
				onLog(&o, h.note)
				o.Hooks = atPlaces(func(place string) {
					seen.at(place)
					h.release()
					// Once: some places are passed again.
					if i := slices.Index(places, place); i >= 0 {
						places = slices.Delete(places, i, i+1)
						h.hold(n)
					}
				})
				if err := newRepack(t, db, o).Run(testContext(t)); err != nil {
					t.Errorf("run: %v", err)
				}
				h.release()
				stop()
				writers.end(t)
				seen.within(t, o.LockTimeout+waitMargin)
				if len(places) > 0 || h.refused == 0 {
					t.Errorf("the tool was held up %d times, and not at %q", h.refused, places)
				}
				if n := pgtest.Query[int64](t, db.Pool, `
					SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`); n != 0 {
					t.Errorf("%d deadlocks", n)
				}
				alike(t, db, "t")
			})
		})
	}
}

// within fails the test if anybody has waited for longer.
func (w *waits) within(t *testing.T, bound time.Duration) {
	t.Helper()
	var all []string
	for place, took := range w.longest {
		all = append(all, fmt.Sprintf("%s after %q", took.Round(time.Millisecond), place))
		if took > bound {
			t.Errorf("after %q the application waited %s for the tool, at most %s are promised: %s", place, took, bound, w.queries[place])
		}
		tried.waited(took)
	}
	t.Logf("longest waits for the tool: %s", strings.Join(all, ", "))
}
