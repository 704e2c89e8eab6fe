// Package chunker divides ranges of blocks into chunks, for workers that copy or compare
// them at the same time. A chunk is as large as a worker can process in the time that a
// chunk should take.
package chunker

import (
	"math"
	"sync"
	"time"

	"github.com/repack-go/repack/registry"
)

// maxBlocks is 1 GB.
const maxBlocks = 1 << 17

// Progress is how much of the work is done.
type Progress struct {
	Rows, TotalRows     int64 // TotalRows is an estimate
	Blocks, TotalBlocks int64
}

// Chunker hands out chunks. Several goroutines may call its methods at the same time.
type Chunker struct {
	// Progress is what has been done. It is set before the first chunk.
	Progress Progress

	mu      sync.Mutex
	ranges  []registry.Chunk
	size    int64 // blocks of the next chunk
	least   int64 // a chunk is not made smaller than this to keep all workers busy
	workers int64
	target  time.Duration
	fixed   bool
}

// New divides ranges, each of which has First and End, for the given number of workers.
// The first chunk has so many blocks. The size of each later chunk is chosen so that it
// takes target.
func New(ranges []registry.Chunk, blocks int64, target time.Duration, workers int) *Chunker {
	return &Chunker{ranges: ranges, size: blocks, least: blocks, target: target, workers: int64(workers)}
}

// Fix gives all chunks this number of blocks, however long they take. It is bounded by
// what a relation can have: added to the number of a block, a larger one may overflow.
func (c *Chunker) Fix(blocks int64) { c.fixed, c.size = true, min(blocks, math.MaxUint32) }

// Aim changes how long a chunk should take. The next chunk is smaller at once; chunks become
// larger one by one, as they do at the beginning.
func (c *Chunker) Aim(target time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fixed {
		return
	}
	if target < c.target {
		c.size = max(c.size*int64(target)/int64(c.target), 1)
		c.least = min(c.least, c.size)
	}
	c.target = target
}

// BlocksFor estimates how many blocks batch rows fill, in a table with the given numbers
// of rows and blocks. If the number of rows is not known, because the table was never
// analysed, it assumes fifty rows for each block.
func BlocksFor(batch, rows, blocks int64) int64 {
	perBlock := int64(50)
	if rows > 0 && blocks > 0 {
		perBlock = max(rows/blocks, 1)
	}
	return max(batch/perBlock, 1)
}

// Next returns the next chunk; ok is false if no chunk is left.
func (c *Chunker) Next() (chunk registry.Chunk, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ranges) == 0 {
		return registry.Chunk{}, false
	}
	r := &c.ranges[0]
	chunk = registry.Chunk{First: r.First, End: min(r.First+c.blocks(), r.End)}
	if r.First = chunk.End; r.First == r.End {
		c.ranges = c.ranges[1:]
	}
	return chunk, true
}

// Left reports whether a chunk is left.
func (c *Chunker) Left() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.ranges) > 0
}

// Occupy returns for how many of the workers there is a chunk, so that no connection is
// opened without need.
func (c *Chunker) Occupy(workers int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	chunks := int64(0)
	for _, r := range c.ranges {
		chunks += (r.End - r.First + c.size - 1) / max(c.size, 1)
	}
	return int(min(int64(workers), chunks))
}

// blocks returns the size of the next chunk. Chunks become smaller towards the end, so
// that no worker still has a large chunk when the others have none.
func (c *Chunker) blocks() int64 {
	if c.fixed || c.workers < 2 {
		return c.size
	}
	left := int64(0)
	for _, r := range c.ranges {
		left += r.End - r.First
	}
	return min(c.size, max(left/(2*c.workers), c.least))
}

// Done counts a chunk, whose Rows and Took must be set. It chooses the size of the next
// chunk by how long this one took, and returns the progress so far.
func (c *Chunker) Done(chunk registry.Chunk) Progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Progress.Rows += chunk.Rows
	c.Progress.Blocks += chunk.End - chunk.First
	if !c.fixed && chunk.Took > 0 {
		ideal := (chunk.End - chunk.First) * int64(c.target) / int64(chunk.Took)
		c.size = min(max(ideal, c.size/2, 1), c.size*2, maxBlocks)
	}
	return c.Progress
}
