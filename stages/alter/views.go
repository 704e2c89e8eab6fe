package alter

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/checks"
)

// What becomes of a view that returns a column which gets another type. PostgreSQL cannot
// replace such a view.
const (
	// RecreateViews drops it and creates it again, with all views that read it.
	RecreateViews = "recreate"
	// CastViews casts its columns to the types that they have.
	CastViews = "cast"
)

// Views says which views cannot be replaced when the table is, and what becomes of them.
type Views struct {
	Asked   string // RecreateViews, CastViews, or empty: refused
	Retyped []catalog.RetypedView
	// Stack are those that are dropped and created again.
	Stack []catalog.View
}

// FindViews finds the views on t that cannot be replaced by views on copied, a table of the same
// name in another schema. They are tried in schema. reasons say which of them are in the way.
func (r Request) FindViews(ctx context.Context, tx pgx.Tx, t *catalog.Table, copied catalog.Name, schema string) (v Views, reasons []checks.Reason, err error) {
	v.Asked = r.Views
	if v.Retyped, err = t.RetypedViews(ctx, tx, copied, schema); err != nil {
		return v, nil, err
	}
	for _, view := range v.Retyped {
		if reason, refused := v.refuses(view); refused {
			reasons = append(reasons, reason)
		}
	}
	if len(reasons) > 0 || r.Views != RecreateViews {
		return v, reasons, nil
	}
	lost, err := v.ReadStack(ctx, tx, nil)
	for _, l := range lost {
		reasons = append(reasons, checks.Reason{
			Object: l.Object, Why: "depends on view " + l.View + ", which would be dropped and created again",
			Remedy: "drop it for the time of the repack, or use --views " + CastViews,
		})
	}
	return v, reasons, err
}

func (v Views) refuses(view catalog.RetypedView) (checks.Reason, bool) {
	r := checks.Reason{Object: "view " + view.View, Remedy: "drop it for the time of the repack"}
	switch {
	case view.Why != "":
		r.Why = "would not work on the other table: " + view.Why
		return r, true
	case v.Asked == "":
		c := view.Retyped()
		r.Why = fmt.Sprintf("its column %s would be %s and not %s, and PostgreSQL cannot replace a view by one with another type", catalog.Quote(c.Name), c.Is, c.Was)
		r.Remedy = fmt.Sprintf("use --views %s (it is dropped and created again) or --views %s (its column stays %s)", RecreateViews, CastViews, c.Was)
		return r, true
	case v.Asked == CastViews && view.Updatable:
		r.Why = "rows can be written through it, and could not be if its columns were cast"
		r.Remedy = "use --views " + RecreateViews
		return r, true
	}
	return r, false
}

// ReadStack reads the views that are dropped and created again: those of Retyped, and besides
// them those of others, which have been created again before. lost are objects that would be
// lost.
func (v *Views) ReadStack(ctx context.Context, q catalog.Querier, others []uint32) (lost []catalog.Stacked, err error) {
	if v.Asked != RecreateViews {
		return nil, nil
	}
	roots := others
	for _, view := range v.Retyped {
		roots = append(roots, view.OID)
	}
	if v.Stack, err = catalog.ReadStack(ctx, q, roots); err != nil || len(v.Stack) == 0 {
		return nil, err
	}
	return catalog.ReadStacked(ctx, q, v.Stack)
}

// Installed returns t with the views that the server can replace. Some of them are cast. Those that
// are dropped and created again are left out.
func (v Views) Installed(t *catalog.Table) *catalog.Table {
	c := *t
	c.Dependents = nil
	for _, d := range t.Dependents {
		switch view, is := v.retyped(d); {
		case d.Kind == "view" && v.stacked(d.OID):
		case is && v.Asked == CastViews:
			c.Dependents = append(c.Dependents, d.Cast(view))
		default:
			c.Dependents = append(c.Dependents, d)
		}
	}
	return &c
}

// stacked reports whether a view is dropped and created again.
func (v Views) stacked(oid uint32) bool {
	return slices.ContainsFunc(v.Stack, func(s catalog.View) bool { return s.OID == oid })
}

func (v Views) retyped(d catalog.Dependent) (catalog.RetypedView, bool) {
	for _, view := range v.Retyped {
		if d.Kind == "view" && d.OID == view.OID {
			return view, true
		}
	}
	return catalog.RetypedView{}, false
}

// Same reports whether the views are still what they were when they were found.
func (v Views) Same(t *catalog.Table, now Views) bool {
	for _, d := range t.Dependents {
		if view, is := v.retyped(d); is && !d.SameQuery(view) {
			return false
		}
	}
	if len(v.Stack) != len(now.Stack) {
		return false
	}
	for i, s := range v.Stack {
		if now.Stack[i].OID != s.OID {
			return false
		}
	}
	return true
}

// Lines describes what becomes of the views, a view on each line.
func (v Views) Lines() (lines []string) {
	for _, view := range v.Retyped {
		c := view.Retyped()
		if v.Asked == CastViews {
			lines = append(lines, fmt.Sprintf("view %s: column %s stays %s, by a cast", view.View, catalog.Quote(c.Name), c.Was))
		} else {
			lines = append(lines, fmt.Sprintf("view %s: dropped and created again; column %s was %s, is %s", view.View, catalog.Quote(c.Name), c.Was, c.Is))
		}
	}
	for _, s := range v.Stack {
		if !slices.ContainsFunc(v.Retyped, func(view catalog.RetypedView) bool { return view.OID == s.OID }) {
			lines = append(lines, fmt.Sprintf("view %s: dropped and created again", s.Relation.Name))
		}
	}
	return lines
}
