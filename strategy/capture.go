package strategy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
)

// createLogSQL creates the change log. The log has no index: the application pays only
// for appending rows. A row with truncated set stands for a TRUNCATE.
//
// Vacuum makes the space of deleted rows available for reuse, but does not truncate the
// file: to do so it would take ACCESS EXCLUSIVE on the log, and writers would wait for
// it.
//
// https://www.postgresql.org/docs/current/sql-createtable.html, "vacuum_truncate"
const createLogSQL = `CREATE TABLE %s (%s, truncated boolean)
WITH (vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000)`

// CreateLogSQL returns the statement that creates the change log. It takes no lock on
// From or To.
func (l *Link) CreateLogSQL() string {
	return fmt.Sprintf(createLogSQL, l.Log, list(l.Key, ", ", func(i int, k catalog.KeyColumn) string {
		column := logColumn(i) + " " + k.Type
		if k.Collation != "" {
			column += " COLLATE " + k.Collation
		}
		return column
	}))
}

// IdentifyLogSQL returns the statement that lets rows of the log be deleted if a
// publication of all tables publishes them: the log has no key. It takes ACCESS EXCLUSIVE
// on the log.
func (l *Link) IdentifyLogSQL() string {
	return catalog.ReplicaIdentity{Kind: "f"}.SQL(l.Log.String())
}

// functionSQL is SECURITY DEFINER, because roles that write to the table need no
// privilege on the change log and the copy. The function uses nothing from its caller
// except the rows.
//
// The planner settings protect later small statements. A plan that was made for one
// huge statement is cached; without the settings it could scan the whole copy for every
// small statement after it.
//
// https://www.postgresql.org/docs/current/sql-createfunction.html, "Writing SECURITY DEFINER Functions Safely"
const functionSQL = `
CREATE OR REPLACE FUNCTION %[1]s()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp%[3]s
AS %[2]s`

// writeThroughSettings bounds waits for row locks on the copy, which the application
// must not feel: on time-out the key is logged instead.
const writeThroughSettings = `
SET lock_timeout = '100ms'
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off`

// Capture is the trigger function and the triggers that notice writes. The statements
// use CREATE OR REPLACE, so that they replace a Capture that is already there.
//
// Creating a trigger takes SHARE ROW EXCLUSIVE on From until the transaction ends. It
// waits for transactions that have written to From, and new writers wait for it.
//
// https://www.postgresql.org/docs/current/sql-createtrigger.html
type Capture struct {
	Function string   // the statement that creates the function
	Triggers []string // the statements that create and enable the triggers
}

// SQL returns all statements in the order in which they must run.
func (c Capture) SQL() []string { return append([]string{c.Function}, c.Triggers...) }

// logRowsSQL logs keys. All capture functions that log share it. When a key is updated,
// it logs the old key and the new key.
//
// Every statement of the application pays for each condition, so the most frequent
// operation comes first.
const logRowsSQL = `
    IF TG_OP = 'UPDATE' THEN%[6]s
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO %[1]s (%[2]s) SELECT %[3]s FROM %[4]s r;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO %[1]s (%[2]s) SELECT %[3]s FROM %[5]s r;
    ELSE
        INSERT INTO %[1]s (truncated) VALUES (true);
    END IF;`

// logBothSQL logs the old and the new keys of an UPDATE from its transition tables.
const logBothSQL = `
        INSERT INTO %[1]s (%[2]s) SELECT %[3]s FROM %[4]s r UNION SELECT %[3]s FROM %[5]s r;`

// logNewSQL logs the new keys of an UPDATE. The row trigger for changed keys logs the
// old keys.
const logNewSQL = `
        IF TG_LEVEL = 'ROW' THEN
            INSERT INTO %[1]s (%[2]s) VALUES (%[6]s);
        ELSE
            INSERT INTO %[1]s (%[2]s) SELECT %[3]s FROM %[4]s r;
        END IF;`

func (l *Link) logRows(updatesSQL string) string {
	args := []any{l.Log, l.logColumns(""), l.fromKey("r"), l.newRows(), l.oldRows()}
	updates := fmt.Sprintf(updatesSQL, append(args, l.fromKey("OLD"))...)
	return fmt.Sprintf(logRowsSQL, append(args, updates)...)
}

// newRows is the row set that the trigger fires for, as it is after the change. SQL
// must add an alias. See oldRows.
func (l *Link) newRows() string {
	if l.PerRow {
		return "(SELECT (NEW).*)"
	}
	return "new_rows"
}

// oldRows is the row set that the trigger fires for, as it was before the change.
func (l *Link) oldRows() string {
	if l.PerRow {
		return "(SELECT (OLD).*)"
	}
	return "old_rows"
}

// LogCapture returns the capture that appends the keys of changed rows to the change
// log. It does not write to the copy, except while MirrorSince is set.
func (l *Link) LogCapture() Capture {
	updates, triggers := logBothSQL, l.triggers(bothTables, false)
	if l.keyTrigger() {
		updates, triggers = logNewSQL, l.triggers(newTable, false)
	}
	body := "\n#variable_conflict use_column\nBEGIN" + l.mirror() + l.moveKey() + l.remove() + l.logRows(updates) + "\n    RETURN NULL;\nEND\n"
	settings := ""
	if l.MirrorSince != "" || l.Carries {
		settings = writeThroughSettings
	}
	return Capture{Function: fmt.Sprintf(functionSQL, l.Capture, catalog.Literal(body), settings), Triggers: triggers}
}

// writeThroughSQL tries three ways in this order. The first two each run in a
// subtransaction, whose errors do not reach the application.
//
//  1. Delete the rows that are gone, and insert the others or update them in place.
//  2. Delete all keys, then insert the rows. This works for statements that move
//     unique values between rows.
//  3. Log the keys.
//
// What a trigger has logged, a later trigger of the same command may write through after
// all: see againSQL.
//
// A writer above READ COMMITTED also logs if its snapshot does not see transaction
// %[1]s, which completed the shadow: its DELETE would not find rows that its snapshot
// does not show. A writer to a table that has been renamed since also logs, because the
// statements contain the table's name.
//
// The function reads the rows to write from the table, because a function or trigger in
// the same statement may have changed a row again. For a SERIALIZABLE writer it uses
// the rows of the statement: reading the table would add predicate locks, and with them
// serialization failures that the application would not have had.
//
// Every subtransaction that writes takes a transaction id. A statement trigger uses one
// per statement. A row trigger would use one per row; therefore a transaction that
// changes many rows logs them.
//
// https://www.postgresql.org/docs/current/plpgsql-control-structures.html, "Trapping Errors"
const writeThroughSQL = `
#variable_conflict use_column
DECLARE
    isolation  CONSTANT text    := current_setting('transaction_isolation');
    fixed      CONSTANT boolean := isolation NOT IN ('read committed', 'read uncommitted');
    tried      boolean := false;
    logged     tid[];
    remembered text;
    deleted    bigint;
BEGIN%[7]s
    IF TG_OP = 'TRUNCATE'%[8]s OR TG_TABLE_SCHEMA <> %[2]s OR TG_TABLE_NAME <> %[3]s
       OR fixed AND NOT coalesce(pg_visible_in_snapshot(%[1]s::xid8, pg_current_snapshot()), false) THEN
        NULL;
    ELSIF isolation = 'serializable' THEN%[4]s
    ELSE
        tried := true;%[9]s%[5]s
    END IF;%[10]s%[6]s
    RETURN NULL;
END
`

// attemptSQL runs one attempt in a subtransaction, and returns if it succeeds. OTHERS
// does not catch QUERY_CANCELED, so that the application can still cancel its
// statement.
const attemptSQL = `
        BEGIN%s%s
            RETURN NULL;
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;`

// skipRowTriggerSQL ignores the row trigger for changed keys: the transition tables
// show such a change already.
const skipRowTriggerSQL = `
    IF TG_LEVEL = 'ROW' THEN
        RETURN NULL;
    END IF;`

// moveKeySQL gives the row of To the new key, when a key changes. Otherwise what only To has
// of the row would be lost: a replay sees the old key and the new one, and not that they
// belong together.
const moveKeySQL = `
    IF TG_OP = 'UPDATE' AND TG_LEVEL = 'ROW' THEN
        BEGIN
            UPDATE %[1]s t SET %[2]s WHERE %[3]s;
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END IF;`

// removeSQL deletes the rows of deleted keys from To. Otherwise a row that is inserted again with
// the same key would be taken for the one that To has, and get what only To has of that.
const removeSQL = `
    IF TG_OP = 'DELETE' THEN
        BEGIN
            DELETE FROM %[1]s t USING %[2]s r WHERE %[3]s;
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END IF;`

// remove is removeSQL if To has values that must survive.
func (l *Link) remove() string {
	if !l.Carries {
		return ""
	}
	return fmt.Sprintf(removeSQL, l.To, l.oldRows(), l.toIsFrom("t", "r"))
}

// moveKey is moveKeySQL if To has values that must survive.
func (l *Link) moveKey() string {
	if !l.Carries || !l.keyTrigger() {
		return ""
	}
	set := list(l.Key, ", ", func(_ int, k catalog.KeyColumn) string {
		m := l.mapping(k.Name)
		return catalog.Quote(m.To) + " = " + m.value("NEW")
	})
	return fmt.Sprintf(moveKeySQL, l.To, set, l.toIsFrom("t", "OLD"))
}

// WriteThrough returns the capture that writes changes to the copy in the application's
// own transaction. completedBy is the id, as text, of the transaction whose commit made
// the copy equal to the table. While completedBy is empty, all writers above READ
// COMMITTED log instead.
func (l *Link) WriteThrough(completedBy string) Capture {
	xid, immediate := "NULL", ""
	if completedBy != "" {
		xid, immediate = catalog.Literal(completedBy), l.immediate()
	}
	before := l.mirror()
	if l.keyTrigger() {
		before += l.moveKey() + skipRowTriggerSQL
	}
	body := fmt.Sprintf(writeThroughSQL, xid, catalog.Literal(l.From.Schema), catalog.Literal(l.From.Name),
		l.attempts(immediate, l.Reread), l.attempts(immediate, true), l.logRows(logBothSQL), before, l.overRowLimit(), l.again(immediate), l.logTried())
	return Capture{
		Function: fmt.Sprintf(functionSQL, l.Capture, catalog.Literal(body), writeThroughSettings),
		Triggers: l.triggers(bothTables, l.PerRow && l.Counted),
	}
}

// attempts returns the attempts to write through. If reread is true, rows are read from
// the table, otherwise they are those of the trigger. Replace leaves out the attempt to
// update in place.
func (l *Link) attempts(immediate string, reread bool) string {
	rows := l.newRows() + " n"
	if reread {
		rows = fmt.Sprintf("(SELECT DISTINCT %s FROM %s r) r, %s n WHERE %s",
			l.fromKey("r"), l.newRows(), l.From, l.fromIsFrom("n", "r"))
	}
	attempts := ""
	if !l.Replace {
		attempts = fmt.Sprintf(attemptSQL, immediate, l.upsertRows(rows))
	}
	if l.Carries { // to delete and insert a row would lose what only To has of it
		return attempts
	}
	return attempts + fmt.Sprintf(attemptSQL, immediate, l.replaceRows(rows))
}

// immediate makes the server check the copy's constraints within the attempt. At
// COMMIT, a violation by a stale row of the copy would be an error of the application.
//
// https://www.postgresql.org/docs/current/sql-set-constraints.html
func (l *Link) immediate() string {
	if len(l.Deferrable) == 0 {
		return ""
	}
	return "\n            SET CONSTRAINTS " + l.deferrable() + " IMMEDIATE;"
}

// upsertRowsSQL is the first attempt. It asks the table, not the event, whether a key
// is gone: one command can delete a row and insert another row with the same key
// (MERGE, or a data-modifying CTE), and its triggers fire in an order that we do not
// control.
//
// A snapshot that is older than a replay of the row does not show the copy's row, and
// DELETE silently skips it. Then the number of deleted rows is too small, and the
// attempt fails.
const upsertRowsSQL = `
            IF TG_OP <> 'INSERT' THEN
                DELETE FROM %[1]s t
                USING (%[7]s) r
                WHERE  %[8]s
                AND    NOT EXISTS (SELECT FROM %[9]s f WHERE %[10]s);
                GET DIAGNOSTICS deleted = ROW_COUNT;
                IF fixed AND deleted < (SELECT count(*) FROM (%[7]s) r) THEN
                    RAISE EXCEPTION 'a row of the copy is not visible';
                END IF;
            END IF;
            IF TG_OP <> 'DELETE' THEN
                INSERT INTO %[1]s (%[2]s) OVERRIDING SYSTEM VALUE
                SELECT %[3]s FROM %[4]s
                ON CONFLICT (%[5]s) %[6]s;
            END IF;`

func (l *Link) upsertRows(rows string) string {
	// A DELETE has no transition table of new rows.
	sql := func(removed string) string {
		return fmt.Sprintf(upsertRowsSQL, l.To, l.toColumns(), l.fromColumns("n"), rows,
			l.toKey(""), l.onConflict(), removed, l.toIsFrom("t", "r"), l.From, l.toIsFrom("t", "f"))
	}
	return "\n            IF TG_OP = 'DELETE' THEN" + sql("SELECT DISTINCT "+l.fromKey("r")+" FROM "+l.oldRows()+" r") +
		"\n            ELSE" + sql("SELECT "+l.fromKey("r")+" FROM "+l.oldRows()+" r EXCEPT SELECT "+l.fromKey("r")+" FROM "+l.newRows()+" r") +
		"\n            END IF;"
}

// replaceRowsSQL is the second attempt: it deletes all keys and inserts the rows. It
// fails when the table has a row again for a key that the command removed, because the
// attempt has deleted that key's row from the copy and not inserted it.
const replaceRowsSQL = `
            IF TG_OP <> 'INSERT' THEN
                DELETE FROM %[1]s t USING %[8]s r WHERE %[4]s;
                GET DIAGNOSTICS deleted = ROW_COUNT;
                IF fixed AND deleted < (SELECT count(*) FROM %[8]s r) THEN
                    RAISE EXCEPTION 'a row of the copy is not visible';
                END IF;
            END IF;
            IF TG_OP <> 'DELETE' THEN
                DELETE FROM %[1]s t USING %[9]s r WHERE %[4]s;
                INSERT INTO %[1]s (%[2]s) OVERRIDING SYSTEM VALUE
                SELECT %[3]s FROM %[5]s;
            END IF;
            IF TG_OP <> 'INSERT' AND EXISTS (
                SELECT FROM %[8]s r, %[6]s f
                WHERE  %[7]s AND NOT EXISTS (SELECT FROM %[1]s t WHERE %[4]s)
            ) THEN
                RAISE EXCEPTION 'a key that this command removed is there again';
            END IF;`

func (l *Link) replaceRows(rows string) string {
	return fmt.Sprintf(replaceRowsSQL, l.To, l.toColumns(), l.fromColumns("n"), l.toIsFrom("t", "r"),
		rows, l.From, l.fromIsFrom("f", "r"), l.oldRows(), l.newRows())
}

// onConflict is what an INSERT does when the copy has the key already: update the row
// in place.
func (l *Link) onConflict() string {
	assigned := slices.DeleteFunc(slices.Clone(l.Assigned), func(m Mapping) bool { return m.To == "" })
	if len(assigned) == 0 {
		return "DO NOTHING"
	}
	return "DO UPDATE SET " + list(assigned, ", ", func(_ int, m Mapping) string {
		return catalog.Quote(m.To) + " = EXCLUDED." + catalog.Quote(m.To)
	})
}

// Names of our triggers. The server fires triggers in the order of their names. Ours sort
// before most user triggers and before the triggers of foreign keys (RI_…).
//
// https://www.postgresql.org/docs/current/trigger-definition.html, "Overview of Trigger Behavior"
const (
	insertTrigger   = "00_repack_insert"
	updateTrigger   = "00_repack_update"
	keyTrigger      = "00_repack_key"
	deleteTrigger   = "00_repack_delete"
	truncateTrigger = "00_repack_truncate"
)

var allTriggers = []string{insertTrigger, updateTrigger, keyTrigger, deleteTrigger, truncateTrigger}

// Transition tables of a trigger for UPDATE.
const (
	bothTables = "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"
	newTable   = "REFERENCING NEW TABLE AS new_rows"
)

// keyTrigger reports whether a separate row trigger catches rows whose key changes.
// With it, an UPDATE need not log the old keys of all its rows, which makes a large
// UPDATE half as slow again.
//
// The server evaluates the trigger's condition as the application's role, which may
// have no privilege on operators other than the server's own. Therefore all key columns
// must use an operator of pg_catalog. With PerRow all triggers are row triggers, and
// none is needed for keys.
func (l *Link) keyTrigger() bool {
	for _, k := range l.Key {
		if !strings.HasPrefix(k.Equal, "OPERATOR(pg_catalog.") {
			return false
		}
	}
	return !l.PerRow
}

// triggers are AFTER … FOR EACH STATEMENT, or FOR EACH ROW with PerRow. A statement on
// a partitioned table does not fire the statement triggers of its partitions, and row
// triggers of a partition cannot have transition tables. ENABLE ALWAYS makes the
// triggers fire for writers with session_replication_role = replica too.
//
// https://www.postgresql.org/docs/current/sql-createtrigger.html
func (l *Link) triggers(updates string, counted bool) []string {
	var statements []string
	add := func(name, event, each string) { statements = append(statements, l.trigger(name, event, each)...) }
	each := func(tables string) string {
		switch {
		case l.PerRow && counted:
			return "FOR EACH ROW WHEN (" + countSQL + ")"
		case l.PerRow:
			return "FOR EACH ROW"
		}
		return tables + " FOR EACH STATEMENT"
	}
	add(insertTrigger, "INSERT", each(newTable))
	add(updateTrigger, "UPDATE", each(updates))
	if l.keyTrigger() {
		add(keyTrigger, "UPDATE", fmt.Sprintf("FOR EACH ROW WHEN (NOT (%s))", l.fromIsFrom("OLD", "NEW")))
	}
	add(deleteTrigger, "DELETE", each("REFERENCING OLD TABLE AS old_rows"))
	add(truncateTrigger, "TRUNCATE", "FOR EACH STATEMENT")
	return statements
}

// trigger returns the statements that create one trigger and enable it always.
func (l *Link) trigger(name, event, each string) []string {
	return []string{
		fmt.Sprintf("CREATE OR REPLACE TRIGGER %s AFTER %s ON %s %s EXECUTE FUNCTION %s()", catalog.Quote(name), event, l.From, each, l.Capture),
		fmt.Sprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", l.From, catalog.Quote(name)),
	}
}

// notCapturingSQL returns a row unless all triggers exist, are ENABLE ALWAYS and call
// the capture function.
const notCapturingSQL = `
SELECT 'triggers'
FROM  (SELECT count(*) AS n
       FROM   pg_trigger
       WHERE  tgrelid = $1 AND tgname = ANY ($%[2]d) AND tgenabled = 'A' AND tgfoid = to_regprocedure($%[3]d)) t
WHERE  t.n <> $%[1]d`

// ErrNotCapturing reports that a capture trigger has been dropped, disabled or
// replaced. Changes may be missing from the copy, so the job cannot continue.
var ErrNotCapturing = errors.New("the triggers that capture changes have been dropped, disabled or replaced, and changes may be missing from the shadow; " +
	"start afresh with repack reset")

// NotCapturing returns a query that returns a row unless all our triggers on the table
// exist, fire always and call our function: see ErrNotCapturing. Parameter $1 of the
// query is the OID of the table, which must be From. args are its other parameters,
// numbered from first on. The query takes no lock on the table. If l is nil, it has the same
// text and returns no row.
func (l *Link) NotCapturing(first int) (sql string, args []any) {
	sql = fmt.Sprintf(notCapturingSQL, first, first+1, first+2)
	if l == nil {
		return sql, []any{0, []string{}, "none()"}
	}
	names, want := allTriggers, len(allTriggers)
	switch {
	case l.Rows != "":
		names = l.rowByRowTriggers()
		want = len(names)
	case !l.keyTrigger():
		want--
	}
	return sql, []any{want, names, l.Capture.String() + "()"}
}

// DropTriggersSQL returns the statements that drop the capture triggers of a table.
// They take ACCESS EXCLUSIVE on the table until the transaction ends. Triggers that do
// not exist are skipped, so the statements may run again.
//
// https://www.postgresql.org/docs/current/sql-droptrigger.html
func DropTriggersSQL(table catalog.Name) []string {
	var statements []string
	for _, name := range allTriggers {
		statements = append(statements, fmt.Sprintf("DROP TRIGGER IF EXISTS %s ON %s", catalog.Quote(name), table))
	}
	return statements
}
