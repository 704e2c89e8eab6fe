package tests

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const exchangeNames = `
ALTER TABLE app.items RENAME TO between;
ALTER TABLE app.others RENAME TO items;
ALTER TABLE app.between RENAME TO others`

// Another table bears the name while chunks are copied: not a row of it may
// reach the shadow, not even when the names are put right again before the next
// stage, or the user undoes the change and runs again, as he is told to.
func TestNamesExchangedDuringBackfill(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		db.Exec(t, `CREATE TABLE app.others (LIKE app.items);
			INSERT INTO app.others SELECT id, 'other ' || email, note FROM app.items`)
		o.Jobs = 1
		chunks := 0
		o.Hooks.AfterChunk = func(ctx context.Context, _ repack.Progress) error {
			if chunks++; chunks == 2 || chunks == 4 {
				_, err := db.Pool.Exec(ctx, exchangeNames)
				return err
			}
			return nil
		}
		var drift *repack.DriftError
		err := newRepack(t, db, o).Run(testContext(t))
		if errors.As(err, &drift) {
			if chunks < 4 {
				db.Exec(t, exchangeNames)
			}
			o.Hooks.AfterChunk = nil
			err = newRepack(t, db, o).Run(testContext(t))
		}
		if err != nil {
			t.Fatalf("run: %v", err)
		}
		alike(t, db, "items")
	})
}

// The same while the log is replayed: its keys are taken for good.
func TestNamesExchangedBeforeReplay(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		db.Exec(t, `CREATE TABLE app.others (LIKE app.items);
			INSERT INTO app.others SELECT id, 'other ' || email, note FROM app.items`)
		var old pgx.Tx
		err := newRepack(t, db, atStep(beforeStage(o, repack.Swap, func() { old = stillSnapshot(t, db, pgx.RepeatableRead) }),
			repack.StepWritingThrough, func() {
				both(t, old, `UPDATE @items SET note = 'changed' WHERE id <= 10`)
				commit(t, old)
				db.Exec(t, exchangeNames)
			})).Run(testContext(t))
		var drift *repack.DriftError
		if !errors.As(err, &drift) {
			t.Errorf("run: %v, want a *DriftError", err)
		}
		db.Exec(t, exchangeNames)
		run(t, db, o)
		alike(t, db, "items")
	})
}

// The capture function reads the table it is fired by, not another that bears
// its name for a while.
func TestNamesExchangedWhileWritingThrough(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		db.Exec(t, `CREATE TABLE app.others AS TABLE app.items`)
		run(t, db, atStep(o, repack.StepWritingThrough, func() {
			db.Exec(t, exchangeNames)
			db.Exec(t, `DELETE FROM app.others WHERE id <= 10; UPDATE app.others SET id = id + 1000 WHERE id BETWEEN 11 AND 20`)
			db.Exec(t, exchangeNames)
			db.Exec(t, `
				DELETE FROM control.items WHERE id <= 10;
				UPDATE control.items SET id = id + 1000 WHERE id BETWEEN 11 AND 20`)
		}))
		alike(t, db, "items")
	})
}

// Whatever joins itself to the table during the job is carried over like what
// was there before, or ends the job: it must not get lost.
func TestThingsAddedDuringJob(t *testing.T) {
	t.Parallel()
	cases := map[string]string{
		"trigger": `CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TRIGGER t BEFORE INSERT ON app.items FOR EACH ROW EXECUTE FUNCTION app.f()`,
		"row-level security": `ALTER TABLE app.items ENABLE ROW LEVEL SECURITY`,
		"policy":             `CREATE POLICY p ON app.items USING (id < 10)`,
		"rule":               `CREATE RULE r AS ON DELETE TO app.items DO INSTEAD NOTHING`,
		"statistics":         `CREATE STATISTICS app.s ON email, note FROM app.items`,
		"publication":        `CREATE PUBLICATION p FOR TABLE app.items`,
		"view":               `CREATE VIEW app.v AS SELECT id FROM app.items`,
		"materialized view":  `CREATE MATERIALIZED VIEW app.m AS SELECT id FROM app.items`,
		"child":              `CREATE TABLE app.kid () INHERITS (app.items)`,
		"row type":           `CREATE FUNCTION app.g(app.items) RETURNS int LANGUAGE sql AS 'SELECT 1'`,
	}
	for name, ddl := range cases {
		for _, stage := range []repack.Stage{repack.Backfill, repack.Swap} {
			t.Run(name+" before "+string(stage), func(t *testing.T) {
				t.Parallel()
				db := withRegistry.New(t)
				o := givenItems(t, db, repack.ChangeLog)
				control := controlDatabase(t)
				twins(t, control, itemsSQL)
				control.Exec(t, ddl)
				err := newRepack(t, db, beforeStage(o, stage, func() { db.Exec(t, ddl) })).Run(testContext(t))
				var drift *repack.DriftError
				if errors.As(err, &drift) {
					err = newRepack(t, db, o).Reset(testContext(t))
				}
				if err != nil {
					t.Errorf("run: %v, want a *DriftError or none", err)
				}
				sameDump(t, db, control.Dump(t))
				alike(t, db, "items")
			})
		}
	}
}
