package alter

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Referring is a column that refers to a column of a key, or to one that does so.
type Referring struct {
	OID   uint32 // of its table
	Table catalog.Name
	Kind  string // pg_class.relkind of its table
	Name  string
}

// referringSQL goes from the columns $2 of table $1 to those that refer to them, and on, and
// lists those that are narrower than bigint. A column that is bigint by now may have narrower
// ones behind it. Tables that are further away come first.
const referringSQL = `
WITH RECURSIVE wide (rel, col, depth) AS (
    SELECT a.attrelid, a.attnum, 0
    FROM   pg_attribute a
    WHERE  a.attrelid = $1 AND a.attname = ANY ($2)
    UNION
    SELECT k.conrelid, c.child, w.depth + 1
    FROM   wide w
    JOIN   pg_constraint k ON k.confrelid = w.rel AND k.contype = 'f' AND k.conparentid = 0
    CROSS  JOIN LATERAL unnest(k.conkey, k.confkey) c (child, parent)
    JOIN   pg_attribute a  ON a.attrelid = k.conrelid AND a.attnum = c.child
    WHERE  c.parent = w.col AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) AND w.depth < 32
), found AS (
    SELECT rel, col, min(depth) AS depth FROM wide GROUP BY rel, col
)
SELECT   c.oid, n.nspname::text, c.relname::text, c.relkind::text, a.attname::text
FROM     found w
JOIN     pg_class c     ON c.oid = w.rel
JOIN     pg_namespace n ON n.oid = c.relnamespace
JOIN     pg_attribute a ON a.attrelid = w.rel AND a.attnum = w.col
WHERE    w.depth > 0 AND a.atttypid IN ('int2'::regtype, 'int4'::regtype)
ORDER BY (SELECT max(f.depth) FROM found f WHERE f.rel = w.rel) DESC, n.nspname, c.relname, a.attnum`

// ReadReferring lists the columns that refer to columns of a key, directly or not, and are
// narrower than bigint, those of the table with that OID included. A table comes after those
// that refer to it, as far as they do not refer to each other. It takes no lock.
func ReadReferring(ctx context.Context, q catalog.Querier, oid uint32, key []string) (list []Referring, err error) {
	rows, err := q.Query(ctx, referringSQL, oid, key)
	if err != nil {
		return nil, fmt.Errorf("list the columns that refer to the key: %w", err)
	}
	var r Referring
	_, err = pgx.ForEachRow(rows, []any{&r.OID, &r.Table.Schema, &r.Table.Name, &r.Kind, &r.Name}, func() error {
		list = append(list, r)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the columns that refer to the key: %w", err)
	}
	return list, nil
}
