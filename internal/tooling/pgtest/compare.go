package pgtest

import (
	"fmt"
	"strings"
	"testing"
)

// checksumSQL sorts the rows' digests and not the rows, so that the order is
// the same under every collation.
const checksumSQL = `
SELECT   format('%%s rows, md5 %%s', count(*), md5(coalesce(string_agg(digest, '' ORDER BY digest COLLATE "C"), '')))
FROM    (SELECT md5(ROW(r.*)::text) AS digest FROM %[1]s AS r) AS rows`

// Checksum returns the number of rows of table and a digest of their text forms
// that does not depend on their order. table is spliced into SQL as it is:
// quote it if need be.
func (db *Database) Checksum(t testing.TB, table string) string {
	t.Helper()
	return db.QueryString(t, fmt.Sprintf(checksumSQL, table))
}

// missingSQL lists rows of one table that another has not, or not as often. It
// compares their text forms: stricter than =, and defined for types that have
// no = (json, xml, point).
const missingSQL = `
SELECT   r
FROM    (SELECT ROW(a.*)::text AS r FROM %[1]s AS a
         EXCEPT ALL
         SELECT ROW(b.*)::text AS r FROM %[2]s AS b) AS missing
ORDER BY r COLLATE "C"
LIMIT    %[3]d`

// shownRows is how many rows of a difference a failure shows.
const shownRows = 10

// EqualTables reports an error, with the first rows that differ, unless tables
// a and b hold the same rows equally often, column by column in their order.
// The names are spliced into SQL as they are: quote them if need be.
func (db *Database) EqualTables(t testing.TB, a, b string) {
	t.Helper()
	// Both checksums are of one snapshot: the application may be writing.
	same := fmt.Sprintf("SELECT (%s) = (%s)", fmt.Sprintf(checksumSQL, a), fmt.Sprintf(checksumSQL, b))
	if Query[bool](t, db.Pool, same) {
		return
	}
	shown := false
	for _, pair := range [][2]string{{a, b}, {b, a}} {
		sql := fmt.Sprintf(missingSQL, pair[0], pair[1], shownRows)
		if rows := Column[string](t, db.Pool, sql); len(rows) > 0 {
			shown = true
			t.Errorf("rows of %s that are not in %s (at most %d shown):\n\t%s",
				pair[0], pair[1], shownRows, strings.Join(rows, "\n\t"))
		}
	}
	if !shown {
		t.Errorf("%s and %s were not alike, and are so now", a, b)
	}
}
