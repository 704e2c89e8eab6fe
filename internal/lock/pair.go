package lock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Pair is work under the locks of two tables, to which the application may come in
// either order. To hold one lock and wait for the other would be a deadlock with
// every transaction that takes them the other way round, and all who come to the
// first would stand behind us for nothing.
//
// So it is asked for the first lock for a few milliseconds and for the second not to
// wait, and at a moment when every transaction that holds one of them holds both: those
// come to neither any more, and are over when the first is granted. A session that
// begins meanwhile with the first waits for us and holds nothing; one that begins with
// the second makes the attempt fail, so that the next one begins with the other. An
// attempt that fails holds up nobody for longer, and there can be many of them. Where
// such a moment does not come others are tried.
type Pair struct {
	// A and B are the locks; either may be taken first. Where B's Relation is empty,
	// A is the only one.
	A, B Want
	What string   // the work, for messages
	SQL  []string // sent together with the locks, as every round trip is time under them
	// Before is done in the same transaction before the locks are asked for.
	Before func(context.Context, pgx.Tx) error
}

// Pairs are attempts at one Pair or several, which know how long who has been seen in
// the way.
type Pairs struct {
	policy Policy
	queue  *queue
	bound  time.Duration // on any wait: below deadlock_timeout
	failed int           // attempts
}

// NewPairs reads the server's deadlock_timeout.
func NewPairs(ctx context.Context, conn *pgxpool.Conn, p Policy) (*Pairs, error) {
	deadlockTimeout, err := readDeadlockTimeout(ctx, conn)
	if err != nil {
		return nil, err
	}
	return &Pairs{policy: p, queue: newQueue(p), bound: p.strong(deadlockTimeout)}, nil
}

// pairPause is about how long it is until the locks are looked at again.
const pairPause = 4 * time.Millisecond

// A wait of less than cheap nobody notices. Who waits for longer than brief waits for
// those as well who still have a way to go.
const (
	shortWait = 10 * time.Millisecond
	longWait  = 25 * time.Millisecond
)

// holderPause is for when somebody is in the way who will not let go soon.
const holderPause = 100 * time.Millisecond

// Try tries until the locks have been obtained and the work is done, at most for so
// long, waiting for the first lock no longer than wait in any attempt. It returns
// *TimeoutError when that has passed; then nothing has changed.
func (p *Pairs) Try(ctx context.Context, conn *pgxpool.Conn, pair Pair, wait, long time.Duration) error {
	began := time.Now()
	wait = min(wait, p.bound)
	var blockers []Blocker
	var last error = ErrHeld
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
					p.queue.kill.signalHolder(ctx, conn, signal, b, pair.wants())
				}
			}
		case found.worthTrying(wait):
			attempts++
			err := p.once(ctx, conn, pair, p.first(found), wait)
			if err == nil || !Denied(err) {
				return err
			}
			p.failed++
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

func (p Pair) wants() []Want {
	if p.B.Relation == "" {
		return []Want{p.A}
	}
	return []Want{p.A, p.B}
}

func (p Pair) names() string {
	names := []string{strings.TrimPrefix(p.A.Relation, "ONLY ")}
	if p.B.Relation != "" {
		names = append(names, strings.TrimPrefix(p.B.Relation, "ONLY "))
	}
	return strings.Join(names, " and ")
}

// pairHoldersSQL lists the transactions that are in the way of either lock.
const pairHoldersSQL = `
SELECT bool_or(w.relation = ($1::text[])[1]), bool_or(w.relation <> ($1::text[])[1])` + conflictingSQL + `
GROUP BY l.virtualtransaction`

// pairHolders is who holds the two locks.
type pairHolders struct {
	longHolders  []Blocker // who is not expected to let go
	onlyA, onlyB int
}

// worthTrying reports whether it is the moment for an attempt that waits for so long. A
// cheap one is worth it as soon as all who hold one of the locks hold the other one as
// well: where everybody comes to them in the same order it succeeds.
func (m pairHolders) worthTrying(wait time.Duration) bool {
	switch {
	case m.onlyA == 0 && m.onlyB == 0, wait > longWait:
		return true
	default:
		return wait <= shortWait && (m.onlyA == 0 || m.onlyB == 0)
	}
}

// first is 0 where A is asked for first, and 1 where B is: the one that all who hold the
// other one hold as well.
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

func (p *Pairs) look(ctx context.Context, conn *pgxpool.Conn, pair Pair) (m pairHolders, err error) {
	if m.longHolders, err = p.queue.longHolders(ctx, conn, pair.wants()); err != nil || len(m.longHolders) > 0 || pair.B.Relation == "" {
		return m, err
	}
	relations, modes := arguments(pair.wants())
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

// once is one attempt: it begins with A, or if first is 1 with B.
func (p *Pairs) once(ctx context.Context, conn *pgxpool.Conn, pair Pair, first int, wait time.Duration) error {
	order := pair.wants()
	if first == 1 && len(order) > 1 {
		order[0], order[1] = order[1], order[0]
	}
	statements := []string{boundSQL(wait)}
	for i, w := range order {
		lock := SQL(w.Relation, w.Mode)
		if i > 0 {
			lock += " NOWAIT"
		}
		statements = append(statements, lock)
	}
	held := &hold{pool: p.policy.Pool, pid: conn.Conn().PgConn().PID(), bound: p.policy.Timeout, whole: Work{What: pair.What, Steps: 1}}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := pair.Before(ctx, tx); err != nil {
			return err
		}
		held.begin(ctx)
		if _, err := tx.Exec(ctx, strings.Join(append(statements, pair.SQL...), ";\n")); err != nil {
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
