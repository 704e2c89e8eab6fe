package copier

import (
	"testing"
	"time"

	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/strategy"
)

func TestChunkProgress(t *testing.T) {
	t.Parallel()
	rows, blocks := int64(1000), int64(50)
	copier := &Copier{Request: steps.Request{Worker: &steps.Worker{Job: &registry.Job{RowEstimate: &rows, Blocks: &blocks}}, Strategy: strategy.ChangeLog{}}}
	d := copier.chunks(nil, registry.Copied{Rows: 70, Blocks: 7})
	d.Done(registry.Chunk{First: 20, End: 25, Rows: 40})
	want := steps.Progress{Rows: 115, TotalRows: 1000, Blocks: 13, TotalBlocks: 50}
	if got := d.Done(registry.Chunk{First: 30, End: 31, Rows: 5}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestFirstChunk: chunks that lock rows begin small, unless the user says how large
// they are. The next is as large where the first took as long as it should.
func TestFirstChunk(t *testing.T) {
	t.Parallel()
	rows, blocks := int64(10_000), int64(1000)
	for _, c := range []struct {
		strategy strategy.Strategy
		batch    int
		size     int64
		took     time.Duration
	}{
		{strategy.ChangeLog{}, 0, 256, 500 * time.Millisecond},
		{strategy.DirectTrigger{}, 0, 16, 40 * time.Millisecond},
		{strategy.ChangeLog{}, 50, 5, time.Hour},
		{strategy.DirectTrigger{}, 50, 5, time.Hour},
	} {
		copier := &Copier{Request: steps.Request{Worker: &steps.Worker{Job: &registry.Job{RowEstimate: &rows, Blocks: &blocks}}, Strategy: c.strategy}, BatchSize: c.batch, Jobs: 1}
		chunks := copier.chunks([]registry.Chunk{{End: blocks}}, registry.Copied{})
		for range 2 {
			chunk, ok := chunks.Next()
			if size := chunk.End - chunk.First; !ok || size != c.size {
				t.Errorf("%s, batch size %d: %d blocks, want %d", c.strategy.Name(), c.batch, size, c.size)
			}
			chunk.Took = c.took
			chunks.Done(chunk)
		}
	}
}
