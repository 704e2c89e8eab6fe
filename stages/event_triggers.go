package stages

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
)

// RefusalOf makes a *RefusedError of an error that has come of making object for the
// repack of a table, where that is about the objects, and leaves others as they are.
func RefusalOf(ctx context.Context, q catalog.Querier, table catalog.Name, object string, err error) error {
	reason, refused := reasonOf(ctx, q, object, "cannot be made: ", err)
	if !refused {
		return err
	}
	return &RefusedError{Table: table, Reasons: []Reason{reason}}
}

// reasonOf tells whether err is a reason to refuse, and which: what begins the words
// for it. q must not be in a transaction that has failed.
func reasonOf(ctx context.Context, q catalog.Querier, object, what string, err error) (Reason, bool) {
	var pgErr *pgconn.PgError
	var changed *catalog.ChangedError
	reason := Reason{Object: object}
	where := ""
	switch {
	case errors.As(err, &changed):
		reason.Why = what + changed.Error()
	case errors.As(err, &pgErr) && ofTable(pgErr.Code) && !lock.Denied(err):
		reason, where = unmade(object, what, err, pgErr), pgErr.Where
	default:
		return Reason{}, false
	}
	named, lookErr := withEventTriggers(ctx, q, reason, where)
	if lookErr != nil {
		return reason, true // it is told without their names
	}
	return named, true
}

const eventTriggersSQL = `
SELECT   e.evtname::text, p.proname::text
FROM     pg_event_trigger e
JOIN     pg_proc p ON p.oid = e.evtfoid
WHERE    e.evtenabled IN ('O', 'A') AND e.evtevent IN ('ddl_command_start', 'ddl_command_end', 'sql_drop', 'table_rewrite')
ORDER BY e.evtname`

// eventTriggers are the event triggers that fire, and those of them whose function
// where, the context of an error, tells of.
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

// withEventTriggers names the event triggers that may be the cause: where the
// server has told what it was doing, those whose function it was in.
func withEventTriggers(ctx context.Context, q catalog.Querier, reason Reason, where string) (Reason, error) {
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
