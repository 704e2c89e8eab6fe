package stages

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
)

// rewriting is how an exchange rewrites the columns named by --update-oid.
type rewriting struct {
	columns []oidColumn
	was     []changing
	others  []catalog.Name // the tables of the columns, without the exchanged one
}

// rewrites reads what is to be rewritten when the table with that OID is exchanged. A column
// that has been dropped since it was named needs nothing.
func (e *Env) rewrites(ctx context.Context, q catalog.Querier, oid uint32) (*rewriting, error) {
	r := &rewriting{}
	if len(e.rewritten()) == 0 {
		return r, nil
	}
	columns, err := readOIDColumns(ctx, q, oid, e.unsearchedSchemas())
	if err != nil {
		return nil, err
	}
	for _, c := range columns {
		if c.Extension != "" || c.Fixed != "" || !slices.Contains(e.rewritten(), c.key()) {
			continue
		}
		r.columns = append(r.columns, c)
		if t := c.table(); t != e.Source.Name && !slices.Contains(r.others, t) {
			r.others = append(r.others, t)
		}
	}
	// The referenced column comes first. ON UPDATE CASCADE rewrites the others.
	slices.SortStableFunc(r.columns, func(a, b oidColumn) int {
		return strings.Compare(strconv.FormatBool(a.Refers), strconv.FormatBool(b.Refers))
	})
	r.was, err = readChanging(ctx, q, oid, []uint32{})
	return r, err
}

// tables returns the tables of the columns as LOCK TABLE names them. The exchange blocks
// writers to them until commit. If they write the table's name as an OID afterwards, the
// server looks the name up again and finds the new table.
func (r *rewriting) tables() []string { return names(r.others, catalog.Name.String) }

// rewriteOIDs replaces OIDs in the columns. The new OIDs are those of the table that is now
// in use, and of what belongs to it.
func (e *Env) rewriteOIDs(x *exchanging) action {
	return action{
		run: func(ctx context.Context, tx *lock.Tx) error {
			if len(x.oids.columns) == 0 {
				return nil
			}
			is, err := readChanging(ctx, tx, x.in, []uint32{})
			if err != nil {
				return err
			}
			return doAll(ctx, tx, x.oids.sql(func(o changing) string {
				for _, n := range is {
					if n.Class == o.Class && n.Role == o.Role {
						return strconv.FormatUint(uint64(n.OID), 10)
					}
				}
				return "" // for example, a TOAST table that the new table does not need
			}))
		},
		sql: func(context.Context, *planner) ([]string, error) {
			return x.oids.sql(func(changing) string { return unnumbered }), nil
		},
	}
}

// sql returns the statements that rewrite the columns. becomes returns the new OID of an
// object.
func (r *rewriting) sql(becomes func(changing) string) []string {
	var statements []string
	for _, c := range r.columns {
		var from, to []string
		for _, o := range r.was {
			was, is := strconv.FormatUint(uint64(o.OID), 10), becomes(o)
			if is != "" && o.couldBe(c.Base) && !slices.Contains(from, was) {
				from, to = append(from, was), append(to, is)
			}
		}
		if len(from) > 0 {
			statements = append(statements, c.rewriteSQL(from, to))
		}
	}
	return statements
}

const rewriteOIDsSQL = `UPDATE %s SET %s = (%s)::%s WHERE %s`

// rewriteSQL replaces OIDs in the column. No OID in to may also be in from. An array keeps
// its dimensions.
func (c oidColumn) rewriteSQL(from, to []string) string {
	column := catalog.Quote(c.ColumnName)
	old := fmt.Sprintf("'{%s}'::oid[]", strings.Join(from, ","))
	value := fmt.Sprintf("('{%[1]s}'::oid[])[array_position(%[2]s, %[3]s::oid)]", strings.Join(to, ","), old, column)
	if c.Shape != "scalar" {
		value = column + "::oid[]"
		for i := range from {
			value = fmt.Sprintf("array_replace(%s, '%s'::oid, '%s'::oid)", value, from[i], to[i])
		}
	}
	if c.Shape == "vector" {
		value = fmt.Sprintf("array_to_string(%s, ' ')", value)
	}
	return fmt.Sprintf(rewriteOIDsSQL, c.only(), column, value, c.Type, c.holds(old))
}
