package tests

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// TestOlderDescription continues jobs whose description lacks what the binary that
// began them did not know: that is not known, and no drift. What it has is compared
// as ever.
func TestOlderDescription(t *testing.T) {
	t.Parallel()
	versions := map[string]string{
		"without a version":  `description - 'version'`,
		"without properties": `description - 'version' - 'access_method' - 'replica_identity' - 'statistics'`,
		"without properties of columns": `jsonb_set(description - 'version', '{columns}',
			(SELECT jsonb_agg(c - 'storage' - 'compression' - 'not_null')
			 FROM   jsonb_array_elements(description -> 'columns') c))`,
		"without a kind of index": `jsonb_set(description - 'version', '{indexes}',
			(SELECT jsonb_agg(i - 'valid' - 'tablespace') FROM jsonb_array_elements(description -> 'indexes') i))`,
	}
	for n, name := range slices.Sorted(maps.Keys(versions)) {
		older := versions[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				s := newScenario(t, db)
				o := options(t, "app.t", strategy)
				runUntil(t, db, o, repack.Backfill)
				db.Exec(t, `UPDATE repack_registry.job SET description = `+older)
				s.write(t)
				db.Exec(t, `ALTER TABLE app.t ADD extra int`)
				var drift *repack.DriftError
				if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &drift) || len(drift.Changes) != 2 {
					t.Errorf("run of a table with a column more: %v, want a *DriftError for it and the order", err)
				}
				db.Exec(t, `ALTER TABLE app.t DROP extra`)
				runUntil(t, db, o, repack.PostSyncUpdate)
				db.Exec(t, `UPDATE repack_registry.job SET description = `+older)
				runUntil(t, db, o, repack.Swap)
				db.Exec(t, `UPDATE repack_registry.job SET description = `+older)
				s.write(t)
				revert(t, db, o)
				s.restored(t)
				run(t, db, o)
				s.restored(t)
			})
		})
	}
}

// TestNewerDescription leaves a job to the newer version that has begun it.
func TestNewerDescription(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		s := newScenario(t, db)
		o := options(t, "app.t", strategy)
		runUntil(t, db, o, repack.Backfill)
		set := func(to string) {
			db.Exec(t, `UPDATE repack_registry.job SET description = jsonb_set(description, '{version}', `+to+`)`)
		}
		db.Exec(t, `ALTER TABLE repack_registry.job ADD version jsonb`)
		db.Exec(t, `UPDATE repack_registry.job SET version = description -> 'version'`)
		set(`'1000'`)
		r := newRepack(t, db, o)
		_, plan := r.Plan(testContext(t))
		for command, err := range map[string]error{
			"run": r.Run(testContext(t)), "revert": r.Revert(testContext(t)), "reset": r.Reset(testContext(t)), "plan": plan,
		} {
			var newer *repack.NewerJobError
			if !errors.As(err, &newer) || newer.Version != 1000 {
				t.Errorf("%s of a job of a newer version: %v, want a *NewerJobError", command, err)
			}
		}
		statusOf(t, db, "app.t")
		set(`version`)
		db.Exec(t, `ALTER TABLE repack_registry.job DROP version`)
		s.write(t)
		run(t, db, o)
		s.restored(t)
	})
}
