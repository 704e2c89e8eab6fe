package tests

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// familySQL is a table with keys of all kinds: to another table, a partitioned one and
// itself, from others by each of its keys, in a circle, composite, deferrable, not valid.
var familySQL = fixture("family_of_keys")

var familyTables = []string{"parent", "region", "t", "child", "pair", "note", "stray"}

// familyWrites is a round of what is written to all of them.
var familyWrites = []string{
	`
		INSERT INTO @t (code, a, b, pos, parent, region, name)
		SELECT 'round {n}/' || g, 100 + {n}, g, 1000 * {n} + g, 30 + g, 10 + g, chr(97 + g % 2)
		FROM   generate_series(1, 10) g`,
	`UPDATE @t SET pos = pos + 1 WHERE pos < 1000 * ({n} + 1)`,
	`UPDATE @t SET code = code || '.{n}' WHERE id % 13 = {n}`,
	`UPDATE @t SET id = DEFAULT WHERE id = 200 + 10 * {n}`,
	`UPDATE @t SET b = b + 1000 WHERE a = {n}`,
	`DELETE FROM @t WHERE id % 31 = {n} AND id % 31 < 29`,
	`DELETE FROM @parent WHERE id = {n} AND id <= 10`,
	`UPDATE @parent SET id = id + 100 WHERE id = 10 + {n} AND id <= 30`,
	`DELETE FROM @region WHERE id = {n} AND id <= 10`,
	`BEGIN; INSERT INTO @note VALUES ('late {n}'); INSERT INTO @t (code, a, b) VALUES ('late {n}', 200, {n}); COMMIT`,
	`
		WITH new AS (INSERT INTO @t (code, a, b) VALUES ('both {n}', 300, {n}) RETURNING id) INSERT INTO @child
		    SELECT 1000 + {n}, id FROM new`,
	`
		BEGIN;
		UPDATE @t SET newest = 2000 + {n} WHERE code = 'both {n}';
		INSERT INTO @child SELECT 2000 + {n}, id FROM @t WHERE code = 'both {n}';
		COMMIT`,
	`INSERT INTO @stray SELECT min(id) FROM @t WHERE id % 31 > 29`,
	`INSERT INTO @t (code, a, b) VALUES ('both {n}', 301, {n}) ON CONFLICT (code) DO UPDATE SET b = EXCLUDED.b + 5000`,
}

type family struct {
	db     *pgtest.Database
	before string
	rounds int
}

func newFamily(t *testing.T) *family {
	t.Helper()
	db := withRegistry.New(t)
	twins(t, db, familySQL)
	return &family{db: db, before: db.Dump(t)}
}

func (f *family) write(t *testing.T) {
	t.Helper()
	f.rounds++
	for _, sql := range familyWrites {
		both(t, f.db.Pool, strings.ReplaceAll(sql, "{n}", fmt.Sprint(f.rounds)))
	}
}

func (f *family) same(t *testing.T) {
	t.Helper()
	alike(t, f.db, familyTables...)
}

func (f *family) restored(t *testing.T) {
	t.Helper()
	f.same(t)
	sameDump(t, f.db, f.before)
	f.write(t)
	f.same(t)
	both(t, f.db.Pool, `DELETE FROM @stray; ALTER TABLE @stray VALIDATE CONSTRAINT stray_t`)
	noArtefacts(t, f.db)
}

// stepsOfKeys are those of a run that moves the keys of the family one by one.
func stepsOfKeys(t *testing.T) (steps []string) {
	t.Helper()
	f := newFamily(t)
	o := oneByOne(t, "app.t", repack.ChangeLog)
	o.Logger = nil
	began := false
	o.Hooks.AfterStep = oneAtATime(func(_ context.Context, name string) error {
		if !began { // several steps may come at the same time
			return nil
		}
		first := !slices.Contains(steps, name)
		steps = append(steps, name)
		if first && name != repack.StepDrained { // some of it is logged, and puts off what follows
			f.write(t)
			f.same(t)
		}
		return nil
	})
	o.Hooks.BeforeStage = func(_ context.Context, stage repack.Stage) error {
		began = stage == repack.Swap
		return nil
	}
	run(t, f.db, o)
	f.restored(t)
	return steps
}

// cutAtStep cancels the nth step of a name; the run must come to it.
func (f *family) cutAtStep(t *testing.T, o repack.Options, at int, work func(*repack.Repack, context.Context) error) (swapped bool) {
	t.Helper()
	n, began := 0, false
	place := stopAt{name: fmt.Sprintf("step %d of the swap", at), hooks: func(stop func()) repack.Hooks {
		return repack.Hooks{
			BeforeStage: func(_ context.Context, stage repack.Stage) error {
				began = began || stage == repack.Swap
				return nil
			},
			AfterStep: func(_ context.Context, name string) error {
				if !began {
					return nil
				}
				if n++; n == at {
					stop()
				}
				return nil
			},
		}
	}}
	cancelled(t, f.db, o, place, work)
	return statusOf(t, f.db, "app.t").Swapped
}

// A run that is cut after any step of the swap goes on, and goes back.
func TestKeysOneByOneCutAfterEveryStep(t *testing.T) {
	t.Parallel()
	steps := stepsOfKeys(t)
	t.Logf("%q", steps)
	seen := map[string]int{}
	for i, name := range steps {
		if seen[name]++; seen[name] > 2 && !thorough() {
			continue
		}
		for way, back := range []bool{false, true} {
			if !thorough() && way != (i+seen[name])%2 {
				continue
			}
			t.Run(fmt.Sprintf("%d %s, back: %t", i+1, name, back), func(t *testing.T) {
				t.Parallel()
				f := newFamily(t)
				o := oneByOne(t, "app.t", strategies[i%2])
				swapped := f.cutAtStep(t, o, i+1, (*repack.Repack).Run)
				f.write(t)
				f.same(t)
				if !back {
					run(t, f.db, o)
					f.restored(t)
					return
				}
				undo := (*repack.Repack).Reset
				if swapped {
					undo = (*repack.Repack).Revert
				}
				if err := undo(newRepack(t, f.db, o), testContext(t)); err != nil {
					t.Fatalf("back from %q: %v", name, err)
				}
				f.restored(t)
			})
		}
	}
}
