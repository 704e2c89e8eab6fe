package stages

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/bloat"
)

// Disk is the space that a copy of the table needs, in bytes, without the change log. The
// log grows with what is written in the meantime. SQL does not tell how much space is free.
type Disk struct {
	TableBytes int64 `json:"table_bytes"` // without TOAST
	ToastBytes int64 `json:"toast_bytes"`
	IndexBytes int64 `json:"index_bytes"`
	// AtMost is the sum: a copy is no larger than its table.
	AtMost int64 `json:"at_most_bytes"`
	// LiveFraction is an estimate of the part of TableBytes that a copy will have, from
	// statistics: see Repack.Bloat. It is nil if these do not say.
	LiveFraction *float64 `json:"live_fraction"`
	// WAL is about how much write-ahead log the copy writes at most: as much as the size of
	// the copy, and nothing for an unlogged table.
	WAL  int64 `json:"wal_at_most_bytes"`
	Rows int64 `json:"rows"` // an estimate
}

const diskSQL = `
SELECT pg_relation_size(c.oid),
       coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0),
       pg_indexes_size(c.oid),
       greatest(c.reltuples, 0)::bigint
FROM   pg_class c
WHERE  c.oid = $1`

func (p *planner) disk(ctx context.Context) (d Disk, err error) {
	err = p.Pool.QueryRow(ctx, diskSQL, p.InUse()).Scan(&d.TableBytes, &d.ToastBytes, &d.IndexBytes, &d.Rows)
	if err != nil {
		return d, fmt.Errorf("measure %s: %w", p.Source.Name, err)
	}
	d.AtMost = d.TableBytes + d.ToastBytes + d.IndexBytes
	if p.Source.Persistence != "u" {
		d.WAL = d.AtMost
	}
	estimates, err := bloat.Read(ctx, p.Pool, []uint32{p.InUse()})
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InsufficientPrivilege { // a run needs none of it
		return d, nil
	}
	if err != nil {
		return d, err
	}
	for _, e := range estimates {
		if wasted := e.Heap.Percent(); wasted != nil {
			live := 1 - *wasted/100
			d.LiveFraction = &live
		}
	}
	return d, nil
}

// Session is a transaction, or a prepared transaction, that a run may have to wait for.
type Session struct {
	PID     int32   `json:"pid"` // 0 for a prepared transaction
	GID     string  `json:"gid"` // of a prepared transaction
	User    string  `json:"user"`
	State   string  `json:"state"`
	Query   string  `json:"query"`   // empty where we may not see it
	Seconds float64 `json:"seconds"` // since it began
	// Lock is the mode of a lock that it holds on the table, or empty.
	Lock string `json:"lock"`
	// Snapshot tells that the swap must wait for its snapshot.
	Snapshot bool `json:"snapshot"`
}

// longTransaction is the age from which on a transaction is worth reporting.
const longTransaction = time.Minute

// waitsForSQL lists old transactions and prepared transactions. It leaves out those that
// hold neither a lock on the table nor a snapshot, because no run waits for them.
const waitsForSQL = `
WITH held AS (
    SELECT   l.pid, l.virtualtransaction AS transaction, string_agg(DISTINCT m.mode, ', ' ORDER BY m.mode) AS modes
    FROM     pg_locks l
    CROSS    JOIN LATERAL (
             SELECT upper(regexp_replace(replace(l.mode, 'Lock', ''), '([a-z])([A-Z])', '\1 \2', 'g')) AS mode) m
    WHERE    l.locktype = 'relation' AND l.granted AND l.relation = ANY ($1)
    AND      l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    GROUP BY l.pid, l.virtualtransaction
)
SELECT    a.pid                                                     AS pid,
          ''                                                        AS gid,
          coalesce(a.usename::text, '')                             AS user,
          coalesce(a.state, '')                                     AS state,
          coalesce(left(regexp_replace(a.query, '\s+', ' ', 'g'), 100), '') AS query,
          extract(epoch FROM now() - a.xact_start)::float8          AS seconds,
          coalesce(h.modes, '')                                     AS lock,
          a.backend_xmin IS NOT NULL                                AS snapshot
FROM      pg_stat_activity a
LEFT JOIN held h ON h.pid = a.pid
WHERE     a.datname = current_database() AND a.xact_start < now() - $2::interval
AND      (h.pid IS NOT NULL OR a.backend_xmin IS NOT NULL)
AND       a.application_name <> current_setting('application_name')
AND       a.backend_type NOT IN ('autovacuum worker', 'walsender')
UNION ALL
SELECT    0, p.gid, p.owner::text, 'prepared', '',
          extract(epoch FROM now() - p.prepared)::float8, h.modes, false
FROM      pg_prepared_xacts p
JOIN      pg_locks x ON x.locktype = 'transactionid' AND x.transactionid = p.transaction AND x.granted
JOIN      held h ON h.transaction = x.virtualtransaction
WHERE     p.database = current_database()
ORDER BY  seconds DESC, pid, gid`

func (p *planner) waitsFor(ctx context.Context) ([]Session, error) {
	rows, err := p.Pool.Query(ctx, waitsForSQL, p.Lockable(), longTransaction)
	if err != nil {
		return nil, fmt.Errorf("look for long transactions: %w", err)
	}
	sessions, err := pgx.CollectRows(rows, pgx.RowToStructByName[Session])
	if err != nil {
		return nil, fmt.Errorf("look for long transactions: %w", err)
	}
	return sessions, nil
}
