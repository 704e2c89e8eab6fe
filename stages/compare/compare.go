// Package compare compares a table in use with its copy, while the application writes.
package compare

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/chunker"
	"github.com/repack-go/repack/stages/throttle"
	"github.com/repack-go/repack/strategy"
)

const (
	// maxMismatches is how many rows are named. When so many are found, the comparison
	// ends.
	maxMismatches = 10
	// After roundTime, or when roundKeys keys are deferred, the log is replayed and the
	// deferred keys are compared again.
	roundTime = 5 * time.Second
	roundKeys = 50_000
	// looksAgain is how often a key is compared again at most, if the application keeps
	// changing its row.
	looksAgain = 5
	// firstBlocks is the size of the first chunks.
	firstBlocks = 256
	// keysAtOnce is how many keys one statement compares again.
	keysAtOnce = 5000
	// A sample has one of sampleEvery ranges of sampleBlocks blocks, and the last range.
	sampleBlocks = 128
	sampleEvery  = 16
)

// Comparer compares the table that Link leads from with the one that it leads to.
type Comparer struct {
	Pool   *pgxpool.Pool
	Locks  lock.Policy // of a transaction that reads many rows
	Log    *slog.Logger
	Job    *registry.Job
	Source *catalog.Table
	Link   *strategy.Link

	Jobs      int // connections that work at the same time
	Throttle  *throttle.Throttle
	BatchSize int // about how many rows a chunk has; 0: by time
	// Replay replays the change log. If it is nil, pending keys are only counted.
	Replay func(context.Context) error
}

// comparing is one comparison.
type comparing struct {
	Comparer
	tables *strategy.Comparison

	mu       sync.Mutex
	result   *Result
	deferred [][]string // keys that were pending when they were compared
}

// Compare compares the copy's rows with the table's, then looks for the table's rows in
// the copy. It does not block writers. If a row changes during the comparison, its key is
// deferred and compared again after a replay. A row may not be seen if it has changed
// since its block was compared, or if it has moved to a block that had been compared.
// Such a row is in the change log, and the replay reads its values from the table.
//
// It takes ACCESS SHARE on both tables and the change log, chunk by chunk.
func (c Comparer) Compare(ctx context.Context, mode registry.VerifyMode) (*Result, error) {
	began := time.Now()
	run := &comparing{Comparer: c, tables: strategy.NewComparison(c.Link, c.Source)}
	run.result = &Result{Mode: mode, Table: c.Link.From, Copy: c.Link.To, KeyColumns: c.Link.KeyNames()}
	if err := run.bothSides(ctx); err != nil {
		return nil, err
	}
	if err := run.counted(ctx); err != nil {
		return nil, err
	}
	slices.SortFunc(run.result.Mismatches, func(a, b strategy.Mismatch) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), slices.Compare(a.Key, b.Key))
	})
	c.Log.Info("compared", "job", c.Job.ID, "table", run.result.Table.String(), "copy", run.result.Copy.String(), "verify", mode,
		"rows", run.result.Rows, "copy_rows", run.result.CopyRows, "pending", run.result.Pending,
		"mismatches", len(run.result.Mismatches), "took", time.Since(began).Round(time.Millisecond))
	return run.result, nil
}

func (c *comparing) withConn(ctx context.Context, work func(conn *pgxpool.Conn) error) error {
	conn, err := c.Pool.Acquire(ctx)
	if err != nil {
		return session.Failed(err)
	}
	defer conn.Release()
	return work(conn)
}

// bothSides compares from each side the ranges that the mode selects.
func (c *comparing) bothSides(ctx context.Context) error {
	for _, side := range []struct {
		relation catalog.Name
		find     finder
		rows     *int64
	}{
		{c.Link.To, c.tables.CopyRange, &c.result.CopyRows},
		{c.Link.From, c.tables.Range, &c.result.Rows},
	} {
		if err := c.side(ctx, side.relation, side.find, side.rows); err != nil {
			return err
		}
	}
	return nil
}

type finder func(ctx context.Context, tx pgx.Tx, first, end int64) (strategy.Compared, error)

// side compares the ranges of one relation, in rounds.
func (c *comparing) side(ctx context.Context, relation catalog.Name, find finder, rows *int64) error {
	blocks, err := strategy.Blocks(ctx, c.Pool, relation)
	if err != nil {
		return err
	}
	ranges := chunker.New(rangesOf(c.result.Mode, blocks), firstBlocks, throttle.ChunkTime, 1)
	if c.BatchSize > 0 && c.Job.RowEstimate != nil {
		ranges.Fix(chunker.BlocksFor(int64(c.BatchSize), *c.Job.RowEstimate, blocks))
	}
	for more := true; more; {
		if more, err = c.round(ctx, ranges, find, rows); err != nil {
			return err
		}
		if err := c.lookAgain(ctx); err != nil {
			return err
		}
	}
	return nil
}

// rangesOf returns the blocks to compare.
func rangesOf(mode registry.VerifyMode, blocks int64) []registry.Chunk {
	if blocks == 0 {
		return nil
	}
	if mode != registry.VerifySample {
		return []registry.Chunk{{End: blocks}}
	}
	var ranges []registry.Chunk
	for n, first := 0, int64(0); first < blocks; n, first = n+1, first+sampleBlocks {
		end := min(first+sampleBlocks, blocks)
		if n%sampleEvery == 0 || end == blocks {
			ranges = append(ranges, registry.Chunk{First: first, End: end})
		}
	}
	return ranges
}

// round gives ranges to workers until it is time to replay. more tells whether ranges are
// left.
func (c *comparing) round(ctx context.Context, ranges *chunker.Chunker, find finder, rows *int64) (more bool, err error) {
	began := time.Now()
	group, groupCtx := errgroup.WithContext(ctx)
	for range ranges.Occupy(c.Jobs) {
		group.Go(func() error {
			return c.withConn(groupCtx, func(conn *pgxpool.Conn) error {
				for more := true; more && c.goOn(began); {
					var err error
					more, err = c.Throttle.Chunk(groupCtx, throttle.Comparing, func() (bool, error) { return c.next(groupCtx, conn, ranges, find) })
					if err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	err = group.Wait()
	*rows = ranges.Progress.Rows
	return ranges.Left() && !c.enough(), err
}

// goOn decides whether the comparison takes another range. No other function decides
// this.
func (c *comparing) goOn(began time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.result.Mismatches) >= maxMismatches {
		return false
	}
	return c.Replay == nil || time.Since(began) < roundTime && len(c.deferred) < roundKeys
}

func (c *comparing) enough() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.result.Mismatches) >= maxMismatches
}

// next compares the next range, if there is one.
func (c *comparing) next(ctx context.Context, conn *pgxpool.Conn, ranges *chunker.Chunker, find finder) (more bool, err error) {
	chunk, ok := ranges.Next()
	if !ok {
		return false, nil
	}
	if err := c.chunk(ctx, conn, &chunk, find); err != nil {
		return false, err
	}
	ranges.Done(chunk)
	return true, ctx.Err()
}

func (c *comparing) chunk(ctx context.Context, conn *pgxpool.Conn, chunk *registry.Chunk, find finder) error {
	began := time.Now()
	found, err := c.inSnapshot(ctx, conn, func(ctx context.Context, tx pgx.Tx) (strategy.Compared, error) {
		return find(ctx, tx, chunk.First, chunk.End)
	})
	if err != nil {
		return err
	}
	chunk.Rows, chunk.Took = found.Rows, time.Since(began)
	c.Log.Debug("chunk compared", "job", c.Job.ID, "first_block", chunk.First, "end_block", chunk.End,
		"rows", found.Rows, "pending", len(found.Pending), "mismatches", len(found.Mismatches), "took", chunk.Took)
	c.add(found)
	return ctx.Err()
}

// inSnapshot runs find in a transaction with one snapshot. Its table locks conflict only
// with DDL, and it waits for a lock no longer than the policy allows.
func (c *comparing) inSnapshot(ctx context.Context, conn *pgxpool.Conn,
	find func(context.Context, pgx.Tx) (strategy.Compared, error),
) (found strategy.Compared, err error) {
	err = lock.Transact(ctx, conn, c.Locks, c.result.Table.String(), c.oids(), func(ctx context.Context, tx *lock.Tx) error {
		if err := tx.Do(ctx, c.tables.BeginSQL()); err != nil {
			return err
		}
		found, err = find(ctx, tx)
		return err
	})
	return found, err
}

// oids returns the tables whose lock holders are worth naming.
func (c *comparing) oids() []uint32 { return []uint32{c.Job.Source, *c.Job.Shadow} }

// counted makes sure that the table and the copy have the same number of rows. If the
// index of the key is damaged, the table may have two rows with one key, and every
// look-up takes them for one. If the numbers differ after a sample, all rows are
// compared.
func (c *comparing) counted(ctx context.Context) error {
	if len(c.result.Mismatches) > 0 {
		return nil
	}
	from, to, err := c.count(ctx)
	if err != nil || from == to || len(c.result.Mismatches) > 0 {
		return err
	}
	if c.result.Mode == registry.VerifySample {
		c.result.Mode = registry.VerifyFull
		if err := c.bothSides(ctx); err != nil || len(c.result.Mismatches) > 0 {
			return err
		}
	}
	return fmt.Errorf("%s has %d rows and %s has %d, without a pending change: begin afresh with: repack reset --table '%s'",
		c.result.Table, from, c.result.Copy, to, c.result.Table)
}

// count counts the rows of both in one snapshot. If the numbers differ, it names
// duplicate keys.
func (c *comparing) count(ctx context.Context) (from, to int64, err error) {
	var found strategy.Compared
	err = c.withConn(ctx, func(conn *pgxpool.Conn) error {
		found, err = c.inSnapshot(ctx, conn, func(ctx context.Context, tx pgx.Tx) (found strategy.Compared, err error) {
			if from, to, err = c.tables.Counts(ctx, tx); err == nil && from != to {
				found.Mismatches, err = c.tables.Duplicates(ctx, tx, maxMismatches)
			}
			return found, err
		})
		return err
	})
	c.add(found)
	return from, to, err
}

// add keeps what was found. If both sides find a row, it is one mismatch.
func (c *comparing) add(found strategy.Compared) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Replay != nil {
		c.deferred = append(c.deferred, found.Pending...)
	} else {
		c.result.Pending += int64(len(found.Pending))
	}
	for _, m := range found.Mismatches {
		known := slices.ContainsFunc(c.result.Mismatches, func(k strategy.Mismatch) bool { return slices.Equal(k.Key, m.Key) })
		if !known && len(c.result.Mismatches) < maxMismatches {
			c.result.Mismatches = append(c.result.Mismatches, m)
		}
	}
}

// lookAgain replays the log and compares the deferred keys again, a few times. Keys whose
// rows the application changes every time count as pending.
func (c *comparing) lookAgain(ctx context.Context) error {
	for attempt := 0; attempt < looksAgain && len(c.deferred) > 0 && c.Replay != nil; attempt++ {
		if err := c.Replay(ctx); err != nil {
			return err
		}
		keys := c.deferred
		c.deferred = nil
		err := c.withConn(ctx, func(conn *pgxpool.Conn) error {
			for some := range slices.Chunk(keys, keysAtOnce) {
				found, err := c.inSnapshot(ctx, conn, func(ctx context.Context, tx pgx.Tx) (strategy.Compared, error) {
					return c.tables.Keys(ctx, tx, some)
				})
				if err != nil {
					return err
				}
				c.add(found)
			}
			return nil
		})
		if err != nil {
			return err
		}
		c.Log.Debug("looked again at pending keys", "job", c.Job.ID, "keys", len(keys), "pending", len(c.deferred))
	}
	c.result.Pending += int64(len(c.deferred))
	c.deferred = nil
	return nil
}
