package alter

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Packed is the ColumnOrder that leaves the least space between columns.
const Packed = "packed"

const tablespaceSQL = `SELECT EXISTS (SELECT FROM pg_tablespace WHERE spcname = $1)`

// arrange gives the target what no action of ALTER TABLE can: the order of its columns, and the
// tablespace of its indexes.
func (m *Model) arrange(ctx context.Context, a *Alteration) error {
	is := a.Delta.Is
	if m.Asked.IndexTablespace != "" {
		var there bool
		if err := m.tx.QueryRow(ctx, tablespaceSQL, m.Asked.IndexTablespace).Scan(&there); err != nil {
			return fmt.Errorf("look up the tablespace of the indexes: %w", err)
		}
		if !there {
			m.refuse("--index-tablespace", "there is no tablespace "+catalog.Quote(m.Asked.IndexTablespace), "")
			return nil
		}
		for i := range is.Indexes {
			is.Indexes[i].Tablespace = m.Asked.IndexTablespace
		}
	}
	var order []string
	var err error
	switch m.Asked.ColumnOrder {
	case "":
		return nil
	case Packed:
		order, err = m.packed(ctx)
	default:
		order = m.listed(a)
	}
	slices.SortStableFunc(is.Columns, func(a, b catalog.Column) int {
		return cmp.Compare(slices.Index(order, a.Name), slices.Index(order, b.Name))
	})
	return err
}

// listed returns the columns in the order that the user has written.
func (m *Model) listed(a *Alteration) (order []string) {
	is := a.Delta.Is
	list, err := columnList(m.Asked.ColumnOrder)
	if err != nil {
		m.refuse("--column-order", err.Error(), "")
		return nil
	}
	var rest []string
	for _, c := range is.Columns {
		if !slices.ContainsFunc(list, func(name string) bool { return a.interim(name) == c.Name }) {
			rest = append(rest, c.Name)
		}
	}
	for _, name := range list {
		name = a.interim(name)
		_, there := is.Column(name)
		switch {
		case name == "*":
			order, rest = append(order, rest...), nil
		case !there:
			m.refuse("--column-order", "the new table has no column "+catalog.Quote(name), "")
		case slices.Contains(order, name):
			m.refuse("--column-order", "column "+catalog.Quote(name)+" is given twice", "")
		default:
			order = append(order, name)
		}
	}
	if len(rest) > 0 && len(m.reasons) == 0 {
		m.refuse("--column-order", "column "+catalog.Quote(rest[0])+" is missing", "list it, or write * for all others")
	}
	return order
}

// packedSQL lists the columns as they need the least padding: those of fixed length by their
// alignment, the widest first, and then the others. Among equals, columns that are NOT NULL
// come first, and then those that came first before.
//
// https://www.postgresql.org/docs/current/storage-page-layout.html, "Table Row Layout"
const packedSQL = `
SELECT   attname::text
FROM     pg_attribute
WHERE    attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped
ORDER BY attlen < 0, array_position('{d,i,s,c}'::"char"[], attalign), NOT attnotnull, attnum`

func (m *Model) packed(ctx context.Context) ([]string, error) {
	rows, err := m.tx.Query(ctx, packedSQL, m.name().String())
	if err != nil {
		return nil, fmt.Errorf("order the columns: %w", err)
	}
	order, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("order the columns: %w", err)
	}
	return order, nil
}
