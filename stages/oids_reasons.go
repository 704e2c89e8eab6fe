package stages

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
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

// oidReasons returns the reasons to refuse. One is a column that holds such OIDs and is not
// to be rewritten. Another is a column that is to be rewritten and cannot be.
func (e *Env) oidReasons(s *oidSearch) []Reason {
	var reasons []Reason
	for _, h := range s.held {
		c := h.column
		named := slices.Contains(e.rewritten(), c.key())
		switch {
		case named:
			reasons = append(reasons, e.unwritable(s, h)...)
		case h.rows > 0 && !e.ignoresOIDs():
			reasons = append(reasons, s.kept(h))
		}
	}
	for _, c := range s.slow {
		if slices.Contains(e.rewritten(), c.key()) {
			reasons = append(reasons, Reason{
				Object: "column " + c.Flag, Why: fmt.Sprintf("cannot be rewritten with --update-oid: to look through it takes more than %s", oidSearchTime),
				Remedy: "CREATE INDEX CONCURRENTLY on the column, or leave it with --ignore-oid",
			})
		}
	}
	for _, trigger := range s.arguments {
		if !e.ignoresOIDs() {
			reasons = append(reasons, Reason{
				Object: trigger, Why: "has in its arguments the OID of the table or of what belongs to it, which changes",
				Remedy: "drop the trigger for the time of the repack and create it with the new OID, or have its function use TG_RELID; to leave it: --ignore-oid",
			})
		}
	}
	return reasons
}

// kept returns the reason to refuse a column that holds such OIDs.
func (s *oidSearch) kept(h held) Reason {
	c := h.column
	what := fmt.Sprintf("holds the OID of %s in %s, and that OID changes", s.describe(h.oids), rowCount(h.rows))
	switch {
	case c.Extension != "":
		advice, ok := letGo[c.Extension]
		if !ok {
			advice = letGoElsewhere
		}
		return Reason{
			Object: "extension " + c.Extension, Why: fmt.Sprintf("keeps the table by its OID and would lose it: column %s %s", c.Flag, what),
			Remedy: advice + "; to leave it: --ignore-oid",
		}
	case c.Kind == "m":
		return Reason{Object: "column " + c.Flag, Why: what, Remedy: "leave it with --ignore-oid and REFRESH MATERIALIZED VIEW after the repack"}
	case c.Fixed != "" || s.rebuilt(h.oids):
		return Reason{Object: "column " + c.Flag, Why: what, Remedy: "delete those values for the time of the repack, or leave them with --ignore-oid"}
	}
	return Reason{Object: "column " + c.Flag, Why: what, Remedy: fmt.Sprintf("rewrite it with --update-oid '%s', or leave it with --ignore-oid", strings.ReplaceAll(c.Flag, "'", `'\''`))}
}

// unwritable returns the reasons why a named column cannot be rewritten.
func (e *Env) unwritable(s *oidSearch, h held) []Reason {
	c := h.column
	var why, remedy string
	takes := h.took + time.Duration(h.rows)*rewriteRow
	switch {
	case c.Extension != "":
		return []Reason{s.kept(h)}
	case c.Fixed != "":
		why, remedy = c.Fixed, "delete those values for the time of the repack, or leave them with --ignore-oid"
	case s.rebuilt(h.oids):
		why, remedy = "it holds the OID of a materialized view, which is rebuilt later", "leave it with --ignore-oid, and correct it after the repack"
	case !c.Writable:
		why, remedy = "the privilege is missing", fmt.Sprintf("GRANT UPDATE ON TABLE %s TO the role", c.table())
	case takes > e.Locks.Timeout:
		why = fmt.Sprintf("that would take about %d ms of the exchange, which may take %d ms", takes.Milliseconds(), e.Locks.Timeout.Milliseconds())
		remedy = "CREATE INDEX CONCURRENTLY on the column, raise --lock-timeout, or leave it with --ignore-oid and rewrite it by yourself"
	default:
		return nil
	}
	return []Reason{{Object: "column " + c.Flag, Why: "cannot be rewritten with --update-oid: " + why, Remedy: remedy}}
}

func (s *oidSearch) rebuilt(oids []uint32) bool {
	return slices.ContainsFunc(s.objects, func(o changing) bool { return o.Rebuilt && slices.Contains(oids, o.OID) })
}

// shownObjects is how many objects a reason names at most.
const shownObjects = 3

func (s *oidSearch) describe(oids []uint32) string {
	var shown []string
	for _, o := range s.objects {
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

// unsearchedOIDs says what was not searched, a line for each reason.
func (s *oidSearch) unsearchedOIDs() []string {
	lines := []string{}
	for _, why := range slices.Sorted(maps.Keys(s.unsearched)) {
		lines = append(lines, strings.Join(s.unsearched[why], ", ")+": "+why)
	}
	return lines
}

// tellOIDs logs what will happen to the OIDs that are stored.
func (e *Env) tellOIDs(s *oidSearch) {
	for _, h := range s.held {
		switch c := h.column; {
		case slices.Contains(e.rewritten(), c.key()):
			e.Log.Info("OIDs are rewritten at the swap", "column", c.Flag, "rows", h.rows, "fires_triggers", c.Triggered)
		case h.rows > 0:
			e.Log.Warn("OIDs are left as they are, and mean nothing after clean_up", "column", c.Flag, "rows", h.rows)
		}
	}
	if e.ignoresOIDs() {
		for _, trigger := range s.arguments {
			e.Log.Warn("OIDs are left as they are, and mean nothing after clean_up", "arguments", trigger)
		}
	}
	for _, why := range slices.Sorted(maps.Keys(s.unsearched)) {
		e.Log.Warn("not searched for OIDs that change", "columns", s.unsearched[why], "why", why)
	}
}
