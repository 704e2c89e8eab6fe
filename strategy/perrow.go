package strategy

import "fmt"

// rowLimit is how many rows of a transaction are written through one by one, each in
// a subtransaction of its own.
const rowLimit = 32

// countSQL is the condition of triggers for rows, and true. The server evaluates it
// when a row has been changed, for all rows of a statement before it calls the first
// trigger, as the application. It is a string of one character a row, which ends with
// the transaction and cannot be the application's error, whatever the setting is.
var countSQL = fmt.Sprintf("pg_catalog.set_config('repack.rows', pg_catalog.left("+
	"COALESCE(pg_catalog.current_setting('repack.rows', true), '') OPERATOR(pg_catalog.||) '.', %d), true) IS NOT NULL", rowLimit+1)

const overRowLimitSQL = `
       OR TG_LEVEL = 'ROW' AND length(current_setting('repack.rows', true)) > %d`

// overRowLimit is the condition for a transaction that has changed more than few rows.
func (l *Link) overRowLimit() string {
	if !l.PerRow || !l.Counted {
		return ""
	}
	return fmt.Sprintf(overRowLimitSQL, rowLimit)
}
