package strategy

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// indexedSQL reads what index $1 compares: its key columns as the server prints them, its
// predicate, and whether two NULLs are the same.
const indexedSQL = `
SELECT ARRAY(SELECT pg_get_indexdef(i.indexrelid, n, false) FROM generate_series(1, i.indnkeyatts) n ORDER BY n),
       coalesce(pg_get_expr(i.indpred, i.indrelid), ''),
       coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false)
FROM   pg_index i
WHERE  i.indexrelid = (SELECT x.indexrelid FROM pg_index x WHERE x.indrelid = $1::text::regclass)`

// duplicateRowsSQL lists rows of the copy that are not the only ones with their values.
const duplicateRowsSQL = `
SELECT   r.repack_key, r.repack_value
FROM    (SELECT ARRAY[%[1]s]                       AS repack_key,
                ROW(%[7]s)                         AS repack_order,
                concat_ws(', ', %[2]s)             AS repack_value,
                count(*) OVER (PARTITION BY %[3]s) AS repack_rows
         FROM   %[4]s f
         WHERE  %[5]s) r
WHERE    r.repack_rows > 1
ORDER BY r.repack_value, r.repack_order
LIMIT    %[6]d`

// DuplicateRows returns rows of To that have the same values as another one in the columns of a
// unique index that To is to get, atMost of them. The index is made on an empty table, which the
// caller must roll back with tx. It takes ACCESS SHARE on To.
func (l *Link) DuplicateRows(ctx context.Context, tx pgx.Tx, index catalog.Index, atMost int) (found []Unfit, err error) {
	scratch := catalog.Name{Schema: l.To.Schema, Name: "repack_duplicate_rows"}
	for _, sql := range []string{fmt.Sprintf(`CREATE TABLE %s (LIKE %s)`, scratch, l.To), index.CreateSQL(scratch)} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return nil, fmt.Errorf("make a table with index %q: %w", index.Name, err)
		}
	}
	var columns []string
	var predicate string
	var nullsToo bool
	if err := tx.QueryRow(ctx, indexedSQL, scratch.String()).Scan(&columns, &predicate, &nullsToo); err != nil {
		return nil, fmt.Errorf("read the columns of index %q: %w", index.Name, err)
	}
	values, conditions := make([]string, len(columns)), []string{"true"}
	for i, c := range columns {
		values[i] = "coalesce((" + c + ")::text, 'NULL')"
		if !nullsToo {
			conditions = append(conditions, "("+c+") IS NOT NULL")
		}
	}
	if predicate != "" {
		conditions = append(conditions, "("+predicate+")")
	}
	key := list(l.Key, ", ", func(_ int, k catalog.KeyColumn) string {
		return fmt.Sprintf("format('%%s', %s)", qualified("f", l.toName(k.Name)))
	})
	rows, err := tx.Query(ctx, fmt.Sprintf(duplicateRowsSQL, key, strings.Join(values, ", "), strings.Join(columns, ", "), l.To, strings.Join(conditions, " AND "), atMost, l.toKey("f")))
	if err != nil {
		return nil, fmt.Errorf("look for duplicates of index %q: %w", index.Name, err)
	}
	u := Unfit{Column: strings.Join(columns, ", "), Why: fmt.Sprintf("is not unique, and the index %q must be", index.Name)}
	_, err = pgx.ForEachRow(rows, []any{&u.Key, &u.Value}, func() error {
		found = append(found, u)
		u.Key = nil
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for duplicates of index %q: %w", index.Name, err)
	}
	return found, nil
}
