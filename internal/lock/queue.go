package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Want is a lock that will be requested.
type Want struct {
	Relation string // as SQL writes it, qualified
	Mode     string // as LOCK TABLE writes it
}

// weakest maps a mode to the weakest mode that conflicts with it, as its position in
// the list of modes. For the modes that we request, every stronger mode conflicts too.
//
// https://www.postgresql.org/docs/current/explicit-locking.html, "Conflicting Lock Modes"
var weakest = map[string]int32{"ACCESS EXCLUSIVE": 1, "SHARE ROW EXCLUSIVE": 3, "SHARE UPDATE EXCLUSIVE": 4}

// ErrHeld reports that a lock was not requested. A holder of the relation will probably
// not release it in time, and all other sessions would have had to wait behind us.
var ErrHeld = errors.New("the relation is held by a transaction that has been open for longer than the lock timeout")

// heldError is ErrHeld with the wanted locks and the transactions that block them.
type heldError struct {
	wants    []Want
	blockers []Blocker
}

func (e *heldError) Error() string { return ErrHeld.Error() }

// Is makes errors.Is match ErrHeld.
func (e *heldError) Is(target error) bool { return target == ErrHeld }

// conflictingSQL finds granted locks l that conflict with wanted locks: locks on
// relations $1 whose mode is at least as strong as $2. It leaves out our own session.
const conflictingSQL = `
    FROM   unnest($1::text[], $2::int[]) w (relation, weakest)
    JOIN   pg_locks l ON l.relation = to_regclass(w.relation)::oid
    WHERE  l.locktype = 'relation' AND l.granted
    AND    l.database IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    AND    l.pid IS DISTINCT FROM pg_backend_pid()
    AND    array_position(ARRAY['AccessShareLock', 'RowShareLock', 'RowExclusiveLock', 'ShareUpdateExclusiveLock',
                                'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'], l.mode) >= w.weakest`

// inTheWaySQL lists the transactions that hold a lock that conflicts with a wanted
// lock. These are transactions of sessions (pg_locks shows fast-path locks too) and
// prepared transactions, whose locks have no pid.
//
// pg_locks shows all of this to every role. pg_stat_activity shows when a transaction
// began only to members of its role and of pg_read_all_stats.
//
// https://www.postgresql.org/docs/current/view-pg-locks.html
const inTheWaySQL = `
WITH held AS (
    SELECT DISTINCT l.pid, l.virtualtransaction` + conflictingSQL + `
)
SELECT    h.pid                                                              AS pid,
          h.virtualtransaction                                               AS transaction,
          ''                                                                 AS gid,
          coalesce(a.usename::text, '')                                      AS user,
          coalesce(a.application_name, '')                                   AS application,
          coalesce(a.state, '')                                              AS state,
          coalesce(left(regexp_replace(a.query, '\s+', ' ', 'g'), 100), '')  AS query,
          coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), -1)::float8 AS seconds
FROM      held h
JOIN      pg_stat_activity a ON a.pid = h.pid
UNION ALL
SELECT    0, h.virtualtransaction, p.gid, p.owner::text, '', '', '',
          extract(epoch FROM clock_timestamp() - p.prepared)::float8
FROM      held h
JOIN      pg_locks x ON x.pid IS NULL AND x.locktype = 'transactionid' AND x.virtualtransaction = h.virtualtransaction
JOIN      pg_prepared_xacts p ON p.transaction = x.transactionid AND p.database = current_database()
WHERE     h.pid IS NULL
ORDER BY  seconds DESC, pid`

// key identifies a transaction. Process ids and virtual transaction ids are used again,
// but not both together while the server runs.
type key struct {
	pid         int32
	transaction string
	gid         string
}

// key identifies the blocker's transaction.
func (b Blocker) key() key { return key{b.PID, b.Transaction, b.GID} }

// queue knows which transactions hold locks that a series of attempts wants, and since
// when it has known them.
type queue struct {
	policy Policy
	seen   map[key]time.Time // when a holder was first seen; zero if at the first look
	kill   *kill
}

// newQueue returns a queue that has seen no holder.
func newQueue(p Policy) *queue { return &queue{policy: p, kill: newKill(p)} }

// inTheWay lists the holders of locks that conflict with wants.
func inTheWay(ctx context.Context, q querier, wants []Want) ([]Blocker, error) {
	relations, modes := arguments(wants)
	rows, err := q.Query(ctx, inTheWaySQL, relations, modes)
	if err != nil {
		return nil, fmt.Errorf("look for who is in the way: %w", err)
	}
	found, err := collect(rows)
	if err != nil {
		return nil, fmt.Errorf("look for who is in the way: %w", err)
	}
	return found, nil
}

// arguments are the parameters of conflictingSQL.
func arguments(wants []Want) (relations []string, modes []int32) {
	relations, modes = make([]string, len(wants)), make([]int32, len(wants))
	for i, w := range wants {
		relations[i], modes[i] = strings.TrimPrefix(w.Relation, "ONLY "), weakest[w.Mode]
	}
	return relations, modes
}

// querier is a connection, pool or transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// longHolders lists the holders of conflicting locks that will probably not end in
// time.
func (q *queue) longHolders(ctx context.Context, conn querier, wants []Want) ([]Blocker, error) {
	found, err := inTheWay(ctx, conn, wants)
	if err != nil {
		return nil, err
	}
	first := q.seen == nil
	if first {
		q.seen = map[key]time.Time{}
	}
	now := time.Now()
	for _, b := range found {
		if _, known := q.seen[b.key()]; !known && first {
			q.seen[b.key()] = time.Time{}
		} else if !known {
			q.seen[b.key()] = now
		}
	}
	return slices.DeleteFunc(found, func(b Blocker) bool { return !q.outlasts(b, now) }), nil
}

// dumpApplication is the application_name of pg_dump. Its leader holds locks on all
// tables until the end, and its workers fail if a session waits in the queue behind the
// leader.
//
// https://www.postgresql.org/docs/current/app-pgdump.html, "--jobs"
const dumpApplication = "pg_dump"

// outlasts reports whether a holder will probably not end in time, because its
// transaction has been open for longer than we may wait. If our role may not see when
// it began, the time since we first saw it counts; a holder that was there at the first
// look counts as old.
func (q *queue) outlasts(b Blocker, now time.Time) bool {
	switch since := q.seen[b.key()]; {
	case b.Application == dumpApplication:
		return true
	case b.Age >= 0:
		return b.Age > q.policy.Timeout
	default:
		return since.IsZero() || now.Sub(since) > q.policy.Timeout
	}
}

// holderInterval is the time between two looks at the holders.
const holderInterval = 20 * time.Millisecond

// awaitHolders waits outside the lock queue until no holder remains that will probably
// not end in time, at most until the given time. No session waits behind us meanwhile.
// It returns the holders that remain.
func (q *queue) awaitHolders(ctx context.Context, conn *pgxpool.Conn, held *heldError, attempt int, until time.Time) ([]Blocker, error) {
	ticker := time.NewTicker(holderInterval)
	defer ticker.Stop()
	for blockers := held.blockers; ; {
		if time.Now().After(until) {
			return blockers, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ticker.C:
		}
		var err error
		if blockers, err = q.longHolders(ctx, conn, held.wants); err != nil || len(blockers) == 0 {
			return nil, err
		}
		for _, b := range blockers {
			if signal := q.kill.nextSignal(b, attempt); signal != "" {
				q.kill.signalHolder(ctx, conn, signal, b, held.wants)
			}
		}
	}
}

// Room checks that every holder of a lock that conflicts with wants will probably
// release it in time. If not, it returns an error that is ErrHeld. work must return
// that error; then Transact waits outside any transaction and outside the lock queue.
// tx must not hold any of the wanted locks yet.
func (t *Tx) Room(ctx context.Context, wants ...Want) error {
	if t.queue == nil || len(wants) == 0 {
		return nil
	}
	t.strong = true
	blockers, err := t.queue.longHolders(ctx, t.Tx, wants)
	if err != nil || len(blockers) == 0 {
		return err
	}
	return &heldError{wants: wants, blockers: blockers}
}
