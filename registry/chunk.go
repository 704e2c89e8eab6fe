package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Chunk is a range of blocks that has been copied, End exclusive.
type Chunk struct {
	First, End int64
	Rows       int64
	Took       time.Duration
}

const addChunkSQL = `
INSERT INTO %[1]s (job_id, first_block, end_block, rows, seconds)
VALUES ($1, $2, $3, $4, $5)`

// QueueChunk records a chunk, as a part of b, in the transaction that has copied it.
func (r *Registry) QueueChunk(b *pgx.Batch, id int64, c Chunk) {
	b.Queue(fmt.Sprintf(addChunkSQL, r.chunk), id, c.First, c.End, c.Rows, c.Took.Seconds())
}

// The gaps between the copied ranges, which do not overlap.
const gapsSQL = `
SELECT   first, "end"
FROM    (SELECT coalesce(max(end_block) OVER (ORDER BY first_block ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW), 0) AS first,
                first_block AS "end"
         FROM   %[1]s
         WHERE  job_id = $1
         UNION  ALL
         SELECT coalesce(max(end_block), 0), $2
         FROM   %[1]s
         WHERE  job_id = $1) g
WHERE    first < "end"
ORDER BY first`

// Gaps lists what is still to be copied of a source of so many blocks.
func (r *Registry) Gaps(ctx context.Context, q catalog.Querier, id, blocks int64) ([]Chunk, error) {
	rows, err := q.Query(ctx, fmt.Sprintf(gapsSQL, r.chunk), id, blocks)
	if err != nil {
		return nil, fmt.Errorf("list chunks of job %d: %w", id, err)
	}
	gaps, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[Chunk])
	if err != nil {
		return nil, fmt.Errorf("list chunks of job %d: %w", id, err)
	}
	return gaps, nil
}

const forgetChunksSQL = `DELETE FROM %[1]s WHERE job_id = $1`

// ForgetChunks makes the backfill begin again.
func (r *Registry) ForgetChunks(ctx context.Context, tx pgx.Tx, id int64) error {
	if _, err := tx.Exec(ctx, fmt.Sprintf(forgetChunksSQL, r.chunk), id); err != nil {
		return fmt.Errorf("forget chunks of job %d: %w", id, err)
	}
	return nil
}

// Copied says how far the backfill of a job is.
type Copied struct {
	Blocks, Rows int64
	// Rate is in rows a second over the last minute of work.
	Rate float64
}

const copiedSQL = `
SELECT coalesce(sum(end_block - first_block), 0)::bigint AS blocks,
       coalesce(sum(rows), 0)::bigint                    AS rows,
       coalesce(sum(rows) FILTER (WHERE recent)
                / nullif(extract(epoch FROM max(ended) FILTER (WHERE recent)
                         - min(ended - make_interval(secs => seconds)) FILTER (WHERE recent)), 0), 0)::float8 AS rate
FROM  (SELECT *, ended > max(ended) OVER () - interval '1 minute' AS recent
       FROM   %[1]s
       WHERE  job_id = $1) c`

// Copied sums up the chunks of a job.
func (r *Registry) Copied(ctx context.Context, q catalog.Querier, id int64) (c Copied, err error) {
	err = q.QueryRow(ctx, fmt.Sprintf(copiedSQL, r.chunk), id).Scan(&c.Blocks, &c.Rows, &c.Rate)
	if err != nil {
		return Copied{}, fmt.Errorf("sum up chunks of job %d: %w", id, err)
	}
	return c, nil
}
