package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ServerRepack says whether PostgreSQL's own REPACK (CONCURRENTLY) would repack the table,
// too.
type ServerRepack struct {
	SQL string `json:"sql"`
	// Why is the reason why it would not. It is empty if it would.
	Why string `json:"why_not"`
}

// serverRepackSQL asks for what REPACK (CONCURRENTLY) asks for. It returns no row where the
// server does not have the command.
//
// https://www.postgresql.org/docs/19/sql-repack.html, "CONCURRENTLY"
const serverRepackSQL = `
SELECT CASE
       WHEN current_setting('wal_level') = 'minimal' THEN 'wal_level is minimal'
       WHEN current_setting('max_repack_replication_slots') = '0' THEN 'max_repack_replication_slots is 0'
       WHEN c.relpersistence <> 'p' THEN 'the table is unlogged'
       WHEN c.relreplident = 'f' THEN 'its replica identity is FULL'
       WHEN c.relreplident = 'n' THEN 'its replica identity is NOTHING'
       WHEN NOT EXISTS (
           SELECT FROM pg_index i
           JOIN   pg_class ic ON ic.oid = i.indexrelid
           JOIN   pg_am am    ON am.oid = ic.relam
           WHERE  i.indrelid = c.oid AND i.indisvalid AND i.indimmediate AND am.amname = 'btree'
           AND    CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END)
       THEN 'it has no primary key, or one that is deferrable or WITHOUT OVERLAPS'
       WHEN NOT has_table_privilege(c.oid, 'MAINTAIN') THEN 'the role has no MAINTAIN privilege on it'
       ELSE '' END
FROM   pg_class c
WHERE  c.oid = $1 AND current_setting('server_version_num')::int >= 190000`

// serverRepack returns nil before PostgreSQL 19, and for a table that has a job: REPACK
// would give it another file, and the backfill would begin again.
func (p *planner) serverRepack(ctx context.Context, job *PlannedJob) (*ServerRepack, error) {
	if job != nil {
		return nil, nil
	}
	r := &ServerRepack{SQL: "REPACK (CONCURRENTLY) " + p.Source.Name.String()}
	err := p.Pool.QueryRow(ctx, serverRepackSQL, p.Source.OID).Scan(&r.Why)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look whether REPACK (CONCURRENTLY) would do for %s: %w", p.Source.Name, err)
	}
	if p.OrderBy != "" && r.Why == "" {
		r.Why = "it orders rows by an index only (USING INDEX), not by --order-by"
	}
	return r, nil
}
