package repack

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/internal/session"
)

// concurrently runs a statement on an index of table that waits for other transactions, on a
// connection of its own: if ctx ends, that connection ends, and what the statement has left is
// dropped on another. Meanwhile it looks with conn for what the statement waits for. A wait that is
// too long, or would be a deadlock, ends with *LockTimeoutError.
func (x *rebuilding) concurrently(ctx context.Context, conn *pgx.Conn, table uint32, index, sql string) error {
	own, err := session.Connect(ctx, x.config)
	if err != nil {
		return err
	}
	defer session.Close(ctx, own)
	if _, err := own.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d", x.options.MaxSnapshotWait.Milliseconds())); err != nil {
		return fmt.Errorf("bound waits: %w", err)
	}
	w := &waits{conn: conn, pid: own.PgConn().PID(), table: table}
	ended, looked := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(looked)
		w.look(ctx, ended)
	}()
	_, err = own.Exec(ctx, sql)
	close(ended)
	<-looked
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return err
	}
	switch {
	case pgErr.Code == pgerrcode.LockNotAvailable, pgErr.Code == pgerrcode.DeadlockDetected, pgErr.Code == pgerrcode.QueryCanceled && w.deadlock:
		return &LockTimeoutError{Relation: index, Attempts: 1, Waited: w.waited(), Blockers: w.blockers, Err: err}
	}
	return err
}

// waits is what backend pid waits for, which works on an index of table.
type waits struct {
	conn     *pgx.Conn
	pid      uint32
	table    uint32
	blockers []lock.Blocker
	since    time.Time // when the present wait was seen first
	deadlock bool      // the statement was cancelled
}

func (w *waits) waited() time.Duration {
	if w.since.IsZero() {
		return 0
	}
	return time.Since(w.since)
}

// lookTimeout bounds a look, which does not end with ctx: that would close the connection.
const lookTimeout = 10 * time.Second

// look looks until ended is closed or ctx ends. It looks more often than the server looks for
// deadlocks, so that it is never the application's transaction that is cancelled. An error is
// ignored: the statement's waits are bounded without it.
func (w *waits) look(ctx context.Context, ended <-chan struct{}) {
	ticker := time.NewTicker(awaitEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ended:
			return
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		lookCtx, done := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
		w.once(lookCtx)
		done()
	}
}

func (w *waits) once(ctx context.Context) {
	found, err := lock.Blockers(ctx, w.conn, w.pid, []uint32{w.table})
	switch {
	case err != nil:
		return
	case len(found) == 0:
		w.since = time.Time{}
		return
	}
	if w.since.IsZero() {
		w.since = time.Now()
	}
	w.blockers = found
	if cancelled, err := lock.BreakDeadlock(ctx, w.conn, w.pid); err == nil && cancelled {
		w.deadlock = true
	}
}
