package compare

import (
	"slices"
	"testing"

	"github.com/repack-go/repack/registry"
)

// TestRangesOf: a sample has the first range, every sixteenth after it, and the last,
// where a table grows.
func TestRangesOf(t *testing.T) {
	t.Parallel()
	type chunks = []registry.Chunk
	for _, c := range []struct {
		mode   registry.VerifyMode
		blocks int64
		want   chunks
	}{
		{registry.VerifyFull, 0, nil},
		{registry.VerifyFull, 5000, chunks{{First: 0, End: 5000}}},
		{registry.VerifySample, 0, nil},
		{registry.VerifySample, 1, chunks{{First: 0, End: 1}}},
		{registry.VerifySample, 128, chunks{{First: 0, End: 128}}},
		{registry.VerifySample, 129, chunks{{First: 0, End: 128}, {First: 128, End: 129}}},
		{registry.VerifySample, 256, chunks{{First: 0, End: 128}, {First: 128, End: 256}}},
		{registry.VerifySample, 16*128 + 1, chunks{{First: 0, End: 128}, {First: 16 * 128, End: 16*128 + 1}}},
		{registry.VerifySample, 18 * 128, chunks{{First: 0, End: 128}, {First: 16 * 128, End: 17 * 128}, {First: 17 * 128, End: 18 * 128}}},
	} {
		if got := rangesOf(c.mode, c.blocks); !slices.Equal(got, c.want) {
			t.Errorf("%s of %d blocks: %v, want %v", c.mode, c.blocks, got, c.want)
		}
	}
}
