package strategy

import "fmt"

// rowLimit is how many rows of a transaction row triggers write through. Each row takes
// a subtransaction of its own. Once a transaction has changed more rows, they are
// logged.
const rowLimit = 32

// countSQL is the WHEN condition of the row triggers that count, and is always true.
// The server evaluates it as the application's role when it has changed a row; so all
// rows of a statement are counted before the first trigger function is called.
//
// The counter is a setting that holds one character per row. It ends with the
// transaction. Its value is text, so that it cannot cause an error whatever the
// application has set.
var countSQL = fmt.Sprintf("pg_catalog.set_config('repack.rows', pg_catalog.left("+
	"COALESCE(pg_catalog.current_setting('repack.rows', true), '') OPERATOR(pg_catalog.||) '.', %d), true) IS NOT NULL", rowLimit+1)

// overRowLimitSQL is true in a transaction that has changed more than rowLimit rows.
const overRowLimitSQL = `
       OR TG_LEVEL = 'ROW' AND length(current_setting('repack.rows', true)) > %d`

// overRowLimit is the condition for a transaction that has changed more than rowLimit
// rows. It is empty where rows are not counted.
func (l *Link) overRowLimit() string {
	if !l.PerRow || !l.Counted {
		return ""
	}
	return fmt.Sprintf(overRowLimitSQL, rowLimit)
}
