package stages

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/steps"
)

// typedAsMade returns the functions of the row type with the privileges that default
// privileges of the current role give a function, once its owner has it.
func (p *planner) typedAsMade(ctx context.Context) ([]catalog.Typed, error) {
	var made []catalog.Typed
	for _, o := range p.Source.Typed {
		if !o.IsRoutine() {
			continue
		}
		have, err := p.DefaultGrants(ctx, "f", p.User, o.Schema)
		if err != nil {
			return nil, err
		}
		given := func(role string) string {
			if role == p.User {
				return o.Owner
			}
			return role
		}
		o.Grants = nil
		for _, g := range have {
			g.Grantor, g.Grantee = given(g.Grantor), given(g.Grantee)
			if !slices.Contains(o.Grants, g) {
				o.Grants = append(o.Grants, g)
			}
		}
		made = append(made, o)
	}
	return made, nil
}

// dropTyped drops the functions of the row type of a table that no description is known
// of. It does nothing if there is no such table.
func dropTyped(ctx context.Context, q catalog.Querier, name catalog.Name) error {
	var oid uint32
	if err := q.QueryRow(ctx, oidOfSQL, name.String()).Scan(&oid); err != nil {
		return fmt.Errorf("look up %s: %w", name, err)
	}
	if oid == 0 {
		return nil
	}
	t, err := catalog.Read(ctx, q, oid)
	if err != nil {
		return err
	}
	return steps.ExecAll(ctx, q, t.DropTypedSQL(name))
}

// callsWait bounds the wait of awaitCalls. The exchange has waited for older snapshots, so
// the calls that it met are young.
const callsWait = 10 * time.Second

// awaitCalls waits, before the functions of the replaced table's row type are dropped,
// until the snapshots that exist now are gone: a statement that began before the exchange
// may be in the middle of such a function. It does not wait for long, because most
// snapshots belong to other statements.
func (e *Env) awaitCalls(ctx context.Context) error {
	if len(e.Source.Typed) == 0 {
		return nil
	}
	e.Log.Debug(awaitingCalls, "job", e.Job.ID, "at_most", callsWait)
	left, err := e.Snapshots().Present(ctx, min(callsWait, e.SnapshotWait))
	if len(left) > 0 {
		e.Log.Warn("functions of the replaced table are dropped while older statements run", "job", e.Job.ID, "holders", left)
	}
	return err
}

const awaitingCalls = "waiting for statements that may call functions of the replaced table"

// typed creates the functions of the row type for the copy. They must exist before the
// policies and the like that call them. Those of the table first make way, as in the swap:
// where a call names no type, two of them would be ambiguous. Sessions that call them
// notice nothing of it.
func (r *drySwap) typed(ctx context.Context) error {
	if len(r.reasons) > 0 || len(r.Source.Typed) == 0 {
		return nil
	}
	if err := r.Source.TypedIn(ctx, r.tx, r.copied); err != nil {
		return err
	}
	moved := catalog.Part{Object: "functions of the row type", SQL: r.Source.ParkTypedSQL(r.Job.ShadowSchema)}
	if ok, err := r.try(ctx, moved); err != nil || !ok {
		return err
	}
	path := r.Source.TypedPath(r.copied.Name.Schema)
	for _, o := range r.copied.Typed {
		part := o.Create(r.copied.Name)
		part.SQL = catalog.Unchecked(part.SQL)
		if _, err := r.try(ctx, part, path...); err != nil {
			return err
		}
	}
	if len(r.reasons) > 0 {
		return nil
	}
	defaults := catalog.Part{Object: "defaults of the table", SQL: r.copied.DefaultsSQL(r.copied.Name, false)}
	if ok, err := r.try(ctx, defaults, path...); err != nil || !ok {
		return err
	}
	for i, c := range r.copied.Columns { // install does not set them again
		if c.Generated == "" {
			r.copied.Columns[i].Expression = ""
		}
	}
	have, err := catalog.ReadTyped(ctx, r.tx, *r.Job.Shadow)
	if err != nil {
		return err
	}
	_, err = r.try(ctx, catalog.Part{Object: "privileges on functions", SQL: r.copied.TypedGrantsSQL(have)})
	return err
}

// retype moves the functions of the table back, and those of the copy to the copy.
func (r *drySwap) retype(ctx context.Context) error {
	if len(r.reasons) > 0 || len(r.Source.Typed) == 0 {
		return nil
	}
	beside := r.copied.Name.Schema
	statements := append(r.dressed.ParkTypedSQL(beside), r.Source.ReinstateTypedSQL(r.Job.ShadowSchema)...)
	r.dressed.Typed = slices.Clone(r.dressed.Typed)
	for i := range r.dressed.Typed {
		r.dressed.Typed[i].Schema = beside
	}
	_, err := r.try(ctx, catalog.Part{Object: "functions of the row type", SQL: statements})
	return err
}

// untyped reports whether the functions of the row type are not in their place, because
// something was refused in between. Then what calls them cannot be tried.
func (r *drySwap) untyped() bool { return len(r.reasons) > 0 && len(r.Source.Typed) > 0 }
