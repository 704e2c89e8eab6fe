package lock

import (
	"context"
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// TestSignalIsForOneTransaction checks that a signal reaches only the transaction that
// was seen: not the next transaction of the session, although it blocks us too, and
// none that no longer blocks us.
func TestSignalIsForOneTransaction(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE TABLE held (id int PRIMARY KEY)`)
	asked, holder := db.Connect(t), db.Connect(t)
	exec := func(conn *pgx.Conn, sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	pid := int32(holder.PgConn().PID())
	hold := func() Blocker {
		exec(holder, `BEGIN; LOCK TABLE held IN ACCESS SHARE MODE`)
		return Blocker{PID: pid, Transaction: pgtest.Query[string](t, db.Pool, `SELECT virtualtransaction FROM pg_locks WHERE pid = $1 LIMIT 1`, pid)}
	}
	k := newKill(Policy{Log: slog.New(slog.DiscardHandler)})
	wants := []Want{{Relation: "public.held", Mode: "ACCESS EXCLUSIVE"}}

	first := hold()
	exec(holder, `COMMIT`)
	k.signalHolder(t.Context(), asked, "pg_terminate_backend", first, wants)
	second := hold()
	k.signalHolder(t.Context(), asked, "pg_terminate_backend", first, wants)
	exec(holder, `SELECT 1`)

	waiter := db.Connect(t)
	granted := make(chan error, 1)
	go func() {
		_, err := waiter.Exec(context.Background(), `BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE; COMMIT`)
		granted <- err
	}()
	pgtest.WaitBlockedBy(t, db.Pool, uint32(pid))
	waiting := waiter.PgConn().PID()
	k.signalBlocker(t.Context(), asked, "pg_terminate_backend", first, waiting)
	exec(holder, `SELECT 1`)
	k.signalBlocker(t.Context(), asked, "pg_terminate_backend", second, waiting)
	if _, err := holder.Exec(t.Context(), `SELECT 1`); err == nil {
		t.Error("the transaction in the way was not signalled")
	}
	if err := <-granted; err != nil {
		t.Errorf("lock: %v", err)
	}

	holder = db.Connect(t)
	pid = int32(holder.PgConn().PID())
	k.signalHolder(t.Context(), asked, "pg_terminate_backend", hold(), wants)
	if _, err := holder.Exec(t.Context(), `SELECT 1`); err == nil {
		t.Error("the transaction beside the queue was not signalled")
	}
}
