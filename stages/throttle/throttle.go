// Package throttle makes a run of repack give way to the application. It decides how many
// pieces of work are done at the same time, how long a run rests between them, and
// whether their commits wait for the disk.
package throttle

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/catalog"
)

// ChunkTime is how long a chunk should take. For about this time, a chunk holds a
// snapshot and, with direct-trigger, row locks. A writer may have to wait for these
// locks.
const ChunkTime = 500 * time.Millisecond

// Throttle is asked before every piece of work: a chunk, the build of an index, a batch of the
// replay, the swap. No other code decides whether a run continues. See Throttler for what it
// asks in its turn.
//
// While the application is at work, there is one slot at a time. So on a server with few
// processors, most of them are left to the application. After each piece of the work that
// writes most, there is a rest of the same length.
type Throttle struct {
	pool  *pgxpool.Pool
	most  int
	yield bool
	freed chan struct{} // has a token when a slot has ended

	mu      sync.Mutex
	taken   int
	nice    float64       // see RestFor
	rested  time.Time     // the end of the last rest
	flushed time.Time     // when the last commit that waits was begun: see Commits
	seen    []activity    // the newest last
	look    chan struct{} // has a token while a goroutine asks the server

	log        *slog.Logger
	throttlers []Throttler
	giveUp     time.Duration // 0: never
	waiters    int           // goroutines whose work is stopped
	waiting    Waiting       // if there are any
	said       time.Time     // when the log was told last
	replayed   time.Time     // when a batch was replayed although work was stopped
	floorEnds  time.Time     // until when such a batch counts as waiting; zero: there was none
	used       float64       // Verdict.Utilisation of the last question
	steps      []float64     // by which used has changed, the newest last
	isNear     bool          // a limit is near: there is one slot
	smaller    int           // how many times smaller pieces are then: see PieceTime
}

// New returns a Throttle with up to most slots at the same time. With yield, there is
// only one slot while other sessions are at work.
func New(pool *pgxpool.Pool, most int, yield bool) *Throttle {
	return &Throttle{
		pool: pool, most: most, yield: yield, freed: make(chan struct{}, 1), look: make(chan struct{}, 1),
		log: slog.New(slog.DiscardHandler),
	}
}

// AtMost changes the number of slots. A run has as many workers as it was begun with, so more
// than that are of no use.
func (t *Throttle) AtMost(slots int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.most = slots
}

// RestFor makes each chunk be followed by a rest so many times as long, whatever other sessions do.
// Zero stands for a rest as long as the chunk, while other sessions are at work.
func (t *Throttle) RestFor(nice float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nice = nice
}

// lookEvery is the shortest time between two queries about other sessions, lookBack is
// how many of the last answers count, and stale is the age from which on an answer no
// longer counts.
const (
	lookEvery = 200 * time.Millisecond
	lookBack  = 5
	stale     = 2 * lookBack * lookEvery
)

// The application is at work if at least busySessions of its sessions are active on
// average. If the server does not show us what its sessions do, the application is at
// work if there are at least busyWrites writing transactions.
const (
	busySessions = 0.25
	busyWrites   = 100 // a second
)

// Take waits for a slot, which the caller ends with End or Rest. If no other slot is
// taken, Take waits at most for the rest after the last one.
func (t *Throttle) Take(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		rest := t.rest()
		if rest <= 0 && t.try(1) {
			return nil
		}
		busy, err := t.Busy(ctx)
		if err != nil {
			return err
		}
		if !busy && (rest <= 0 || !t.alwaysRests()) && t.try(0) {
			return nil
		}
		wait := lookEvery
		if rest > 0 {
			wait = min(wait, rest)
		}
		select {
		case <-ctx.Done():
		case <-t.freed:
		case <-time.After(wait):
		}
	}
}

// End gives back a slot that was taken.
func (t *Throttle) End() {
	t.mu.Lock()
	t.taken--
	t.mu.Unlock()
	select {
	case t.freed <- struct{}{}:
	default: // a waiting goroutine will be woken already
	}
}

// Rest ends a slot that took so long. While the application is at work, the next slot
// begins only after a rest of the same length.
func (t *Throttle) Rest(took time.Duration) {
	t.mu.Lock()
	if t.nice > 0 {
		took = time.Duration(float64(took) * t.nice)
	}
	t.rested = time.Now().Add(took)
	t.mu.Unlock()
	t.End()
}

// alwaysRests reports whether there is a rest although no other session is at work.
func (t *Throttle) alwaysRests() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nice > 0
}

func (t *Throttle) rest() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Until(t.rested)
}

// Chunk waits until the work may begin (Wait), takes a slot, does one of a series of pieces of
// work in it, and rests after it.
// The rest is at most ChunkTime long, because the piece may have spent time waiting.
func (t *Throttle) Chunk(ctx context.Context, work Work, piece func() (more bool, err error)) (more bool, err error) {
	if err := t.allowed(ctx, work); err != nil {
		return false, err
	}
	began := time.Now()
	more, err = piece()
	t.Rest(min(time.Since(began), ChunkTime))
	return more, err
}

// allowed waits until the work may begin, and takes a slot. What was said before a wait for the
// slot may hold no longer, so it asks again.
func (t *Throttle) allowed(ctx context.Context, work Work) error {
	for {
		if err := t.Wait(ctx, work); err != nil {
			return err
		}
		if t.rest() <= 0 && t.try(1) {
			return nil
		}
		if err := t.Take(ctx); err != nil {
			return err
		}
		verdict, err := t.verdict(ctx, work)
		if err == nil && !verdict.Stop {
			return nil
		}
		t.End()
		if err != nil {
			return err
		}
	}
}

// try takes a slot if fewer than most are taken. 0 stands for all.
func (t *Throttle) try(most int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if most == 0 {
		most = t.most
	}
	if t.isNear {
		most = 1
	}
	if t.taken >= most {
		return false
	}
	t.taken++
	return true
}

// activity is what other sessions are doing at a moment.
type activity struct {
	Active int       // sessions at work
	Hidden int       // sessions that the server does not show us
	XID    int64     // number of transactions that have written so far
	at     time.Time // when the server was asked
}

// Sessions that wait for a lock, for their client or for a time are not at work. Only
// members of pg_read_all_stats can see what sessions of other roles do.
const activitySQL = `
SELECT count(*) FILTER (WHERE a.state IN ('active', 'fastpath function call')
                        AND   coalesce(a.wait_event_type, '') NOT IN ('Lock', 'Client', 'Timeout', 'Activity'))::int AS active,
       count(*) FILTER (WHERE a.backend_type IS NULL)::int    AS hidden,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint  AS xid
FROM   pg_stat_activity a
WHERE  a.datid IS NOT NULL
AND    coalesce(a.backend_type, 'client backend') = 'client backend'
AND    a.application_name <> current_setting('application_name')`

func readActivity(ctx context.Context, q catalog.Querier) (a activity, err error) {
	rows, err := q.Query(ctx, activitySQL)
	if err == nil {
		a, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[activity])
	}
	if err != nil {
		return a, fmt.Errorf("look for other sessions: %w", err)
	}
	a.at = time.Now()
	return a, nil
}

// OthersAtWork returns how many other sessions are at work, and how many the server does not show
// us.
func OthersAtWork(ctx context.Context, q catalog.Querier) (active, hidden int, err error) {
	a, err := readActivity(ctx, q)
	return a.Active, a.Hidden, err
}

// Busy reports whether the application is at work. Without yield, it always returns
// false.
func (t *Throttle) Busy(ctx context.Context) (bool, error) {
	if !t.yield {
		return false, nil
	}
	return t.atWork(ctx)
}

// atWork does what Busy does, also without yield. One goroutine asks the server, and
// those that want the answer wait for it. Other goroutines do not wait.
func (t *Throttle) atWork(ctx context.Context) (bool, error) {
	if seen := t.lately(); seen != nil {
		return busy(seen), nil
	}
	select {
	case t.look <- struct{}{}:
		defer func() { <-t.look }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if seen := t.lately(); seen != nil { // another goroutine has asked
		return busy(seen), nil
	}
	now, err := readActivity(ctx, t.pool)
	if err != nil {
		return false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = fresh(append(t.seen, now), now.at)
	return busy(t.seen), nil
}

// lately returns the samples, or nil if it is time for another one.
func (t *Throttle) lately() []activity {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.seen); n == 0 || time.Since(t.seen[n-1].at) >= lookEvery {
		return nil
	}
	return slices.Clone(t.seen)
}

// fresh returns the samples that count: the latest ones that are not stale. During a long
// piece of work, the server is not asked, and samples from before it tell nothing about
// now.
func fresh(seen []activity, now time.Time) []activity {
	seen = slices.DeleteFunc(seen, func(a activity) bool { return now.Sub(a.at) > stale })
	return seen[max(0, len(seen)-lookBack):]
}

// busy decides by the samples; there must be at least one.
func busy(seen []activity) bool {
	active := 0
	for _, a := range seen {
		active += a.Active
	}
	if float64(active) >= busySessions*float64(len(seen)) {
		return true
	}
	first, last := seen[0], seen[len(seen)-1]
	return last.Hidden > 0 && float64(last.XID-first.XID) >= busyWrites*last.at.Sub(first.at).Seconds() && len(seen) > 1
}
