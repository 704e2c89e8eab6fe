package pgtest

import (
	"testing"
	"time"
)

// waitTimeout bounds every wait for another session.
const waitTimeout = 30 * time.Second

// blockedBySQL finds the first session that waits for session $1.
const blockedBySQL = `
SELECT   coalesce(min(pid), 0)
FROM     pg_catalog.pg_stat_activity
WHERE    $1 = ANY (pg_catalog.pg_blocking_pids(pid))`

// WaitBlockedBy returns the pid of a session as soon as PostgreSQL says that it
// waits for session pid, directly or in the queue behind its lock; the test
// fails if none does within 30 seconds. conn must not be the connection that
// waits.
//
// https://www.postgresql.org/docs/current/functions-info.html, pg_blocking_pids
func WaitBlockedBy(t testing.TB, conn Querier, pid uint32) uint32 {
	t.Helper()
	var blocked int32
	WaitFor(t, func() bool {
		blocked = Query[int32](t, conn, blockedBySQL, int32(pid))
		return blocked != 0
	}, "a session to wait for another")
	return uint32(blocked)
}

// WaitFor returns as soon as condition holds; the test fails if it does not
// within 30 seconds. what completes the sentence "waited 30s for …". condition
// runs in the caller's goroutine, so it may end the test.
func WaitFor(t testing.TB, condition func() bool, what string) {
	t.Helper()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	timeout := time.NewTimer(waitTimeout)
	defer timeout.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-t.Context().Done():
			t.Fatalf("pgtest: waiting for %s: %v", what, t.Context().Err())
		case <-timeout.C:
			t.Fatalf("pgtest: waited %s for %s", waitTimeout, what)
		}
	}
}
