package tests

import (
	"maps"
	"slices"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// truncate empties the table, alone and together with new rows that take over
// keys and addresses of the old.
func truncate(t *testing.T, db *pgtest.Database) {
	t.Helper()
	both(t, db.Pool, `TRUNCATE @items`, `
		INSERT INTO @items VALUES (1, 'mail 3', 'a'), (500, 'mail 4', 'b'), (200, 'mail 200', 'c')`)
	for _, isolation := range isolationLevels {
		bothIn(t, db, isolation, `INSERT INTO @items VALUES (2, 'mail 2', 'gone')`, `TRUNCATE @items`,
			`INSERT INTO @items VALUES (1, 'mail 3', 'd'), (501, 'mail 4', 'e'), (200, 'mail 200', 'f')`)
	}
	both(t, db.Pool, `INSERT INTO @items SELECT i, 'mail ' || i, 'g' FROM generate_series(10, 100) AS i`,
		`DELETE FROM @items WHERE id % 10 = 0`)
}

func TestTruncateInEveryPhase(t *testing.T) {
	t.Parallel()
	phases := map[string]func(t *testing.T, db *pgtest.Database, o repack.Options) repack.Options{}
	for _, stage := range []repack.Stage{repack.Backfill, repack.SyncSchema, repack.PostSyncUpdate, repack.Swap, repack.CleanUp} {
		phases["before "+string(stage)] = func(t *testing.T, db *pgtest.Database, o repack.Options) repack.Options {
			return beforeStage(o, stage, func() { truncate(t, db) })
		}
	}
	for _, step := range []string{
		repack.StepLoggedKeysRemoved, repack.StepCaughtUp,
		repack.StepWritingThrough, repack.StepDrained, repack.StepExchanged,
	} {
		phases[step] = func(t *testing.T, db *pgtest.Database, o repack.Options) repack.Options {
			return atStep(o, step, func() { truncate(t, db) })
		}
	}
	for n, name := range slices.Sorted(maps.Keys(phases)) {
		phase := phases[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				run(t, db, phase(t, db, givenItems(t, db, strategy)))
				alike(t, db, "items")
			})
		})
	}
}

// The blocks that were measured are gone: the backfill begins again.
func TestTruncateBetweenChunks(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		held := holdAtChunk(t, db, o)
		truncate(t, db)
		held.release()
		held.mustEnd(t)
		alike(t, db, "items")
	})
}

// Revert does not bring back what was truncated since the swap.
func TestTruncateAfterSwapThenRevert(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		runUntil(t, db, o, repack.Swap)
		truncate(t, db)
		o = atStep(o, repack.StepDrained, func() { truncate(t, db) })
		revert(t, db, o)
		alike(t, db, "items")
	})
}
