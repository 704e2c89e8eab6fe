package strategy

import (
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
)

// mirrorSQL is for SERIALIZABLE writers whose snapshot is older than the
// exchange %[1]s, and concurrent transactions that read the table while it was
// still the other one. The server has noted what they read there, and finds the
// conflict when the same is written there; so it is, and the failure that this
// may end in is the application's own. Whatever else goes wrong is not: the key
// is in the log, as always.
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

const mirrorDeleteSQL = `
                DELETE FROM %[1]s t USING (%[2]s) r WHERE %[3]s;`

const mirrorInsertSQL = `
                INSERT INTO %[1]s (%[2]s) OVERRIDING SYSTEM VALUE
                SELECT %[3]s FROM %[4]s n
                ON CONFLICT (%[5]s) %[6]s;`

// mirrorKeySQL is what the trigger for rows whose key changes does apart.
const mirrorKeySQL = `
                IF TG_LEVEL = 'ROW' THEN%[1]s
                ELSE%[2]s
                END IF;`

func (l *Link) mirror() string {
	if l.MirrorSince == "" {
		return ""
	}
	remove := func(keys string) string {
		return fmt.Sprintf(mirrorDeleteSQL, l.To, keys, l.toIsFrom("t", "r"))
	}
	key := "SELECT " + l.fromKey("r") + " FROM "
	write := fmt.Sprintf(mirrorInsertSQL, l.To, l.toColumns(), l.fromColumns("n"), l.newRows(), l.toKey(""), l.onConflict())
	if l.Replace {
		write = remove(key+l.newRows()+" r") + write
	}
	update := remove(key+l.oldRows()+" r EXCEPT "+key+l.newRows()+" r") + write
	if l.keyTrigger() {
		update = fmt.Sprintf(mirrorKeySQL, remove(key+"(SELECT (OLD).*) r"), write)
	}
	return fmt.Sprintf(mirrorSQL, catalog.Literal(l.MirrorSince), write, update, remove(key+l.oldRows()+" r"))
}
