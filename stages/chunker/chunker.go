// Package chunker divides ranges of blocks into chunks for workers that copy or compare
// them at the same time, each as large as can be done in the time that a chunk should take.
package chunker

import (
	"sync"
	"time"

	"github.com/repack-go/repack/registry"
)

// maxBlocks is 1 GB.
const maxBlocks = 1 << 17

// Progress is how far the chunks are.
type Progress struct {
	Rows, TotalRows     int64 // TotalRows is an estimate
	Blocks, TotalBlocks int64
}

// Chunker hands out chunks. Its methods may be called by several goroutines.
type Chunker struct {
	// Progress is what has been done. It is set before the first chunk.
	Progress Progress

	mu      sync.Mutex
	ranges  []registry.Chunk
	size    int64 // blocks of the next chunk
	least   int64 // blocks that are not divided for the sake of workers
	workers int64
	target  time.Duration
	fixed   bool
}

// New divides ranges, each of which has First and End, for so many workers. The first
// chunk has so many blocks; those that follow are sized to take target.
func New(ranges []registry.Chunk, blocks int64, target time.Duration, workers int) *Chunker {
	return &Chunker{ranges: ranges, size: blocks, least: blocks, target: target, workers: int64(workers)}
}

// Fix has all chunks be of so many blocks, however long they take.
func (c *Chunker) Fix(blocks int64) { c.fixed, c.size = true, blocks }

// BlocksFor is about how many blocks batch rows fill, of a table of so many rows and
// blocks. A table that was never analysed is taken to have fifty rows a block.
func BlocksFor(batch, rows, blocks int64) int64 {
	perBlock := int64(50)
	if rows > 0 && blocks > 0 {
		perBlock = max(rows/blocks, 1)
	}
	return max(batch/perBlock, 1)
}

// Next is the next chunk; ok is false when there is none left.
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

// Left reports whether there is a chunk left.
func (c *Chunker) Left() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.ranges) > 0
}

// Occupy is how many of so many workers there is a chunk for: a connection is not
// opened for nothing.
func (c *Chunker) Occupy(workers int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	chunks := int64(0)
	for _, r := range c.ranges {
		chunks += (r.End - r.First + c.size - 1) / max(c.size, 1)
	}
	return int(min(int64(workers), chunks))
}

// blocks is the size of the next chunk: smaller towards the end, so that no worker
// has a large one left when the others have none.
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

// Done counts a chunk, whose Rows and Took are known, and sizes the next by how long
// this one took. It returns the progress so far.
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
