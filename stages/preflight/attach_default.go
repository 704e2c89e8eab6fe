package preflight

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/checks"
)

// When ATTACH PARTITION attaches a partition beside a default partition, it reads all rows
// of the default partition, to see that none belongs to the new one. So repack times this
// too, on each table of the default partition that is not small.

// largeFrom is the number of blocks from which on reading a table is timed. A block takes
// about 20 µs if it is in memory.
const largeFrom = 128

// defaultLeavesSQL lists the tables of the default partition beside partition $1 that
// ATTACH reads: foreign tables are not among them.
const defaultLeavesSQL = `
SELECT   n.nspname, c.relname
FROM     pg_inherits i
JOIN     pg_partitioned_table p ON p.partrelid = i.inhparent
CROSS    JOIN LATERAL pg_partition_tree(p.partdefid) t
JOIN     pg_class c             ON c.oid = t.relid AND c.relkind = 'r'
JOIN     pg_namespace n         ON n.oid = c.relnamespace
WHERE    i.inhrelid = $1 AND p.partdefid NOT IN (0, $1) AND t.isleaf
AND      pg_relation_size(c.oid) > $2 * current_setting('block_size')::bigint
ORDER BY n.nspname, c.relname`

// readLeafSQL evaluates the bound on every row of a table, as ATTACH does. No index can be
// used for a condition with IS TRUE.
const readLeafSQL = `SELECT count(*) FROM ONLY %s WHERE (%s) IS TRUE`

// timeDefault measures how long the server takes to read the default partition when it
// attaches a partition in the place of t. what names the tables.
func (p *Inspector) timeDefault(ctx context.Context, t *catalog.Table) (took time.Duration, what string, err error) {
	if t.Partition == nil || t.Partition.Default == nil {
		return 0, "", nil
	}
	rows, err := p.Pool.Query(ctx, defaultLeavesSQL, t.OID, largeFrom)
	if err != nil {
		return 0, "", fmt.Errorf("list the tables of the default partition %s: %w", t.Partition.Default, err)
	}
	leaves, err := pgx.CollectRows(rows, pgx.RowToStructByPos[catalog.Name])
	if err != nil {
		return 0, "", fmt.Errorf("list the tables of the default partition %s: %w", t.Partition.Default, err)
	}
	var reads []string
	for _, leaf := range leaves {
		reads = append(reads, fmt.Sprintf(readLeafSQL, leaf, t.Partition.Check))
	}
	if len(reads) == 0 {
		return 0, "", nil
	}
	what = "default partition " + t.Partition.Default.String()
	took, err = p.timeChecks(ctx, reads)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InsufficientPrivilege {
		p.Log.Debug("default partition not timed", "table", t.Name.String(), "error", err)
		return longestLook, what, nil // nobody knows
	}
	if err != nil {
		return 0, "", err
	}
	p.Log.Debug("default partition timed", "table", t.Name.String(), "default", t.Partition.Default.String(), "took", took.Round(time.Millisecond))
	return took, what, nil
}

// slowDefault returns a reason not to repack the table if ATTACH would take too long to read
// the default partition, after other has been spent under the same locks.
func (p *Inspector) slowDefault(ctx context.Context, t *catalog.Table, other time.Duration) ([]checks.Reason, error) {
	took, what, err := p.timeDefault(ctx, t)
	if err != nil || took == 0 || took+other <= p.Locks.Timeout/2 {
		return nil, err
	}
	return []checks.Reason{{
		Object: what, Why: "has so many rows that looking at them under lock, as PostgreSQL does to attach a partition beside it, takes " + tookText(took, p.Locks.Timeout),
		Remedy: "move them to partitions of their own, or raise --lock-timeout if the application may be held up for so long",
	}}, nil
}
