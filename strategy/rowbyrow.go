package strategy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
)

// rowByRowSQL makes every change of a row to the copy too, at once, in the order of the
// changes and in the same form: an update of the key is an update. It is used while
// foreign keys lead to both tables or from both (see package stages, neighbours.go).
// The server's triggers for foreign keys then find in the copy what they find in the
// table.
//
// No error is caught and no key is logged, because there is no other way. A copy that
// lags behind would cause errors for the application, or its rows would be deleted.
//
// If an UPDATE finds no row with the old key, a cascade of one of the copy's own
// foreign keys has changed the row already.
//
// A TRUNCATE becomes a DELETE, because the tables whose foreign keys reference the copy
// are not locked. Above READ COMMITTED the transaction's snapshot does not show all
// rows: the rest is left to the replay.
const rowByRowSQL = `
#variable_conflict use_column
BEGIN
    IF TG_NAME IN (%[1]s) THEN
        RETURN NULL;
    END IF;%[2]s
    CASE TG_OP
    WHEN 'INSERT' THEN
        INSERT INTO %[3]s (%[4]s) OVERRIDING SYSTEM VALUE VALUES (%[5]s);
    WHEN 'UPDATE' THEN
        UPDATE %[3]s t SET %[6]s WHERE %[7]s;
        IF NOT FOUND THEN
            UPDATE %[3]s t SET %[6]s WHERE %[8]s;
        END IF;
    WHEN 'DELETE' THEN
        DELETE FROM %[3]s t WHERE %[7]s;
    ELSE
        DELETE FROM %[3]s;
        IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
            INSERT INTO %[9]s (truncated) VALUES (true);
        END IF;
    END CASE;
    RETURN NULL;
END
`

// deferSQL defers the copy's deferrable constraints to COMMIT, which is as late as the
// table's can be checked. Between two rows of one statement they may be violated.
const deferSQL = `
    SET CONSTRAINTS %s DEFERRED;`

// rowByRowSettings leaves lock_timeout to the application: the copied row belongs to a
// row that the application has locked in the table.
const rowByRowSettings = `
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off`

// Names that sort after the server's triggers for foreign keys (RI_ConstraintTrigger_…),
// and before the names of most user triggers.
const (
	lateInsertTrigger = "RI_repack_insert"
	lateUpdateTrigger = "RI_repack_update"
	lateDeleteTrigger = "RI_repack_delete"
)

// Triggers that fire before the server's triggers for foreign keys, and after them.
var (
	earlyTriggers = []string{insertTrigger, updateTrigger, deleteTrigger}
	lateTriggers  = []string{lateInsertTrigger, lateUpdateTrigger, lateDeleteTrigger}
)

// RowByRow returns the capture that makes every change to the copy too, in the
// application's statement. Rows says whether it does so before or after the triggers of
// foreign keys. To must have no identity column GENERATED ALWAYS.
//
// Creating the triggers takes SHARE ROW EXCLUSIVE on From until the transaction ends.
func (l *Link) RowByRow() Capture {
	names, ignored := earlyTriggers, []string{keyTrigger}
	if l.Rows == registry.AfterKeys {
		names, ignored = lateTriggers, append(ignored, earlyTriggers...)
	}
	later := ""
	if len(l.Deferrable) > 0 {
		later = fmt.Sprintf(deferSQL, l.deferrable())
	}
	set := list(l.Columns, ", ", func(_ int, m Mapping) string { return catalog.Quote(m.To) + " = " + m.value("NEW") })
	body := fmt.Sprintf(rowByRowSQL, list(ignored, ", ", func(_ int, name string) string { return catalog.Literal(name) }), later,
		l.To, l.toColumns(), l.fromColumns("NEW"), set, l.toIsFrom("t", "OLD"), l.toIsFrom("t", "NEW"), l.Log)
	capture := Capture{Function: fmt.Sprintf(functionSQL, l.Capture, catalog.Literal(body), rowByRowSettings)}
	for i, event := range []string{"INSERT", "UPDATE", "DELETE"} {
		capture.Triggers = append(capture.Triggers, l.trigger(names[i], event, "FOR EACH ROW")...)
	}
	capture.Triggers = append(capture.Triggers, l.trigger(truncateTrigger, "TRUNCATE", "FOR EACH STATEMENT")...)
	return capture
}

// deferrable lists the qualified names of To's deferrable constraints.
func (l *Link) deferrable() string {
	return list(l.Deferrable, ", ", func(_ int, name string) string {
		return catalog.Name{Schema: l.To.Schema, Name: name}.String()
	})
}

// rowByRowTriggers are the names of the triggers of RowByRow.
func (l *Link) rowByRowTriggers() []string {
	names := earlyTriggers
	if l.Rows == registry.AfterKeys {
		names = lateTriggers
	}
	return append(slices.Clone(names), truncateTrigger)
}

// MayBeLate reports whether our row triggers may fire after the server's triggers for
// foreign keys. They may not if a user trigger fires before them: it may change the row
// again, and then ours would see the changes in the wrong order.
func MayBeLate(t *catalog.Table) bool {
	return !slices.ContainsFunc(t.Triggers, func(x catalog.Trigger) bool { return x.Name < lateDeleteTrigger })
}

// DropLateTriggersSQL returns the statements that drop the triggers of RowByRow that
// DropTriggersSQL does not drop. They take ACCESS EXCLUSIVE on the table until the
// transaction ends, and may run again.
func DropLateTriggersSQL(table catalog.Name) []string {
	var statements []string
	for _, name := range lateTriggers {
		statements = append(statements, fmt.Sprintf("DROP TRIGGER IF EXISTS %s ON %s", catalog.Quote(name), table))
	}
	return statements
}

// lockReferredSQL locks the row of the table in use that a row of a neighbour
// references. The server's trigger locks the row of the other table right after that. A
// transaction that changes a row locks the two tables in the same order.
const lockReferredSQL = `
#variable_conflict use_column
DECLARE
    fk ALIAS FOR NEW;
BEGIN
    IF TG_OP = 'UPDATE' AND ROW(%[1]s)::record OPERATOR(pg_catalog.*=) ROW(%[2]s)::record THEN
        RETURN NULL;
    END IF;
    PERFORM 1 FROM ONLY %[3]s pk WHERE %[4]s FOR KEY SHARE OF pk;
    RETURN NULL;
END
`

// LockReferredSQL returns the statements that create a function and a constraint
// trigger, neither of which may exist. When a transaction writes a row of the foreign
// key's table, the trigger locks the referenced row of the table in use: before the
// server's triggers, and as late as the foreign key is checked.
//
// Creating the trigger takes SHARE ROW EXCLUSIVE on the foreign key's table until the
// transaction ends.
func (l *Link) LockReferredSQL(key catalog.ForeignKey, function catalog.Name, trigger string) []string {
	columns := func(alias string) string {
		return list(key.Columns, ", ", func(_ int, c string) string { return alias + "." + catalog.Quote(c) })
	}
	body := fmt.Sprintf(lockReferredSQL, columns("OLD"), columns("NEW"), l.From, strings.Join(key.Conditions, " AND "))
	when := ""
	switch {
	case key.Deferred:
		when = "DEFERRABLE INITIALLY DEFERRED "
	case key.Deferrable:
		when = "DEFERRABLE "
	}
	return []string{
		fmt.Sprintf(functionSQL, function, catalog.Literal(body), rowByRowSettings),
		fmt.Sprintf("REVOKE ALL ON FUNCTION %s() FROM PUBLIC", function),
		fmt.Sprintf("CREATE CONSTRAINT TRIGGER %s AFTER INSERT OR UPDATE OF %s ON %s %sFOR EACH ROW EXECUTE FUNCTION %s()",
			catalog.Quote(trigger), catalog.QuoteAll(key.Columns), key.Table, when, function),
	}
}
