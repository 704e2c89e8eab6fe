package tests

import (
	"math"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// TestLargestBatchSize: all rows are copied and replayed, whatever number of rows the
// user asks for. Nothing else looks at the rows here.
func TestLargestBatchSize(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		o.BatchSize, o.Verify = math.MaxInt64, repack.VerifyOff
		run(t, db, atStep(o, repack.StepLoggedKeysRemoved, func() {
			both(t, db.Pool, `UPDATE @items SET note = 'changed' WHERE id % 3 = 0`, `DELETE FROM @items WHERE id % 10 = 1`)
		}))
		alike(t, db, "items")
	})
}
