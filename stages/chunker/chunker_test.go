package chunker

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/repack-go/repack/registry"
)

// target is how long a chunk should take here.
const target = 500 * time.Millisecond

// TestBlocksFor: a batch is never less than a block, whatever the statistics say.
func TestBlocksFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ batch, rows, blocks, want int64 }{
		{1000, 10_000, 100, 10},
		{99, 10_000, 100, 1}, // less than a block
		{1, 10_000, 100, 1},  // a row
		{250, 199, 100, 250}, // rounded down to one row a block
		{250, 3, 100, 250},   // fewer rows than blocks
		{500, 0, 100, 10},    // never analysed
		{500, 100, 0, 10},    // empty by now
		{math.MaxInt64, 0, 0, math.MaxInt64 / 50},
	} {
		if got := BlocksFor(c.batch, c.rows, c.blocks); got != c.want {
			t.Errorf("batch %d of %d rows in %d blocks: %d blocks, want %d", c.batch, c.rows, c.blocks, got, c.want)
		}
	}
}

// TestChunkGrowth: a chunk is sized by how long the one before took, and no chunk is
// more than twice, or less than half, as large as the one before.
func TestChunkGrowth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		size  int64
		fixed bool
		chunk registry.Chunk
		want  int64
	}{
		{"as long as is meant", 256, false, registry.Chunk{First: 0, End: 256, Took: target}, 256},
		{"a little fast", 200, false, registry.Chunk{First: 1000, End: 1200, Took: target * 4 / 5}, 250},
		{"a little slow", 200, false, registry.Chunk{First: 1000, End: 1200, Took: target * 5 / 4}, 160},
		{"very fast", 256, false, registry.Chunk{End: 256, Took: time.Nanosecond}, 512},
		{"very slow", 256, false, registry.Chunk{End: 256, Took: time.Hour}, 128},
		{"at the least", 1, false, registry.Chunk{End: 1, Took: time.Hour}, 1},
		{"at the most", maxBlocks, false, registry.Chunk{End: maxBlocks, Took: time.Nanosecond}, maxBlocks},
		{"near the most", maxBlocks - 1, false, registry.Chunk{End: maxBlocks - 1, Took: time.Nanosecond}, maxBlocks},
		{"the short end of a gap", 256, false, registry.Chunk{First: 99, End: 100, Took: target}, 128},
		{"time not known", 256, false, registry.Chunk{End: 256}, 256},
		{"as the user wants", 256, true, registry.Chunk{End: 256, Took: time.Hour}, 256},
	} {
		d := &Chunker{size: c.size, fixed: c.fixed, target: target}
		if d.Done(c.chunk); d.size != c.want {
			t.Errorf("%s: the next has %d blocks, want %d", c.name, d.size, c.want)
		}
	}
}

// TestAim: the next chunk is smaller at once; then chunks grow.
func TestAim(t *testing.T) {
	t.Parallel()
	c := New([]registry.Chunk{{End: 10_000}}, 300, target, 2)
	for _, step := range []struct {
		aim  time.Duration
		want int64
	}{{target, 300}, {target / 10, 30}, {target / 10, 30}, {target, 30}, {target / 1000, 1}} {
		c.Aim(step.aim)
		if chunk, _ := c.Next(); chunk.End-chunk.First != step.want {
			t.Errorf("a chunk for %s has %d blocks, want %d", step.aim, chunk.End-chunk.First, step.want)
		}
	}
	c.Fix(7)
	c.Aim(target)
	if chunk, _ := c.Next(); chunk.End-chunk.First != 7 {
		t.Errorf("a fixed chunk has %d blocks", chunk.End-chunk.First)
	}
}

// handedOut are the chunks that d has.
func handedOut(d *Chunker) []registry.Chunk {
	var chunks []registry.Chunk
	for chunk, ok := d.Next(); ok; chunk, ok = d.Next() {
		chunks = append(chunks, chunk)
	}
	return chunks
}

// TestChunksOfGaps: every block of a gap is handed out once, and no block between
// gaps, which has been copied.
func TestChunksOfGaps(t *testing.T) {
	t.Parallel()
	type chunks = []registry.Chunk
	for _, c := range []struct {
		name       string
		gaps, want chunks
	}{
		{"none", nil, nil},
		{"less than a chunk", chunks{{First: 0, End: 9}}, chunks{{First: 0, End: 9}}},
		{"exactly one", chunks{{First: 0, End: 10}}, chunks{{First: 0, End: 10}}},
		{"a block more", chunks{{First: 0, End: 11}}, chunks{{First: 0, End: 10}, {First: 10, End: 11}}},
		{"two gaps", chunks{{First: 3, End: 15}, {First: 16, End: 17}}, chunks{{First: 3, End: 13}, {First: 13, End: 15}, {First: 16, End: 17}}},
		{"the last block there can be", chunks{{First: math.MaxUint32 - 11, End: math.MaxUint32}}, chunks{
			{First: math.MaxUint32 - 11, End: math.MaxUint32 - 1}, {First: math.MaxUint32 - 1, End: math.MaxUint32},
		}},
	} {
		if got := handedOut(&Chunker{ranges: c.gaps, size: 10, workers: 1}); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestLastChunksAreSmall: towards the end several workers share what is left, but no
// chunk is divided below the least; one worker, or a size that the user wants, has
// chunks of one size.
func TestLastChunksAreSmall(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		d     *Chunker
		sizes []int64
	}{
		{"two workers", &Chunker{size: 100, least: 10, workers: 2}, []int64{50, 37, 28, 21, 16, 12, 10, 10, 10, 6}},
		{"more than they can share", &Chunker{size: 40, least: 40, workers: 2}, []int64{40, 40, 40, 40, 40}},
		{"one worker", &Chunker{size: 100, least: 10, workers: 1}, []int64{100, 100}},
		{"fixed", &Chunker{size: 100, least: 10, workers: 2, fixed: true}, []int64{100, 100}},
	} {
		c.d.ranges = []registry.Chunk{{First: 0, End: 200}}
		var sizes []int64
		for _, chunk := range handedOut(c.d) {
			sizes = append(sizes, chunk.End-chunk.First)
		}
		if !slices.Equal(sizes, c.sizes) {
			t.Errorf("%s: %v, want %v", c.name, sizes, c.sizes)
		}
	}
}

// TestWorkersOfChunks: no worker is started that has no chunk.
func TestWorkersOfChunks(t *testing.T) {
	t.Parallel()
	gaps := []registry.Chunk{{First: 0, End: 10}, {First: 20, End: 31}}
	for _, c := range []struct {
		gaps          []registry.Chunk
		workers, want int
	}{
		{nil, 4, 0},
		{gaps[:1], 4, 1},
		{gaps[1:], 4, 2},
		{gaps, 4, 3},
		{gaps, 2, 2},
	} {
		if got := (&Chunker{ranges: c.gaps, size: 10}).Occupy(c.workers); got != c.want {
			t.Errorf("%d workers for %v: %d, want %d", c.workers, c.gaps, got, c.want)
		}
	}
}

// TestFixIsBounded: a size beyond what there can be, added to the number of a block, must
// not make chunks that are empty or end before they begin.
func TestFixIsBounded(t *testing.T) {
	t.Parallel()
	c := New([]registry.Chunk{{First: 5, End: 9}}, 256, target, 2)
	c.Fix(math.MaxInt64)
	if got := c.Occupy(2); got != 1 {
		t.Errorf("%d workers, want 1", got)
	}
	if got := handedOut(c); !slices.Equal(got, []registry.Chunk{{First: 5, End: 9}}) {
		t.Errorf("%v, want all blocks", got)
	}
}
