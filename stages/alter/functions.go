package alter

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// spelled are other names of types, as they stand in the text of a function.
var spelled = map[string][]string{
	"integer":                     {"int", "int4"},
	"smallint":                    {"int2"},
	"timestamp without time zone": {"timestamp"},
	"timestamp with time zone":    {"timestamptz"},
	"character varying":           {"varchar"},
}

// mentioningSQL finds functions whose text has the name $1 of the table and one of the type names
// $2 as words, or that have such an argument or result. The server does not know what their texts
// refer to.
const mentioningSQL = `
SELECT   p.oid::regprocedure::text
FROM     pg_proc p
JOIN     pg_language l ON l.oid = p.prolang AND l.lanname NOT IN ('internal', 'c')
WHERE    p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
AND      p.prosrc ~* ('\m' || regexp_replace($1, '(\W)', '\\\1', 'g') || '\M')
AND     (p.prosrc ~* ANY (SELECT '\m' || t || '\M' FROM unnest($2::text[]) t)
         OR EXISTS (SELECT FROM unnest(p.proargtypes || p.prorettype) a (type) WHERE format_type(a.type, NULL) = ANY ($2)))
ORDER BY 1
LIMIT    20`

// Mentioning lists functions that name the table and a type that one of its columns has no more.
// They stay as they are. It takes no lock.
func (a *Alteration) Mentioning(ctx context.Context, q catalog.Querier, table catalog.Name) ([]string, error) {
	var types []string
	for _, c := range a.Delta.Was.Columns {
		is, there := a.Delta.Is.Column(c.Name)
		if there && is.Type != c.Type && !slices.Contains(types, c.Type) {
			types = append(append(types, c.Type), spelled[c.Type]...)
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
