package strategy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
)

// The change log has no index: appending to it is all that the application
// pays for. A row with truncated set stands for TRUNCATE. Vacuum makes room for
// reuse, but does not shorten the file: for that it would take ACCESS EXCLUSIVE
// on the log, and writers wait.
const createLogSQL = `CREATE TABLE %s (%s, truncated boolean)
WITH (vacuum_truncate = off, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 50000)`

// CreateLogSQL creates the change log.
func (l *Link) CreateLogSQL() string {
	return fmt.Sprintf(createLogSQL, l.Log, list(l.Key, ", ", func(i int, k catalog.KeyColumn) string {
		column := logColumn(i) + " " + k.Type
		if k.Collation != "" {
			column += " COLLATE " + k.Collation
		}
		return column
	}))
}

// functionSQL is SECURITY DEFINER because those who write to the table need no
// right on our log and shadow; nothing comes from the caller but the rows. The
// planner settings keep a plan that was made for one huge statement (and is
// cached) from scanning the shadow for every small one after it.
const functionSQL = `
CREATE OR REPLACE FUNCTION %[1]s()
RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp%[3]s
AS %[2]s`

// The lock timeout is for rows of the copy: a wait there is none of the
// application's, and ends with the key in the log.
const writeThroughSettings = `
SET lock_timeout = '100ms'
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_seqscan = off`

// Capture is how writes are noticed: a function and the triggers that call it,
// which CREATE OR REPLACE whatever was there. The triggers take SHARE ROW
// EXCLUSIVE on From: running writers are waited for, new ones wait.
type Capture struct {
	Function string
	Triggers []string
}

// SQL is the statements in their order.
func (c Capture) SQL() []string { return append([]string{c.Function}, c.Triggers...) }

// logRowsSQL is shared by all capture functions. Key updates log the old key
// and the new. Every condition is paid for by every statement of the
// application, so what most of them do comes first.
const logRowsSQL = `
    IF TG_OP = 'UPDATE' THEN%[6]s
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO %[1]s (%[2]s) SELECT %[3]s FROM %[4]s r;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO %[1]s (%[2]s) SELECT %[3]s FROM %[5]s r;
    ELSE
        INSERT INTO %[1]s (truncated) VALUES (true);
    END IF;`

const logBothSQL = `
        INSERT INTO %[1]s (%[2]s) SELECT %[3]s FROM %[4]s r UNION SELECT %[3]s FROM %[5]s r;`

// logNewSQL leaves the old keys to the trigger for rows whose key has changed.
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

// newRows and oldRows are the rows that a trigger fires for, to be followed by
// an alias.
func (l *Link) newRows() string {
	if l.PerRow {
		return "(SELECT (NEW).*)"
	}
	return "new_rows"
}

func (l *Link) oldRows() string {
	if l.PerRow {
		return "(SELECT (OLD).*)"
	}
	return "old_rows"
}

// LogCapture appends keys to the change log.
func (l *Link) LogCapture() Capture {
	updates, triggers := logBothSQL, l.triggers(bothTables, false)
	if l.keyTrigger() {
		updates, triggers = logNewSQL, l.triggers(newTable, false)
	}
	body := "\n#variable_conflict use_column\nBEGIN" + l.mirror() + l.logRows(updates) + "\n    RETURN NULL;\nEND\n"
	settings := ""
	if l.MirrorSince != "" {
		settings = writeThroughSettings
	}
	return Capture{Function: fmt.Sprintf(functionSQL, l.Capture, catalog.Literal(body), settings), Triggers: triggers}
}

// writeThroughSQL tries three ways, each in a subtransaction, and whatever
// goes wrong with our copy never reaches the application: the last way is to
// log the key.
//
//  1. Rows that are gone are deleted, the others inserted or updated in place.
//  2. All keys are deleted, then the rows inserted: right for statements that
//     move unique values between rows.
//  3. The keys are logged.
//
// A writer above READ COMMITTED whose snapshot does not see transaction
// %[1]s, which completed the shadow, logs as well: its DELETE would not find
// rows that its snapshot does not show. So does one of a table that has been
// renamed since, as the statements name it.
//
// What is written is read from the table, as a function or trigger in the
// statement may have changed a row once more. SERIALIZABLE writers write what
// the statement has written: reading would give them predicate locks, and
// serialization failures, that they would not have had.
//
// Every subtransaction that writes takes a transaction id. Called for a statement
// that is one; called for rows it would be one a row, so that there a transaction
// that changes many logs them.
const writeThroughSQL = `
#variable_conflict use_column
DECLARE
    isolation CONSTANT text    := current_setting('transaction_isolation');
    fixed     CONSTANT boolean := isolation NOT IN ('read committed', 'read uncommitted');
    deleted   bigint;
BEGIN%[7]s
    IF TG_OP = 'TRUNCATE'%[8]s OR TG_TABLE_SCHEMA <> %[2]s OR TG_TABLE_NAME <> %[3]s
       OR fixed AND NOT coalesce(pg_visible_in_snapshot(%[1]s::xid8, pg_current_snapshot()), false) THEN
        NULL;
    ELSIF isolation = 'serializable' THEN%[4]s
    ELSE%[5]s
    END IF;%[6]s
    RETURN NULL;
END
`

const attemptSQL = `
        BEGIN%s%s
            RETURN NULL;
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;`

// A change of a key is seen in the transition tables.
const skipRowTriggerSQL = `
    IF TG_LEVEL = 'ROW' THEN
        RETURN NULL;
    END IF;`

// WriteThrough writes changes through to the copy. completedBy is the transaction whose commit put the copy in step, as
// text; while there is none (empty), all writers above READ COMMITTED log.
func (l *Link) WriteThrough(completedBy string) Capture {
	xid, immediate := "NULL", ""
	if completedBy != "" {
		xid, immediate = catalog.Literal(completedBy), l.immediate()
	}
	before := l.mirror()
	if l.keyTrigger() {
		before += skipRowTriggerSQL
	}
	body := fmt.Sprintf(writeThroughSQL, xid, catalog.Literal(l.From.Schema), catalog.Literal(l.From.Name),
		l.attempts(immediate, l.Reread), l.attempts(immediate, true), l.logRows(logBothSQL), before, l.overRowLimit())
	return Capture{
		Function: fmt.Sprintf(functionSQL, l.Capture, catalog.Literal(body), writeThroughSettings),
		Triggers: l.triggers(bothTables, l.PerRow && l.Counted),
	}
}

// attempts are the ways to write through; reread says where rows come from.
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
	return attempts + fmt.Sprintf(attemptSQL, immediate, l.replaceRows(rows))
}

// immediate has the copy's constraints checked within the attempt: at COMMIT a
// stale row of the copy would be the application's error.
func (l *Link) immediate() string {
	if len(l.Deferrable) == 0 {
		return ""
	}
	return "\n            SET CONSTRAINTS " + l.deferrable() + " IMMEDIATE;"
}

// Whether a key is really gone is asked of the table, not of the event: one
// command can delete a row and insert another of the same key (MERGE, a
// data-modifying CTE), and its triggers fire in no order of ours. A snapshot
// that is older than a replay of the row does not show the copy's row, and a
// DELETE passes it over in silence: then fewer are deleted than removed.
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

func (l *Link) onConflict() string {
	if len(l.Assigned) == 0 {
		return "DO NOTHING"
	}
	return "DO UPDATE SET " + list(l.Assigned, ", ", func(_ int, m Mapping) string {
		return catalog.Quote(m.To) + " = EXCLUDED." + catalog.Quote(m.To)
	})
}

// Our triggers' names sort before those of user triggers and of foreign keys
// (RI_…), in whose order the server fires them: "Overview of Trigger Behavior"
// in the manual.
const (
	insertTrigger   = "00_repack_insert"
	updateTrigger   = "00_repack_update"
	keyTrigger      = "00_repack_key"
	deleteTrigger   = "00_repack_delete"
	truncateTrigger = "00_repack_truncate"
)

var allTriggers = []string{insertTrigger, updateTrigger, keyTrigger, deleteTrigger, truncateTrigger}

// What an update trigger is given.
const (
	bothTables = "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"
	newTable   = "REFERENCING NEW TABLE AS new_rows"
)

// keyTrigger reports whether a trigger for rows whose key changes spares logging
// the old rows of every UPDATE, which make a large one half as slow again. Its
// condition is evaluated as the application, which may be denied any but the
// server's own operators. A partition's triggers are all for rows.
func (l *Link) keyTrigger() bool {
	for _, k := range l.Key {
		if !strings.HasPrefix(k.Equal, "OPERATOR(pg_catalog.") {
			return false
		}
	}
	return !l.PerRow
}

// triggers are AFTER … FOR EACH STATEMENT, except those with PerRow. On a partition
// a statement on the partitioned table does not fire these, and triggers FOR EACH
// ROW have no transition tables. They fire for replica-role writers too
// (ENABLE ALWAYS).
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

func (l *Link) trigger(name, event, each string) []string {
	return []string{
		fmt.Sprintf("CREATE OR REPLACE TRIGGER %s AFTER %s ON %s %s EXECUTE FUNCTION %s()", catalog.Quote(name), event, l.From, each, l.Capture),
		fmt.Sprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", l.From, catalog.Quote(name)),
	}
}

const notCapturingSQL = `
SELECT 'triggers'
FROM  (SELECT count(*) AS n
       FROM   pg_trigger
       WHERE  tgrelid = $1 AND tgname = ANY ($%[2]d) AND tgenabled = 'A' AND tgfoid = to_regprocedure($%[3]d)) t
WHERE  t.n <> $%[1]d`

// ErrNotCapturing reports that a capture trigger is gone or switched off: writes
// may have been missed.
var ErrNotCapturing = errors.New("the triggers that capture changes have been dropped, disabled or replaced, and changes may be missing from the shadow; " +
	"start afresh with repack reset")

// NotCapturing is a query that returns a row unless all our triggers on the table
// whose OID is $1, which is From, are there, fire and call our function: see
// ErrNotCapturing. Its other arguments are those from number first on.
func (l *Link) NotCapturing(first int) (sql string, args []any) {
	names, want := allTriggers, len(allTriggers)
	switch {
	case l.Rows != "":
		names = l.rowByRowTriggers()
		want = len(names)
	case !l.keyTrigger():
		want--
	}
	return fmt.Sprintf(notCapturingSQL, first, first+1, first+2), []any{want, names, l.Capture.String() + "()"}
}

// DropTriggersSQL detaches the capture function from a table. It takes ACCESS
// EXCLUSIVE on the table.
func DropTriggersSQL(table catalog.Name) []string {
	var statements []string
	for _, name := range allTriggers {
		statements = append(statements, fmt.Sprintf("DROP TRIGGER IF EXISTS %s ON %s", catalog.Quote(name), table))
	}
	return statements
}
