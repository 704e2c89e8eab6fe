// Package copier copies the rows of a table to its shadow, range of blocks by range of blocks, or
// in an order.
package copier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/stages/chunker"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/stages/throttle"
	"github.com/repack-go/repack/strategy"
)

// Copier copies the rows of the source to the shadow.
type Copier struct {
	steps.Request
	Jobs      int                // connections that copy at the same time, at most
	BatchSize int                // about how many rows a chunk has; 0: by time
	Throttle  *throttle.Throttle // asked before each chunk
	Transfer  Transfer           // how the rows are transferred
	// MaintenanceWorkMem is the memory of a sort; empty: the setting of the session.
	MaintenanceWorkMem string
}

// errRewritten reports that the source's blocks are no longer those that were measured.
// So rows may have moved to blocks that have been copied already.
var errRewritten = errors.New("the source's file has been replaced")

// reltuples is -1 before the first VACUUM or ANALYZE.
const measureSQL = `
SELECT pg_relation_filenode(c.oid),
       pg_relation_size(c.oid) / current_setting('block_size')::bigint,
       greatest(c.reltuples, 0)::bigint
FROM   pg_class c
WHERE  c.oid = $1`

// measure records once how many blocks there are to copy. setup has committed the capture
// before.
func (c *Copier) measure(ctx context.Context) error {
	if c.Job.Blocks != nil {
		return nil
	}
	if err := c.StillHeld(ctx); err != nil {
		return err
	}
	var filenode uint32
	var blocks, rows int64
	if err := c.Pool.QueryRow(ctx, measureSQL, c.Job.Source).Scan(&filenode, &blocks, &rows); err != nil {
		return fmt.Errorf("measure %s: %w", c.Source.Name, err)
	}
	return c.NoteJob(ctx, func(job *steps.JobRow) { job.Filenode, job.Blocks, job.RowEstimate = &filenode, &blocks, &rows })
}

// restartBackfill forgets which chunks have been copied. If the capture writes through,
// the rows in the shadow are current and stay. If it does not, the shadow is emptied, as
// nothing in it is worth keeping.
func (c *Copier) restartBackfill(ctx context.Context) error {
	return c.WriteJob(ctx, func(tx pgx.Tx, job *steps.JobRow) error {
		if !c.Strategy.WritesThrough() {
			if _, err := tx.Exec(ctx, "TRUNCATE "+c.Job.ShadowTable().String()); err != nil {
				return fmt.Errorf("empty the shadow: %w", err)
			}
		}
		job.Filenode, job.Blocks, job.RowEstimate = nil, nil, nil
		return c.Registry.ForgetChunks(ctx, tx, c.Job.ID)
	})
}

// copyChunks gives the ranges that have not been copied to workers, until none is left.
func (c *Copier) copyChunks(ctx context.Context) error {
	if c.OrderBy != "" {
		return c.copyOrdered(ctx)
	}
	gaps, err := c.Registry.Gaps(ctx, c.Pool, c.Job.ID, *c.Job.Blocks)
	if err != nil {
		return err
	}
	done, err := c.Registry.Copied(ctx, c.Pool, c.Job.ID)
	if err != nil {
		return err
	}
	piped, err := c.piped(ctx)
	if err != nil {
		return err
	}
	c.Log.Debug("backfill", "job", c.Job.ID, "blocks", *c.Job.Blocks, "jobs", c.Jobs, "through_client", piped)
	chunks := c.chunks(gaps, done)
	group, groupCtx := errgroup.WithContext(ctx)
	for range chunks.Occupy(c.Jobs) {
		group.Go(func() error {
			return c.WithConn(groupCtx, func(conn *pgxpool.Conn) error {
				if !piped {
					return c.copyWorker(groupCtx, chunks, func(chunk *registry.Chunk) error {
						return c.copyChunk(groupCtx, conn, chunk, c.copySQL(), strategy.TID(chunk.First), strategy.TID(chunk.End))
					})
				}
				return c.WithConn(groupCtx, func(reader *pgxpool.Conn) error {
					return c.copyWorker(groupCtx, chunks, func(chunk *registry.Chunk) error { return c.pipeChunk(groupCtx, reader, conn, chunk) })
				})
			})
		})
	}
	return group.Wait()
}

func (c *Copier) copyWorker(ctx context.Context, chunks *chunker.Chunker, copyChunk func(*registry.Chunk) error) error {
	for {
		more, err := c.Throttle.Chunk(ctx, throttle.Copying, func() (bool, error) { return c.copyNext(ctx, chunks, copyChunk) })
		if !more || err != nil {
			return err
		}
	}
}

// copyNext copies the next chunk, if there is one.
func (c *Copier) copyNext(ctx context.Context, chunks *chunker.Chunker, copyChunk func(*registry.Chunk) error) (more bool, err error) {
	chunks.Aim(c.Throttle.PieceTime(c.chunkTime()))
	chunk, ok := chunks.Next()
	if !ok {
		return false, nil
	}
	if err := c.StillHeld(ctx); err != nil {
		return false, err
	}
	if err := c.copyOne(ctx, &chunk, copyChunk); err != nil {
		return false, err
	}
	if err := c.chunkDone(ctx, chunks.Done(chunk)); err != nil {
		return false, err
	}
	return true, ctx.Err()
}

// copyOne copies chunk, and records in it how long this took.
func (c *Copier) copyOne(ctx context.Context, chunk *registry.Chunk, copyChunk func(*registry.Chunk) error) error {
	began := time.Now()
	err := copyChunk(chunk)
	for tries := 0; lock.Moved(err) && ctx.Err() == nil && tries < maxTries; tries++ {
		err = copyChunk(chunk)
	}
	if err != nil {
		return fmt.Errorf("copy blocks %d to %d: %w", chunk.First, chunk.End, c.unfit(ctx, *chunk, err))
	}
	chunk.Took = time.Since(began)
	c.Log.Debug("chunk copied", "job", c.Job.ID, "first_block", chunk.First, "end_block", chunk.End,
		"rows", chunk.Rows, "took", chunk.Took)
	return nil
}

// unfit names the rows of the chunk that the shadow cannot take, if that is the error.
func (c *Copier) unfit(ctx context.Context, chunk registry.Chunk, err error) error {
	return alter.Refuse(c.Unfit(ctx, err, func(tx pgx.Tx) ([]strategy.Unfit, error) {
		return c.Link.UnfitRows(ctx, tx, chunk.First, chunk.End, alter.MostUnfit)
	}))
}

func (c *Copier) chunkDone(ctx context.Context, progress steps.Progress) error {
	if c.Hooks.AfterChunk == nil {
		return nil
	}
	return c.Hooks.AfterChunk(ctx, progress)
}

// maxTries is how often the copy of a chunk is tried again if the application moves rows
// of its blocks to another partition at that moment.
const maxTries = 100

// copySQL returns the statement that copies a range of TIDs, after its settings.
func (c *Copier) copySQL() []string { return []string{steps.ReadRangesSQL, c.Strategy.CopySQL(c.Link)} }

const filenodeSQL = `SELECT pg_relation_filenode($1::oid)`

// copyChunk copies one chunk with the last of statements; the others are its settings. After
// the copy, it makes sure that the file is still the one that was measured. By then the copy
// has locked the source, so no session can replace the file.
func (c *Copier) copyChunk(ctx context.Context, conn *pgxpool.Conn, chunk *registry.Chunk, statements []string, args ...any) error {
	last := len(statements) - 1
	settings, sql := statements[:last], statements[last]
	commits, err := c.Throttle.Commits(ctx)
	if err != nil {
		return err
	}
	begin := session.Begin(slices.Concat(commits, settings, []string{session.CustomPlansSQL})...)
	return pgx.BeginTxFunc(ctx, conn, begin, func(tx pgx.Tx) error {
		if err := c.Registry.Fence(ctx, tx, c.Job.ID, c.Runner.Claim); err != nil {
			return err
		}
		began := time.Now()
		tag, err := tx.Exec(ctx, sql, args...)
		if err != nil {
			return err
		}
		chunk.Rows, chunk.Took = tag.RowsAffected(), time.Since(began)
		return c.endChunk(ctx, tx, *chunk)
	})
}

// endChunk makes sure that the rows that were copied are those that should have been
// copied. It records the chunk in the same transaction.
func (c *Copier) endChunk(ctx context.Context, tx pgx.Tx, chunk registry.Chunk) error {
	var filenode *uint32
	b := &pgx.Batch{}
	b.Queue(filenodeSQL, c.Job.Source).QueryRow(func(row pgx.Row) error {
		if err := row.Scan(&filenode); err != nil {
			return fmt.Errorf("look up file of %s: %w", c.Source.Name, err)
		}
		if filenode == nil || *filenode != *c.Job.Filenode {
			return errRewritten
		}
		return nil
	})
	c.QueueSameTables(b)
	c.Registry.QueueChunk(b, c.Job.ID, chunk)
	return tx.SendBatch(ctx, b).Close()
}

const (
	lockedChunkTime        = 40 * time.Millisecond // see throttle.ChunkTime
	firstChunkBlocks       = 256
	firstLockedChunkBlocks = 16 // these may have thousands of rows
)

// chunkTime returns how long a chunk should take.
func (c *Copier) chunkTime() time.Duration {
	if c.Strategy.LocksRows() {
		return lockedChunkTime
	}
	return throttle.ChunkTime
}

// chunks returns a Chunker for gaps. The chunks have the size for the strategy, or the
// one that the user has asked for.
func (c *Copier) chunks(gaps []registry.Chunk, done registry.Copied) *chunker.Chunker {
	size := int64(firstChunkBlocks)
	if c.Strategy.LocksRows() {
		size = firstLockedChunkBlocks
	}
	chunks := chunker.New(gaps, size, c.chunkTime(), c.Jobs)
	chunks.Progress = steps.Progress{
		Rows: done.Rows, TotalRows: *c.Job.RowEstimate,
		Blocks: done.Blocks, TotalBlocks: *c.Job.Blocks,
	}
	if c.BatchSize > 0 {
		chunks.Fix(chunker.BlocksFor(int64(c.BatchSize), *c.Job.RowEstimate, *c.Job.Blocks))
	}
	return chunks
}

// Run copies the rows, from where an earlier run has ended.
func (c *Copier) Run(ctx context.Context) error {
	for {
		if err := c.measure(ctx); err != nil {
			return err
		}
		err := c.copyChunks(ctx)
		if errors.Is(err, errRewritten) {
			c.Log.Warn("source was rewritten (TRUNCATE, VACUUM FULL, CLUSTER): backfill begins again", "table", c.Source.Name.String())
			if err := c.restartBackfill(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return errors.Join(err, c.emptyAfter(ctx, err))
		}
		if err := c.StillHeld(ctx); err != nil {
			return err
		}
		return c.EndStage(ctx, c.Pool, registry.Backfill)
	}
}

// emptyAfter empties the shadow if nothing but rows that do not fit has been tried. Otherwise each
// try would leave the space of its rows behind.
func (c *Copier) emptyAfter(ctx context.Context, err error) error {
	var unfit *alter.UnfitError
	if !errors.As(err, &unfit) || ctx.Err() != nil {
		return nil
	}
	done, err := c.Registry.Copied(ctx, c.Pool, c.Job.ID)
	if err != nil || done.Rows > 0 {
		return err
	}
	return c.restartBackfill(ctx)
}

// Plan plans Run.
func (c *Copier) Plan(ctx context.Context) (t steps.Transaction, err error) {
	t = steps.Transaction{Does: fmt.Sprintf("copy the rows, range of blocks by range of blocks, %d at a time", c.Jobs), Locks: (*steps.Planner).Reading}
	if c.Strategy.LocksRows() {
		t.Does += ", locking those of a range FOR SHARE and skipping locked ones"
		t.Locks = (*steps.Planner).LockingRows
	}
	statements := c.copySQL()
	piped, err := c.piped(ctx)
	if err != nil {
		return t, err
	}
	if c.OrderBy != "" {
		order, err := c.Order(ctx)
		if err != nil {
			return t, err
		}
		t.Does = fmt.Sprintf("copy the rows with one statement, in the order of %s; interrupted, it begins again", c.OrderBy)
		statements = c.copyOrderedSQL(order)
	}
	if piped {
		t.Does += ", through this process; the first range is shown"
		out, in := c.Link.PipeSQL(0, firstChunkBlocks)
		statements = []string{steps.ReadRangesSQL, out, in}
	}
	t.Actions = []steps.Action{steps.Send(statements...)}
	return t, nil
}
