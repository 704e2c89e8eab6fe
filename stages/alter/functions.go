package alter

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// mentioningSQL finds functions whose text has the name $1 of the table as a word, and that have one
// of the types $2, or an array of it, as an argument or result, or as a word in the text. The
// server does not know what their texts refer to. Some types have more names than the catalog has.
const mentioningSQL = `
WITH old (oid, list, words) AS (
    SELECT t.oid, t.typarray,
           ARRAY(SELECT '\m' || regexp_replace(n, '(\W)', '\\\1', 'g') || '\M'
                 FROM   unnest(ARRAY[format_type(t.oid, NULL), t.typname::text]
                               || ARRAY(SELECT o.name FROM (VALUES ('int4', 'int'), ('numeric', 'decimal'), ('bpchar', 'char'), ('float8', 'float')) o (type, name)
                                        WHERE  o.type = t.typname)) n)
    FROM   pg_type t
    WHERE  t.oid = ANY ($2::text[]::regtype[])
)
SELECT   p.oid::regprocedure::text
FROM     pg_proc p
JOIN     pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('internal', 'c')
WHERE    p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
AND      p.prosrc ~* ('\m' || regexp_replace($1, '(\W)', '\\\1', 'g') || '\M')
AND      EXISTS (SELECT FROM old o
                 WHERE  p.prosrc ~* ANY (o.words)
                 OR     ARRAY[o.oid, o.list] && (coalesce(p.proallargtypes, p.proargtypes::oid[]) || p.prorettype))
ORDER BY 1`

// Mentioning lists functions that name the table and a type that one of its columns has no more.
// They stay as they are. It takes no lock.
func (a *Alteration) Mentioning(ctx context.Context, q catalog.Querier, table catalog.Name) ([]string, error) {
	var types []string
	for _, c := range a.Delta.Was.Columns {
		if is, there := a.Delta.Is.Column(c.Name); there && is.Type != c.Type {
			types = append(types, c.Type)
		}
	}
	if len(types) == 0 {
		return nil, nil
	}
	rows, err := q.Query(ctx, mentioningSQL, table.Name, types)
	if err != nil {
		return nil, fmt.Errorf("look for functions that name %s: %w", table, err)
	}
	functions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for functions that name %s: %w", table, err)
	}
	return functions, nil
}
