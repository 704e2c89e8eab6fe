package tests

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// TestReindexGivesWayInADeadlock has a transaction that a rebuild waits for request a lock that
// conflicts with the rebuild's. The rebuild gives way, before the server cancels the transaction.
func TestReindexGivesWayInADeadlock(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, indexedSQL)
	o := options(t, "", repack.ChangeLog)
	o.Table, o.MaxSnapshotWait = "", time.Minute
	// Only the reader looks for deadlocks.
	db.Exec(t, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = ''10min''', current_database()); END $$`)
	reader := stillSnapshot(t, db, pgx.RepeatableRead)
	done := make(chan error, 1)
	go func() {
		_, err := newRepack(t, db, o).Reindex(testContext(t), repack.Rebuild{Selection: repack.Selection{Tables: []string{"app.t"}}, Indexes: []string{"tight"}})
		done <- err
	}()
	mustExec(t, reader, `SET LOCAL deadlock_timeout = '1s'`)
	pgtest.WaitBlockedBy(t, db.Pool, pid(reader))
	mustExec(t, reader, `LOCK TABLE app.t IN SHARE MODE`)
	commit(t, reader)
	var locked *repack.LockTimeoutError
	if err := await(t, done); !errors.As(err, &locked) || len(locked.Blockers) != 1 || locked.Blockers[0].PID != int32(pid(reader)) {
		t.Errorf("in a deadlock: %v", err)
	}
	if left := pgtest.Column[string](t, db.Pool, invalidSQL); len(left) > 0 {
		t.Errorf("invalid indexes are left: %v", left)
	}
}

// TestReindexOfADroppedIndex drops an index while another is rebuilt.
func TestReindexOfADroppedIndex(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, indexedSQL)
	o := options(t, "", repack.ChangeLog)
	o.Table = ""
	results, err := newRepack(t, db, o).Reindex(testContext(t), repack.Rebuild{
		Selection: repack.Selection{Tables: []string{"app.t"}}, Indexes: []string{"tight", "bloated"},
		After: func(r repack.Reindexed) {
			if r.Name == "bloated" {
				db.Exec(t, `DROP INDEX app.tight`)
			}
		},
	})
	if err != nil || len(results) != 2 || results[0].Result != "rebuilt" || results[1].Reason != "it has been dropped" {
		t.Errorf("%+v, %v", results, err)
	}
}

// TestReindexKilled kills the program while the server rebuilds. The next start drops what is left,
// as soon as the server has given up. An invalid index of somebody else with such a name stays.
func TestReindexKilled(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, indexedSQL+`; INSERT INTO app.t VALUES (30000, 1, 1)`)
	if _, err := db.Connect(t).Exec(t.Context(), `CREATE UNIQUE INDEX CONCURRENTLY tight_ccnew ON app.t (a)`); err == nil {
		t.Fatal("a unique index of equal values")
	}
	args := []string{"reindex", "app.t", "--index", "tight", "--max-snapshot-wait"}
	reader := stillSnapshot(t, db, pgx.RepeatableRead)
	p := command(t, []string{"REPACK_DSN=" + db.DSN}, append(args, "1m")...)
	p.start(t)
	orphan := pgtest.WaitBlockedBy(t, db.Pool, pid(reader))
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wait(t)
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, db.Pool, `SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`)
	}, "the server to notice that the program is gone")
	// The server notices after half a second that the client is gone. Until then the next start cannot
	// drop what is left; afterwards it can, but cannot rebuild, because of the reader.
	cli(t, db, 4, append(args, "300ms")...).says(t, "in the way")
	if left := pgtest.Column[string](t, db.Pool, invalidSQL); !slices.Contains(left, "tight_ccnew") {
		t.Errorf("invalid indexes after the first start: %v", left)
	}
	db.Exec(t, `SELECT pg_terminate_backend($1)`, int32(orphan))
	commit(t, reader)
	if got := rebuilt(t, db, func() { cli(t, db, 0, append(args, "1m")...) }); !slices.Equal(got, []string{"tight"}) {
		t.Errorf("the next start has rebuilt %v", got)
	}
	if left := pgtest.Column[string](t, db.Pool, invalidSQL); !slices.Equal(left, []string{"tight_ccnew"}) {
		t.Errorf("invalid indexes after the next start: %v", left)
	}
}
