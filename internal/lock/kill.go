package lock

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// signals are sent to a blocker in this order, one with each attempt.
var signals = []string{"pg_cancel_backend", "pg_terminate_backend"}

// kill ends the transactions that have been in the way for too long: each by a
// clock of its own.
type kill struct {
	policy Policy

	mu     sync.Mutex
	clocks map[key]*clock
}

type clock struct {
	since   time.Time // when the transaction was first seen in the way
	sent    int       // of signals
	attempt int       // that the last of them was sent with
}

func newKill(p Policy) *kill { return &kill{policy: p, clocks: map[key]*clock{}} }

// nextSignal is the signal to be sent to b now, or empty. Who gets none but has been in
// the way for some time may get one later.
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

// signalHolderSQL signals session $3 if its transaction is still $4 and holds a lock
// that conflicts with one that is wanted.
const signalHolderSQL = `
SELECT %s($3)
WHERE  EXISTS (
    SELECT` + conflictingSQL + `
    AND    l.pid = $3 AND l.virtualtransaction = $4)`

// signalBlockerSQL signals session $1 if its transaction is still $2 and keeps
// session $3 waiting. Every transaction holds a lock on its own number.
const signalBlockerSQL = `
SELECT %s($1)
WHERE  $1 = ANY (pg_blocking_pids($3))
AND    EXISTS (SELECT FROM pg_locks v
               WHERE  v.pid = $1 AND v.locktype = 'virtualxid' AND v.granted AND v.mode = 'ExclusiveLock'
               AND    v.virtualtransaction = $2)`

type executor interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// signalHolder signals b if it is still in the way of what is wanted.
func (k *kill) signalHolder(ctx context.Context, conn executor, signal string, b Blocker, wants []Want) {
	relations, modes := arguments(wants)
	tag, err := conn.Exec(ctx, fmt.Sprintf(signalHolderSQL, signal), relations, modes, b.PID, b.Transaction)
	k.logSignal(signal, b, tag, err)
}

// signalBlocker signals b if session pid still waits for it.
func (k *kill) signalBlocker(ctx context.Context, conn executor, signal string, b Blocker, pid uint32) {
	tag, err := conn.Exec(ctx, fmt.Sprintf(signalBlockerSQL, signal), b.PID, b.Transaction, int32(pid))
	k.logSignal(signal, b, tag, err)
}

// logSignal logs what has become of a signal. What cannot be signalled is left alone.
func (k *kill) logSignal(signal string, b Blocker, tag pgconn.CommandTag, err error) {
	switch {
	case err != nil:
		k.policy.Log.Warn("blocker not signalled", "signal", signal, "blocker", b.String(), "error", err)
	case tag.RowsAffected() > 0:
		k.policy.Log.Warn("blocker signalled", "signal", signal, "blocker", b.String())
	}
}
