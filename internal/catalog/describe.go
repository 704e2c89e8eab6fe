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

// A description consists of many lists, each read by a query of its own, as it is
// easiest to write and to read. They are sent as one statement, which returns the
// rows of all lists as JSON: a statement is a round trip, which under a lock somebody
// waits for, and is planned once for a connection.

// description is a table that is being described, and what has been asked for it.
type description struct {
	*Table
	lists []list
}

// list is what a query asks for, and what is done with its rows. Its one parameter,
// $1, is the OID of the table.
type list struct {
	sql  string
	take func([]json.RawMessage) error
}

// part is one of the things that a table is described by: some lists. They are taken
// in the order in which they were asked for, so that one can rely on those before it.
type part struct {
	what string
	ask  func(*description)
}

// want asks for a list whose columns are named as T's fields.
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

// wantAs is want for what is a list of the description as it is.
func wantAs[T any](d *description, sql string, as *[]T) {
	want(d, sql, func(rows []T) error { *as = rows; return nil })
}

// numbered is a row of a list.
type numbered struct {
	List, Row int64
	JSON      json.RawMessage
}

const listSQL = `SELECT %d AS list, row_number() OVER () AS row, to_json(x)::text AS json FROM (%s) x`

// queue adds the description of the table with that OID to what b asks for. The
// table is complete when the answer has been taken.
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
	b.Queue(strings.Join(queries, "\nUNION ALL\n"), oid).Query(func(rows pgx.Rows) error {
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

// describe reads parts of the descriptions of tables, in one round trip.
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

// unread is err, or where that is of a text that the server could not send us, which
// list the text is in: it is asked for once more, list by list.
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
				if _, again := q.Exec(ctx, fmt.Sprintf(listSQL, first+n, l.sql), oid); errors.As(again, &pgErr) && pgErr.Code != pgerrcode.InFailedSQLTransaction {
					return fmt.Errorf("describe %s of table %d: %w", p.what, oid, again)
				}
			}
		}
	}
	return err
}

// described says what was being done where a whole batch could not be sent.
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

// fieldsOf are the exported fields of a struct and of those embedded in it, by the name
// that their columns have without underscores and case.
func fieldsOf(t reflect.Type) map[string][]int {
	fields := map[string][]int{}
	for _, field := range reflect.VisibleFields(t) {
		if !field.Anonymous && field.IsExported() {
			fields[strings.ToLower(field.Name)] = field.Index
		}
	}
	return fields
}

// decodeRow puts the columns of a row into the fields that are called as they are,
// as pgx.RowToStructByNameLax does: case and underscores do not count.
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

// decodeColumn reads an OID, which is no number in JSON, like one.
func decodeColumn(text json.RawMessage, into reflect.Value) error {
	switch {
	case bytes.Equal(text, []byte("null")) && into.Kind() != reflect.Pointer && into.Kind() != reflect.Slice:
		return errNull
	case into.Kind() == reflect.Uint32:
		text = bytes.Trim(text, `"`)
	}
	return json.Unmarshal(text, into.Addr().Interface())
}
