package alter

import (
	"context"
	"fmt"
	"reflect"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// onlyWider reports whether all that is changed are integer columns, which become wider, and
// their sequences. Then every row of the source fits the target.
func (a *Alteration) onlyWider() bool {
	was, is := a.Delta.Was, a.Delta.Is
	if a.RenamesColumns() || len(was.Columns) != len(is.Columns) ||
		!reflect.DeepEqual(was.Constraints, is.Constraints) || !reflect.DeepEqual(was.Indexes, is.Indexes) {
		return false
	}
	for _, c := range a.Columns {
		if c.Source == "" || c.Target == "" || c.Up.Expression != "" || c.Down.Expression != "" {
			return false
		}
		from, _ := was.Column(c.Source)
		to, _ := is.Column(c.Target)
		if from.Type != to.Type && !narrower(from.Type, to.Type) || from.NotNull != to.NotNull {
			return false
		}
	}
	return true
}

// boundedSQL lists the columns $2 of table $1, of types $3 in the other table, that may get values
// beyond those types before long. A sequence bounds a column while its last value is not close to
// the end of the type, and a foreign key does by the type of the column that it refers to. A
// column that refers to the table itself is bounded by the other column.
const boundedSQL = `
SELECT c.name
FROM   unnest($2::text[], $3::text[]) c (name, type)
WHERE  NOT EXISTS (
           SELECT FROM unnest($4::text[], $5::text[]) s (name, sequence)
           WHERE  s.name = c.name
           AND    coalesce(abs(pg_sequence_last_value(s.sequence::regclass)), 0)
                  < CASE c.type WHEN 'smallint' THEN 32767 ELSE 2147483647 END::bigint * 999 / 1000)
AND    NOT EXISTS (
           SELECT FROM pg_constraint k
           CROSS  JOIN LATERAL unnest(k.conkey, k.confkey) r (child, parent)
           JOIN   pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = r.child
           JOIN   pg_attribute p ON p.attrelid = k.confrelid AND p.attnum = r.parent
           WHERE  k.conrelid = $1 AND k.contype = 'f' AND a.attname = c.name
           AND    coalesce((to_jsonb(k) ->> 'conenforced')::bool, true)
           AND   (k.confrelid = $1 OR p.atttypid = 'int2'::regtype OR p.atttypid = 'int4'::regtype AND c.type = 'integer'))`

// Bounded reports whether every row that one of the two tables gets before long fits the other
// one: all that is changed are integers that become wider, and nothing gives them greater values
// yet. oid is the table in use. It takes no lock.
func (a *Alteration) Bounded(ctx context.Context, q catalog.Querier, oid uint32) (bool, error) {
	if !a.onlyWider() {
		return false, nil
	}
	var names, types, drawn, sequences []string
	for _, c := range a.Columns {
		from, _ := a.Delta.Was.Column(c.Source)
		to, _ := a.Delta.Is.Column(c.Target)
		if from.Type != to.Type {
			names, types = append(names, c.Source), append(types, from.Type)
		}
	}
	for _, s := range a.Sequences {
		drawn, sequences = append(drawn, s.Column), append(sequences, s.Name.String())
	}
	rows, err := q.Query(ctx, boundedSQL, oid, names, types, drawn, sequences)
	if err != nil {
		return false, fmt.Errorf("look for values beyond the old type: %w", err)
	}
	unbounded, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return false, fmt.Errorf("look for values beyond the old type: %w", err)
	}
	return len(unbounded) == 0, nil
}
