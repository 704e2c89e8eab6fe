package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A description has many lists, and each list has a query of its own: that is easiest
// to write and to read. The queries are sent as one statement, which returns the rows
// of all lists as JSON. One statement is one round trip, and under a lock other
// sessions wait for it. The server plans it once for a connection, and again after each
// CREATE SCHEMA in the database. It takes longer to plan a query than to run it: so the
// lists of what most tables lack are in statements of their own. See Extras.

// description is a table that is being described, with the lists that are asked for it.
type description struct {
	*Table
	lists []list
	with  string // common table expressions that the next lists share; it follows WITH RECURSIVE
}

// list is a query and the function that takes its rows. The query has one parameter,
// $1: the OID of the table.
type list struct {
	sql  string
	with string // see description
	part part
	take func([]json.RawMessage) error
	rows []numbered
}

// part is a group of lists that describes one thing, such as the columns. Lists are
// taken in the order in which they were asked for, so a list can use the result of an
// earlier one. A list that is not asked for because the table lacks the part's extra is
// taken without rows.
type part struct {
	what  string
	ask   func(*description)
	extra Extras // 0: every table may have it
}

// want asks for a list. The query's columns have the names of T's fields.
func want[T any](d *description, sql string, take func([]T) error) {
	d.lists = append(d.lists, list{sql: sql, with: d.with, take: func(rows []json.RawMessage) error {
		values, fields := make([]T, len(rows)), fieldsOf(reflect.TypeFor[T]())
		for i, row := range rows {
			if err := decodeRow(row, fields, reflect.ValueOf(&values[i]).Elem()); err != nil {
				return err
			}
		}
		return take(values)
	}})
}

// wantAs is want for rows that go into the description unchanged.
func wantAs[T any](d *description, sql string, as *[]T) {
	want(d, sql, func(rows []T) error { *as = rows; return nil })
}

// numbered is one row of the statement: the number of its list, its place there, and
// the row itself.
type numbered struct {
	List, Row int64
	JSON      json.RawMessage
}

const listSQL = `SELECT %d AS list, row_number() OVER () AS row, to_json(x)::text AS json FROM (%s) x`

// newDescription asks for the lists of parts. extras are those that some part has.
func newDescription(t *Table, parts []part) (d *description, extras Extras) {
	d = &description{Table: t}
	for _, p := range parts {
		first := len(d.lists)
		p.ask(d)
		for n := range d.lists[first:] {
			d.lists[first+n].part = p
		}
		extras |= p.extra
	}
	return d, extras
}

// one returns list n as a statement.
func (d *description) one(n int) string { return d.statement(func(i int) bool { return i == n }) }

// statement returns one statement for the lists that are chosen. It is empty if there are
// none.
func (d *description) statement(chosen func(n int) bool) string {
	var with string
	var queries []string
	for n, l := range d.lists {
		if !chosen(n) {
			continue
		}
		queries = append(queries, fmt.Sprintf(listSQL, n, l.sql))
		if l.with != "" {
			with = "WITH RECURSIVE " + l.with + "\n"
		}
	}
	return with + strings.Join(queries, "\nUNION ALL\n")
}

// collect adds the rows of a statement to their lists.
func (d *description) collect(rows pgx.Rows) error {
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[numbered])
	if err != nil {
		return fmt.Errorf("describe table %d: %w", d.OID, err)
	}
	for _, r := range all {
		d.lists[r.List].rows = append(d.lists[r.List].rows, r)
	}
	return nil
}

// take puts the rows of the lists that are chosen into the table.
func (d *description) take(chosen func(part) bool) error {
	for _, l := range d.lists {
		if !chosen(l.part) {
			continue
		}
		slices.SortFunc(l.rows, func(a, b numbered) int { return int(a.Row - b.Row) })
		values := make([]json.RawMessage, len(l.rows))
		for i, r := range l.rows {
			values[i] = r.JSON
		}
		if err := l.take(values); err != nil {
			return fmt.Errorf("describe %s of table %d: %w", l.part.what, d.OID, err)
		}
	}
	return nil
}

// ofExtras returns a statement for each of these extras. Each has one of its own, so that it
// is planned once for a connection, whatever other extras a table has.
func (d *description) ofExtras(these Extras) (statements []string) {
	for _, e := range extras {
		if these&e.extra == 0 {
			continue
		}
		if sql := d.statement(func(n int) bool { return d.lists[n].part.extra == e.extra }); sql != "" {
			statements = append(statements, sql)
		}
	}
	return statements
}

// queue adds statements to b. When all rows are there, it takes the lists that are chosen.
func (d *description) queue(b *pgx.Batch, statements []string, chosen func(part) bool) {
	for i, sql := range statements {
		b.Queue(sql, d.OID).Query(func(rows pgx.Rows) error {
			if err := d.collect(rows); err != nil || i < len(statements)-1 {
				return err
			}
			return d.take(chosen)
		})
	}
}

// queue adds the description of a table to b. Of the extras, it reads those that are
// likely. After b's results have been read, complete reads the others that the table has.
func queue(b *pgx.Batch, oid uint32, parts []part, likely Extras) *Table {
	t := &Table{OID: oid}
	d, extras := newDescription(t, append(parts[:len(parts):len(parts)], part{what: "extras", ask: askExtras}))
	last := len(d.lists) - 1
	if extras == 0 {
		d.lists = d.lists[:last]
	}
	t.extras.asked = extras & likely
	always := d.statement(func(n int) bool { return d.lists[n].part.extra == 0 })
	d.queue(b, append([]string{always}, d.ofExtras(likely)...), func(part) bool { return true })
	return t
}

// complete reads the extras that the tables have and that queue has not read, in one round
// trip. If there are none, it needs none.
func complete(ctx context.Context, q Querier, tables []*Table, parts []part) error {
	b := &pgx.Batch{}
	for _, t := range tables {
		missing := t.extras.has &^ t.extras.asked
		if missing == 0 {
			continue
		}
		if missing&OfPartition != 0 { // the other two look at the partition
			missing |= OfKeys | OfTriggers
		}
		d, _ := newDescription(t, parts)
		t.extras.asked |= missing
		d.queue(b, d.ofExtras(missing), func(p part) bool { return p.extra&missing != 0 })
	}
	if b.Len() == 0 {
		return nil
	}
	return q.SendBatch(ctx, b).Close()
}

// describe reads parts of the descriptions of several tables, in one round trip, or two
// if one of them has extras.
func describe(ctx context.Context, q Querier, oids []uint32, parts []part) ([]*Table, error) {
	return describeLikely(ctx, q, oids, parts, func(uint32) Extras { return 0 })
}

// describeLikely is describe with the extras that each table is likely to have. If it has
// no others, one round trip is enough.
func describeLikely(ctx context.Context, q Querier, oids []uint32, parts []part, likely func(oid uint32) Extras) ([]*Table, error) {
	b := &pgx.Batch{}
	tables := make([]*Table, len(oids))
	for i, oid := range oids {
		tables[i] = queue(b, oid, parts, likely(oid))
	}
	err := q.SendBatch(ctx, b).Close()
	if err == nil {
		err = complete(ctx, q, tables, parts)
	}
	if err != nil {
		return nil, described(unread(ctx, q, oids, parts, err))
	}
	return tables, nil
}

// unread returns err. If err says that the server could not convert a text to our
// encoding, unread runs the queries again, list by list, and returns an error that
// names the list with that text.
func unread(ctx context.Context, q Querier, oids []uint32, parts []part, err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.CharacterNotInRepertoire && pgErr.Code != pgerrcode.UntranslatableCharacter {
		return err
	}
	for _, oid := range oids {
		d, _ := newDescription(&Table{OID: oid}, parts)
		for n, l := range d.lists {
			if _, again := q.Exec(ctx, d.one(n), oid); errors.As(again, &pgErr) && pgErr.Code != pgerrcode.InFailedSQLTransaction {
				return fmt.Errorf("describe %s of table %d: %w", l.part.what, oid, again)
			}
		}
	}
	return err
}

// described adds "describe" to an error of a whole batch, which names no list.
func described(err error) error {
	if strings.HasPrefix(err.Error(), "describe ") {
		return err
	}
	return fmt.Errorf("describe: %w", err)
}

func describeOne(ctx context.Context, q Querier, oid uint32, parts []part) (*Table, error) {
	tables, err := describe(ctx, q, []uint32{oid}, parts)
	if err != nil {
		return nil, err
	}
	return tables[0], nil
}

// fieldsOf returns the exported fields of a struct and of structs embedded in it. The
// map's keys are the field names in lower case: what decodeRow makes of a column's
// name.
func fieldsOf(t reflect.Type) map[string][]int {
	fields := map[string][]int{}
	for _, field := range reflect.VisibleFields(t) {
		if !field.Anonymous && field.IsExported() {
			fields[strings.ToLower(field.Name)] = field.Index
		}
	}
	return fields
}

// decodeRow puts the columns of a row into the fields of the same name. It ignores case
// and underscores, as pgx.RowToStructByNameLax does, and columns without a field.
func decodeRow(row json.RawMessage, fields map[string][]int, into reflect.Value) error {
	var columns map[string]json.RawMessage
	if err := json.Unmarshal(row, &columns); err != nil {
		return err
	}
	for column, text := range columns {
		index, there := fields[strings.ToLower(strings.ReplaceAll(column, "_", ""))]
		if !there {
			continue
		}
		if err := decodeColumn(text, into.FieldByIndex(index)); err != nil {
			return fmt.Errorf("column %s: %w", column, err)
		}
	}
	return nil
}

var errNull = errors.New("is null")

// decodeColumn decodes one value. JSON has an OID as a string; decodeColumn reads it as
// a number.
func decodeColumn(text json.RawMessage, into reflect.Value) error {
	switch {
	case bytes.Equal(text, []byte("null")) && into.Kind() != reflect.Pointer && into.Kind() != reflect.Slice:
		return errNull
	case into.Kind() == reflect.Uint32:
		text = bytes.Trim(text, `"`)
	}
	return json.Unmarshal(text, into.Addr().Interface())
}
