package lock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Pair is work under the locks of two tables, which the application may lock in either
// order. Holding one lock while waiting for the other would deadlock with every
// transaction that locks them in the opposite order. Until then, every session that
// wants the first table would wait behind us for nothing.
//
// Therefore an attempt waits only a few milliseconds for the first lock, and does not
// wait for the second. It starts when every transaction that holds one of the locks
// holds both. Such a transaction will request neither any more, and has ended when the
// first lock is granted.
//
// A session that meanwhile begins with the first table waits for us and holds nothing.
// A session that begins with the second table makes the attempt fail; the next attempt
// then begins with the other table. A failed attempt blocks other sessions only for
// those few milliseconds, so there can be many attempts. If such a moment does not
// come, attempts are made at other moments.
type Pair struct {
	// A and B are the locks. Either may be acquired first. If B.Relation is empty, A is
	// the only one.
	A, B Want
	// Also are locks that are acquired together with A, such as those on its partitions.
	Also []Want
	What string   // names the work in messages
	SQL  []string // sent together with the locks, because each round trip is time under them
	// Before runs in the same transaction before the locks are requested.
	Before func(context.Context, pgx.Tx) error
}

// Pairs makes attempts at one Pair or several. It remembers how long each transaction
// has blocked them.
type Pairs struct {
	policy Policy
	queue  *queue
	bound  time.Duration // bound on any wait, below deadlock_timeout
	failed int           // failed attempts
	rest   time.Time     // no attempt before this time
}

// restFactor is how many times longer than a failed attempt other sessions run freely
// before the next one. Otherwise attempts would make their transactions so much longer
// that these would always be in the way.
const restFactor = 2

// NewPairs returns a Pairs, after reading the server's deadlock_timeout.
func NewPairs(ctx context.Context, conn *pgxpool.Conn, p Policy) (*Pairs, error) {
	deadlockTimeout, err := readDeadlockTimeout(ctx, conn)
	if err != nil {
		return nil, err
	}
	return &Pairs{policy: p, queue: newQueue(p), bound: p.strong(deadlockTimeout)}, nil
}

// pairPause is about the time between two looks at the locks.
const pairPause = 4 * time.Millisecond

// No session notices a wait of up to shortWait. A wait of more than longWait also covers
// transactions that have not yet requested both locks.
const (
	shortWait = 10 * time.Millisecond
	longWait  = 25 * time.Millisecond
)

// holderPause is the pause when a holder will probably not release its lock soon.
const holderPause = 100 * time.Millisecond

// Try makes attempts until both locks have been acquired and the work is committed, at
// most for the time long. An attempt waits for the first lock at most for the time
// wait. When the time has passed, Try returns *TimeoutError, and nothing has changed.
// The locks are held until the commit; Policy.Timeout bounds waits and work together.
func (p *Pairs) Try(ctx context.Context, conn *pgxpool.Conn, pair Pair, wait, long time.Duration) error {
	began := time.Now()
	wait = min(wait, p.bound)
	var blockers []Blocker
	last := ErrHeld
	for attempts := 0; ; {
		found, err := p.look(ctx, conn, pair)
		if err != nil {
			return err
		}
		pause := pairPause/2 + rand.N(pairPause)
		switch {
		case len(found.longHolders) > 0:
			blockers, last, pause = found.longHolders, ErrHeld, holderPause
			for _, b := range found.longHolders {
				if signal := p.queue.kill.nextSignal(b, p.failed); signal != "" {
					p.queue.kill.signalHolder(ctx, conn, signal, b, pair.all())
				}
			}
		case time.Now().Before(p.rest):
		case found.worthTrying(wait):
			attempts++
			tried := time.Now()
			err := p.once(ctx, conn, pair, p.first(found), wait)
			if err == nil || !Denied(err) {
				return err
			}
			p.failed++
			p.rest = time.Now().Add(restFactor * time.Since(tried))
			last = err
			var noTime *noTimeError
			if errors.As(err, &noTime) {
				pause = holderPause
			}
		}
		if waited := time.Since(began); waited >= long {
			return &TimeoutError{Relation: pair.names(), Attempts: max(attempts, 1), Waited: wait, Blockers: blockers, Err: last}
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// wants are the locks of the pair.
func (p Pair) wants() []Want {
	if p.B.Relation == "" {
		return []Want{p.A}
	}
	return []Want{p.A, p.B}
}

// all are the locks of the pair, with those that are acquired together with A.
func (p Pair) all() []Want { return slices.Concat(p.wants(), p.Also) }

// names are the relations of the pair, for messages.
func (p Pair) names() string {
	names := []string{strings.TrimPrefix(p.A.Relation, "ONLY ")}
	if p.B.Relation != "" {
		names = append(names, strings.TrimPrefix(p.B.Relation, "ONLY "))
	}
	return strings.Join(names, " and ")
}

// pairHoldersSQL lists the transactions that hold a lock that conflicts with either
// lock. B is the second; all others are A, or are acquired together with it.
const pairHoldersSQL = `
SELECT bool_or(w.relation <> ($1::text[])[2]), bool_or(w.relation = ($1::text[])[2])` + conflictingSQL + `
GROUP BY l.virtualtransaction`

// pairHolders says which transactions hold conflicting locks on the two tables.
type pairHolders struct {
	longHolders  []Blocker // will probably not release their locks in time
	onlyA, onlyB int
}

// worthTrying reports whether an attempt that waits for the given time may succeed now.
// A short wait is worth it as soon as all transactions that hold one of the locks hold
// the other too: it succeeds if all sessions lock the tables in the same order.
func (m pairHolders) worthTrying(wait time.Duration) bool {
	switch {
	case m.onlyA == 0 && m.onlyB == 0, wait > longWait:
		return true
	default:
		return wait <= shortWait && (m.onlyA == 0 || m.onlyB == 0)
	}
}

// first is 0 if A should be requested first, and 1 for B. It is the lock that all
// holders of the other lock hold too; otherwise the attempts alternate.
func (p *Pairs) first(m pairHolders) int {
	switch {
	case m.onlyA == 0 && m.onlyB > 0:
		return 1
	case m.onlyB == 0 && m.onlyA > 0:
		return 0
	default:
		return p.failed % 2
	}
}

// look reads which transactions hold conflicting locks.
func (p *Pairs) look(ctx context.Context, conn *pgxpool.Conn, pair Pair) (m pairHolders, err error) {
	if m.longHolders, err = p.queue.longHolders(ctx, conn, pair.all()); err != nil || len(m.longHolders) > 0 || pair.B.Relation == "" {
		return m, err
	}
	relations, modes := arguments(pair.all())
	rows, err := conn.Query(ctx, pairHoldersSQL, relations, modes)
	if err != nil {
		return m, fmt.Errorf("look for who is in the way: %w", err)
	}
	var a, b bool
	_, err = pgx.ForEachRow(rows, []any{&a, &b}, func() error {
		switch {
		case a && !b:
			m.onlyA++
		case b && !a:
			m.onlyB++
		}
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("look for who is in the way: %w", err)
	}
	return m, nil
}

// Statements returns what an attempt sends that begins with A.
func (p Pair) Statements() []string { return p.statements(0) }

// statements does what Statements does, for an attempt that begins with B if first is 1.
func (p Pair) statements(first int) []string {
	order := p.wants()
	if first == 1 && len(order) > 1 {
		order[0], order[1] = order[1], order[0]
	}
	var statements []string
	for i, w := range order {
		lock := SQL(w.Relation, w.Mode)
		if i > 0 {
			lock += " NOWAIT"
		}
		statements = append(statements, lock)
	}
	return append(statements, p.SQL...)
}

// once is one attempt. It begins with A, or with B if first is 1.
func (p *Pairs) once(ctx context.Context, conn *pgxpool.Conn, pair Pair, first int, wait time.Duration) error {
	statements := append([]string{boundSQL(wait)}, pair.statements(first)...)
	held := &hold{pool: p.policy.Pool, pid: conn.Conn().PgConn().PID(), bound: p.policy.Timeout, whole: Work{What: pair.What, Steps: 1}}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := pair.Before(ctx, tx); err != nil {
			return err
		}
		held.begin(ctx)
		if _, err := tx.Exec(ctx, strings.Join(statements, ";\n")); err != nil {
			return fmt.Errorf("%s: %w", pair.What, err)
		}
		return held.checkBound()
	})
	took := held.end()
	switch {
	case err != nil && ctx.Err() == nil:
		return held.explain(err)
	case err == nil && p.policy.Held != nil:
		p.policy.Held(ctx, took)
	}
	return err
}
