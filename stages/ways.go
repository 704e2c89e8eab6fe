package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/steps"
)

// StrandedError is a failure after the tables have been exchanged. It says where the job
// stands, and which commands continue and which go back.
type StrandedError struct {
	Table catalog.Name
	State registry.State
	Err   error
}

func (e *StrandedError) Error() string {
	const (
		exchanged = "the tables have been exchanged, and the new one is in use; remove the cause and continue with repack run --table '%[1]s', or go back with repack revert --table '%[1]s'"
		finishing = "clean_up has begun, and there is no way back; remove the cause and finish with repack run --table '%[1]s'"
		reverting = "the old table is in its place again; remove the cause and finish with repack revert --table '%[1]s'"
	)
	ways := exchanged
	switch e.State {
	case registry.Finishing:
		ways = finishing
	case registry.Reverting:
		ways = reverting
	}
	return fmt.Sprintf("%v\n%s", e.Err, fmt.Sprintf(ways, e.Table))
}

// Unwrap returns the failure itself.
func (e *StrandedError) Unwrap() error { return e.Err }

// stranded adds to err where the job stands, if the tables have been exchanged.
func (e *Env) stranded(err error) error {
	var drift *RevertDriftError
	var gone *steps.DriftError
	var unfit *alter.UnfitError
	var refused *checks.RefusedError
	if errors.As(err, &drift) || errors.As(err, &refused) || errors.As(err, &unfit) || errors.As(err, &gone) && gone.Swapped { // it says what to do
		return err
	}
	switch {
	case e.Job.Swapped(), e.Job.State == registry.Reverting:
		return &StrandedError{Table: e.Job.Table(), State: e.Job.State, Err: err}
	default:
		return err
	}
}

// tryDisposal drops the old table and rolls back, before clean_up makes revert impossible.
// Something may prevent the drop, for example a view that a user has created on the table,
// or an event trigger that fails. This shows it while revert is still possible. It takes
// ACCESS EXCLUSIVE on the old table, which only repack needs by then.
func (e *Env) tryDisposal(ctx context.Context) error {
	return e.TryBy(ctx, e.Locks, func(ctx context.Context, tx *lock.Tx) error {
		return steps.ExecAll(ctx, tx, e.builder().DisposeSQL())
	})
}

// newThere reports whether the new table still exists. If the application has dropped it,
// only clean_up is left to do.
func (e *Env) newThere(ctx context.Context, q catalog.Querier) (bool, error) {
	_, there, err := nameOf(ctx, q, *e.Job.Shadow)
	return there, err
}
