package preflight

import (
	"context"
	"slices"

	"github.com/repack-go/repack/internal/catalog"
)

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
