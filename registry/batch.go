package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Batch is a run over several tables.
type Batch struct {
	ID    int64
	Began time.Time
	// Tables are in the order in which they are repacked.
	Tables []BatchTable `db:"-"`
}

// BatchTable is a table of a batch. Result is nil until it is done, skipped or refused.
type BatchTable struct {
	N           int
	TableSchema string
	TableName   string
	Bytes       int64 // before, with indexes and TOAST
	Result      *BatchResult
	Reason      string
	BytesAfter  *int64
}

// Name returns the table's name.
func (t BatchTable) Name() catalog.Name {
	return catalog.Name{Schema: t.TableSchema, Name: t.TableName}
}

// BatchResult is how a table of a batch has ended.
type BatchResult string

// The results. A table is skipped if it was chosen with others and cannot be repacked, and
// refused if it was named.
const (
	BatchDone    BatchResult = "done"
	BatchSkipped BatchResult = "skipped"
	BatchRefused BatchResult = "refused"
)

// openBatchesSQL lists batches that have not ended, the latest first.
const openBatchesSQL = `
SELECT   id, began
FROM     %[1]s
WHERE    ended IS NULL AND ($1::jsonb IS NULL OR selection = $1)
ORDER BY id DESC`

// batchTablesSQL lists the tables of a batch. A job that has ended since the batch began counts,
// even if its process was killed before it could say so.
const batchTablesSQL = `
SELECT   t.n, t.table_schema, t.table_name, t.bytes, t.reason, t.bytes_after,
         coalesce(t.result, CASE WHEN EXISTS (
             SELECT FROM %[2]s j
             WHERE  j.table_schema = t.table_schema AND j.table_name = t.table_name AND j.state = 'done'
             AND    j.finished_at >= (SELECT b.began FROM %[3]s b WHERE b.id = t.batch_id)) THEN 'done' END) AS result
FROM     %[1]s t
WHERE    t.batch_id = $1
ORDER BY t.n`

// FindBatch returns the unfinished batch of a selection. It returns ErrNotFound if there is
// none.
func (r *Registry) FindBatch(ctx context.Context, q catalog.Querier, selection json.RawMessage) (Batch, error) {
	list, err := r.OpenBatches(ctx, q, selection)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return Batch{}, err
	}
	return list[0], nil
}

// OpenBatches lists the unfinished batches of a selection, or all if it is null, the latest
// first.
func (r *Registry) OpenBatches(ctx context.Context, q catalog.Querier, selection json.RawMessage) ([]Batch, error) {
	rows, err := q.Query(ctx, fmt.Sprintf(openBatchesSQL, r.batch), selection)
	if err != nil {
		return nil, fmt.Errorf("look for batches: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[Batch])
	if err != nil {
		return nil, fmt.Errorf("look for batches: %w", err)
	}
	for i, b := range list {
		if rows, err = q.Query(ctx, fmt.Sprintf(batchTablesSQL, r.batchTable, r.job, r.batch), b.ID); err != nil {
			return nil, fmt.Errorf("list tables of batch %d: %w", b.ID, err)
		}
		if list[i].Tables, err = pgx.CollectRows(rows, pgx.RowToStructByName[BatchTable]); err != nil {
			return nil, fmt.Errorf("list tables of batch %d: %w", b.ID, err)
		}
	}
	return list, nil
}

const (
	insertBatchSQL = `
INSERT INTO %[1]s (id, selection)
VALUES ($1, $2)
RETURNING began`

	insertBatchTablesSQL = `
INSERT INTO %[1]s (batch_id, n, table_schema, table_name, bytes)
SELECT $1, t.*
FROM   unnest($2::int[], $3::text[], $4::text[], $5::bigint[]) t`
)

// NewBatch records a batch of tables. conn must not be in a transaction: see NextID.
func (r *Registry) NewBatch(ctx context.Context, conn *pgx.Conn, selection json.RawMessage, tables []BatchTable) (b Batch, err error) {
	if b.ID, err = r.nextID(ctx, conn, "batch"); err != nil {
		return b, err
	}
	var n []int
	var schemas, names []string
	var bytes []int64
	for _, t := range tables {
		n, schemas, names, bytes = append(n, t.N), append(schemas, t.TableSchema), append(names, t.TableName), append(bytes, t.Bytes)
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, fmt.Sprintf(insertBatchSQL, r.batch), b.ID, selection).Scan(&b.Began); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, fmt.Sprintf(insertBatchTablesSQL, r.batchTable), b.ID, n, schemas, names, bytes)
		return err
	})
	if err != nil {
		return b, fmt.Errorf("record batch %d: %w", b.ID, err)
	}
	b.Tables = tables
	return b, nil
}

const batchResultSQL = `
UPDATE %[1]s
SET    result = $3, reason = $4, bytes_after = $5, ended = clock_timestamp()
WHERE  batch_id = $1 AND n = $2`

// EndBatchTable records the result of a table.
func (r *Registry) EndBatchTable(ctx context.Context, q catalog.Querier, id int64, t BatchTable) error {
	if _, err := q.Exec(ctx, fmt.Sprintf(batchResultSQL, r.batchTable), id, t.N, t.Result, t.Reason, t.BytesAfter); err != nil {
		return fmt.Errorf("record the result of %s in batch %d: %w", t.Name(), id, err)
	}
	return nil
}

const endBatchSQL = `
UPDATE %[1]s
SET    ended = clock_timestamp()
WHERE  id = $1 AND ended IS NULL`

// EndBatch ends a batch: the same command begins another.
func (r *Registry) EndBatch(ctx context.Context, q catalog.Querier, id int64) error {
	if _, err := q.Exec(ctx, fmt.Sprintf(endBatchSQL, r.batch), id); err != nil {
		return fmt.Errorf("end batch %d: %w", id, err)
	}
	return nil
}

// writtenSQL adds up the sizes of the shadows of unfinished jobs of a process.
const writtenSQL = `
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
FROM   %[1]s j
JOIN   pg_class c ON c.oid = j.shadow
WHERE  j.state = 'active' AND j.swapped_at IS NULL AND j.runner_host = $1 AND j.runner_pid = $2`

// Written returns the size of the copies, in bytes with indexes and TOAST, that a process is
// writing at present.
func (r *Registry) Written(ctx context.Context, q catalog.Querier, runner Runner) (bytes int64, err error) {
	err = q.QueryRow(ctx, fmt.Sprintf(writtenSQL, r.job), runner.Host, runner.PID).Scan(&bytes)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("measure the copies: %w", err)
	}
	return bytes, nil
}
