package lock

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// signals are sent to a blocker in this order, one per attempt.
//
// https://www.postgresql.org/docs/current/functions-admin.html, "Server Signaling Functions"
var signals = []string{"pg_cancel_backend", "pg_terminate_backend"}

// kill cancels and then terminates transactions that have blocked us for too long. Each
// transaction has its own clock.
type kill struct {
	policy Policy

	mu     sync.Mutex
	clocks map[key]*clock
}

// clock measures how long one transaction has blocked us.
type clock struct {
	since   time.Time // when the transaction was first seen
	sent    int       // number of signals sent
	attempt int       // in which the last signal was sent
}

// newKill returns a kill that has seen no transaction.
func newKill(p Policy) *kill { return &kill{policy: p, clocks: map[key]*clock{}} }

// nextSignal returns the function that should signal b now, or "". The first call for a
// transaction starts its clock.
func (k *kill) nextSignal(b Blocker, attempt int) string {
	if k.policy.KillAfter <= 0 || b.PID == 0 {
		return ""
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	c, known := k.clocks[b.key()]
	if !known {
		k.clocks[b.key()] = &clock{since: time.Now()}
		return ""
	}
	if time.Since(c.since) < k.policy.KillAfter || c.sent == len(signals) || c.sent > 0 && c.attempt == attempt {
		return ""
	}
	c.sent, c.attempt = c.sent+1, attempt
	return signals[c.sent-1]
}

// signalHolderSQL signals session $3 if it still runs transaction $4 and still holds a
// lock that conflicts with a wanted lock.
const signalHolderSQL = `
SELECT %s($3)
WHERE  EXISTS (
    SELECT` + conflictingSQL + `
    AND    l.pid = $3 AND l.virtualtransaction = $4)`

// signalBlockerSQL signals session $1 if it still runs transaction $2 and still blocks
// session $3. Every transaction holds a lock on its own virtual transaction id.
const signalBlockerSQL = `
SELECT %s($1)
WHERE  $1 = ANY (pg_blocking_pids($3))
AND    EXISTS (SELECT FROM pg_locks v
               WHERE  v.pid = $1 AND v.locktype = 'virtualxid' AND v.granted AND v.mode = 'ExclusiveLock'
               AND    v.virtualtransaction = $2)`

// executor is a connection, pool or transaction.
type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// signalHolder signals b if it still holds a lock that conflicts with one of wants.
func (k *kill) signalHolder(ctx context.Context, conn executor, signal string, b Blocker, wants []Want) {
	relations, modes := arguments(wants)
	tag, err := conn.Exec(ctx, fmt.Sprintf(signalHolderSQL, signal), relations, modes, b.PID, b.Transaction)
	k.logSignal(signal, b, tag, err)
}

// signalBlocker signals b if it still blocks session pid.
func (k *kill) signalBlocker(ctx context.Context, conn executor, signal string, b Blocker, pid uint32) {
	tag, err := conn.Exec(ctx, fmt.Sprintf(signalBlockerSQL, signal), b.PID, b.Transaction, int32(pid))
	k.logSignal(signal, b, tag, err)
}

// logSignal logs the result of a signal. If the server refuses a signal, nothing else
// is tried.
func (k *kill) logSignal(signal string, b Blocker, tag pgconn.CommandTag, err error) {
	switch {
	case err != nil:
		k.policy.Log.Warn("blocker not signalled", "signal", signal, "blocker", b.String(), "error", err)
	case tag.RowsAffected() > 0:
		k.policy.Log.Warn("blocker signalled", "signal", signal, "blocker", b.String())
	}
}
