package catalog

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// ATTACH PARTITION compares the checks, and before PostgreSQL 16 the generated
// columns, of a partition with those of the partitioned table by how they are
// printed: constraints_equivalent and MergeAttributesIntoExisting in tablecmds.c.
// What has been parsed again may be printed otherwise (see Reprints), and the copy
// of a partition would not be attached. So it is given the very node trees, which
// CREATE TABLE … LIKE takes over. It does not where a whole row is referred to;
// nothing that comes from the partitioned table can do that.

// Verbatim reports whether a copy of t is made by looking at t, and not at its
// description alone.
func (t *Table) Verbatim() bool {
	return t.Partition != nil && t.Partition.Compared && !t.Partition.Whole
}

// likeSQL is all of a table's columns and checks.
func (t *Table) likeSQL() string {
	return "LIKE " + t.Name.String() + " INCLUDING COMPRESSION INCLUDING CONSTRAINTS INCLUDING GENERATED"
}

// dropUncheckedSQL drops what LIKE has made valid and is not.
func (t *Table) dropUncheckedSQL(on Name) []string {
	var statements []string
	for _, c := range t.Constraints {
		if t.Verbatim() && (c.Type == "c" || c.Type == "n") && !c.Validated {
			statements = append(statements, fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT %s", on, Quote(c.Name)))
		}
	}
	return statements
}

const inheritedSQL = `
SELECT 'constraint ' || conname FROM pg_constraint WHERE conrelid = $1 AND contype = 'c' AND coninhcount > 0
UNION ALL
SELECT 'generated column ' || attname FROM pg_attribute WHERE attrelid = $1 AND attgenerated <> '' AND attinhcount > 0 AND NOT attisdropped`

// Unattachable names what the partition t has from the partitioned table and its
// copy has in other words.
func (t *Table) Unattachable(ctx context.Context, q Querier, copied *Table) ([]string, error) {
	if t.Partition == nil {
		return nil, nil
	}
	rows, err := q.Query(ctx, inheritedSQL, t.OID)
	if err != nil {
		return nil, fmt.Errorf("look for what %s has from the partitioned table: %w", t.Name, err)
	}
	inherited, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for what %s has from the partitioned table: %w", t.Name, err)
	}
	return slices.DeleteFunc(Reread(t, copied), func(name string) bool { return !slices.Contains(inherited, name) }), nil
}
