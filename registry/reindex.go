package registry

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Reindex is an index that is being rebuilt with REINDEX CONCURRENTLY.
type Reindex struct {
	ID        int64
	TableOID  uint32 `db:"table_oid"`
	IndexName string
	// Others are invalid indexes of the table that were there before. They are not ours.
	Others []uint32
}

// beginReindexSQL notes the index and the invalid indexes of its table.
const beginReindexSQL = `
INSERT INTO %[1]s (id, table_oid, index_oid, index_name, others)
SELECT $1, i.indrelid, i.indexrelid, c.relname, ARRAY(SELECT o.indexrelid FROM pg_index o WHERE o.indrelid = i.indrelid AND NOT o.indisvalid)
FROM   pg_index i
JOIN   pg_class c ON c.oid = i.indexrelid
WHERE  i.indexrelid = $2
RETURNING id, table_oid, index_name, others`

// BeginReindex records that an index is about to be rebuilt. It returns ErrNotFound if there is no
// such index. q must not be in a transaction: see NextID.
func (r *Registry) BeginReindex(ctx context.Context, q catalog.Querier, index uint32) (Reindex, error) {
	id, err := r.nextID(ctx, q, "reindex")
	if err != nil {
		return Reindex{}, err
	}
	rows, err := q.Query(ctx, fmt.Sprintf(beginReindexSQL, r.reindex), id, index)
	if err != nil {
		return Reindex{}, fmt.Errorf("record the rebuild of index %d: %w", index, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[Reindex])
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Reindex{}, fmt.Errorf("record the rebuild of index %d: %w", index, err)
	}
	return found[0], nil
}

const endReindexSQL = `
UPDATE %[1]s
SET    ended = clock_timestamp()
WHERE  id = $1`

// EndReindex records that a rebuild has left nothing.
func (r *Registry) EndReindex(ctx context.Context, q catalog.Querier, id int64) error {
	if _, err := q.Exec(ctx, fmt.Sprintf(endReindexSQL, r.reindex), id); err != nil {
		return fmt.Errorf("record the end of rebuild %d: %w", id, err)
	}
	return nil
}

const openReindexesSQL = `
SELECT   id, table_oid, index_name, others
FROM     %[1]s
WHERE    ended IS NULL
ORDER BY id`

// OpenReindexes lists rebuilds whose leftovers may still be there.
func (r *Registry) OpenReindexes(ctx context.Context, q catalog.Querier) ([]Reindex, error) {
	rows, err := q.Query(ctx, fmt.Sprintf(openReindexesSQL, r.reindex))
	if err != nil {
		return nil, fmt.Errorf("list rebuilds of indexes: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[Reindex])
	if err != nil {
		return nil, fmt.Errorf("list rebuilds of indexes: %w", err)
	}
	return list, nil
}

// leftSQL lists what a rebuild has left: invalid indexes of the table with the names that the server
// gives them, which were not there before. A name is cut to 63 bytes.
const leftSQL = `
SELECT   format('%I.%I', n.nspname, c.relname)
FROM     pg_index i
JOIN     pg_class c     ON c.oid = i.indexrelid
JOIN     pg_namespace n ON n.oid = c.relnamespace
WHERE    i.indrelid = $1 AND NOT i.indisvalid AND i.indexrelid <> ALL ($3::oid[])
AND      c.relname ~ '_cc(new|old)[0-9]*$'
AND     (regexp_replace(c.relname, '_cc(new|old)[0-9]*$', '') = $2
         OR octet_length(c.relname) > 59 AND starts_with($2, regexp_replace(c.relname, '_cc(new|old)[0-9]*$', '')))
ORDER BY 1`

// Left lists the invalid indexes, quoted and with their schemas, that a rebuild has left.
func (x Reindex) Left(ctx context.Context, q catalog.Querier) ([]string, error) {
	rows, err := q.Query(ctx, leftSQL, x.TableOID, x.IndexName, x.Others)
	if err != nil {
		return nil, fmt.Errorf("look for what the rebuild of index %s has left: %w", x.IndexName, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for what the rebuild of index %s has left: %w", x.IndexName, err)
	}
	return names, nil
}
