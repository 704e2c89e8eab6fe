package stages

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
)

// transaction is a step of a stage as data: what one transaction does, in order. A run
// carries it out, and a plan prints it. So the order of its statements is written once.
type transaction struct {
	does  string
	locks func(*Planner) []Lock // see Step.Locks; nil: none
	// ofRows is set if it reads and writes many rows; settings are others that it begins
	// with. See Worker.ofRows.
	ofRows   bool
	settings []string
	actions  []action
}

// perform carries t out as a fenced transaction. Waits for locks are bounded by the policy.
// If necessary, it is carried out again.
func (w *Worker) perform(ctx context.Context, t transaction) error {
	return w.transactBy(ctx, t.policy(w), t.do)
}

func (t transaction) policy(w *Worker) lock.Policy {
	if t.ofRows {
		return w.ofRows(t.settings...)
	}
	return w.Locks
}

// do carries t out in tx.
func (t transaction) do(ctx context.Context, tx *lock.Tx) error { return do(ctx, tx, t.actions...) }

// action is one thing that a transaction does. What it needs from the actions before it,
// it takes from variables that they set: so it must not use them before it runs.
type action struct {
	run func(ctx context.Context, tx *lock.Tx) error
	// sql returns the statements for a plan, which reads only what is there before a run.
	// It is nil for what only reads, or only writes to the registry.
	sql func(ctx context.Context, p *Planner) ([]string, error)
}

// do carries actions out in tx.
func do(ctx context.Context, tx pgx.Tx, actions ...action) error {
	bounded, is := tx.(*lock.Tx)
	if !is {
		bounded = &lock.Tx{Tx: tx}
	}
	for _, a := range actions {
		if err := a.run(ctx, bounded); err != nil {
			return err
		}
	}
	return nil
}

// unplanned is an action that a plan leaves out.
func unplanned(run func(ctx context.Context, tx *lock.Tx) error) action { return action{run: run} }

// statements is a list of statements that is known when its turn comes.
type statements func() []string

func (s statements) sql(context.Context, *Planner) ([]string, error) { return s(), nil }

// send sends statements together, in one round trip.
func send(list ...string) action { return sendLate(func() []string { return list }) }

// sendLate is send for statements that depend on what the actions before it have read.
func sendLate(list statements) action {
	return action{
		run: func(ctx context.Context, tx *lock.Tx) error { return execAll(ctx, tx, list()) },
		sql: list.sql,
	}
}

// sendBounded is sendLate for statements that may wait for locks: all waits of the
// transaction together are bounded. See lock.Tx.Do.
func sendBounded(list statements) action {
	return action{
		run: func(ctx context.Context, tx *lock.Tx) error { return doAll(ctx, tx, list()) },
		sql: list.sql,
	}
}

// settle runs lock.Tx.Settle for tables, which are named as LOCK TABLE names them.
func settle(tables statements) action {
	return action{
		run: func(ctx context.Context, tx *lock.Tx) error {
			for _, table := range tables() {
				if err := tx.Settle(ctx, table); err != nil {
					return err
				}
			}
			return nil
		},
		sql: func(context.Context, *Planner) (list []string, err error) {
			for _, table := range tables() {
				list = append(list, lock.SettleSQL(table))
			}
			return list, nil
		},
	}
}

// acquire runs lock.Tx.Lock for tables, one after the other.
func acquire(mode string, tables statements) action {
	return action{
		run: func(ctx context.Context, tx *lock.Tx) error {
			for _, table := range tables() {
				if err := tx.Lock(ctx, table, mode); err != nil {
					return err
				}
			}
			return nil
		},
		sql: func(context.Context, *Planner) (list []string, err error) {
			for _, table := range tables() {
				list = append(list, lock.SQL(table, mode))
			}
			return list, nil
		},
	}
}

// acquireSettled runs settle and acquire for one table.
func acquireSettled(mode string, table func() string) []action {
	one := func() []string { return []string{table()} }
	return []action{settle(one), acquire(mode, one)}
}

// revokeAll runs catalog.RevokeAll for objects that have just been created. A plan expects
// no event trigger, so it prints only what default privileges make necessary.
func revokeAll(made ...catalog.Made) action {
	return action{
		run: func(ctx context.Context, tx *lock.Tx) error { return catalog.RevokeAll(ctx, tx, made...) },
		sql: func(ctx context.Context, p *Planner) ([]string, error) { return p.defaultGrantees(ctx, made) },
	}
}

// print makes a Step of t.
func (p *Planner) print(ctx context.Context, t transaction) (Step, error) {
	s := Step{Does: t.does, Locks: []Lock{}, SQL: []string{}}
	if t.locks != nil {
		s.Locks = slices.Concat(s.Locks, t.locks(p))
	}
	for _, a := range t.actions {
		if a.sql == nil {
			continue
		}
		list, err := a.sql(ctx, p)
		if err != nil {
			return s, fmt.Errorf("%s: %w", t.does, err)
		}
		for _, sql := range list {
			if sql = strings.TrimRight(strings.TrimSpace(sql), ";"); sql != "" {
				s.SQL = append(s.SQL, sql)
			}
		}
	}
	return s, nil
}

// steps makes a Step of each transaction.
func (p *Planner) steps(ctx context.Context, list ...transaction) ([]Step, error) {
	var steps []Step
	for _, t := range list {
		s, err := p.print(ctx, t)
		if err != nil {
			return nil, err
		}
		steps = append(steps, s)
	}
	return steps, nil
}
