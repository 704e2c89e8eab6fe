package tests

import (
	"errors"
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
