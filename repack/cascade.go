package repack

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/stages/checks"
)

// A cascade makes a key bigint, and first every column that refers to it, or to a column that
// refers to it. Foreign keys between integer and bigint columns are legal in both directions,
// use the indexes and are enforced. So a cascade is a chain of jobs, one for each table, with
// the table of the key last: at no moment is there a value that does not fit somewhere.
//
// The jobs know the table of the key (alter.Request.Group). All are swapped before the first
// is cleaned up, so that all can be reverted.

// member is a table of a cascade, without the table of the key.
type member struct {
	Name    catalog.Name
	Columns []string      // to be made bigint; empty if the job has made them so
	Job     *registry.Job // unfinished; or nil
	Kind    string        // pg_class.relkind
}

// cascade is the group of a table and its members.
type cascade struct {
	*Repack
	name    catalog.Name
	members []member // children first
}

// cascadeOf returns the cascade of the table that v has found: the tables that refer to it, and
// those that have an unfinished job of the cascade.
func (r *Repack) cascadeOf(ctx context.Context, v *visit, refer bool) (*cascade, error) {
	c := &cascade{Repack: r, name: v.name}
	exists, err := r.registryReady(ctx, v.conn, v.name)
	if err != nil {
		return nil, err
	}
	if exists {
		jobs, err := r.registry.JobsOfCascade(ctx, v.conn, v.name)
		if err != nil {
			return nil, err
		}
		for _, j := range jobs {
			c.members = append(c.members, member{Name: j.Table(), Job: j, Kind: "r"})
		}
	}
	if !refer || v.oid == 0 {
		return c, nil
	}
	referring, err := r.referring(ctx, v)
	if err != nil {
		return nil, err
	}
	for _, column := range referring {
		n := slices.IndexFunc(c.members, func(m member) bool { return m.Name == column.Table })
		if n < 0 {
			n, c.members = len(c.members), append(c.members, member{Name: column.Table, Kind: column.Kind})
		}
		c.members[n].Columns = append(c.members[n].Columns, column.Name)
	}
	return c, nil
}

// referring lists the columns of other tables that must be made bigint before the key.
func (r *Repack) referring(ctx context.Context, v *visit) ([]alter.Referring, error) {
	key, err := r.keyColumns(ctx, v)
	if err != nil {
		return nil, err
	}
	all, err := alter.ReadReferring(ctx, v.conn, v.oid, key)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(column alter.Referring) bool { return column.OID == v.oid }), nil
}

// keyColumns returns the names of the columns that are made bigint.
func (r *Repack) keyColumns(ctx context.Context, v *visit) ([]string, error) {
	if len(r.options.BigintColumns) > 0 {
		return alter.Names(r.options.BigintColumns)
	}
	t, err := catalog.Read(ctx, v.conn, v.oid)
	if err != nil {
		return nil, err
	}
	key, _ := t.Key()
	return key.KeyColumns, nil
}

// each returns the Repack of a member.
func (c *cascade) each(m member, until Stage) *Repack {
	r := *c.Repack
	r.member = true
	o := &r.options
	o.Table, o.Until = m.Name.String(), until
	o.ToBigint, o.BigintColumns, o.Cascade, o.Recompress, o.Alter, o.Set, o.Down = false, nil, false, false, nil, nil, nil
	o.ColumnOrder, o.Tablespace, o.IndexTablespace, o.AllowLossy, o.OrderBy = "", "", "", nil, ""
	o.group = c.name.String()
	if m.Job == nil || !m.Job.Swapped() {
		for _, column := range m.Columns {
			o.Alter = append(o.Alter, "ALTER COLUMN "+catalog.Quote(column)+" TYPE bigint")
		}
	}
	if len(o.Alter) == 0 { // the job has its own
		o.NoRevert, o.group = false, ""
	}
	return &r
}

// last returns the Repack of the table of the key.
func (c *cascade) last(until Stage) *Repack {
	r := *c.Repack
	r.member, r.options.Until = true, until
	return &r
}

// errCascade reports that the job is the last one of a cascade.
var errCascade = errors.New("the job is one of a cascade")

// run repacks the members and then the table of the key. Before that it makes sure that none
// of them will be refused.
func (c *cascade) run(ctx context.Context) error {
	var reasons []checks.Reason
	for _, m := range c.members {
		if m.Kind == "p" {
			reasons = append(reasons, checks.Reason{
				Object: "column " + catalog.Quote(m.Columns[0]) + " of " + m.Name.String(), Why: "refers to the key and is narrower, and repack does not alter partitioned tables",
				Remedy: "drop the foreign key, or leave the column as it is with --no-cascade",
			})
		}
	}
	if len(reasons) > 0 {
		return &RefusedError{Table: c.name, Reasons: reasons}
	}
	steps := func(until Stage) error {
		var refused error
		for _, m := range c.members {
			if until == PreValidate && m.Job != nil {
				continue
			}
			var refusal *RefusedError
			err := c.each(m, until).runTable(ctx)
			if until == PreValidate && errors.As(err, &refusal) {
				refused = errors.Join(refused, err)
			} else if err != nil {
				return fmt.Errorf("cascade of %s, table %s: %w", c.name, m.Name, err)
			}
		}
		return errors.Join(refused, c.last(until).runTable(ctx))
	}
	for _, until := range []Stage{PreValidate, Swap, CleanUp} {
		if c.options.Until.Before(until) {
			return nil
		}
		c.options.Logger.Info("cascade", "table", c.name.String(), "tables", len(c.members)+1, "until", until)
		if err := steps(until); err != nil {
			return err
		}
	}
	return nil
}

// planCascade adds to the plan of the key's table what is changed of the others before.
func (r *Repack) planCascade(ctx context.Context, v *visit, plan *Plan) error {
	referring, err := r.referring(ctx, v)
	if err != nil {
		return err
	}
	var first []string
	for _, column := range referring {
		first = append(first, fmt.Sprintf("before, in a job of its own: column %s of %s: becomes bigint", catalog.Quote(column.Name), column.Table))
	}
	plan.Alteration = append(first, plan.Alteration...)
	return nil
}

// noneOfCascade makes sure that a table is not repacked alone while jobs of its cascade are under
// way: one job after the other, the cascade has not come to this table.
func (r *Repack) noneOfCascade(e *stages.Env) error {
	other := r.tenure.cascade
	if r.member || other == nil {
		return nil
	}
	return &UsageError{fmt.Errorf("a cascade of %s is under way: job %d of %s belongs to it; go on with: repack run --table '%[1]s' --to-bigint --cascade"+
		"\n  or go back with: repack revert --table '%[1]s'", e.Source.Name, other.ID, other.Table())}
}

// undo ends the jobs, that of the key's table first: those that have been swapped are reverted,
// and the others reset.
func (c *cascade) undo(ctx context.Context, key *registry.Job) error {
	jobs := slices.Clone(c.members)
	slices.Reverse(jobs)
	if key != nil {
		jobs = append([]member{{Name: c.name, Job: key}}, jobs...)
	}
	if c.resets && key != nil && key.Swapped() {
		return ErrSwapped
	}
	for _, m := range jobs {
		r := *c.Repack
		r.member, r.options.Table = true, m.Name.String()
		inverse := stages.Reset
		if m.Job.Swapped() || m.Job.State == registry.Reverting {
			inverse = stages.Revert
		}
		if err := r.undoTable(ctx, inverse); err != nil {
			return fmt.Errorf("cascade of %s, table %s: %w", c.name, m.Name, err)
		}
	}
	return nil
}
