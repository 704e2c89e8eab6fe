package tests

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// fullSQL is a table whose copy has no room.
const fullSQL = `
CREATE TABLE app.t (id int PRIMARY KEY, note text);
INSERT INTO app.t SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i`

// refusingSQL has the server say that the disk is full, while the table that the
// argument names is there.
const refusingSQL = `
CREATE FUNCTION app.no_room() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass(TG_ARGV[0]) IS NOT NULL THEN
        RAISE 'could not extend file' USING ERRCODE = 'disk_full';
    END IF;
    RETURN NEW;
END $$`

// givenNoRoom is a job after setup, whose backfill meets a full disk. It returns the
// shadow's name.
func givenNoRoom(t *testing.T, db *pgtest.Database, o repack.Options) (shadow string) {
	t.Helper()
	runUntil(t, db, o, repack.Setup)
	db.Exec(t, refusingSQL)
	shadow = pgtest.Query[string](t, db.Pool, `SELECT shadow::regclass::text FROM repack_registry.job`)
	db.Exec(t, `CREATE TRIGGER no_room BEFORE INSERT ON `+shadow+` FOR EACH ROW EXECUTE FUNCTION app.no_room('`+shadow+`')`)
	return shadow
}

// Where there is no room for the job's state either, the job is removed without it,
// and recorded afterwards.
func TestDiskFullUnrecorded(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `CREATE SCHEMA app;`+fullSQL)
		before := db.Dump(t)
		o := options(t, "app.t", strategy)
		shadow := givenNoRoom(t, db, o)
		db.Exec(t, `CREATE TRIGGER no_room BEFORE UPDATE ON repack_registry.job FOR EACH ROW
			WHEN (NEW.state <> OLD.state) EXECUTE FUNCTION app.no_room('`+shadow+`')`)
		gaveWay(t, db, newRepack(t, db, o).Run(testContext(t)))
		db.Exec(t, `
			DROP TRIGGER no_room ON repack_registry.job;
			DROP FUNCTION app.no_room;
			DELETE FROM app.t WHERE id > 4000`)
		run(t, db, o)
		sameDump(t, db, before)
		noArtefacts(t, db)
		if n := db.QueryString(t, `SELECT count(*) FROM app.t`); n != "4000" {
			t.Errorf("%s rows, want 4000", n)
		}
	})
}

// A job that cannot be removed, because the table is locked for too long, is left to
// repack reset.
func TestDiskFullHeld(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `CREATE SCHEMA app;`+fullSQL)
	before := db.Dump(t)
	o := options(t, "app.t", repack.ChangeLog)
	o.LockTimeout, o.LockRetries = 10*time.Millisecond, 1
	givenNoRoom(t, db, o)
	reader := begin(t, db.Connect(t), pgx.ReadCommitted)
	mustExec(t, reader, `SELECT FROM app.t LIMIT 1`)
	err := newRepack(t, db, o).Run(testContext(t))
	var full *repack.DiskFullError
	if !errors.As(err, &full) || full.Release == nil || !strings.Contains(err.Error(), `repack reset --table '"app"."t"'`) {
		t.Errorf("run: %v, want that the job could not be removed", err)
	}
	commit(t, reader)
	cli(t, db, 0, "reset", "--table", "app.t")
	db.Exec(t, `DROP FUNCTION app.no_room`)
	sameDump(t, db, before)
	noArtefacts(t, db)
	run(t, db, options(t, "app.t", repack.ChangeLog))
	sameDump(t, db, before)
}

// After the swap the old table is the way back, and is kept though the disk is full.
func TestDiskFullAfterSwap(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `CREATE SCHEMA app;`+fullSQL)
		before := db.Dump(t)
		o := options(t, "app.t", strategy)
		o.KeepOld = true
		runUntil(t, db, o, repack.Swap)
		db.Exec(t, refusingSQL)
		old := pgtest.Query[string](t, db.Pool, `SELECT source::regclass::text FROM repack_registry.job`)
		db.Exec(t, `CREATE TRIGGER no_room BEFORE INSERT ON `+old+` FOR EACH ROW EXECUTE FUNCTION app.no_room('`+old+`');
			INSERT INTO app.t VALUES (5001, 'new')`)
		err := newRepack(t, db, o).Run(testContext(t))
		if err == nil || !strings.Contains(err.Error(), "the way back") || !strings.Contains(err.Error(), "repack revert") {
			t.Errorf("run: %v, want that the old table is kept", err)
		}
		db.Exec(t, `DROP FUNCTION app.no_room CASCADE`)
		cli(t, db, 0, "revert", "--table", "app.t")
		if n := db.QueryString(t, `SELECT count(*) FROM app.t`); n != "5001" {
			t.Errorf("%s rows, want 5001", n)
		}
		sameDump(t, db, before)
		noArtefacts(t, db)
	})
}

// gaveWay makes sure that a run has left nothing in the way of the application, and
// says why.
func gaveWay(t *testing.T, db *pgtest.Database, err error) {
	t.Helper()
	var full *repack.DiskFullError
	if !errors.As(err, &full) || full.Release != nil || full.Needs == 0 || !strings.Contains(err.Error(), "run the same command again") {
		t.Errorf("run: %v, want that the job has given way to a full disk", err)
	}
	noArtefacts(t, db)
	state := db.QueryString(t, `SELECT state || ': ' || error FROM repack_registry.job`)
	if !strings.HasPrefix(state, "reset: ") || !strings.Contains(state, "the disk is full") {
		t.Errorf("the registry says %q", state)
	}
	if status := cli(t, db, 0, "status", "--table", "app.t"); !strings.Contains(status.stdout.String(), "the disk is full") {
		t.Errorf("status does not say why the job is over:\n%s", &status.stdout)
	}
}
