package oids

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
)

// Rewriting is how an exchange rewrites the columns named by --update-oid.
type Rewriting struct {
	columns []column
	was     []changing
	Others  []catalog.Name // the tables of the columns, without the exchanged one
}

// Rewriting reads what is to be rewritten when the table with that OID is exchanged. A column
// that has been dropped since it was named needs nothing.
func (s Search) Rewriting(ctx context.Context, q catalog.Querier, oid uint32) (*Rewriting, error) {
	r := &Rewriting{}
	if len(s.Update) == 0 {
		return r, nil
	}
	columns, err := readColumns(ctx, q, oid, s.Without)
	if err != nil {
		return nil, err
	}
	for _, c := range columns {
		if c.Extension != "" || c.Fixed != "" || !s.rewrites(c) {
			continue
		}
		r.columns = append(r.columns, c)
		if t := c.table(); t != s.Table && !slices.Contains(r.Others, t) {
			r.Others = append(r.Others, t)
		}
	}
	// The referenced column comes first. ON UPDATE CASCADE rewrites the others.
	slices.SortStableFunc(r.columns, func(a, b column) int {
		return strings.Compare(strconv.FormatBool(a.Refers), strconv.FormatBool(b.Refers))
	})
	r.was, err = readChanging(ctx, q, oid, []uint32{})
	return r, err
}

// Tables returns the tables of the columns as LOCK TABLE names them. The exchange blocks
// writers to them until commit. If they write the table's name as an OID afterwards, the
// server looks the name up again and finds the new table.
func (r *Rewriting) Tables() []string {
	list := make([]string, len(r.Others))
	for i, name := range r.Others {
		list[i] = name.String()
	}
	return list
}

// SQL returns the statements that rewrite the columns when the table with the OID oid, and
// what belongs to it, has come into use.
func (r *Rewriting) SQL(ctx context.Context, q catalog.Querier, oid uint32) ([]string, error) {
	if len(r.columns) == 0 {
		return nil, nil
	}
	is, err := readChanging(ctx, q, oid, []uint32{})
	if err != nil {
		return nil, err
	}
	return r.sql(func(o changing) string {
		for _, n := range is {
			if n.Class == o.Class && n.Role == o.Role {
				return strconv.FormatUint(uint64(n.OID), 10)
			}
		}
		return "" // for example, a TOAST table that the new table does not need
	}), nil
}

// SQLWith returns the statements of SQL with number in the place of all new OIDs.
func (r *Rewriting) SQLWith(number string) []string {
	return r.sql(func(changing) string { return number })
}

// sql returns the statements that rewrite the columns. becomes returns the new OID of an
// object.
func (r *Rewriting) sql(becomes func(changing) string) []string {
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
func (c column) rewriteSQL(from, to []string) string {
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
