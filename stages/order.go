package stages

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/steps"
)

const shadowWrittenSQL = `SELECT pg_relation_size($1::oid) > 0`

// copyOrdered copies the source with one statement, as one chunk. Its snapshot is younger
// than the capture, so the change log has what the statement does not see. Rows that are
// removed or replayed later do not change the order of the other rows.
func (e *Env) copyOrdered(ctx context.Context) error {
	order, err := e.Order(ctx)
	if err != nil {
		return err
	}
	gaps, err := e.Registry.Gaps(ctx, e.Pool, e.Job.ID, *e.Job.Blocks)
	if err != nil || len(gaps) == 0 {
		return err
	}
	var written bool
	if err := e.Pool.QueryRow(ctx, shadowWrittenSQL, *e.Job.Shadow).Scan(&written); err != nil {
		return fmt.Errorf("look whether the shadow is empty: %w", err)
	}
	if written { // by an interrupted statement: new rows would first fill the space that its rows have left
		if err := e.restartBackfill(ctx); err != nil {
			return err
		}
		if err := e.measure(ctx); err != nil {
			return err
		}
	}
	if *e.Job.Blocks == 0 {
		return nil
	}
	e.Log.Info("rows are copied in order, with one statement", "job", e.Job.ID, "order_by", e.OrderBy)
	return e.WithConn(ctx, func(conn *pgxpool.Conn) error {
		_, err := e.Throttle.Chunk(ctx, func() (bool, error) { return false, e.copyAll(ctx, conn, order) })
		return err
	})
}

// copyAll copies all blocks as one chunk, however many they are. Its statement names no
// blocks: with several chunks, it would copy every row once for each chunk.
func (e *Env) copyAll(ctx context.Context, conn *pgxpool.Conn, order catalog.Order) error {
	all := registry.Chunk{End: *e.Job.Blocks}
	err := e.copyOne(ctx, &all, func(c *registry.Chunk) error {
		return e.copyChunk(ctx, conn, c, e.copyOrderedSQL(order))
	})
	if err != nil {
		return err
	}
	return e.chunkDone(ctx, steps.Progress{Rows: all.Rows, TotalRows: *e.Job.RowEstimate, Blocks: all.End, TotalBlocks: all.End})
}

// copyOrderedSQL returns the statement that copies all rows, after its settings.
func (e *Env) copyOrderedSQL(order catalog.Order) []string {
	return append(e.sortSQL(), e.Link.CopyOrderedSQL(order.SQL))
}

// sortSQL gives the sort the memory of an index build. The planner decides whether to sort
// or to follow an index.
func (e *Env) sortSQL() []string {
	return append(e.builder().MemorySQL(), "SELECT set_config('work_mem', current_setting('maintenance_work_mem'), true)")
}
