package copier

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/stages/throttle"
)

const shadowWrittenSQL = `SELECT pg_relation_size($1::oid) > 0`

// copyOrdered copies the source with one statement, as one chunk. Its snapshot is younger
// than the capture, so the change log has what the statement does not see. Rows that are
// removed or replayed later do not change the order of the other rows.
func (c *Copier) copyOrdered(ctx context.Context) error {
	order, err := c.Order(ctx)
	if err != nil {
		return err
	}
	gaps, err := c.Registry.Gaps(ctx, c.Pool, c.Job.ID, *c.Job.Blocks)
	if err != nil || len(gaps) == 0 {
		return err
	}
	var written bool
	if err := c.Pool.QueryRow(ctx, shadowWrittenSQL, *c.Job.Shadow).Scan(&written); err != nil {
		return fmt.Errorf("look whether the shadow is empty: %w", err)
	}
	if written { // by an interrupted statement: new rows would first fill the space that its rows have left
		if err := c.restartBackfill(ctx); err != nil {
			return err
		}
		if err := c.measure(ctx); err != nil {
			return err
		}
	}
	if *c.Job.Blocks == 0 {
		return nil
	}
	c.Log.Info("rows are copied in order, with one statement", "job", c.Job.ID, "order_by", c.OrderBy)
	return c.WithConn(ctx, func(conn *pgxpool.Conn) error {
		_, err := c.Throttle.Chunk(ctx, throttle.Copying, func() (bool, error) { return false, c.copyAll(ctx, conn, order) })
		return err
	})
}

// copyAll copies all blocks as one chunk, however many they are. Its statement names no
// blocks: with several chunks, it would copy every row once for each chunk.
func (c *Copier) copyAll(ctx context.Context, conn *pgxpool.Conn, order catalog.Order) error {
	all := registry.Chunk{End: *c.Job.Blocks}
	err := c.copyOne(ctx, &all, func(chunk *registry.Chunk) error {
		return c.copyChunk(ctx, conn, chunk, c.copyOrderedSQL(order))
	})
	if err != nil {
		return err
	}
	return c.chunkDone(ctx, steps.Progress{Rows: all.Rows, TotalRows: *c.Job.RowEstimate, Blocks: all.End, TotalBlocks: all.End})
}

// copyOrderedSQL returns the statement that copies all rows, after its settings.
func (c *Copier) copyOrderedSQL(order catalog.Order) []string {
	return append(c.sortSQL(), c.Link.CopyOrderedSQL(order.SQL))
}

// sortSQL gives the sort the memory of an index build. The planner decides whether to sort
// or to follow an index.
func (c *Copier) sortSQL() []string {
	return append(steps.MemorySQL(c.MaintenanceWorkMem), "SELECT set_config('work_mem', current_setting('maintenance_work_mem'), true)")
}
