package checks

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/strategy"
)

// Find lists what prevents the repack of a table. If materialized views are allowed,
// they do not prevent it, but objects that are joined to them may. t has just been read:
// what it lacks is not looked for. With begins, OtherCapture is one of the checks.
func Find(ctx context.Context, q catalog.Querier, t *catalog.Table, allowed Allowed, begins bool) (reasons []Reason, err error) {
	b, rebuilds := &pgx.Batch{}, allowed.Matviews
	queueTable(b, &reasons, t.OID, allowed, t, nil, begins)
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, err
	}
	var matviews []catalog.Matview
	if rebuilds {
		if matviews, err = catalog.Matviews(ctx, q, t.OID); err != nil {
			return nil, err
		}
	}
	return complete(ctx, q, t.OID, rebuilds, reasons, matviews)
}

// NotCapturing is why a table is refused if the capture triggers of its job are not as they
// should be.
const NotCapturing = "does not capture changes"

// QueueTable adds the checks of a table to b, except those that Complete adds. like is a
// description of the table as it was: see catalog.Queue. It also asks whether changes are
// being captured.
func QueueTable(b *pgx.Batch, reasons *[]Reason, oid uint32, allowed Allowed, like *catalog.Table, link *strategy.Link) {
	queueTable(b, reasons, oid, allowed, like, link, false)
}

// queueTable has the same statement for all callers, so that the server plans it once for a
// connection. Parameters say what is to be looked for: link may be nil.
func queueTable(b *pgx.Batch, reasons *[]Reason, oid uint32, allowed Allowed, like *catalog.Table, link *strategy.Link, begins bool) {
	sql, args := link.NotCapturing(5)
	gone := Check{SQL: sql, Why: NotCapturing}
	other := Check{OtherCapture.SQL + " AND $4", OtherCapture.Why, OtherCapture.Remedy}
	queue(b, reasons, append(always[:len(always):len(always)], other, gone), append([]any{oid, allowed.Matviews, allowed.Published, begins}, args...)...)
	queueExtra(b, reasons, oid, like.Extras())
}

func queueExtra(b *pgx.Batch, reasons *[]Reason, oid uint32, extras catalog.Extras) {
	for _, of := range ofExtras {
		if extras&of.extra != 0 {
			queue(b, reasons, of.checks, oid)
		}
	}
}

// extra runs the checks of extras, in one round trip.
func extra(ctx context.Context, q catalog.Querier, reasons *[]Reason, oid uint32, extras catalog.Extras) error {
	b := &pgx.Batch{}
	queueExtra(b, reasons, oid, extras)
	if b.Len() == 0 {
		return nil
	}
	return q.SendBatch(ctx, b).Close()
}

// Complete completes reasons, which QueueTable has found with the same like. t is the table
// as it is now: Complete runs the checks of the extras that like has not. It says which of
// the objects can be rebuilt. If rebuilding is allowed, it adds the objects that prevent the
// rebuild of the materialized views on the table.
func Complete(ctx context.Context, q catalog.Querier, t, like *catalog.Table, allowed Allowed, reasons []Reason) ([]Reason, error) {
	if err := extra(ctx, q, &reasons, t.OID, t.Extras()&^like.Extras()); err != nil {
		return nil, err
	}
	return complete(ctx, q, t.OID, allowed.Matviews, reasons, t.Matviews)
}

func complete(ctx context.Context, q catalog.Querier, oid uint32, rebuilds bool, reasons []Reason, matviews []catalog.Matview) ([]Reason, error) {
	reasons, err := rebuildable(ctx, q, oid, rebuilds, reasons)
	if err != nil || !rebuilds || len(matviews) == 0 {
		return reasons, err
	}
	b := &pgx.Batch{}
	for _, m := range matviews {
		onMatview := Check{matviewDependentsSQL, fmt.Sprintf("depends on materialized view %s, which is rebuilt", m.Relation.Name), dropIt}
		queue(b, &reasons, append([]Check{onMatview}, matviewChecks...), m.OID, true)
	}
	return reasons, q.SendBatch(ctx, b).Close()
}

const dropIt = "drop it for the time of the repack"

// dependent is an object that would stay tied to the old table.
var dependent = Check{dependentsSQL, "depends on the table and would keep to the old one", dropIt}

// rebuildable adds to the reasons which of the objects that depend on the table can be
// rebuilt, if that helps. It does not help if a materialized view uses only the table's
// row type.
func rebuildable(ctx context.Context, q catalog.Querier, oid uint32, rebuilds bool, reasons []Reason) ([]Reason, error) {
	if rebuilds || !slices.ContainsFunc(reasons, func(r Reason) bool { return r.Why == dependent.Why }) {
		return reasons, nil
	}
	left, err := Look(ctx, q, []Check{dependent}, oid, true)
	for i, reason := range reasons {
		if reason.Why == dependent.Why && !slices.Contains(left, reason) {
			reasons[i].Remedy = dropIt + ", or have it rebuilt with --rebuild-matviews"
		}
	}
	return reasons, err
}

// Look runs all checks in one query, and returns a Reason for each object that they find.
// An object without a name has been dropped since the snapshot of the query; Look ignores
// it.
func Look(ctx context.Context, q catalog.Querier, checks []Check, args ...any) (reasons []Reason, err error) {
	b := &pgx.Batch{}
	queue(b, &reasons, checks, args...)
	return reasons, q.SendBatch(ctx, b).Close()
}

// queue does what Look does, as a part of b. The checks share what is read of the table's
// row type, so that the server plans and reads it once.
func queue(b *pgx.Batch, reasons *[]Reason, checks []Check, args ...any) {
	queries := make([]string, len(checks))
	with := ""
	for i, check := range checks {
		// OFFSET 0 keeps the server from making one query of all these before it plans them.
		queries[i] = fmt.Sprintf("(SELECT %d, x.object::text FROM (%s) x (object) OFFSET 0)", i, check.SQL)
		if strings.Contains(check.SQL, "repack_own") || strings.Contains(check.SQL, "repack_uses") {
			with = "WITH RECURSIVE " + catalog.UsesSQL + "\n"
		}
	}
	b.Queue(with+strings.Join(queries, "\nUNION ALL\n"), args...).Query(func(rows pgx.Rows) error {
		var number int
		var object *string
		_, err := pgx.ForEachRow(rows, []any{&number, &object}, func() error {
			if object != nil {
				*reasons = append(*reasons, Reason{Object: *object, Why: checks[number].Why, Remedy: checks[number].Remedy})
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("look for what is in the way: %w", err)
		}
		return nil
	})
}

// matviewChecks find what cannot be carried over from a materialized view to its
// successor.
var matviewChecks = []Check{
	propertyGraph,
	{
		`SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d
		 WHERE d.deptype IN ('e', 'x') AND d.classid = 'pg_class'::regclass
		 AND  (d.objid = $1 OR d.objid IN (SELECT indexrelid FROM pg_index WHERE indrelid = $1))`,
		"belongs to or depends on an extension, and cannot be rebuilt", "ALTER EXTENSION … DROP, or ALTER … NO DEPENDS ON EXTENSION",
	},
	{
		`SELECT 'security label of ' || pg_describe_object(classoid, objoid, objsubid) FROM pg_seclabel
		 WHERE classoid = 'pg_class'::regclass AND objoid = $1`,
		"is not carried over", "remove it for the time of the repack",
	},
	{
		`SELECT 'index ' || indexrelid::regclass FROM pg_index WHERE indrelid = $1 AND NOT (indisvalid AND indisready AND indislive)`,
		"is invalid, left by a failed CREATE INDEX CONCURRENTLY", "REINDEX INDEX CONCURRENTLY or DROP INDEX CONCURRENTLY",
	},
	{
		`SELECT 'rule _RETURN of ' || ev_class::regclass FROM pg_rewrite r
		 WHERE ev_class = $1 AND (ev_enabled <> 'O' OR obj_description(r.oid, 'pg_rewrite') IS NOT NULL)`,
		"has a comment or a state, which are not carried over", "",
	},
}
