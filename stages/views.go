package stages

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/steps"
)

// viewsFit makes sure, before any lock, that each view on the table in use can be replaced by one
// on copied, or that the user has said what becomes of it. A view may have been created during
// the job.
func (e *Env) viewsFit(ctx context.Context, copied catalog.Name) error {
	if e.Alteration == nil {
		return nil
	}
	var reasons []checks.Reason
	err := e.TryBy(ctx, e.Locks, func(ctx context.Context, tx *lock.Tx) (err error) {
		e.views, reasons, err = e.findViews(ctx, tx, copied)
		return err
	})
	if err != nil || len(reasons) == 0 {
		return err
	}
	if !e.Job.Swapped() {
		return &steps.DriftError{Table: e.Source.Name, Reasons: reasons}
	}
	for i, r := range reasons {
		if r.Object != checks.MissingPrivilege {
			reasons[i].Remedy = "drop it, and create it again after the revert"
		}
	}
	return &checks.RefusedError{Table: e.Source.Name, Reasons: reasons}
}

// findViews looks for the views on the table in use that cannot be replaced by views on copied. tx
// must be rolled back.
func (e *Env) findViews(ctx context.Context, tx pgx.Tx, copied catalog.Name) (v alter.Views, reasons []checks.Reason, err error) {
	free, _ := e.Places()
	now, err := catalog.Read(ctx, tx, e.InUse())
	if err != nil {
		return v, nil, e.GoneOr(err)
	}
	in := alter.In{Table: now, Copied: copied, Schema: free}
	if e.Job.Swapped() {
		in.Again, in.Table = e.Alteration.Again(now), e.Alteration.Changed(e.Source, now)
		if e.Alteration.RenamesColumns() { // the texts have the new names
			in.Copied = copied.In(free)
			if err := steps.ExecAll(ctx, tx, e.Alteration.RenamedLikeSQL(copied, in.Copied)); err != nil {
				return v, nil, fmt.Errorf("make a table with the new names: %w", err)
			}
		}
	}
	v, reasons, err = e.Alteration.FindViews(ctx, tx, in)
	v.All = now.ViewVersions()
	return v, reasons, err
}

// planViews finds the views for the plan of a job that has a shadow. It creates and rolls back what
// findViews does. It returns *steps.DriftError.
func (e *Env) planViews(ctx context.Context) error {
	if e.Alteration == nil || e.Job == nil || e.Job.Swapped() {
		return nil
	}
	var reasons []checks.Reason
	// The sessions of a plan are read-only.
	err := pgx.BeginTxFunc(ctx, e.Pool, pgx.TxOptions{AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		return catalog.Undone(ctx, tx, func(tx pgx.Tx) (err error) {
			e.Alteration.Views, reasons, err = e.findViews(ctx, tx, e.Job.ShadowTable())
			return err
		})
	})
	if err == nil && len(reasons) > 0 {
		return &steps.DriftError{Table: e.Source.Name, Reasons: reasons}
	}
	return err
}

// withViews looks at the views before each exchange.
func (e *Env) withViews(copied catalog.Name, exchange func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := e.viewsFit(ctx, copied); err != nil {
			return err
		}
		return exchange(ctx)
	}
}

// lookAtViews reads the views that are dropped and created again, in an order in which they can
// be created. They must be those that have been found.
func (x *exchanging) lookAtViews(ctx context.Context, tx *lock.Tx) error {
	if x.Alteration == nil {
		return nil
	}
	now := x.views
	var again []uint32
	if x.reverting() {
		again = x.Alteration.Again(x.table)
	}
	err := now.ReadStack(ctx, tx, again)
	if err != nil {
		return err
	}
	if !x.views.Same(x.table, now) || len(now.Stack.Lost) > 0 {
		return fmt.Errorf("a view on the table has just been changed: %w", steps.ErrPutOff)
	}
	x.views = now
	if x.made == nil { // these queries, too, are to be planned when they run under the lock
		if x.made, err = catalog.ReadMade(ctx, tx, now.Stack.Views); err == nil {
			_, err = catalog.ReadWhole(ctx, tx, x.made, now.Stack.Views)
		}
	}
	return err
}

// stack returns the views that are created again, as they must be.
func (x *exchanging) stack() []catalog.View {
	if x.Alteration != nil && x.reverting() {
		return x.views.Restored(x.Alteration.Recreated)
	}
	return x.views.Stack.Views
}

// recreateViews drops views and creates them again, on the table that is in place now.
func (x *exchanging) recreateViews() []steps.Action {
	return []steps.Action{
		steps.SendBounded(func() []string { return catalog.RecreateSQL(x.stack()) }),
		steps.Unplanned(func(ctx context.Context, tx *lock.Tx) (err error) {
			x.made, err = catalog.ReadMade(ctx, tx, x.views.Stack.Views)
			return err
		}),
		steps.SendBounded(func() []string { return catalog.DressViewsSQL(x.stack(), x.made) }),
		steps.Unplanned(x.viewsParity),
	}
}

// viewsParity compares the views that were created again with what they were.
func (x *exchanging) viewsParity(ctx context.Context, tx *lock.Tx) (err error) {
	if x.made, err = catalog.ReadWhole(ctx, tx, x.made, x.views.Stack.Views); err != nil {
		return err
	}
	for i, v := range x.made {
		differences, err := catalog.DifferentViews(x.views.Stack.Views[i], v)
		if err != nil {
			return err
		}
		if len(differences) > 0 {
			return &steps.ParityError{Table: v.Relation.Name, Differences: differences}
		}
	}
	tx.Done(viewSteps * len(x.made))
	return nil
}

// recreated describes the views that the exchange has created again.
func (x *exchanging) recreated() (list []alter.Recreated) {
	for i, v := range x.made {
		list = append(list, alter.Recreated{View: v.Name(), Was: x.views.Stack.Views[i].Texts(), Is: v.Texts()})
	}
	return list
}
