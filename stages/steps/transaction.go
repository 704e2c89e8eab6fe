package steps

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
)

// Transaction is a step of a stage as data: what one transaction does, in order. A run
// carries it out, and a plan prints it. So the order of its statements is written once.
type Transaction struct {
	Does  string
	Locks func(*Planner) []Lock // see Step.Locks; nil: none
	// OfRows is set if it reads and writes many rows; Settings are others that it begins
	// with. See Worker.OfRows.
	OfRows   bool
	Settings []string
	Actions  []Action
}

// Perform carries t out as a fenced transaction. Waits for locks are bounded by the policy.
// If necessary, it is carried out again.
func (w *Worker) Perform(ctx context.Context, t Transaction) error {
	return w.TransactBy(ctx, t.Policy(w), t.Do)
}

// Policy returns how the transaction waits for locks, and what it begins with.
func (t Transaction) Policy(w *Worker) lock.Policy {
	if t.OfRows {
		return w.OfRows(t.Settings...)
	}
	return w.Locks
}

// Do carries t out in tx.
func (t Transaction) Do(ctx context.Context, tx *lock.Tx) error { return Do(ctx, tx, t.Actions...) }

// Action is one thing that a transaction does. What it needs from the actions before it,
// it takes from variables that they set: so it must not use them before it runs.
type Action struct {
	Run func(ctx context.Context, tx *lock.Tx) error
	// SQL returns the statements for a plan, which reads only what is there before a run.
	// It is nil for what only reads, or only writes to the registry.
	SQL func(ctx context.Context, p *Planner) ([]string, error)
}

// Do carries actions out in tx.
func Do(ctx context.Context, tx pgx.Tx, actions ...Action) error {
	bounded, is := tx.(*lock.Tx)
	if !is {
		bounded = &lock.Tx{Tx: tx}
	}
	for _, a := range actions {
		if err := a.Run(ctx, bounded); err != nil {
			return err
		}
	}
	return nil
}

// Unplanned is an action that a plan leaves out.
func Unplanned(run func(ctx context.Context, tx *lock.Tx) error) Action { return Action{Run: run} }

// Statements is a list of statements that is known when its turn comes.
type Statements func() []string

// SQL is Action.SQL for statements that a plan knows too.
func (s Statements) SQL(context.Context, *Planner) ([]string, error) { return s(), nil }

// Send sends statements together, in one round trip.
func Send(list ...string) Action { return SendLate(func() []string { return list }) }

// SendLate is Send for statements that depend on what the actions before it have read.
func SendLate(list Statements) Action {
	return Action{
		Run: func(ctx context.Context, tx *lock.Tx) error { return ExecAll(ctx, tx, list()) },
		SQL: list.SQL,
	}
}

// SendBounded is SendLate for statements that may wait for locks: all waits of the
// transaction together are bounded. See lock.Tx.Do.
func SendBounded(list Statements) Action {
	return Action{
		Run: func(ctx context.Context, tx *lock.Tx) error { return DoAll(ctx, tx, list()) },
		SQL: list.SQL,
	}
}

// Settle runs lock.Tx.Settle for tables, which are named as LOCK TABLE names them.
func Settle(tables Statements) Action {
	return Action{
		Run: func(ctx context.Context, tx *lock.Tx) error {
			for _, table := range tables() {
				if err := tx.Settle(ctx, table); err != nil {
					return err
				}
			}
			return nil
		},
		SQL: func(context.Context, *Planner) (list []string, err error) {
			for _, table := range tables() {
				list = append(list, lock.SettleSQL(table))
			}
			return list, nil
		},
	}
}

// Acquire runs lock.Tx.Lock for tables, one after the other.
func Acquire(mode string, tables Statements) Action {
	return Action{
		Run: func(ctx context.Context, tx *lock.Tx) error {
			for _, table := range tables() {
				if err := tx.Lock(ctx, table, mode); err != nil {
					return err
				}
			}
			return nil
		},
		SQL: func(context.Context, *Planner) (list []string, err error) {
			for _, table := range tables() {
				list = append(list, lock.SQL(table, mode))
			}
			return list, nil
		},
	}
}

// AcquireSettled runs Settle and Acquire for one table.
func AcquireSettled(mode string, table func() string) []Action {
	one := func() []string { return []string{table()} }
	return []Action{Settle(one), Acquire(mode, one)}
}

// RevokeAll runs catalog.RevokeAll for objects that have just been created. A plan expects
// no event trigger, so it prints only what default privileges make necessary.
func RevokeAll(made ...catalog.Made) Action {
	return Action{
		Run: func(ctx context.Context, tx *lock.Tx) error { return catalog.RevokeAll(ctx, tx, made...) },
		SQL: func(ctx context.Context, p *Planner) ([]string, error) { return p.defaultGrantees(ctx, made) },
	}
}

// print makes a Step of t.
func (p *Planner) print(ctx context.Context, t Transaction) (Step, error) {
	s := Step{Does: t.Does, Locks: []Lock{}, SQL: []string{}}
	if t.Locks != nil {
		s.Locks = slices.Concat(s.Locks, t.Locks(p))
	}
	for _, a := range t.Actions {
		if a.SQL == nil {
			continue
		}
		list, err := a.SQL(ctx, p)
		if err != nil {
			return s, fmt.Errorf("%s: %w", t.Does, err)
		}
		for _, sql := range list {
			if sql = strings.TrimRight(strings.TrimSpace(sql), ";"); sql != "" {
				s.SQL = append(s.SQL, sql)
			}
		}
	}
	return s, nil
}

// Steps makes a Step of each transaction.
func (p *Planner) Steps(ctx context.Context, list ...Transaction) ([]Step, error) {
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
