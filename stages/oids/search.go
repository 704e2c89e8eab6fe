// Package oids looks for the OID of a table where other tables store it as data.
//
// An exchange puts another table in the place of the old one. If some table stores the OID
// of the old one, that OID then means the old table, and after clean_up no table. repack
// looks for such data before the job begins, and again before each exchange. The columns
// that the user names are rewritten in the transaction of the exchange.
package oids

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
)

// Search says what to search, and what the user has decided.
type Search struct {
	Pool  *pgxpool.Pool
	Table catalog.Name
	// Timeout bounds waits for locks, and the time that the exchange may hold them.
	Timeout  time.Duration
	Matviews []uint32             // those that are rebuilt
	Without  []string             // schemas that are not searched
	Update   []registry.OIDColumn // columns to be rewritten
	Ignore   bool                 // leave other OIDs as they are
}

// changing is an object that an exchange replaces by another object, with another OID.
type changing struct {
	Class       string // the catalog that has the object
	OID         uint32
	Role        string // the object's role for the table: the same for the old and the new object
	Rebuilt     bool   // it is replaced with a materialized view, after the exchange
	Description string
}

// column is a column that may hold OIDs of relations, types or functions.
type column struct {
	Relation                          uint32
	SchemaName, TableName, ColumnName string
	Kind                              string // as in pg_class.relkind
	Base                              string // oid, regclass, regtype, regproc or regprocedure
	Shape                             string // scalar, array, vector or inside
	Type                              string // as SQL writes it
	Flag                              string // as --update-oid takes it
	Populated, Readable, Writable     bool
	Secured                           bool // row-level security applies to us
	Beyond                            bool // it has partitions that are foreign tables
	Size                              int64
	Indexed                           bool
	Extension                         string // the extension that the table belongs to; or empty
	Triggered                         bool   // the table has triggers on UPDATE
	Refers                            bool   // the column belongs to a foreign key
	Fixed                             string // why it cannot be rewritten; or empty
}

func (c column) key() registry.OIDColumn {
	return registry.OIDColumn{Schema: c.SchemaName, Table: c.TableName, Column: c.ColumnName}
}

func (c column) table() catalog.Name { return catalog.Name{Schema: c.SchemaName, Name: c.TableName} }

// held tells how a column holds the OIDs that change.
type held struct {
	column column
	rows   int64
	oids   []uint32
	took   time.Duration
}

// Found is the result of a search.
type Found struct {
	Search
	objects    []changing
	held       []held
	arguments  []string            // triggers with an OID in their arguments
	unsearched map[string][]string // columns that were not searched, by reason
	slow       []column            // those of them that would have taken too long
}

func readChanging(ctx context.Context, q catalog.Querier, oid uint32, matviews []uint32) ([]changing, error) {
	rows, err := q.Query(ctx, changingSQL, oid, matviews)
	if err != nil {
		return nil, fmt.Errorf("list OIDs that change: %w", err)
	}
	objects, err := pgx.CollectRows(rows, pgx.RowToStructByName[changing])
	if err != nil {
		return nil, fmt.Errorf("list OIDs that change: %w", err)
	}
	return objects, nil
}

func readColumns(ctx context.Context, q catalog.Querier, oid uint32, without []string) ([]column, error) {
	rows, err := q.Query(ctx, columnsSQL, without, oid)
	if err != nil {
		return nil, fmt.Errorf("list columns of OIDs: %w", err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByName[column])
	if err != nil {
		return nil, fmt.Errorf("list columns of OIDs: %w", err)
	}
	return columns, nil
}

// rewrites reports whether the user has named the column.
func (s Search) rewrites(c column) bool { return slices.Contains(s.Update, c.key()) }

// The search spends little time on each table, and does not read a large table as a whole.
const (
	searchTime = 2 * time.Second
	searchSize = 1 << 30
)

// Find looks for the OIDs of the table with that OID, and of what belongs to it. It
// looks in all columns that it may read, and in the arguments of triggers.
//
// It takes ACCESS SHARE on each table, one after the other, and writes nothing.
func (s Search) Find(ctx context.Context, oid uint32) (*Found, error) {
	objects, err := readChanging(ctx, s.Pool, oid, s.Matviews)
	if err != nil {
		return nil, err
	}
	columns, err := readColumns(ctx, s.Pool, oid, s.Without)
	if err != nil {
		return nil, err
	}
	found := &Found{Search: s, objects: objects, unsearched: map[string][]string{}}
	for len(columns) > 0 {
		n := 1
		for n < len(columns) && columns[n].Relation == columns[0].Relation {
			n++
		}
		if err := found.searchTable(ctx, columns[:n]); err != nil {
			return nil, err
		}
		columns = columns[n:]
	}
	rows, err := s.Pool.Query(ctx, argumentsSQL, found.oidsFor("oid"), s.Without)
	if err != nil {
		return nil, fmt.Errorf("look for OIDs in arguments of triggers: %w", err)
	}
	if found.arguments, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return nil, fmt.Errorf("look for OIDs in arguments of triggers: %w", err)
	}
	return found, nil
}

// oidsFor returns the OIDs that a column of the type base can mean.
func (f *Found) oidsFor(base string) []uint32 {
	oids := []uint32{}
	for _, o := range f.objects {
		if o.couldBe(base) {
			oids = append(oids, o.OID)
		}
	}
	return oids
}

func (o changing) couldBe(base string) bool {
	switch base {
	case "oid":
		return true
	case "regproc", "regprocedure":
		return o.Class == "pg_proc"
	default:
		return base == "regclass" && o.Class == "pg_class" || base == "regtype" && o.Class == "pg_type"
	}
}

// searchTable searches the columns of one table. All of them together take at most about
// searchTime.
func (f *Found) searchTable(ctx context.Context, columns []column) error {
	left := searchTime
	for _, c := range columns {
		if !c.Populated {
			continue
		}
		named := f.rewrites(c)
		if why := c.unreadable(named); why != "" {
			f.unsearched[why] = append(f.unsearched[why], c.Flag)
			continue
		}
		began := time.Now()
		found, err := f.searchColumn(ctx, c, f.oidsFor(c.Base), left)
		left = max(left-time.Since(began), time.Millisecond)
		var pgErr *pgconn.PgError
		switch {
		case err == nil:
			found.took = time.Since(began)
			f.held = append(f.held, found)
		case ctx.Err() != nil || !errors.As(err, &pgErr):
			return err
		case pgErr.Code == pgerrcode.QueryCanceled:
			f.slow = append(f.slow, c)
			why := fmt.Sprintf("takes more than %s", searchTime)
			f.unsearched[why] = append(f.unsearched[why], c.Flag)
		case pgErr.Code == pgerrcode.LockNotAvailable:
			f.unsearched["is locked"] = append(f.unsearched["is locked"], c.Flag)
		case pgErr.Code == pgerrcode.UndefinedTable || pgErr.Code == pgerrcode.UndefinedColumn: // dropped meanwhile
		case pgerrcode.IsConnectionException(pgErr.Code) || pgerrcode.IsOperatorIntervention(pgErr.Code):
			return err
		default:
			why := "cannot be read: " + pgErr.Message
			f.unsearched[why] = append(f.unsearched[why], c.Flag)
		}
	}
	return nil
}

// unreadable returns the reason why the column is not searched, or "". A column that is to
// be rewritten is searched even if its table is large.
func (c column) unreadable(named bool) string {
	switch {
	case c.Shape == "inside":
		return "has OIDs only inside a composite or range type, or an array of arrays"
	case c.Kind == "f":
		return "belongs to a foreign table"
	case c.Beyond:
		return "belongs to a partitioned table with foreign tables"
	case !c.Readable:
		return "may not be read: it lacks GRANT SELECT, or USAGE on its schema"
	case c.Secured:
		return "is behind row-level security"
	case c.Size > searchSize && !c.Indexed && !named:
		return "belongs to a table of more than 1 GB, and has no index"
	}
	return ""
}

// only returns the table as a statement names it. Partitions are read together with their
// partitioned table. Tables that inherit are read separately.
func (c column) only() string {
	if c.Kind == "p" {
		return c.table().String()
	}
	return "ONLY " + c.table().String()
}

// holds returns the condition that the column has one of the OIDs. oids is an expression of
// type oid[]. The condition is written so that an index on the column can be used.
func (c column) holds(oids string) string {
	switch column := catalog.Quote(c.ColumnName); c.Shape {
	case "scalar":
		return fmt.Sprintf("%s = ANY (%s)", column, oids)
	case "vector":
		return fmt.Sprintf("%s::oid[] && %s", column, oids)
	default:
		return fmt.Sprintf("%[1]s::%[2]s[] && (%[3]s)::%[2]s[]", column, c.Base, oids)
	}
}

const (
	searchScalarSQL = `
SELECT   %[1]s::oid, count(*)
FROM     %[2]s
WHERE    %[3]s
GROUP BY 1`
	searchArraySQL = `
SELECT   0::oid, count(*)
FROM     %[2]s
WHERE    %[3]s
UNION ALL
SELECT   wanted, count(*)
FROM     %[2]s
CROSS    JOIN unnest($1::oid[]) wanted
WHERE    %[3]s AND wanted = ANY (%[1]s::oid[])
GROUP BY 1`
)

// searchColumn counts the rows that have one of the OIDs in a column, by OID.
func (s Search) searchColumn(ctx context.Context, c column, oids []uint32, within time.Duration) (held, error) {
	sql := searchScalarSQL
	if c.Shape != "scalar" {
		sql = searchArraySQL
	}
	sql = fmt.Sprintf(sql, catalog.Quote(c.ColumnName), c.only(), c.holds("$1::oid[]"))
	found := held{column: c}
	err := pgx.BeginTxFunc(ctx, s.Pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		ms := max(within.Milliseconds(), 1)
		bounds := []string{
			session.CustomPlansSQL,
			fmt.Sprintf("SET LOCAL statement_timeout = %d", ms),
			fmt.Sprintf("SET LOCAL lock_timeout = %d", max(min(ms, s.Timeout.Milliseconds()), 1)),
		}
		if _, err := tx.Exec(ctx, strings.Join(bounds, ";\n")); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, sql, oids)
		if err != nil {
			return err
		}
		var oid uint32
		var n, all, counted int64
		_, err = pgx.ForEachRow(rows, []any{&oid, &n}, func() error {
			if oid == 0 {
				all = n
				return nil
			}
			counted += n
			found.oids = append(found.oids, oid)
			return nil
		})
		found.rows = counted
		if c.Shape != "scalar" {
			found.rows = all
		}
		return err
	})
	if err != nil {
		return found, fmt.Errorf("look for OIDs in %s: %w", c.Flag, err)
	}
	return found, nil
}

// ColumnError reports that --update-oid does not name a column in which OIDs could be
// rewritten.
type ColumnError struct{ Given, Why string }

func (e *ColumnError) Error() string {
	return fmt.Sprintf("--update-oid %s: %s", e.Given, e.Why)
}

// ReadColumns finds the columns that are given as SCHEMA.TABLE.COLUMN, as SQL writes
// them. It returns *ColumnError if there is no such column.
func ReadColumns(ctx context.Context, q catalog.Querier, given []string) ([]registry.OIDColumn, error) {
	if len(given) == 0 {
		return nil, nil
	}
	columns, err := readColumns(ctx, q, 0, []string{})
	if err != nil {
		return nil, err
	}
	var named []registry.OIDColumn
	for _, text := range given {
		var parts []string
		err := q.QueryRow(ctx, parseIdentSQL, text).Scan(&parts)
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InvalidParameterValue || err == nil && len(parts) != 3 {
			return nil, &ColumnError{text, "want SCHEMA.TABLE.COLUMN as SQL writes it, quotes included"}
		}
		if err != nil {
			return nil, fmt.Errorf("--update-oid %s: %w", text, err)
		}
		key := registry.OIDColumn{Schema: parts[0], Table: parts[1], Column: parts[2]}
		if !slices.ContainsFunc(columns, func(c column) bool { return c.key() == key }) {
			return nil, &ColumnError{text, "there is no such column of type oid, regclass or regtype, of an array of them or of a domain over them; " +
				"of a partitioned table name its own column, not those of partitions"}
		}
		if !slices.Contains(named, key) {
			named = append(named, key)
		}
	}
	return named, nil
}
