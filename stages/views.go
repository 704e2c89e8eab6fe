package stages

import (
	"context"
	"fmt"
	"slices"

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
	e.views = alter.Views{Asked: e.Alteration.Asked.Views}
	if e.Job.Swapped() && e.Alteration.RenamesColumns() { // the texts have the new names
		return nil
	}
	var reasons []checks.Reason
	free, _ := e.Places()
	err := e.TryBy(ctx, e.Locks, func(ctx context.Context, tx *lock.Tx) error {
		now, err := catalog.Read(ctx, tx, e.InUse())
		if err != nil {
			return e.GoneOr(err)
		}
		if e.Job.Swapped() {
			now = e.Alteration.Changed(e.Source, now)
		}
		e.views, reasons, err = e.Alteration.Asked.FindViews(ctx, tx, now, copied, free)
		return err
	})
	if err != nil || len(reasons) == 0 {
		return err
	}
	if e.Job.Swapped() {
		return &checks.RefusedError{Table: e.Source.Name, Reasons: reasons}
	}
	return &steps.DriftError{Table: e.Source.Name, Reasons: reasons}
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
// be created. Under the lock, they must be those that are locked.
func (x *exchanging) lookAtViews(ctx context.Context, tx *lock.Tx) error {
	if x.views.Asked == "" {
		return nil
	}
	now := x.views
	var again []uint32
	if x.reverting() {
		for _, d := range x.table.Dependents {
			if d.Kind == "view" && slices.Contains(x.Alteration.Recreated, d.Name) {
				again = append(again, d.OID)
			}
		}
	}
	lost, err := now.ReadStack(ctx, tx, again)
	if err != nil {
		return err
	}
	if x.locked && (!x.views.Same(x.table, now) || len(lost) > 0) {
		return fmt.Errorf("a view on the table has just been changed: %w", steps.ErrPutOff)
	}
	x.views, x.locked = now, true
	return nil
}

// recreateViews drops views and creates them again, on the table that is in place now.
func (x *exchanging) recreateViews() []steps.Action {
	return []steps.Action{
		steps.SendBounded(func() []string { return catalog.RecreateSQL(x.views.Stack, x.becomes()) }),
		steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error {
			made, err := x.readViews(ctx, tx)
			for _, v := range made {
				x.viewGrants = append(x.viewGrants, v.Grants)
			}
			return err
		}),
		steps.SendBounded(func() []string { return catalog.DressViewsSQL(x.views.Stack, x.viewGrants) }),
		steps.Unplanned(x.viewsParity),
	}
}

func (x *exchanging) readViews(ctx context.Context, tx *lock.Tx) ([]*catalog.Table, error) {
	if len(x.views.Stack) == 0 {
		return nil, nil
	}
	return catalog.ReadViews(ctx, tx, x.views.Stack)
}

// viewsParity compares the views that were created again with what they were. Only the types of
// their columns may differ.
func (x *exchanging) viewsParity(ctx context.Context, tx *lock.Tx) error {
	made, err := x.readViews(ctx, tx)
	if err != nil {
		return err
	}
	for i, v := range made {
		was := *x.views.Stack[i].Relation
		was.Columns = slices.Clone(was.Columns)
		for n := range was.Columns {
			if n < len(v.Columns) {
				was.Columns[n].Type, was.Columns[n].Collation = v.Columns[n].Type, v.Columns[n].Collation
				was.Columns[n].Storage, was.Columns[n].Compression = v.Columns[n].Storage, v.Columns[n].Compression
			}
		}
		// What reads it is in the stack, too, or depends on the table itself.
		differences, err := x.Reprints.Diff(was.WithoutLinks(), v.WithoutLinks())
		if err != nil {
			return err
		}
		if len(differences) > 0 {
			return &steps.ParityError{Table: was.Name, Differences: differences}
		}
	}
	return nil
}

// recreated names the views that the exchange has created again.
func (x *exchanging) recreated() []string {
	names := []string{}
	for _, v := range x.views.Stack {
		names = append(names, v.Relation.Name.String())
	}
	return names
}
