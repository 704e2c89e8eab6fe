package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Chunk is a range of blocks of the source that has been copied, from First (inclusive)
// to End (exclusive). A gap uses the same type; its Rows and Took are zero.
type Chunk struct {
	First, End int64
	Rows       int64         // rows copied
	Took       time.Duration // time to copy them
}

// addChunkSQL records a chunk.
const addChunkSQL = `
INSERT INTO %[1]s (job_id, first_block, end_block, rows, seconds)
VALUES ($1, $2, $3, $4, $5)`

// QueueChunk adds to b the statement that records a chunk of job id. Send b in the
// transaction that has copied the chunk, so that both commit together.
func (r *Registry) QueueChunk(b *pgx.Batch, id int64, c Chunk) {
	b.Queue(fmt.Sprintf(addChunkSQL, r.chunk), id, c.First, c.End, c.Rows, c.Took.Seconds())
}

// gapsSQL lists the gaps between the copied ranges. The ranges do not overlap.
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

// Gaps lists the ranges of blocks that job id must still copy, in order. blocks is the
// number of blocks of the source.
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

// forgetChunksSQL deletes all chunks of a job.
const forgetChunksSQL = `DELETE FROM %[1]s WHERE job_id = $1`

// ForgetChunks deletes the chunks of job id inside tx, so that its backfill starts
// again.
func (r *Registry) ForgetChunks(ctx context.Context, tx pgx.Tx, id int64) error {
	if _, err := tx.Exec(ctx, fmt.Sprintf(forgetChunksSQL, r.chunk), id); err != nil {
		return fmt.Errorf("forget chunks of job %d: %w", id, err)
	}
	return nil
}

// Copied is the progress of a job's backfill.
type Copied struct {
	Blocks, Rows int64
	// Rate is in rows per second over the last minute of copying, or zero.
	Rate float64
}

// copiedSQL adds up the chunks of a job.
const copiedSQL = `
SELECT coalesce(sum(end_block - first_block), 0)::bigint AS blocks,
       coalesce(sum(rows), 0)::bigint                    AS rows,
       coalesce(sum(rows) FILTER (WHERE recent)
                / nullif(extract(epoch FROM max(ended) FILTER (WHERE recent)
                         - min(ended - make_interval(secs => seconds)) FILTER (WHERE recent)), 0), 0)::float8 AS rate
FROM  (SELECT *, ended > max(ended) OVER () - interval '1 minute' AS recent
       FROM   %[1]s
       WHERE  job_id = $1) c`

// Copied adds up the chunks of job id.
func (r *Registry) Copied(ctx context.Context, q catalog.Querier, id int64) (c Copied, err error) {
	err = q.QueryRow(ctx, fmt.Sprintf(copiedSQL, r.chunk), id).Scan(&c.Blocks, &c.Rows, &c.Rate)
	if err != nil {
		return Copied{}, fmt.Errorf("sum up chunks of job %d: %w", id, err)
	}
	return c, nil
}
