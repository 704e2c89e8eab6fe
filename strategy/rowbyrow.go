package strategy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
)

// While foreign keys join both tables to the same neighbours (see package stages,
// neighbours.go), every change of a row is made to the copy as well, at once, in the
// order of the changes, and as it was made: an update of the key is an update. The
// server's own triggers then find in the copy what they find in the table. There is
// no other way to fall back on, as a copy that lags would be the application's
// error, or have its rows deleted; so nothing is caught, and nothing is logged.
//
// An update that finds no row has come after a cascade of one of the copy's own
// keys, which has changed the row already.
//
// A TRUNCATE deletes, as the neighbours with keys to the copy are not locked. Where
// the snapshot is one of the transaction it does not see all rows: those are left to
// the replay.
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

// As a constraint of the copy that can be deferred may be violated between two rows
// of a statement, it is checked at COMMIT, as late as the table's can be.
const deferSQL = `
    SET CONSTRAINTS %s DEFERRED;`

// The application's lock timeout is in force: the row is one that it has locked in
// the table.
const rowByRowSettings = `
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off`

// Names that sort behind those of the server's triggers (RI_ConstraintTrigger_…),
// and before those that most applications give to theirs.
const (
	lateInsertTrigger = "RI_repack_insert"
	lateUpdateTrigger = "RI_repack_update"
	lateDeleteTrigger = "RI_repack_delete"
)

var (
	earlyTriggers = []string{insertTrigger, updateTrigger, deleteTrigger}
	lateTriggers  = []string{lateInsertTrigger, lateUpdateTrigger, lateDeleteTrigger}
)

// RowByRow makes every change to the copy as well, in the application's statement,
// before the triggers of foreign keys or after them, as Rows says. To must have no
// identity column GENERATED ALWAYS. The triggers take SHARE ROW EXCLUSIVE on From.
func (l *Link) RowByRow() Capture {
	names, ignored := earlyTriggers, []string{keyTrigger}
	if l.Rows == registry.AfterKeys {
		names, ignored = lateTriggers, append(ignored, earlyTriggers...)
	}
	later := ""
	if len(l.Deferrable) > 0 {
		later = fmt.Sprintf(deferSQL, l.deferrable())
	}
	set := list(l.Columns, ", ", func(_ int, m Mapping) string { return catalog.Quote(m.To) + " = NEW." + catalog.Quote(m.From) })
	body := fmt.Sprintf(rowByRowSQL, list(ignored, ", ", func(_ int, name string) string { return catalog.Literal(name) }), later,
		l.To, l.toColumns(), l.fromColumns("NEW"), set, l.toIsFrom("t", "OLD"), l.toIsFrom("t", "NEW"), l.Log)
	capture := Capture{Function: fmt.Sprintf(functionSQL, l.Capture, catalog.Literal(body), rowByRowSettings)}
	for i, event := range []string{"INSERT", "UPDATE", "DELETE"} {
		capture.Triggers = append(capture.Triggers, l.trigger(names[i], event, "FOR EACH ROW")...)
	}
	capture.Triggers = append(capture.Triggers, l.trigger(truncateTrigger, "TRUNCATE", "FOR EACH STATEMENT")...)
	return capture
}

func (l *Link) deferrable() string {
	return list(l.Deferrable, ", ", func(_ int, name string) string {
		return catalog.Name{Schema: l.To.Schema, Name: name}.String()
	})
}

// rowByRowTriggers are those of RowByRow.
func (l *Link) rowByRowTriggers() []string {
	names := earlyTriggers
	if l.Rows == registry.AfterKeys {
		names = lateTriggers
	}
	return append(slices.Clone(names), truncateTrigger)
}

// MayBeLate reports whether triggers that sort behind those of the server's foreign
// keys see the changes in their order: a trigger of the user that comes before them
// may change the row again.
func MayBeLate(t *catalog.Table) bool {
	return !slices.ContainsFunc(t.Triggers, func(x catalog.Trigger) bool { return x.Name < lateDeleteTrigger })
}

// DropLateTriggersSQL drops what RowByRow has added to the triggers that
// DropTriggersSQL drops. It takes ACCESS EXCLUSIVE on the table.
func DropLateTriggersSQL(table catalog.Name) []string {
	var statements []string
	for _, name := range lateTriggers {
		statements = append(statements, fmt.Sprintf("DROP TRIGGER IF EXISTS %s ON %s", catalog.Quote(name), table))
	}
	return statements
}

// lockReferredSQL locks the row that a row of a neighbour refers to in the table in
// use, as the server's trigger will lock it in the other table right after. A
// transaction that changes a row comes to the two tables in this order.
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

// LockReferredSQL creates a function and a constraint trigger, both new. By them a
// transaction that writes a row of the key's table locks the row of the table in use
// that it refers to, before the server's triggers and as late as the key is checked.
// It takes SHARE ROW EXCLUSIVE on the key's table.
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
