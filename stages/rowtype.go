package stages

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
)

// typedGrantsSQLOf returns the statements that give the functions of the new table's row
// type their privileges. Default privileges may have given them others.
func (e *Env) typedGrantsSQLOf(ctx context.Context, q catalog.Querier, source *catalog.Table) ([]string, error) {
	if len(source.Typed) == 0 {
		return nil, nil
	}
	have, err := catalog.ReadTyped(ctx, q, *e.Job.Shadow)
	if err != nil {
		return nil, err
	}
	return source.TypedGrantsSQL(have), nil
}

// typedGrantsSQL plans typedGrantsSQLOf. It starts from the grants that default privileges
// of the current role give a function, once its owner has it.
func (p *planner) typedGrantsSQL(ctx context.Context) ([]string, error) {
	var made []catalog.Typed
	for _, o := range p.Source.Typed {
		if !o.IsRoutine() {
			continue
		}
		have, err := defaultGrants(ctx, p.Pool, "f", p.user, o.Schema)
		if err != nil {
			return nil, err
		}
		given := func(role string) string {
			if role == p.user {
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
	return p.Source.TypedGrantsSQL(made), nil
}

// alteredMeanwhile returns err, as ErrPutOff if another session has just altered a
// function that the exchange alters. The server reports this as an internal error ("tuple
// concurrently updated").
func alteredMeanwhile(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InternalError {
		return fmt.Errorf("%w: an object has just been altered (%s)", ErrPutOff, pgErr.Message)
	}
	return err
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
	return execAll(ctx, q, t.DropTypedSQL(name))
}

// typed creates the functions of the row type for the copy, beside those of the table.
// They must exist before the policies and the like that call them. Where only the result
// is a row, the function of the table has to make way: that is tried apart.
func (r *drySwap) typed(ctx context.Context) error {
	if len(r.reasons) > 0 || len(r.Source.Typed) == 0 {
		return nil
	}
	objects, err := r.Source.TypedIn(ctx, r.tx)
	if err != nil {
		return err
	}
	path := r.Source.TypedPath(r.copied.Name.Schema)
	r.copied.Typed = []catalog.Typed{}
	for _, o := range objects {
		part := o.Create(r.copied.Name)
		part.SQL = catalog.Unchecked(part.SQL)
		if o.TakesRow() {
			if _, err := r.try(ctx, part, path...); err != nil {
				return err
			}
			r.copied.Typed = append(r.copied.Typed, o)
			continue
		}
		err := r.apart(ctx, part.Object, func(apart *drySwap) error {
			part.SQL = append([]string{o.MoveSQL(r.copied.Name, o.Schema, r.Job.ShadowSchema)}, part.SQL...)
			_, err := apart.try(ctx, part, path...)
			return err
		})
		if err != nil {
			return err
		}
	}
	if len(r.reasons) > 0 {
		return nil
	}
	grants, err := r.typedGrantsSQLOf(ctx, r.tx, r.copied)
	if err != nil {
		return err
	}
	_, err = r.try(ctx, catalog.Part{Object: "privileges on functions", SQL: grants})
	return err
}
