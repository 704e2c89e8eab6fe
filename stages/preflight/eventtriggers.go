package preflight

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/shadow"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/strategy"
)

// RefusalOf turns an error from the creation of object, for the repack of table, into a
// *checks.RefusedError, if the error is about the objects. It returns other errors as they are.
func RefusalOf(ctx context.Context, q catalog.Querier, table catalog.Name, object string, err error) error {
	reason, refused := reasonOf(ctx, q, object, "cannot be made: ", err)
	if !refused {
		return err
	}
	return &checks.RefusedError{Table: table, Reasons: []checks.Reason{reason}}
}

// reasonOf tells whether err is a reason to refuse, and returns the Reason. Its text
// begins with what. q must not be in a transaction that has failed.
func reasonOf(ctx context.Context, q catalog.Querier, object, what string, err error) (checks.Reason, bool) {
	var pgErr *pgconn.PgError
	var changed *catalog.ChangedError
	reason := checks.Reason{Object: object}
	where := ""
	switch {
	case errors.As(err, &changed):
		reason.Why = what + changed.Error()
	case errors.As(err, &pgErr) && ofTable(pgErr.Code) && !lock.Denied(err):
		reason, where = unmade(object, what, err, pgErr), pgErr.Where
	default:
		return checks.Reason{}, false
	}
	named, lookErr := withEventTriggers(ctx, q, reason, where)
	if lookErr != nil {
		return reason, true // the reason is given without the names of event triggers
	}
	return named, true
}

const eventTriggersSQL = `
SELECT   e.evtname::text, p.proname::text
FROM     pg_event_trigger e
JOIN     pg_proc p ON p.oid = e.evtfoid
WHERE    e.evtenabled IN ('O', 'A') AND e.evtevent IN ('ddl_command_start', 'ddl_command_end', 'sql_drop', 'table_rewrite')
ORDER BY e.evtname`

// eventTriggers returns all event triggers that fire for DDL. named are those whose
// function appears in where, the context of an error.
func eventTriggers(ctx context.Context, q catalog.Querier, where string) (all, named []string, err error) {
	rows, err := q.Query(ctx, eventTriggersSQL)
	if err != nil {
		return nil, nil, fmt.Errorf("look for event triggers: %w", err)
	}
	var trigger, function string
	_, err = pgx.ForEachRow(rows, []any{&trigger, &function}, func() error {
		all = append(all, catalog.Quote(trigger))
		if strings.Contains(where, function+"(") {
			named = append(named, catalog.Quote(trigger))
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("look for event triggers: %w", err)
	}
	return all, named, nil
}

// withEventTriggers adds to reason the event triggers that may be the cause. If the
// server has told what it was doing, they are those whose function it was in.
func withEventTriggers(ctx context.Context, q catalog.Querier, reason checks.Reason, where string) (checks.Reason, error) {
	all, named, err := eventTriggers(ctx, q, where)
	if err != nil {
		return reason, err
	}
	remedy := "have the event trigger leave schemas named repack_… alone, or ALTER EVENT TRIGGER … DISABLE for the time of the repack"
	switch {
	case len(named) > 0:
		reason.Why += fmt.Sprintf(" (event trigger %s)", strings.Join(named, ", "))
	case len(all) > 0:
		reason.Why += fmt.Sprintf(" (event triggers that may be the cause: %s)", strings.Join(all, ", "))
		remedy = "if it is an event trigger: " + remedy
	default:
		return reason, nil
	}
	if reason.Remedy != "" {
		remedy = reason.Remedy + "; " + remedy
	}
	reason.Remedy = remedy
	return reason, nil
}

// visit moves an empty table with the source's columns to the source's schema and back,
// if there are event triggers: an event trigger may look at the schema. The copy itself
// cannot be moved there, because its indexes have the names of the source's indexes.
func (r *drySwap) visit(ctx context.Context) error {
	triggers, _, err := eventTriggers(ctx, r.tx, "")
	if err != nil || len(triggers) == 0 || len(r.reasons) > 0 {
		return err
	}
	const object = "a table in the schema of the table"
	return r.apart(ctx, object, func(apart *drySwap) error {
		there := *r.copied
		there.Name = catalog.Name{Schema: r.Source.Name.Schema, Name: r.Job.ChangeLog} // no relation in the schema has this name
		from := there.Name.In(r.Job.OldSchema)
		create := []string{fmt.Sprintf("CREATE TABLE %s (LIKE %s)", from, r.copied.Name)}
		if ok, err := apart.try(ctx, catalog.Part{Object: object, SQL: create}); err != nil || !ok {
			return err
		}
		if err := steps.Do(ctx, apart.tx, steps.GiveToOwner(from, func() string { return r.Source.Owner }, nil)); err != nil {
			return err
		}
		was, err := r.readNamed(ctx, apart.tx, from)
		if err != nil {
			return err
		}
		link := r.linkTo(there.Name, r.Job.ShadowTable())
		statements := slices.Concat([]string{shadow.MoveSQL(from, there.Name)}, there.DefaultsSQL(there.Name, false), link.LogCapture().Triggers,
			r.constrainSQL(there.Name), there.PublishSQL(), there.UnpublishSQL(), strategy.DropTriggersSQL(there.Name), there.DefaultsSQL(there.Name, true), []string{shadow.MoveSQL(there.Name, from)})
		if ok, err := apart.try(ctx, catalog.Part{Object: object, SQL: statements}); err != nil || !ok {
			return err
		}
		is, err := r.readNamed(ctx, apart.tx, from)
		if err != nil {
			return err
		}
		return apart.differ(ctx, object, was, is)
	})
}

// constrainSQL adds and drops a constraint, if the exchange drops some: foreign keys of
// the source, or its bound as a partition.
func (r *drySwap) constrainSQL(on catalog.Name) []string {
	if len(r.Source.AllForeignKeys()) == 0 && r.Source.Partition == nil {
		return nil
	}
	return []string{
		fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s CHECK (true)", on, catalog.BoundName),
		fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT %s", on, catalog.BoundName),
	}
}
