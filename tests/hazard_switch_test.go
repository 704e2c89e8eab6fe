package tests

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// inShadow reports whether a transaction sees a row of app.items in the shadow.
func inShadow(t *testing.T, tx pgx.Tx, id int) bool {
	t.Helper()
	return pgtest.Query[bool](t, tx, `SELECT EXISTS (SELECT FROM `+shadowItems+` WHERE id = $1)`, id)
}

// insertsAtOnce sends an INSERT that no other writer of the application is in the
// way of: it must not wait for one because of the shadow.
func insertsAtOnce(t *testing.T, db *pgtest.Database, tx pgx.Tx, sql string) {
	t.Helper()
	for _, sql := range twinned(sql) {
		done := startExec(t, tx, sql)
		if blockedOrDone(t, db, done, pid(tx)) {
			t.Errorf("%s: a statement waits for a stale row of the shadow", sql)
		}
		if err := <-done; err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// What a writer leaves in the log at the last moment before the switch is
// replayed under its lock: those who write next meet nothing that is stale, and
// so neither wait for it nor log.
func TestNothingIsStaleAfterSwitch(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		o.LockTimeout = queuing
		h := haltAtStep(t, &o, repack.StepWritingThrough)
		held := holdBefore(t, db, o, repack.Swap)
		last := begin(t, db.Connect(t), pgx.ReadCommitted)
		both(t, last, `UPDATE @items SET email = 'free' WHERE id = 1`)
		held.release()
		pgtest.WaitBlockedBy(t, db.Pool, pid(last)) // past the last replay that takes no lock
		commit(t, last)
		h.await(t, held.done)

		first, second := begin(t, db.Connect(t), pgx.ReadCommitted), begin(t, db.Connect(t), pgx.ReadCommitted)
		both(t, first, `UPDATE @items SET note = 'first' WHERE id = 1`)
		insertsAtOnce(t, db, second, `INSERT INTO @items VALUES (1001, 'mail 1', 'second')`)
		if !inShadow(t, second, 1001) {
			t.Error("a row that nothing stale is in the way of has not been written through")
		}
		commit(t, first)
		commit(t, second)
		h.release()
		held.mustEnd(t)
		alike(t, db, "items")
	})
}

// A writer whose snapshot is older than the switch logs, and does not so much as
// try to write through: it would wait for what another one like it, whose row
// has been replayed since its snapshot, has made stale.
func TestOlderWriterKeepsOffTheShadow(t *testing.T) {
	t.Parallel()
	for n, isolation := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		t.Run(string(isolation), func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				o := givenItems(t, db, strategy)
				var old, older pgx.Tx
				o = beforeStage(o, repack.Swap, func() {
					both(t, db.Pool, `UPDATE @items SET note = 'to be replayed' WHERE id = 1`)
					old, older = stillSnapshot(t, db, isolation), stillSnapshot(t, db, isolation)
				})
				held := holdAtStep(t, db, o, repack.StepWritingThrough)
				both(t, old, `UPDATE @items SET email = 'free' WHERE id = 1`)
				commit(t, old)

				first := begin(t, db.Connect(t), pgx.ReadCommitted)
				both(t, first, `UPDATE @items SET note = 'first' WHERE id = 1`)
				insertsAtOnce(t, db, older, `INSERT INTO @items VALUES (1001, 'mail 1', 'older')`)
				both(t, older, `INSERT INTO @items VALUES (1002, 'mail 1002', 'older')`)
				if inShadow(t, older, 1002) {
					t.Error("a snapshot older than the switch has written to the shadow")
				}
				commit(t, older)
				commit(t, first)
				held.release()
				held.mustEnd(t)
				alike(t, db, "items")
			})
		})
	}
}

// counter notes when the run has logged a message.
type counter struct {
	message string
	enough  int // how many records seen stands for
	seen    chan struct{}
	mu      sync.Mutex
	times   []time.Time
}

// note is for onLog.
func (c *counter) note(message string) {
	if message != c.message {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.times = append(c.times, time.Now()); len(c.times) == c.enough {
		close(c.seen)
	}
}

// A key whose row stays locked by the application is put back into the log by
// every pass. The run gives up after MaxSnapshotWait; until then it pauses
// between passes, or they would fill the log as fast as the server writes.
func TestDrainPausesWhileRowsAreLocked(t *testing.T) {
	t.Parallel()
	const pause = 20 * time.Millisecond
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		var old, holder pgx.Tx
		o = beforeStage(o, repack.Swap, func() { old = stillSnapshot(t, db, pgx.RepeatableRead) })
		o = atStep(o, repack.StepWritingThrough, func() {
			both(t, old, `UPDATE @items SET note = 'logged' WHERE id = 1`)
			commit(t, old)
			holder = begin(t, db.Connect(t), pgx.ReadCommitted)
			mustExec(t, holder, `SELECT FROM app.items WHERE id = 1 FOR UPDATE`)
		})
		impatient := o
		impatient.LockRetries, impatient.MaxSnapshotWait = 1, 5*pause
		err := newRepack(t, db, impatient).Run(testContext(t))
		if err == nil || !strings.Contains(err.Error(), "rows stay locked by the application (1 keys)") {
			t.Fatalf("run: %v, want it to say that a row stays locked", err)
		}

		passes := &counter{message: "rows are locked by the application", enough: 20, seen: make(chan struct{})}
		onLog(&o, passes.note)
		done := startRun(t, db, o)
		awaitLog(t, passes.seen, done)
		commit(t, holder)
		mustEnd(t, done)
		for i := range len(passes.times) - 1 {
			if took := passes.times[i+1].Sub(passes.times[i]); took < pause {
				t.Fatalf("pass %d followed on another after %s, want a pause of %s", i+2, took, pause)
			}
		}
		alike(t, db, "items")
	})
}
