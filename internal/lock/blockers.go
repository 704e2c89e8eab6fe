package lock

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Blocker is a session or prepared transaction that holds a lock.
type Blocker struct {
	PID   int32  // 0 for a prepared transaction
	GID   string // of a prepared transaction
	User  string
	Mode  string
	State string
	Query string // empty where we may not see it
	Age   time.Duration
}

// String names what an administrator needs to decide about the blocker.
func (b Blocker) String() string {
	if b.GID != "" {
		return fmt.Sprintf("prepared transaction %q of %s (%s)", b.GID, b.User, b.Mode)
	}
	s := fmt.Sprintf("pid %d of %s (%s", b.PID, b.User, b.Mode)
	if b.State != "" {
		s += ", " + b.State + " for " + b.Age.Round(time.Second).String()
	}
	if b.Query != "" {
		s += ", query: " + b.Query
	}
	return s + ")"
}

const blockersSQL = `
SELECT    coalesce(l.pid, 0)                                        AS pid,
          coalesce(p.gid, '')                                       AS gid,
          coalesce(a.usename::text, p.owner::text, '')              AS user,
          l.mode                                                    AS mode,
          coalesce(a.state, '')                                     AS state,
          coalesce(left(regexp_replace(a.query, '\s+', ' ', 'g'), 100), '') AS query,
          coalesce(extract(epoch FROM now() - a.xact_start), 0)::float8 AS seconds
FROM      pg_locks l
LEFT JOIN pg_stat_activity a  ON a.pid = l.pid
LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL
                             AND l.virtualtransaction = '-1/' || p.transaction::text
WHERE     l.locktype = 'relation' AND l.granted AND l.relation = ANY ($1)
AND       l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND       l.pid IS DISTINCT FROM pg_backend_pid()
AND       coalesce(a.application_name, '') <> current_setting('application_name')
ORDER BY  seconds DESC, pid
LIMIT     5`

// Blockers lists who holds locks on the tables, oldest transaction first, our
// own sessions left out.
func Blockers(ctx context.Context, q interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, oids []uint32,
) ([]Blocker, error) {
	rows, err := q.Query(ctx, blockersSQL, oids)
	if err != nil {
		return nil, fmt.Errorf("look for lock holders: %w", err)
	}
	blockers, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (b Blocker, err error) {
		var seconds float64
		err = row.Scan(&b.PID, &b.GID, &b.User, &b.Mode, &b.State, &b.Query, &seconds)
		b.Age = time.Duration(seconds * float64(time.Second))
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("look for lock holders: %w", err)
	}
	return blockers, nil
}
