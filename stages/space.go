package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/bloat"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/signals"
)

// copySQL lists where a copy of table $1 will be, and how large its original is there: the table
// with a part $4 of its rows' space, and its indexes. $2 and $3 are the tablespaces that they move
// to; empty: they stay.
const copySQL = `
SELECT   coalesce(pg_tablespace_location(coalesce(nullif(o.tablespace, 0), d.dattablespace)), '') AS directory,
         sum(o.bytes)::bigint                                                                     AS bytes
FROM     pg_database d
CROSS JOIN (
         SELECT coalesce((SELECT s.oid FROM pg_tablespace s WHERE s.spcname = $2), c.reltablespace) AS tablespace,
                pg_relation_size(c.oid) * $4::float8 + coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0) AS bytes
         FROM   pg_class c
         WHERE  c.oid = $1
         UNION ALL
         SELECT coalesce((SELECT s.oid FROM pg_tablespace s WHERE s.spcname = $3), c.reltablespace),
                pg_relation_size(c.oid)
         FROM   pg_index i
         JOIN   pg_class c ON c.oid = i.indexrelid
         WHERE  i.indrelid = $1) o
WHERE    d.datname = current_database()
GROUP BY 1
ORDER BY 1`

// recycledSQL is how much write-ahead log the server keeps for itself, or NULL if a slot that
// nobody reads keeps all of it.
const recycledSQL = `
SELECT CASE WHEN NOT EXISTS (SELECT FROM pg_replication_slots r WHERE NOT r.active)
            THEN s.setting::bigint * 1024 * 1024 END
FROM   pg_settings s
WHERE  s.name = 'max_wal_size'`

// roomForCopy makes sure that the copy fits, if free space has a limit.
func (e *Env) roomForCopy(ctx context.Context) error {
	if !e.Signals.LimitFree() {
		return nil
	}
	part := 1.0
	estimates, err := bloat.Read(ctx, e.Pool, []uint32{e.Source.OID})
	if err != nil {
		return err
	}
	for _, b := range estimates {
		if wasted := b.Heap.Percent(); wasted != nil {
			part = 1 - *wasted/100
		}
	}
	rows, err := e.Pool.Query(ctx, copySQL, e.Source.OID, e.Alter.Tablespace, e.Alter.IndexTablespace, part)
	if err != nil {
		return fmt.Errorf("measure %s: %w", e.Source.Name, err)
	}
	needs, err := pgx.CollectRows(rows, pgx.RowToStructByName[signals.Need])
	if err != nil {
		return fmt.Errorf("measure %s: %w", e.Source.Name, err)
	}
	wal, err := e.walForCopy(ctx, needs)
	if err != nil {
		return err
	}
	return e.ofTable(e.Signals.Room(ctx, signals.Copy{Needs: needs, WAL: wal, Estimated: part < 1}))
}

// LimitsReady makes sure that the limits can be read by which work may be stopped.
func (e *Env) LimitsReady(ctx context.Context) error { return e.ofTable(e.Signals.Ready(ctx)) }

// ofTable adds the table to a refusal.
func (e *Env) ofTable(err error) error {
	var refused *checks.RefusedError
	if errors.As(err, &refused) {
		refused.Table = e.Source.Name
	}
	return err
}

// walForCopy returns how much write-ahead log there will be at most at the same time.
func (e *Env) walForCopy(ctx context.Context, needs []signals.Need) (bytes int64, err error) {
	if e.Source.Persistence == "u" {
		return 0, nil
	}
	for _, n := range needs {
		bytes += n.Bytes
	}
	var recycled *int64
	if err := e.Pool.QueryRow(ctx, recycledSQL).Scan(&recycled); err != nil {
		return 0, fmt.Errorf("read how much write-ahead log is kept: %w", err)
	}
	if recycled != nil {
		bytes = min(bytes, *recycled)
	}
	return bytes, nil
}
