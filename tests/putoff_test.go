package tests

import (
	"context"
	"errors"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// TestDrainEnds has a change logged for each that is replayed, none of them of a row
// that anybody has locked: the replay before the exchange ends when it has lasted as
// long as snapshots may be waited for, and the job can be gone on with.
func TestDrainEnds(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		stop := o
		errStop := errors.New("stopped")
		stop.Hooks.AfterStep = func(_ context.Context, name string) error {
			if name == repack.StepWritingThrough {
				return errStop
			}
			return nil
		}
		if err := newRepack(t, db, stop).Run(testContext(t)); !errors.Is(err, errStop) {
			t.Fatalf("run: %v, want it stopped", err)
		}
		db.Exec(t, `CREATE FUNCTION control.again() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN INSERT INTO `+itemsLog+` (k1) VALUES (7); RETURN NULL; END $$;
			CREATE TRIGGER again AFTER DELETE ON `+itemsLog+` FOR EACH STATEMENT EXECUTE FUNCTION control.again();
			INSERT INTO `+itemsLog+` (k1) VALUES (7)`)
		cli(t, db, 4, "run", "--table", "app.items", "--lock-retries", "1", "--max-snapshot-wait", "200ms").
			says(t, "changes are logged as fast as they are replayed", "run the same command again")
		both(t, db.Pool, `UPDATE @items SET note = 'meanwhile' WHERE id < 20`)
		db.Exec(t, `DROP FUNCTION control.again CASCADE`)
		run(t, db, o)
		alike(t, db, "items")
		noArtefacts(t, db)
	})
}

// TestCleanUpTriesAgain has the last change for a kept old table take longer to be
// replayed than anybody may be made to wait for clean_up's lock: it is put off, the
// change replayed without the lock, and clean_up done the second time.
func TestCleanUpTriesAgain(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		o.KeepOld = true
		runUntil(t, db, o, repack.Swap)
		// The first replay, without the lock, logs the row again; the second, under the
		// lock, takes a minute. What sequences count is not rolled back.
		db.Exec(t, `CREATE SEQUENCE control.taken; CREATE SEQUENCE control.replayed;
			CREATE FUNCTION control.again() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
			    IF nextval('control.taken') = 1 THEN INSERT INTO `+itemsLog+` (k1) VALUES (7); END IF;
			    RETURN NULL;
			END $$;
			CREATE TRIGGER again AFTER DELETE ON `+itemsLog+` FOR EACH STATEMENT EXECUTE FUNCTION control.again();
			CREATE FUNCTION control.slow() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
			    IF NEW.id = 7 AND nextval('control.replayed') = 2 THEN PERFORM pg_sleep(60); END IF;
			    RETURN NEW;
			END $$;
			CREATE TRIGGER slow BEFORE INSERT ON repack_job_1_old.items FOR EACH ROW EXECUTE FUNCTION control.slow();
			INSERT INTO `+itemsLog+` (k1) VALUES (7)`)
		putOff := 0
		onLog(&o, func(message string) {
			if message == "clean-up put off" {
				putOff++
			}
		})
		run(t, db, o)
		if n := pgtest.Query[int64](t, db.Pool, `SELECT last_value FROM control.replayed`); putOff != 1 || n != 3 {
			t.Errorf("put off %d times, replayed %d times, want 1 and 3", putOff, n)
		}
		alike(t, db, "items")
		db.EqualTables(t, "repack_job_1_old.items", "control.items")
	})
}
