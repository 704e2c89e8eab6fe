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

	"github.com/repack-go/repack/internal/catalog"
)

// Blocker is a session or prepared transaction for which one of our sessions has
// waited.
type Blocker struct {
	PID         int32  // 0 for a prepared transaction
	Transaction string // its virtual transaction id; tells transactions of one PID apart
	GID         string // of a prepared transaction
	User        string
	Application string
	State       string
	Query       string        // empty if our role may not see it
	Age         time.Duration // of the transaction; negative if our role may not see it
}

// String returns what an administrator needs to decide what to do about the blocker.
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

// blockersSQL lists the sessions for which backend $1 waits. pg_blocking_pids returns 0
// for a prepared transaction; then the prepared transactions that hold a lock on one of
// the tables $2 are listed.
//
// https://www.postgresql.org/docs/current/functions-info.html, "pg_blocking_pids"
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

// watchInterval is the time between two looks at a session that may wait for timeout.
// It is short enough to see the session wait. It is not shorter, because each look
// locks the server's lock tables.
func watchInterval(timeout time.Duration) time.Duration {
	return min(max(timeout/4, 5*time.Millisecond), 25*time.Millisecond)
}

// idleFactor makes looks rarer while the session is not requesting a table lock. It can
// then only wait for rows, and mostly it waits for nothing.
const idleFactor = 4

// watch records for which sessions backend pid waits. It does so during the wait,
// because the server no longer knows afterwards.
type watch struct {
	pool    *pgxpool.Pool
	pid     uint32
	oids    []uint32
	attempt int
	kill    *kill
	maxAge  time.Duration // transactions older than this were too old when the wait began

	asking atomic.Bool // a table lock is being requested

	mu           sync.Mutex
	blockers     []Blocker
	cancelReason error // why the wait was cancelled: errDeadlock, ErrHeld or nil
}

// run looks until stop is closed or ctx ends, once per interval every.
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
		// Ignore an error: the waiting session fails too, or ctx has ended. Only
		// the names of blockers are lost.
		found, err := Blockers(ctx, w.pool, w.pid, w.oids)
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

// cancelWait cancels a wait that cannot succeed in time. It returns the reason, or nil
// if it has cancelled nothing.
func (w *watch) cancelWait(ctx context.Context, found []Blocker) error {
	if cancelled, err := BreakDeadlock(ctx, w.pool, w.pid); err == nil && cancelled {
		return errDeadlock
	}
	if !slices.ContainsFunc(found, func(b Blocker) bool { return b.Age > w.maxAge }) {
		return nil
	}
	var cancelled bool
	if err := w.pool.QueryRow(ctx, cancelLockWaitSQL, int32(w.pid)).Scan(&cancelled); err == nil && cancelled {
		return ErrHeld
	}
	return nil
}

// cancelLockWaitSQL cancels the wait of backend $1 for a table lock behind which the
// application may have to wait.
const cancelLockWaitSQL = `
SELECT pg_cancel_backend($1)
FROM   pg_locks
WHERE  pid = $1 AND locktype = 'relation' AND NOT granted
AND    mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')`

// breakDeadlockSQL cancels the wait of backend $1 if that backend is in a deadlock.
// Waiting until our time-out would gain nothing, and every session that wants the table
// waits behind us.
const breakDeadlockSQL = `
WITH RECURSIVE blocking (pid) AS (
    SELECT unnest(pg_blocking_pids($1))
    UNION
    SELECT unnest(pg_blocking_pids(b.pid)) FROM blocking b WHERE b.pid <> $1
)
SELECT CASE WHEN EXISTS (SELECT FROM blocking WHERE pid = $1)
            THEN pg_cancel_backend($1) ELSE false END`

// BreakDeadlock cancels the statement of our backend pid if that backend is in a deadlock, and
// reports whether it has. It must be called more often than once per deadlock_timeout: then the
// server cancels no transaction of the application.
func BreakDeadlock(ctx context.Context, q catalog.Querier, pid uint32) (cancelled bool, err error) {
	err = q.QueryRow(ctx, breakDeadlockSQL, int32(pid)).Scan(&cancelled)
	return cancelled, err
}

// seen returns the blockers of the last look and why the wait was cancelled.
func (w *watch) seen() (blockers []Blocker, cancelReason error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.blockers, w.cancelReason
}

// Blockers lists the sessions for which backend pid waits, and the prepared transactions, if it
// waits for one, that hold a lock on one of the tables oids.
func Blockers(ctx context.Context, q catalog.Querier, pid uint32, oids []uint32) ([]Blocker, error) {
	rows, err := q.Query(ctx, blockersSQL, int32(pid), oids)
	if err != nil {
		return nil, err
	}
	return collect(rows)
}

// holdersSQL lists the other sessions that hold ACCESS EXCLUSIVE on a table.
const holdersSQL = `
SELECT    l.pid, l.virtualtransaction, '', coalesce(a.usename::text, ''), a.application_name, coalesce(a.state, ''),
          coalesce(left(regexp_replace(a.query, '\s+', ' ', 'g'), 100), ''),
          coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), -1)::float8
FROM      pg_locks l
JOIN      pg_stat_activity a ON a.pid = l.pid
WHERE     l.locktype = 'relation' AND l.relation = $1 AND l.granted AND l.mode = 'AccessExclusiveLock'
AND       l.pid <> pg_backend_pid()
ORDER BY  l.pid`

// Holders lists the sessions that hold ACCESS EXCLUSIVE on the table with this OID. It
// takes no lock on the table.
func Holders(ctx context.Context, pool *pgxpool.Pool, oid uint32) ([]Blocker, error) {
	rows, err := pool.Query(ctx, holdersSQL, oid)
	if err != nil {
		return nil, fmt.Errorf("look for who holds table %d: %w", oid, err)
	}
	return collect(rows)
}

// collect reads the rows of a query for blockers.
func collect(rows pgx.Rows) ([]Blocker, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (b Blocker, err error) {
		var seconds float64
		err = row.Scan(&b.PID, &b.Transaction, &b.GID, &b.User, &b.Application, &b.State, &b.Query, &seconds)
		b.Age = time.Duration(seconds * float64(time.Second))
		return b, err
	})
}

// writersSQL lists sessions whose transactions have written to the table, or may.
const writersSQL = `
SELECT DISTINCT ON (l.pid)
          l.pid, l.virtualtransaction, coalesce(p.gid, ''), coalesce(a.usename::text, p.owner::text, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
          coalesce(left(regexp_replace(a.query, '\s+', ' ', 'g'), 100), ''),
          coalesce(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)), -1)::float8
FROM      pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_locks x         ON x.locktype = 'transactionid' AND x.virtualtransaction = l.virtualtransaction AND l.pid IS NULL
LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
WHERE     l.locktype = 'relation' AND l.relation = $1 AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
AND       l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND       l.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
ORDER BY  l.pid`

// Writers lists the sessions and prepared transactions that hold a lock on the table with this OID
// for which CREATE INDEX CONCURRENTLY would wait. It takes no lock on the table.
func Writers(ctx context.Context, conn *pgx.Conn, oid uint32) ([]Blocker, error) {
	rows, err := conn.Query(ctx, writersSQL, oid)
	if err != nil {
		return nil, fmt.Errorf("look for who writes to table %d: %w", oid, err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (b Blocker, err error) {
		var seconds float64
		var pid *int32
		err = row.Scan(&pid, &b.Transaction, &b.GID, &b.User, &b.Application, &b.State, &b.Query, &seconds)
		if pid != nil {
			b.PID = *pid
		}
		b.Age = time.Duration(seconds * float64(time.Second))
		return b, err
	})
}
