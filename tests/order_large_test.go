package tests

import (
	"context"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// wideSQL is a table of more blocks than the first chunk of a backfill, in no order.
const wideSQL = `
CREATE TABLE @t (id int PRIMARY KEY, a int, filler text);
INSERT INTO @t SELECT g, (g * 7919) % 60000, repeat('x', 100) FROM generate_series(1, 60000) g`

// TestOrderByManyBlocks has one statement copy every row once, however many
// blocks and connections there are.
func TestOrderByManyBlocks(t *testing.T) {
	t.Parallel()
	for name, size := range map[string][2]int{"one": {1, 0}, "two": {2, 0}, "four": {4, 0}, "batches": {2, 100}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			twins(t, db, wideSQL)
			o := options(t, "app.t", repack.ChangeLog)
			o.OrderBy, o.Jobs, o.BatchSize = "a DESC", size[0], size[1]
			var chunks []repack.Progress
			o.Hooks.AfterChunk = func(_ context.Context, p repack.Progress) error {
				chunks = append(chunks, p)
				return nil
			}
			run(t, db, o)
			if len(chunks) != 1 || chunks[0].Rows != 60000 || chunks[0].Blocks <= 256 || chunks[0].Blocks != chunks[0].TotalBlocks {
				t.Errorf("chunks %+v, want one of all rows", chunks)
			}
			inOrder(t, db, "a DESC", "true")
			alike(t, db, "t")
			noArtefacts(t, db)
		})
	}
}

// TestOrderByManyBlocksResumes goes on where the copy was ended in its middle, and
// where chunks are recorded that hold a part of the blocks.
func TestOrderByManyBlocksResumes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	twins(t, db, wideSQL)
	o := options(t, "app.t", repack.ChangeLog)
	o.OrderBy = "a DESC"
	runUntil(t, db, o, repack.Setup)
	db.Exec(t, `UPDATE app.t SET a = 0 WHERE id = 30000`)
	db.Exec(t, `UPDATE control.t SET a = 0 WHERE id = 30000`)
	cutCopy(t, db, o)
	db.Exec(t, `INSERT INTO repack_job_1.t SELECT * FROM app.t WHERE ctid < '(256,0)'`)
	db.Exec(t, `INSERT INTO repack_registry.chunk (job_id, first_block, end_block, rows, seconds)
		SELECT 1, 0, 256, count(*), 1 FROM repack_job_1.t`)
	run(t, db, o)
	inOrder(t, db, "a DESC", "id <> 30000")
	alike(t, db, "t")
	noArtefacts(t, db)
}
