package lock

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Blocker is a session or prepared transaction that we have waited for.
type Blocker struct {
	PID         int32  // 0 for a prepared transaction
	Transaction string // its virtual id: sessions and process ids are used again
	GID         string // of a prepared transaction
	User        string
	Application string
	State       string
	Query       string        // empty where we may not see it
	Age         time.Duration // of the transaction; negative where we may not see it
}

// String names what an administrator needs to decide about the blocker.
func (b Blocker) String() string {
	if b.PID == 0 {
		return fmt.Sprintf("prepared transaction %q of %s, prepared %s ago", b.GID, b.User, b.Age.Round(time.Second))
	}
	s := fmt.Sprintf("pid %d of %s", b.PID, b.User)
	if b.State != "" && b.Age >= 0 {
		s += fmt.Sprintf(" (%s, transaction open for %s)", b.State, b.Age.Round(time.Second))
	}
	if b.Query != "" {
		s += ", query: " + b.Query
	}
	return s
}

// pg_blocking_pids says 0 for a prepared transaction: then those that hold a
// lock on one of the tables are named.
const blockersSQL = `
WITH waited AS (
    SELECT DISTINCT unnest(pg_blocking_pids($1)) AS pid
)
SELECT    w.pid                                                              AS pid,
          coalesce(v.virtualtransaction, '')                                 AS transaction,
          ''                                                                 AS gid,
          coalesce(a.usename::text, '')                                      AS user,
          coalesce(a.application_name, '')                                   AS application,
          coalesce(a.state, '')                                              AS state,
          coalesce(left(regexp_replace(a.query, '\s+', ' ', 'g'), 100), '')  AS query,
          coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), -1)::float8 AS seconds
FROM      waited w
LEFT JOIN pg_stat_activity a ON a.pid = w.pid
LEFT JOIN pg_locks v ON v.pid = w.pid AND v.locktype = 'virtualxid' AND v.granted AND v.mode = 'ExclusiveLock'
WHERE     w.pid <> 0
UNION ALL
SELECT    0, '', p.gid, p.owner::text, '', '', '',
          extract(epoch FROM clock_timestamp() - p.prepared)::float8
FROM      pg_prepared_xacts p
WHERE     p.database = current_database()
AND       EXISTS (SELECT FROM waited WHERE pid = 0)
AND       EXISTS (SELECT FROM pg_locks x
                  JOIN   pg_locks l ON l.pid IS NULL AND l.virtualtransaction = x.virtualtransaction
                  WHERE  x.pid IS NULL AND x.locktype = 'transactionid' AND x.transactionid = p.transaction
                  AND    l.locktype = 'relation' AND l.relation = ANY ($2))
ORDER BY  seconds DESC, pid`

// watchInterval is how often a session that may wait for so long is looked at:
// often enough to see it wait, and seldom enough, as the look locks the lock
// tables.
func watchInterval(timeout time.Duration) time.Duration {
	return min(max(timeout/4, 5*time.Millisecond), 25*time.Millisecond)
}

// idleFactor is how many times less often it is looked while no lock of a table is asked
// for. What else a transaction may wait for is rows, and mostly it waits for nothing.
const idleFactor = 4

// watch looks for whom the backend pid waits, until it is stopped: who it is
// cannot be asked any more when the wait is over.
type watch struct {
	pool    *pgxpool.Pool
	pid     uint32
	oids    []uint32
	attempt int
	kill    *kill
	maxAge  time.Duration // the age of a transaction that was too old when the wait began

	asking atomic.Bool // whether a lock of a table is being asked for

	mu           sync.Mutex
	blockers     []Blocker
	cancelReason error // why the wait was cancelled: errDeadlock or ErrHeld
}

func (w *watch) run(ctx context.Context, stop <-chan struct{}, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for tick := 1; ; tick++ {
		select {
		case <-ctx.Done():
			return
		case <-stop:
			return
		case <-ticker.C:
		}
		if !w.asking.Load() && tick%idleFactor != 0 {
			continue
		}
		// An error here would be that of the waiting session, too, or the end
		// of ctx; the names of blockers are all there is to lose.
		found, err := blockers(ctx, w.pool, w.pid, w.oids)
		if err != nil || len(found) == 0 {
			continue
		}
		reason := w.cancelWait(ctx, found)
		w.mu.Lock()
		w.blockers = found
		if w.cancelReason == nil {
			w.cancelReason = reason
		}
		w.mu.Unlock()
		for _, b := range found {
			if signal := w.kill.nextSignal(b, w.attempt); signal != "" {
				w.kill.signalBlocker(ctx, w.pool, signal, b, w.pid)
			}
		}
	}
}

// cancelWait cancels a wait that is of no use, and says why.
func (w *watch) cancelWait(ctx context.Context, found []Blocker) error {
	var cancelled bool
	if err := w.pool.QueryRow(ctx, breakDeadlockSQL, int32(w.pid)).Scan(&cancelled); err == nil && cancelled {
		return errDeadlock
	}
	if !slices.ContainsFunc(found, func(b Blocker) bool { return b.Age > w.maxAge }) {
		return nil
	}
	if err := w.pool.QueryRow(ctx, cancelLockWaitSQL, int32(w.pid)).Scan(&cancelled); err == nil && cancelled {
		return ErrHeld
	}
	return nil
}

// cancelLockWaitSQL cancels the wait of a backend for a lock that the application may
// have to stand behind.
const cancelLockWaitSQL = `
SELECT pg_cancel_backend($1)
FROM   pg_locks
WHERE  pid = $1 AND locktype = 'relation' AND NOT granted
AND    mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')`

// breakDeadlockSQL cancels the wait of a backend that waits for one that waits
// for it: there is nothing to be gained by waiting for our time-out, and
// everybody who wants the table waits behind us.
const breakDeadlockSQL = `
WITH RECURSIVE blocking (pid) AS (
    SELECT unnest(pg_blocking_pids($1))
    UNION
    SELECT unnest(pg_blocking_pids(b.pid)) FROM blocking b WHERE b.pid <> $1
)
SELECT CASE WHEN EXISTS (SELECT FROM blocking WHERE pid = $1)
            THEN pg_cancel_backend($1) ELSE false END`

func (w *watch) seen() (blockers []Blocker, cancelReason error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.blockers, w.cancelReason
}

func blockers(ctx context.Context, pool *pgxpool.Pool, pid uint32, oids []uint32) ([]Blocker, error) {
	rows, err := pool.Query(ctx, blockersSQL, int32(pid), oids)
	if err != nil {
		return nil, err
	}
	return collect(rows)
}

const holdersSQL = `
SELECT    l.pid, l.virtualtransaction, '', coalesce(a.usename::text, ''), a.application_name, coalesce(a.state, ''),
          coalesce(left(regexp_replace(a.query, '\s+', ' ', 'g'), 100), ''),
          coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), -1)::float8
FROM      pg_locks l
JOIN      pg_stat_activity a ON a.pid = l.pid
WHERE     l.locktype = 'relation' AND l.relation = $1 AND l.granted AND l.mode = 'AccessExclusiveLock'
AND       l.pid <> pg_backend_pid()
ORDER BY  l.pid`

// Holders lists who holds ACCESS EXCLUSIVE on a table.
func Holders(ctx context.Context, pool *pgxpool.Pool, oid uint32) ([]Blocker, error) {
	rows, err := pool.Query(ctx, holdersSQL, oid)
	if err != nil {
		return nil, fmt.Errorf("look for who holds table %d: %w", oid, err)
	}
	return collect(rows)
}

func collect(rows pgx.Rows) ([]Blocker, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (b Blocker, err error) {
		var seconds float64
		err = row.Scan(&b.PID, &b.Transaction, &b.GID, &b.User, &b.Application, &b.State, &b.Query, &seconds)
		b.Age = time.Duration(seconds * float64(time.Second))
		return b, err
	})
}
