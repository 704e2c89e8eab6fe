package strategy

import (
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
)

// One command may fire several of our triggers, and a trigger for INSERT fires before the
// command's trigger for UPDATE or DELETE: in UPDATE or DELETE … FOR PORTION OF (PostgreSQL
// 19), which inserts what is left of a row, and with some data-modifying CTEs. If a new row
// has a unique value, or overlaps a range, of a row that the same command updates or
// deletes, the copy still has the old row when the first trigger fires. So it logs. The later trigger
// then writes the logged rows through too, and takes them out of the log. Otherwise a
// steady load of such commands would never leave the log empty, and the swap would be put
// off again and again.
//
// Where the rows are in the log is kept in a setting that ends with the transaction.
//
// https://www.postgresql.org/docs/current/trigger-definition.html

// loggedLimit is how many rows of one command are written through by a later trigger, and
// about how many of a transaction: an entry has some 20 characters. The others stay in the
// log.
const loggedLimit = 1000

// logTriedSQL logs the rows of a trigger that could not write them through, and remembers
// where. A later trigger above READ COMMITTED could not tell whether the old row of an
// UPDATE is gone from the copy, or is there and its snapshot does not show it. So there
// only an INSERT is remembered: if the copy has a row of that key, to insert it again is
// an error.
const logTriedSQL = `
    IF tried AND TG_OP = 'INSERT' THEN%[1]s
        RETURN NULL;
    ELSIF tried AND TG_OP = 'UPDATE' AND NOT fixed THEN%[2]s
        RETURN NULL;
    END IF;`

const logRememberedSQL = `
        WITH logged AS (
            INSERT INTO %[1]s (%[2]s) %[3]s
            RETURNING tableoid, ctid
        )
        SELECT set_config('repack.logged', CASE WHEN length(s.before) < %[5]d THEN concat_ws(' ', nullif(s.before, ''), l.rows) ELSE s.before END, true)
        INTO   remembered
        FROM  (SELECT coalesce(current_setting('repack.logged', true), '') AS before) s,
              (SELECT string_agg(f.tableoid::text || f.ctid::text, ' ') AS rows FROM (SELECT tableoid, ctid FROM logged LIMIT %[4]d) f) l;`

// logTried is logTriedSQL.
func (l *Link) logTried() string {
	if l.Carries {
		return ""
	}
	remember := func(keys string) string {
		return fmt.Sprintf(logRememberedSQL, l.Log, l.logColumns(""), keys, loggedLimit, 20*loggedLimit)
	}
	return fmt.Sprintf(logTriedSQL, remember(l.keysOf(l.newRows())), remember(l.keysOf(l.oldRows())+" UNION "+l.keysOf(l.newRows())))
}

// againSQL writes the rows through that an earlier trigger has logged, together with those
// of this trigger. If that fails, the rows of this trigger alone are tried.
const againSQL = `
        IF TG_OP <> 'INSERT' AND current_setting('repack.logged', true) <> '' THEN
            BEGIN
                logged := ARRAY(
                    SELECT substr(e.entry, strpos(e.entry, '('))::tid
                    FROM   unnest(string_to_array(current_setting('repack.logged', true), ' ')) e (entry)
                    WHERE  starts_with(e.entry, %[1]s::regclass::oid::text || '('));
                IF cardinality(logged) > 0 THEN%[2]s
                    IF TG_OP = 'DELETE' THEN%[3]s
                    ELSE%[4]s
                    END IF;
                    DELETE FROM %[5]s l WHERE l.ctid = ANY (logged);
                    PERFORM set_config('repack.logged', '', true);
                    RETURN NULL;
                END IF;
            EXCEPTION WHEN OTHERS THEN
                NULL;
            END;
        END IF;`

// againRowsSQL deletes the keys from the copy, and inserts the rows that the table has for
// them. The old keys of this trigger are counted: see upsertRowsSQL.
const againRowsSQL = `
                    DELETE FROM %[1]s t USING (SELECT DISTINCT %[2]s FROM %[3]s r) r WHERE %[4]s;
                    GET DIAGNOSTICS deleted = ROW_COUNT;
                    IF fixed AND deleted < (SELECT count(*) FROM (SELECT DISTINCT %[2]s FROM %[3]s r) r) THEN
                        RAISE EXCEPTION 'a row of the copy is not visible';
                    END IF;
                    DELETE FROM %[1]s t USING (%[5]s) k (%[6]s) WHERE %[7]s;
                    INSERT INTO %[1]s (%[8]s) OVERRIDING SYSTEM VALUE
                    SELECT %[9]s FROM (%[5]s) k (%[6]s), %[10]s n WHERE %[11]s;`

// again is againSQL.
func (l *Link) again(immediate string) string {
	if l.Carries { // it would delete and insert rows: see attempts
		return ""
	}
	rows := func(keys string) string {
		keys += fmt.Sprintf(" UNION SELECT %s FROM %s l WHERE l.ctid = ANY (logged)", l.logColumns("l"), l.Log)
		return fmt.Sprintf(againRowsSQL, l.To, l.fromKey("r"), l.oldRows(), l.toIsFrom("t", "r"), keys, l.logColumns(""), l.toIsLog("t", "k"),
			l.toColumns(), l.fromColumns("n"), l.From, l.fromIsLog("n", "k"))
	}
	old := l.keysOf(l.oldRows())
	return fmt.Sprintf(againSQL, catalog.Literal(l.Log.String()), immediate, rows(old), rows(old+" UNION "+l.keysOf(l.newRows())), l.Log)
}

// keysOf is a query for the keys of a row set that has From's columns.
func (l *Link) keysOf(rows string) string { return "SELECT " + l.fromKey("r") + " FROM " + rows + " r" }
