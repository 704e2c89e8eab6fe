package tests

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// heldBuildSQL is a table of dozens of blocks with an index whose build waits,
// on request, for an advisory lock in the middle of it. It has to be recognised
// by a statement of which the server shows no more than the beginning.
const heldBuildSQL = `
CREATE SCHEMA app;
CREATE TABLE app.t (id int PRIMARY KEY, n int UNIQUE);
INSERT INTO app.t SELECT i, i FROM generate_series(1, 10000) i;
CREATE FUNCTION app.hold(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF i = 5000 THEN
        PERFORM pg_advisory_lock_shared(11);
        PERFORM pg_advisory_unlock_shared(11);
    END IF;
    RETURN i;
END $$;
CREATE INDEX t_id ON app.t (id);
CREATE INDEX "Held, ""so""" ON app.t (app.hold(n)) WHERE n::text <> '@'`

func TestIndexBuildsInStatus(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, strings.Replace(heldBuildSQL, "@", strings.Repeat("long", 500), 1)) // longer than track_activity_query_size
	before := db.Dump(t)
	o := options(t, "app.t", repack.ChangeLog)
	runUntil(t, db, o, repack.Backfill)
	if got := statusOf(t, db, "app.t").IndexBuilds; got == nil || len(got) > 0 {
		t.Errorf("builds before sync_schema: %v, want none, as a list", got)
	}
	// Somebody else's build, on the application's own table, is not ours.
	holder := begin(t, db.Connect(t), pgx.ReadCommitted)
	mustExec(t, holder, `SELECT pg_advisory_xact_lock(11)`)
	other := db.Connect(t)
	otherDone := make(chan error, 1)
	go func() {
		_, err := other.Exec(testContext(t), `CREATE INDEX other ON app.t (app.hold(id))`)
		otherDone <- err
	}()
	pgtest.WaitFor(t, func() bool { return waiting(t, db) == 1 }, "the other build to wait")

	var seen atomic.Pointer[[]repack.IndexBuild]
	o.Hooks.WhileBuilding = func(_ context.Context, builds []repack.IndexBuild) { seen.Store(&builds) }
	o.Jobs = 2
	done := startRun(t, db, o)
	pgtest.WaitFor(t, func() bool { return waiting(t, db) == 2 }, "our build to wait")
	pgtest.WaitFor(t, func() bool { return len(statusOf(t, db, "app.t").IndexBuilds) == 1 }, "no other build but the one that is held")

	held := func(builds []repack.IndexBuild) bool {
		return len(builds) == 1 && builds[0].Index == `Held, "so"` && builds[0].Phase == "building index: scanning table" &&
			builds[0].Percent != nil && *builds[0].Percent > 10 && *builds[0].Percent < 60 // COPY may have left empty blocks behind
	}
	if got := statusOf(t, db, "app.t").IndexBuilds; !held(got) {
		text, _ := json.Marshal(got)
		t.Errorf("builds %s, want the one that is held in the middle of its scan", text)
	}
	pgtest.WaitFor(t, func() bool { builds := seen.Load(); return builds != nil && held(*builds) }, "the hook to be told of the build")
	var list []repack.Status
	if err := json.Unmarshal(cli(t, db, 0, "status", "--format", "json").stdout.Bytes(), &list); err != nil || len(list) != 1 {
		t.Fatalf("status: %v", err)
	}
	if got := list[0].IndexBuilds; !held(got) {
		t.Errorf("builds as JSON: %+v", got)
	}
	if text := cli(t, db, 0, "status").stdout.String(); !strings.Contains(text, `job 1 builds index Held, "so": scanning table, `) {
		t.Errorf("status:\n%s", text)
	}
	db.Exec(t, `SELECT pg_cancel_backend($1::int8::int)`, other.PgConn().PID())
	if err := <-otherDone; err == nil {
		t.Fatal("the other build has not been cancelled")
	}
	commit(t, holder)
	if err := await(t, done); err != nil {
		t.Errorf("run: %v", err)
	}
	if got := statusOf(t, db, "app.t").IndexBuilds; len(got) > 0 {
		t.Errorf("builds at the end: %v", got)
	}
	sameDump(t, db, before)
}

// waiting counts the builds that wait for the advisory lock.
func waiting(t *testing.T, db *pgtest.Database) int {
	t.Helper()
	return pgtest.Query[int](t, db.Pool, `
		SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
		WHERE  d.datname = current_database() AND l.locktype = 'advisory' AND l.objid = 11 AND NOT l.granted`)
}

// TestBuildsOfConstraints shows an index that comes with its constraint, to
// the role that builds it.
func TestBuildsOfConstraints(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, strings.Replace(heldBuildSQL, "@", "", 1)+`;
		DROP INDEX app."Held, ""so""";
		ALTER TABLE app.t ADD CONSTRAINT "apart" EXCLUDE USING btree (app.hold(id) WITH =)`)
	o := options(t, "app.t", repack.ChangeLog)
	runUntil(t, db, o, repack.Backfill)
	holder := begin(t, db.Connect(t), pgx.ReadCommitted)
	mustExec(t, holder, `SELECT pg_advisory_xact_lock(11)`)
	done := startRun(t, db, o)
	pgtest.WaitFor(t, func() bool { return waiting(t, db) == 1 }, "the constraint to wait")
	if got := statusOf(t, db, "app.t").IndexBuilds; len(got) != 1 || got[0].Index != "apart" {
		t.Errorf("builds: %+v, want that of the constraint", got)
	}
	stranger, err := repack.New(func() *pgx.ConnConfig {
		c := db.Config(t)
		c.User = db.Role(t)
		return c
	}(), repack.Options{})
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `
		GRANT USAGE ON SCHEMA repack_registry, repack_job_1 TO PUBLIC;
		GRANT SELECT ON ALL TABLES IN SCHEMA repack_registry, repack_job_1 TO PUBLIC`)
	list, err := stranger.Status(testContext(t))
	if err != nil || len(list) != 1 || len(list[0].IndexBuilds) > 0 {
		t.Errorf("status to a stranger: %+v, %v", list, err)
	}
	commit(t, holder)
	if err := await(t, done); err != nil {
		t.Errorf("run: %v", err)
	}
}

// likeKeysSQL is a table of unique indexes whose names and sizes are in another order
// than the one in which they were made.
const likeKeysSQL = `
CREATE SCHEMA app;
CREATE TABLE app.t (id int, name text, note text);
INSERT INTO app.t SELECT i, i, repeat('x', 100) || i FROM generate_series(1, 3000) AS i;
ALTER TABLE app.t ADD CONSTRAINT z UNIQUE (id), ADD CONSTRAINT y PRIMARY KEY (id);
CREATE UNIQUE INDEX x ON app.t (id) INCLUDE (note);
CREATE INDEX w ON app.t (note, name);
ALTER TABLE app.t ADD CONSTRAINT v UNIQUE (note, id), ADD CONSTRAINT u UNIQUE (name);
CREATE TABLE app.refers (id int REFERENCES app.t (id))`

// TestUniqueIndexesInOrder: a foreign key keeps its index, and of two keys that a row
// violates the same one is named.
func TestUniqueIndexesInOrder(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, likeKeysSQL)
		look := func() string {
			_, err := db.Pool.Exec(testContext(t), `INSERT INTO app.t VALUES (1, '2', '')`)
			var violation *pgconn.PgError
			if !errors.As(err, &violation) {
				t.Fatalf("insert a row that is there: %v, want an error of the server", err)
			}
			return violation.ConstraintName + ": " + db.QueryString(t, `
				SELECT concat_ws(': ',
				           (SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY indexrelid)
				            FROM   pg_index WHERE indrelid = 'app.t'::regclass AND indisunique),
				           (SELECT conindid::regclass FROM pg_constraint WHERE conname = 'refers_id_fkey'))`)
		}
		before := look()
		o := options(t, "app.t", strategy)
		o.Jobs = 4
		run(t, db, o)
		if after := look(); after != before {
			t.Errorf("constraint violated, unique indexes, index of the foreign key: %q, want %q", after, before)
		}
	})
}
