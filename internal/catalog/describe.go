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
// to write and to read. All queries are sent as one statement, which returns the rows
// of all lists as JSON. One statement is one round trip, and under a lock other
// sessions wait for it. The server plans it once for a connection.

// description is a table that is being described, with the lists that are asked for it.
type description struct {
	*Table
	lists []list
	with  string // common table expressions that lists share; it follows WITH RECURSIVE
}

// list is a query and the function that takes its rows. The query has one parameter,
// $1: the OID of the table.
type list struct {
	sql  string
	take func([]json.RawMessage) error
}

// part is a group of lists that describes one thing, such as the columns. Lists are
// taken in the order in which they were asked for, so a list can use the result of an
// earlier one.
type part struct {
	what string
	ask  func(*description)
}

// want asks for a list. The query's columns have the names of T's fields.
func want[T any](d *description, sql string, take func([]T) error) {
	d.lists = append(d.lists, list{sql, func(rows []json.RawMessage) error {
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

// shared returns what the statement with the lists begins with.
func (d *description) shared() string {
	if d.with == "" {
		return ""
	}
	return "WITH RECURSIVE " + d.with + "\n"
}

// queue adds the description of a table to b. The table is complete after b's results
// have been read.
func queue(b *pgx.Batch, oid uint32, parts []part) *Table {
	d := &description{Table: &Table{OID: oid}}
	var queries, of []string
	for _, p := range parts {
		first := len(d.lists)
		p.ask(d)
		for n, l := range d.lists[first:] {
			queries, of = append(queries, fmt.Sprintf(listSQL, first+n, l.sql)), append(of, p.what)
		}
	}
	b.Queue(d.shared()+strings.Join(queries, "\nUNION ALL\n"), oid).Query(func(rows pgx.Rows) error {
		all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[numbered])
		if err != nil {
			return fmt.Errorf("describe table %d: %w", oid, err)
		}
		sorted := make([][]numbered, len(d.lists))
		for _, r := range all {
			sorted[r.List] = append(sorted[r.List], r)
		}
		for i, rows := range sorted {
			slices.SortFunc(rows, func(a, b numbered) int { return int(a.Row - b.Row) })
			values := make([]json.RawMessage, len(rows))
			for n, r := range rows {
				values[n] = r.JSON
			}
			if err := d.lists[i].take(values); err != nil {
				return fmt.Errorf("describe %s of table %d: %w", of[i], oid, err)
			}
		}
		return nil
	})
	return d.Table
}

// describe reads parts of the descriptions of several tables, in one round trip.
func describe(ctx context.Context, q Querier, oids []uint32, parts []part) ([]*Table, error) {
	b := &pgx.Batch{}
	tables := make([]*Table, len(oids))
	for i, oid := range oids {
		tables[i] = queue(b, oid, parts)
	}
	if err := q.SendBatch(ctx, b).Close(); err != nil {
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
		d := &description{Table: &Table{OID: oid}}
		for _, p := range parts {
			first := len(d.lists)
			p.ask(d)
			for n, l := range d.lists[first:] {
				if _, again := q.Exec(ctx, d.shared()+fmt.Sprintf(listSQL, first+n, l.sql), oid); errors.As(again, &pgErr) && pgErr.Code != pgerrcode.InFailedSQLTransaction {
					return fmt.Errorf("describe %s of table %d: %w", p.what, oid, again)
				}
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
