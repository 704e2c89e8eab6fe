// Package throttle lets a run of repack give way to the application: it decides how many
// pieces of work are done at the same time, how long a run rests between them, and whether
// their commits wait for the disk.
package throttle

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ChunkTime is how long a chunk is meant to take. It holds a snapshot, and with
// direct-trigger row locks, for about as long; a writer may have to wait for the latter.
const ChunkTime = 500 * time.Millisecond

// Throttle is asked before every piece of work that a run does at the same time as
// another: a chunk, the build of an index. It is the one place where a run
// decides whether to go on with it.
//
// While the application is at work there is one slot at a time, so that on a
// server with few processors most of them are left to it, and after a piece of
// what writes most a rest that is as long.
type Throttle struct {
	pool  *pgxpool.Pool
	most  int
	yield bool
	freed chan struct{} // holds a token when a slot has ended

	mu      sync.Mutex
	taken   int
	rested  time.Time     // the end of the last rest
	flushed time.Time     // when the last commit was begun that waits: see Commits
	seen    []activity    // the newest last
	look    chan struct{} // holds a token while a goroutine asks the server
}

// New hands out up to most slots at the same time; with yield, only one
// while other sessions are at work.
func New(pool *pgxpool.Pool, most int, yield bool) *Throttle {
	return &Throttle{pool: pool, most: most, yield: yield, freed: make(chan struct{}, 1), look: make(chan struct{}, 1)}
}

// lookEvery is how often the server is asked at the most, lookBack how many of its
// latest answers count, and stale the age from which one does not.
const (
	lookEvery = 200 * time.Millisecond
	lookBack  = 5
	stale     = 2 * lookBack * lookEvery
)

// The application is at work when on average so many of its sessions are, or,
// where we are not shown what they do, when so many transactions write.
const (
	busySessions = 0.25
	busyWrites   = 100 // a second
)

// Take waits for a slot, which the caller ends with End or Rest. While no other
// slot is taken it waits for no more than the rest after one.
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
		if !busy && t.try(t.most) {
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
	default: // somebody will be woken already
	}
}

// Rest is End of a slot that took so long: while the application is at work, the
// next begins as much later.
func (t *Throttle) Rest(took time.Duration) {
	t.mu.Lock()
	t.rested = time.Now().Add(took)
	t.mu.Unlock()
	t.End()
}

func (t *Throttle) rest() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Until(t.rested)
}

// Chunk does one of many pieces of work that follow one another, in a slot, and
// rests after it: for no longer than a chunk is meant to take, as it may have waited.
func (t *Throttle) Chunk(ctx context.Context, work func() (more bool, err error)) (more bool, err error) {
	if err := t.Take(ctx); err != nil {
		return false, err
	}
	began := time.Now()
	more, err = work()
	t.Rest(min(time.Since(began), ChunkTime))
	return more, err
}

// try takes a slot if fewer than most are taken.
func (t *Throttle) try(most int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.taken >= most {
		return false
	}
	t.taken++
	return true
}

// activity is what other sessions do at a moment.
type activity struct {
	Active int       // sessions at work
	Hidden int       // sessions that we are not shown
	XID    int64     // transactions that have written so far
	at     time.Time // when it was asked for
}

// Sessions that wait for a lock, their client or the time are not at work. What
// those of other roles do is shown to members of pg_read_all_stats only.
const activitySQL = `
SELECT count(*) FILTER (WHERE a.state IN ('active', 'fastpath function call')
                        AND   coalesce(a.wait_event_type, '') NOT IN ('Lock', 'Client', 'Timeout', 'Activity'))::int AS active,
       count(*) FILTER (WHERE a.backend_type IS NULL)::int    AS hidden,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint  AS xid
FROM   pg_stat_activity a
WHERE  a.datid IS NOT NULL
AND    coalesce(a.backend_type, 'client backend') = 'client backend'
AND    a.application_name <> current_setting('application_name')`

// Busy reports whether the application is at work. Without yield it never is.
func (t *Throttle) Busy(ctx context.Context) (bool, error) {
	if !t.yield {
		return false, nil
	}
	return t.atWork(ctx)
}

// atWork is Busy, yield or not. One goroutine asks the server; others wait for its
// answer, and nobody else does.
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
	rows, err := t.pool.Query(ctx, activitySQL)
	if err != nil {
		return false, fmt.Errorf("look for other sessions: %w", err)
	}
	now, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[activity])
	if err != nil {
		return false, fmt.Errorf("look for other sessions: %w", err)
	}
	now.at = time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = fresh(append(t.seen, now), now.at)
	return busy(t.seen), nil
}

// lately returns the samples, or nil when it is time for another.
func (t *Throttle) lately() []activity {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.seen); n == 0 || time.Since(t.seen[n-1].at) >= lookEvery {
		return nil
	}
	return slices.Clone(t.seen)
}

// fresh are the samples that count: the latest, as far as they are not stale. While
// a long piece of work is done nobody asks, and what was before says nothing.
func fresh(seen []activity, now time.Time) []activity {
	seen = slices.DeleteFunc(seen, func(a activity) bool { return now.Sub(a.at) > stale })
	return seen[max(0, len(seen)-lookBack):]
}

// busy judges by the samples, of which there is at least one.
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
