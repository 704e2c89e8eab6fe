package steps

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/catalog"
)

// Step is a part of a stage, usually one transaction.
type Step struct {
	Does string `json:"does"`
	// Locks are the strongest locks on each relation that is not the job's own, in the order
	// in which they are acquired. ACCESS SHARE and ROW SHARE are listed only for the table
	// itself.
	Locks []Lock `json:"locks"`
	// SQL leaves out the statements that only read, those that only write to the registry,
	// and the settings of lock_timeout and statement_timeout. Parameters ($1) are blocks.
	SQL []string `json:"sql"`
}

// Lock is a lock on a table, view or sequence. It is held until the transaction of the step
// ends.
type Lock struct {
	Mode     string `json:"mode"`
	Relation string `json:"relation"`
	// Seconds bounds the wait for the lock. All strong locks of one transaction share one
	// bound.
	Seconds float64 `json:"wait_at_most_seconds"`
}

// Planner prints transactions. It knows of the server, and of the role that would run, what
// a plan depends on.
type Planner struct {
	Schema string // of the job's objects
	User   string // the role that would run
	// Exchanged tells that the tables have been exchanged already.
	Exchanged bool

	pool     *pgxpool.Pool
	table    catalog.Name
	bound    time.Duration // on the waits for strong locks of a transaction together
	settle   time.Duration // on SHARE UPDATE EXCLUSIVE, for which the server cancels autovacuum
	patience time.Duration // on a lock that no session waits behind
}

const plannerSQL = `
SELECT current_user::text,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'deadlock_timeout'),
       (SELECT setting::bigint FROM pg_settings WHERE name = 'lock_timeout')`

// NewPlanner returns a planner for the job of w. Set Schema when it is known.
func NewPlanner(ctx context.Context, w *Worker) (*Planner, error) {
	p := &Planner{pool: w.Pool, table: w.Source.Name, Exchanged: w.Job != nil && w.Job.Swapped()}
	var deadlock, patience int64
	if err := p.pool.QueryRow(ctx, plannerSQL).Scan(&p.User, &deadlock, &patience); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	// Package lock computes the bounds in the same way.
	p.bound = min(w.Locks.Timeout, time.Duration(deadlock)*time.Millisecond*4/5)
	p.settle = time.Duration(deadlock)*time.Millisecond + 3*time.Second
	p.patience = time.Duration(patience) * time.Millisecond
	return p, nil
}

// Reading returns the locks of a statement that copies rows or reads the catalog.
func (p *Planner) Reading() []Lock { return []Lock{p.Lock("ACCESS SHARE", p.table)} }

// LockingRows returns the lock of a statement that locks rows FOR SHARE.
func (p *Planner) LockingRows() []Lock { return []Lock{p.Lock("ROW SHARE", p.table)} }

// Stopping returns the lock of StopWriters.
func (p *Planner) Stopping() []Lock { return []Lock{p.Strong("SHARE ROW EXCLUSIVE", p.table)} }

// Lock returns a lock that no session waits behind.
func (p *Planner) Lock(mode string, relation catalog.Name) Lock {
	return Lock{Mode: mode, Relation: relation.String(), Seconds: p.patience.Seconds()}
}

// Strong returns a lock that shares the bound of its transaction.
func (p *Planner) Strong(mode string, relation catalog.Name) Lock {
	return Lock{Mode: mode, Relation: relation.String(), Seconds: p.bound.Seconds()}
}

// Settling returns the lock of lock.Tx.Settle, with its bound.
func (p *Planner) Settling(relation catalog.Name) Lock {
	return Lock{Mode: "SHARE UPDATE EXCLUSIVE", Relation: relation.String(), Seconds: p.settle.Seconds()}
}
