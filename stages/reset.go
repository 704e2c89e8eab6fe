package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/strategy"
)

// ErrSwapped reports that a job cannot be reset because its shadow is in use.
var ErrSwapped = errors.New("the tables have been swapped: go back with repack revert, or finish with repack run")

// ErrFinishing reports that the old table has begun to miss writes.
var ErrFinishing = errors.New("clean_up has begun, and the old table misses what has been written since: finish with repack run")

// ErrNotSwapped reports that there is no swap to revert.
var ErrNotSwapped = errors.New("the tables have not been swapped: remove the job with repack reset")

// Reset removes every artefact of a job that has not swapped, and leaves the database as it
// was before the job. It may be called again after a failure.
//
// It takes ACCESS EXCLUSIVE on the source to drop our triggers.
func Reset(ctx context.Context, e *Env) error {
	if e.Job.Swapped() && e.Job.State == registry.Finishing {
		return ErrFinishing
	}
	if e.Job.Swapped() {
		return ErrSwapped
	}
	if e.Job.State == registry.Reverting {
		return fmt.Errorf("reset: the job is being reverted: go on with repack revert")
	}
	return e.discard(ctx, registry.Reset)
}

// ending gives the state of a job while it is on the way to the state in which it ends.
var ending = map[registry.State]registry.State{
	registry.Reset: registry.Resetting, registry.Reverted: registry.Reverting,
}

// discard detaches the capture from the source and drops the shadow with everything that
// belongs to it. The source may have been dropped.
func (e *Env) discard(ctx context.Context, end registry.State) error {
	if err := e.mover().HandOver(ctx); err != nil {
		return err
	}
	err := e.Transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		if there, err := e.detachSource(ctx, tx); err != nil || !there {
			return err
		}
		// From here on changes no longer reach the shadow, so the job cannot continue.
		return e.Registry.SetState(ctx, tx, e.Job.ID, e.Runner.Claim, ending[end])
	})
	if err != nil {
		return err
	}
	if err := e.Step(ctx, steps.StepCaptureDropped); err != nil {
		return err
	}
	if end == registry.Reverted {
		if err := e.awaitCalls(ctx); err != nil {
			return err
		}
	}
	return e.Transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		if err := e.dropShadow(ctx, tx); err != nil {
			return err
		}
		return e.Registry.SetState(ctx, tx, e.Job.ID, e.Runner.Claim, end)
	})
}

// detachSource drops our triggers on the source. It returns false if the source has been
// dropped. It takes ACCESS EXCLUSIVE on the source.
func (e *Env) detachSource(ctx context.Context, tx *lock.Tx) (there bool, err error) {
	source, ok, err := nameOf(ctx, tx, e.Job.Source)
	if err != nil || !ok {
		return false, err
	}
	table := source.String()
	if err := tx.Settle(ctx, table); err != nil {
		return true, err
	}
	if err := tx.Lock(ctx, table, "ACCESS EXCLUSIVE"); err != nil {
		return true, err
	}
	statements := strategy.DropTriggersSQL(source)
	if e.Job.Options.RowByRow != "" {
		statements = append(statements, strategy.DropLateTriggersSQL(source)...)
	}
	return true, steps.ExecAll(ctx, tx, statements)
}

// dropShadow drops the shadow with everything that belongs to it.
func (e *Env) dropShadow(ctx context.Context, tx *lock.Tx) error {
	if err := steps.RoomFor(ctx, tx, e.Job.ShadowTable().String(), e.Link.Log.String()); err != nil {
		return err
	}
	if e.Job.Options.RowByRow != "" {
		if err := steps.Do(ctx, tx, e.mover().DropLockFunctions()); err != nil {
			return err
		}
	}
	return steps.Do(ctx, tx, e.builder().DropArtefacts("", append(e.Source.DropTypedSQL(e.Job.ShadowTable()), steps.DropSQL("TABLE", e.Job.ShadowTable().String()))...))
}

const nameSQL = `
SELECT n.nspname, c.relname
FROM   pg_class c
JOIN   pg_namespace n ON n.oid = c.relnamespace
WHERE  c.oid = $1`

// nameOf returns the present name of a table; ok is false if the table has been dropped.
func nameOf(ctx context.Context, q catalog.Querier, oid uint32) (name catalog.Name, ok bool, err error) {
	err = q.QueryRow(ctx, nameSQL, oid).Scan(&name.Schema, &name.Name)
	if errors.Is(err, pgx.ErrNoRows) {
		return name, false, nil
	}
	if err != nil {
		return name, false, fmt.Errorf("look up table %d: %w", oid, err)
	}
	return name, true, nil
}
