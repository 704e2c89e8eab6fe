package stages

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
	"github.com/repack-go/repack/stages/chunker"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/stages/throttle"
	"github.com/repack-go/repack/strategy"
)

// backfill copies the source, one range of blocks after another. Each chunk is committed
// together with its record. Blocks may be added after the source was measured; the rows
// in them have been captured.
//
// It takes ACCESS SHARE on the source (direct-trigger: ROW SHARE), for each chunk. With
// --order-by, all rows are one chunk.
func backfill(ctx context.Context, e *Env) error {
	for {
		if err := e.measure(ctx); err != nil {
			return err
		}
		err := e.copyChunks(ctx)
		if errors.Is(err, errRewritten) {
			e.Log.Warn("source was rewritten (TRUNCATE, VACUUM FULL, CLUSTER): backfill begins again", "table", e.Source.Name.String())
			if err := e.restartBackfill(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := e.StillHeld(ctx); err != nil {
			return err
		}
		return e.EndStage(ctx, e.Pool, registry.Backfill)
	}
}

func planBackfill(ctx context.Context, p *planner) ([]steps.Step, error) {
	t := steps.Transaction{Does: fmt.Sprintf("copy the rows, range of blocks by range of blocks, %d at a time", p.Jobs), Locks: (*steps.Planner).Reading}
	if p.Strategy.LocksRows() {
		t.Does += ", locking those of a range FOR SHARE and skipping locked ones"
		t.Locks = (*steps.Planner).LockingRows
	}
	statements := p.copySQL()
	piped, err := p.piped(ctx)
	if err != nil {
		return nil, err
	}
	if p.OrderBy != "" {
		order, err := p.Order(ctx)
		if err != nil {
			return nil, err
		}
		t.Does = fmt.Sprintf("copy the rows with one statement, in the order of %s; interrupted, it begins again", p.OrderBy)
		statements = p.copyOrderedSQL(order)
	}
	if piped {
		t.Does += ", through this process; the first range is shown"
		out, in := p.Link.PipeSQL(0, firstChunkBlocks)
		statements = []string{steps.ReadRangesSQL, out, in}
	}
	t.Actions = []steps.Action{steps.Send(statements...)}
	return p.Steps(ctx, t)
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
func (e *Env) measure(ctx context.Context) error {
	if e.Job.Blocks != nil {
		return nil
	}
	if err := e.StillHeld(ctx); err != nil {
		return err
	}
	var filenode uint32
	var blocks, rows int64
	if err := e.Pool.QueryRow(ctx, measureSQL, e.Job.Source).Scan(&filenode, &blocks, &rows); err != nil {
		return fmt.Errorf("measure %s: %w", e.Source.Name, err)
	}
	return e.NoteJob(ctx, func(job *steps.JobRow) { job.Filenode, job.Blocks, job.RowEstimate = &filenode, &blocks, &rows })
}

// restartBackfill forgets which chunks have been copied. If the capture writes through,
// the rows in the shadow are current and stay. If it does not, the shadow is emptied, as
// nothing in it is worth keeping.
func (e *Env) restartBackfill(ctx context.Context) error {
	return e.WriteJob(ctx, func(tx pgx.Tx, job *steps.JobRow) error {
		if !e.Strategy.WritesThrough() {
			if _, err := tx.Exec(ctx, "TRUNCATE "+e.Job.ShadowTable().String()); err != nil {
				return fmt.Errorf("empty the shadow: %w", err)
			}
		}
		job.Filenode, job.Blocks, job.RowEstimate = nil, nil, nil
		return e.Registry.ForgetChunks(ctx, tx, e.Job.ID)
	})
}

// copyChunks gives the ranges that have not been copied to workers, until none is left.
func (e *Env) copyChunks(ctx context.Context) error {
	if e.OrderBy != "" {
		return e.copyOrdered(ctx)
	}
	gaps, err := e.Registry.Gaps(ctx, e.Pool, e.Job.ID, *e.Job.Blocks)
	if err != nil {
		return err
	}
	done, err := e.Registry.Copied(ctx, e.Pool, e.Job.ID)
	if err != nil {
		return err
	}
	piped, err := e.piped(ctx)
	if err != nil {
		return err
	}
	e.Log.Debug("backfill", "job", e.Job.ID, "blocks", *e.Job.Blocks, "jobs", e.Jobs, "through_client", piped)
	chunks := e.chunks(gaps, done)
	group, groupCtx := errgroup.WithContext(ctx)
	for range chunks.Occupy(e.Jobs) {
		group.Go(func() error {
			return e.WithConn(groupCtx, func(conn *pgxpool.Conn) error {
				if !piped {
					return e.copyWorker(groupCtx, chunks, func(c *registry.Chunk) error {
						return e.copyChunk(groupCtx, conn, c, e.copySQL(), strategy.TID(c.First), strategy.TID(c.End))
					})
				}
				return e.WithConn(groupCtx, func(reader *pgxpool.Conn) error {
					return e.copyWorker(groupCtx, chunks, func(c *registry.Chunk) error { return e.pipeChunk(groupCtx, reader, conn, c) })
				})
			})
		})
	}
	return group.Wait()
}

func (e *Env) copyWorker(ctx context.Context, chunks *chunker.Chunker, copyChunk func(*registry.Chunk) error) error {
	for {
		more, err := e.Throttle.Chunk(ctx, func() (bool, error) { return e.copyNext(ctx, chunks, copyChunk) })
		if !more || err != nil {
			return err
		}
	}
}

// copyNext copies the next chunk, if there is one.
func (e *Env) copyNext(ctx context.Context, chunks *chunker.Chunker, copyChunk func(*registry.Chunk) error) (more bool, err error) {
	chunk, ok := chunks.Next()
	if !ok {
		return false, nil
	}
	if err := e.StillHeld(ctx); err != nil {
		return false, err
	}
	if err := e.copyOne(ctx, &chunk, copyChunk); err != nil {
		return false, err
	}
	if err := e.chunkDone(ctx, chunks.Done(chunk)); err != nil {
		return false, err
	}
	return true, ctx.Err()
}

// copyOne copies chunk, and records in it how long this took.
func (e *Env) copyOne(ctx context.Context, chunk *registry.Chunk, copyChunk func(*registry.Chunk) error) error {
	began := time.Now()
	err := copyChunk(chunk)
	for tries := 0; lock.Moved(err) && ctx.Err() == nil && tries < maxTries; tries++ {
		err = copyChunk(chunk)
	}
	if err != nil {
		return fmt.Errorf("copy blocks %d to %d: %w", chunk.First, chunk.End, err)
	}
	chunk.Took = time.Since(began)
	e.Log.Debug("chunk copied", "job", e.Job.ID, "first_block", chunk.First, "end_block", chunk.End,
		"rows", chunk.Rows, "took", chunk.Took)
	return nil
}

func (e *Env) chunkDone(ctx context.Context, progress steps.Progress) error {
	if e.Hooks.AfterChunk == nil {
		return nil
	}
	return e.Hooks.AfterChunk(ctx, progress)
}

// maxTries is how often the copy of a chunk is tried again if the application moves rows
// of its blocks to another partition at that moment.
const maxTries = 100

// copySQL returns the statement that copies a range of TIDs, after its settings.
func (e *Env) copySQL() []string { return []string{steps.ReadRangesSQL, e.Strategy.CopySQL(e.Link)} }

const filenodeSQL = `SELECT pg_relation_filenode($1::oid)`

// copyChunk copies one chunk with the last of statements; the others are its settings. After
// the copy, it makes sure that the file is still the one that was measured. By then the copy
// has locked the source, so no session can replace the file.
func (e *Env) copyChunk(ctx context.Context, conn *pgxpool.Conn, chunk *registry.Chunk, statements []string, args ...any) error {
	last := len(statements) - 1
	settings, sql := statements[:last], statements[last]
	commits, err := e.Throttle.Commits(ctx)
	if err != nil {
		return err
	}
	begin := session.Begin(slices.Concat(commits, settings, []string{session.CustomPlansSQL})...)
	return pgx.BeginTxFunc(ctx, conn, begin, func(tx pgx.Tx) error {
		if err := e.Registry.Fence(ctx, tx, e.Job.ID, e.Runner.Claim); err != nil {
			return err
		}
		began := time.Now()
		tag, err := tx.Exec(ctx, sql, args...)
		if err != nil {
			return err
		}
		chunk.Rows, chunk.Took = tag.RowsAffected(), time.Since(began)
		return e.endChunk(ctx, tx, *chunk)
	})
}

// endChunk makes sure that the rows that were copied are those that should have been
// copied. It records the chunk in the same transaction.
func (e *Env) endChunk(ctx context.Context, tx pgx.Tx, chunk registry.Chunk) error {
	var filenode *uint32
	b := &pgx.Batch{}
	b.Queue(filenodeSQL, e.Job.Source).QueryRow(func(row pgx.Row) error {
		if err := row.Scan(&filenode); err != nil {
			return fmt.Errorf("look up file of %s: %w", e.Source.Name, err)
		}
		if filenode == nil || *filenode != *e.Job.Filenode {
			return errRewritten
		}
		return nil
	})
	e.QueueSameTables(b)
	e.Registry.QueueChunk(b, e.Job.ID, chunk)
	return tx.SendBatch(ctx, b).Close()
}

const (
	lockedChunkTime        = 40 * time.Millisecond // see throttle.ChunkTime
	firstChunkBlocks       = 256
	firstLockedChunkBlocks = 16 // these may have thousands of rows
)

// chunks returns a Chunker for gaps. The chunks have the size for the strategy, or the
// one that the user has asked for.
func (e *Env) chunks(gaps []registry.Chunk, done registry.Copied) *chunker.Chunker {
	size, target := int64(firstChunkBlocks), throttle.ChunkTime
	if e.Strategy.LocksRows() {
		size, target = firstLockedChunkBlocks, lockedChunkTime
	}
	chunks := chunker.New(gaps, size, target, e.Jobs)
	chunks.Progress = steps.Progress{
		Rows: done.Rows, TotalRows: *e.Job.RowEstimate,
		Blocks: done.Blocks, TotalBlocks: *e.Job.Blocks,
	}
	if e.BatchSize > 0 {
		chunks.Fix(chunker.BlocksFor(int64(e.BatchSize), *e.Job.RowEstimate, *e.Job.Blocks))
	}
	return chunks
}
