package strategy

import (
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
)

// mirrorSQL makes the changes of SERIALIZABLE writers whose snapshot is older than the
// exchange %[1]s to the other table too. Concurrent transactions may have read the
// table when it was still the other one. The server keeps predicate locks for what they
// read there, and detects a conflict only if the writer writes there.
//
// A serialization failure that results belongs to the application and is raised. All
// other errors are caught: the key is in the log, as always.
//
// https://www.postgresql.org/docs/current/transaction-iso.html, "Serializable Isolation Level"
const mirrorSQL = `
    IF current_setting('transaction_isolation') = 'serializable'
       AND NOT pg_visible_in_snapshot(%[1]s::xid8, pg_current_snapshot()) THEN
        BEGIN
            CASE TG_OP
            WHEN 'INSERT' THEN%[2]s
            WHEN 'UPDATE' THEN%[3]s
            WHEN 'DELETE' THEN%[4]s
            ELSE
                NULL;
            END CASE;
        EXCEPTION
            WHEN serialization_failure THEN
                RAISE;
            WHEN OTHERS THEN
                NULL;
        END;
    END IF;`

// mirrorDeleteSQL deletes keys from the other table.
const mirrorDeleteSQL = `
                DELETE FROM %[1]s t USING (%[2]s) r WHERE %[3]s;`

// mirrorInsertSQL inserts rows into the other table, or updates them in place.
const mirrorInsertSQL = `
                INSERT INTO %[1]s (%[2]s) OVERRIDING SYSTEM VALUE
                SELECT %[3]s FROM %[4]s n
                ON CONFLICT (%[5]s) %[6]s;`

// mirrorKeySQL separates the row trigger for changed keys, which deletes the old key,
// from the statement trigger, which writes the rows.
const mirrorKeySQL = `
                IF TG_LEVEL = 'ROW' THEN%[1]s
                ELSE%[2]s
                END IF;`

// mirror is mirrorSQL while MirrorSince is set, otherwise empty.
func (l *Link) mirror() string {
	if l.MirrorSince == "" {
		return ""
	}
	remove := func(keys string) string {
		return fmt.Sprintf(mirrorDeleteSQL, l.To, keys, l.toIsFrom("t", "r"))
	}
	key := "SELECT " + l.fromKey("r") + " FROM "
	write := fmt.Sprintf(mirrorInsertSQL, l.To, l.toColumns(), l.fromColumns("n"), l.newRows(), l.toKey(""), l.onConflict())
	switch {
	case l.Replace && l.Carries: // the log has the key
		write = "\n                NULL;"
	case l.Replace:
		write = remove(key+l.newRows()+" r") + write
	}
	update := remove(key+l.oldRows()+" r EXCEPT "+key+l.newRows()+" r") + write
	if l.keyTrigger() {
		update = fmt.Sprintf(mirrorKeySQL, remove(key+"(SELECT (OLD).*) r"), write)
	}
	return fmt.Sprintf(mirrorSQL, catalog.Literal(l.MirrorSince), write, update, remove(key+l.oldRows()+" r"))
}
