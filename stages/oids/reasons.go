package oids

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/repack-go/repack/stages/checks"
)

// letGo says how to take a table out of an extension and put it in again.
var letGo = map[string]string{
	"pglogical": "before: SELECT pglogical.replication_set_remove_table(set_name, table), after: SELECT pglogical.replication_set_add_table(set_name, table, false), " +
		"with writes stopped in between, which would not be replicated",
	"periods": "before: SELECT periods.drop_system_versioning(table), periods.drop_system_time_period(table), drop_period, drop_unique_key, drop_foreign_key " +
		"as there are such, after: the functions add_… of the same names",
	"bdr":         "before: SELECT bdr.replication_set_remove_table(table), after: SELECT bdr.replication_set_add_table(table)",
	"timescaledb": "hypertables and their chunks are reorganized with SELECT reorder_chunk(…)",
	"citus":       "before: SELECT undistribute_table(table), after: SELECT create_distributed_table(table, column)",
}

const letGoElsewhere = "take the table out of it with the functions that the extension has, and put it in again after the repack"

// rewriteRow is about how long it takes to update a row, with its indexes.
const rewriteRow = 30 * time.Microsecond

// Reasons returns the reasons to refuse. One is a column that holds such OIDs and is not
// to be rewritten. Another is a column that is to be rewritten and cannot be.
func (f *Found) Reasons() []checks.Reason {
	var reasons []checks.Reason
	for _, h := range f.held {
		c := h.column
		named := f.rewrites(c)
		switch {
		case named:
			reasons = append(reasons, f.unwritable(h)...)
		case h.rows > 0 && !f.Ignore:
			reasons = append(reasons, f.kept(h))
		}
	}
	for _, c := range f.slow {
		if f.rewrites(c) {
			reasons = append(reasons, checks.Reason{
				Object: "column " + c.Flag, Why: fmt.Sprintf("cannot be rewritten with --update-oid: to look through it takes more than %s", searchTime),
				Remedy: "CREATE INDEX CONCURRENTLY on the column, or leave it with --ignore-oid",
			})
		}
	}
	for _, trigger := range f.arguments {
		if !f.Ignore {
			reasons = append(reasons, checks.Reason{
				Object: trigger, Why: "has in its arguments the OID of the table or of what belongs to it, which changes",
				Remedy: "drop the trigger for the time of the repack and create it with the new OID, or have its function use TG_RELID; to leave it: --ignore-oid",
			})
		}
	}
	return reasons
}

// kept returns the reason to refuse a column that holds such OIDs.
func (f *Found) kept(h held) checks.Reason {
	c := h.column
	what := fmt.Sprintf("holds the OID of %s in %s, and that OID changes", f.describe(h.oids), rowCount(h.rows))
	switch {
	case c.Extension != "":
		advice, ok := letGo[c.Extension]
		if !ok {
			advice = letGoElsewhere
		}
		return checks.Reason{
			Object: "extension " + c.Extension, Why: fmt.Sprintf("keeps the table by its OID and would lose it: column %s %s", c.Flag, what),
			Remedy: advice + "; to leave it: --ignore-oid",
		}
	case c.Kind == "m":
		return checks.Reason{Object: "column " + c.Flag, Why: what, Remedy: "leave it with --ignore-oid and REFRESH MATERIALIZED VIEW after the repack"}
	case c.Fixed != "" || f.rebuilt(h.oids):
		return checks.Reason{Object: "column " + c.Flag, Why: what, Remedy: "delete those values for the time of the repack, or leave them with --ignore-oid"}
	}
	return checks.Reason{Object: "column " + c.Flag, Why: what, Remedy: fmt.Sprintf("rewrite it with --update-oid '%s', or leave it with --ignore-oid", strings.ReplaceAll(c.Flag, "'", `'\''`))}
}

// unwritable returns the reasons why a named column cannot be rewritten.
func (f *Found) unwritable(h held) []checks.Reason {
	c := h.column
	var why, remedy string
	takes := h.took + time.Duration(h.rows)*rewriteRow
	switch {
	case c.Extension != "":
		return []checks.Reason{f.kept(h)}
	case c.Fixed != "":
		why, remedy = c.Fixed, "delete those values for the time of the repack, or leave them with --ignore-oid"
	case f.rebuilt(h.oids):
		why, remedy = "it holds the OID of a materialized view, which is rebuilt later", "leave it with --ignore-oid, and correct it after the repack"
	case !c.Writable:
		why, remedy = "the privilege is missing", fmt.Sprintf("GRANT UPDATE ON TABLE %s TO the role", c.table())
	case takes > f.Timeout:
		why = fmt.Sprintf("that would take about %d ms of the exchange, which may take %d ms", takes.Milliseconds(), f.Timeout.Milliseconds())
		remedy = "CREATE INDEX CONCURRENTLY on the column, raise --lock-timeout, or leave it with --ignore-oid and rewrite it by yourself"
	default:
		return nil
	}
	return []checks.Reason{{Object: "column " + c.Flag, Why: "cannot be rewritten with --update-oid: " + why, Remedy: remedy}}
}

func (f *Found) rebuilt(oids []uint32) bool {
	return slices.ContainsFunc(f.objects, func(o changing) bool { return o.Rebuilt && slices.Contains(oids, o.OID) })
}

// shownObjects is how many objects a reason names at most.
const shownObjects = 3

func (f *Found) describe(oids []uint32) string {
	var shown []string
	for _, o := range f.objects {
		if slices.Contains(oids, o.OID) && !slices.Contains(shown, o.Description) {
			shown = append(shown, o.Description)
		}
	}
	if n := len(shown); n > shownObjects {
		shown = append(shown[:shownObjects], fmt.Sprintf("%d more", n-shownObjects))
	}
	return strings.Join(shown, ", ")
}

func rowCount(n int64) string {
	if n == 1 {
		return "1 row"
	}
	return fmt.Sprintf("%d rows", n)
}

// Unsearched says what was not searched, a line for each reason.
func (f *Found) Unsearched() []string {
	lines := []string{}
	for _, why := range slices.Sorted(maps.Keys(f.unsearched)) {
		lines = append(lines, strings.Join(f.unsearched[why], ", ")+": "+why)
	}
	return lines
}

// Tell logs what will happen to the OIDs that are stored.
func (f *Found) Tell(log *slog.Logger) {
	for _, h := range f.held {
		switch c := h.column; {
		case f.rewrites(c):
			log.Info("OIDs are rewritten at the swap", "column", c.Flag, "rows", h.rows, "fires_triggers", c.Triggered)
		case h.rows > 0:
			log.Warn("OIDs are left as they are, and mean nothing after clean_up", "column", c.Flag, "rows", h.rows)
		}
	}
	if f.Ignore {
		for _, trigger := range f.arguments {
			log.Warn("OIDs are left as they are, and mean nothing after clean_up", "arguments", trigger)
		}
	}
	for _, why := range slices.Sorted(maps.Keys(f.unsearched)) {
		log.Warn("not searched for OIDs that change", "columns", f.unsearched[why], "why", why)
	}
}
