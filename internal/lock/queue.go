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

// Want is a lock that is about to be asked for.
type Want struct {
	Relation string // as SQL writes it, qualified
	Mode     string // as LOCK TABLE writes it
}

// weakest maps a mode to the weakest of modes that conflicts with it: of the
// modes that we ask for it is so that every stronger one conflicts as well.
//
// https://www.postgresql.org/docs/current/explicit-locking.html, "Conflicting Lock Modes"
var weakest = map[string]int32{"ACCESS EXCLUSIVE": 1, "SHARE ROW EXCLUSIVE": 3, "SHARE UPDATE EXCLUSIVE": 4}

// ErrHeld reports that a lock was not asked for: who holds the relation will not
// let go in time, and everybody else would have had to wait behind us.
var ErrHeld = errors.New("the relation is held by a transaction that has been open for longer than the lock timeout")

// heldError is ErrHeld with what is in the way of which locks.
type heldError struct {
	wants    []Want
	blockers []Blocker
}

func (e *heldError) Error() string { return ErrHeld.Error() }

// Is has the error be ErrHeld.
func (e *heldError) Is(target error) bool { return target == ErrHeld }

// conflictingSQL finds locks l that conflict with those wanted: of the relations $1
// such as are at least $2 strong.
const conflictingSQL = `
    FROM   unnest($1::text[], $2::int[]) w (relation, weakest)
    JOIN   pg_locks l ON l.relation = to_regclass(w.relation)::oid
    WHERE  l.locktype = 'relation' AND l.granted
    AND    l.database IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    AND    l.pid IS DISTINCT FROM pg_backend_pid()
    AND    array_position(ARRAY['AccessShareLock', 'RowShareLock', 'RowExclusiveLock', 'ShareUpdateExclusiveLock',
                                'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'], l.mode) >= w.weakest`

// inTheWaySQL lists the transactions that hold a lock that conflicts with a wanted
// one: those of sessions, pg_locks showing fast-path locks as well, and prepared
// ones, whose locks have no pid. pg_locks shows all of that to everybody,
// pg_stat_activity says when a transaction began only to members of its role and of
// pg_read_all_stats.
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

// key tells transactions apart: process ids and virtual ids are used again, both
// together are not while a server runs.
type key struct {
	pid         int32
	transaction string
	gid         string
}

func (b Blocker) key() key { return key{b.PID, b.Transaction, b.GID} }

// queue knows who holds what one series of attempts wants, and since when it has
// known that.
type queue struct {
	policy Policy
	seen   map[key]time.Time // when a holder was first seen; zero: with the first look
	kill   *kill
}

func newQueue(p Policy) *queue { return &queue{policy: p, kill: newKill(p)} }

// inTheWay lists who holds a lock that conflicts with a wanted one.
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

// arguments are those of conflictingSQL.
func arguments(wants []Want) (relations []string, modes []int32) {
	relations, modes = make([]string, len(wants)), make([]int32, len(wants))
	for i, w := range wants {
		relations[i], modes[i] = strings.TrimPrefix(w.Relation, "ONLY "), weakest[w.Mode]
	}
	return relations, modes
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// longHolders returns those that hold a lock that conflicts with a wanted one and are not
// expected to end in time.
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

// dumpApplication is what pg_dump calls itself. Its leader holds all tables until
// the end, and its workers fail when somebody stands in the queue behind it.
const dumpApplication = "pg_dump"

// outlasts reports whether a holder is not expected to end in time: its transaction
// has been open for longer than we may wait. Where the server does not tell us, it
// is our clock that counts, and of those who were there before it, the worst.
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

// holderInterval is how often it is asked whether the queue may be joined.
const holderInterval = 20 * time.Millisecond

// awaitHolders waits beside the queue until nobody is in the way who will not let go in
// time, at most until then: nobody waits behind us meanwhile. It returns those who
// still are.
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

// Room makes sure that the locks, none of which tx may hold yet, are asked for only
// where everybody who holds a conflicting one is expected to let go in time.
// Otherwise work must return the error, and Transact waits outside of any
// transaction and of the queue.
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
