package catalog

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// ATTACH PARTITION compares checks of a partition with those of the partitioned table
// by their printed text; before PostgreSQL 16 generated columns, too. See
// constraints_equivalent and MergeAttributesIntoExisting in tablecmds.c.
//
// A definition that was parsed again may be printed in another way (see Reprints), and
// then the server would not attach the copy of the partition. So the copy gets the same
// node trees: CREATE TABLE … LIKE copies them. LIKE cannot copy a check that refers to
// a whole row, but such a check cannot come from the partitioned table.

// Verbatim reports whether CreateSQL must copy from t itself (CREATE TABLE … LIKE), and
// not only from its description.
func (t *Table) Verbatim() bool {
	return t.Partition != nil && t.Partition.Compared && !t.Partition.Whole
}

// likeSQL copies all columns and checks of a table.
func (t *Table) likeSQL() string {
	return "LIKE " + t.Name.String() + " INCLUDING COMPRESSION INCLUDING CONSTRAINTS INCLUDING GENERATED"
}

// dropUncheckedSQL drops the constraints that LIKE has made valid but that are not
// valid on t.
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

// Unattachable returns the checks and generated columns that the partition t has from
// the partitioned table, and that the server prints differently on copied, its copy. It
// takes no lock on the table.
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
