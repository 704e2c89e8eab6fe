package stages

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

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
)

// An exchange puts another table in the place of the old one. If some table stores the OID
// of the old one as data, that OID then means the old table, and after clean_up no table.
// repack looks for such data before the job begins, and again before each exchange. The
// columns that the user names are rewritten in the transaction of the exchange.

// changing is an object that an exchange replaces by another object, with another OID.
type changing struct {
	Class       string // the catalog that has the object
	OID         uint32
	Role        string // the object's role for the table: the same for the old and the new object
	Rebuilt     bool   // it is replaced with a materialized view, after the exchange
	Description string
}

// oidColumn is a column that may hold OIDs of relations, types or functions.
type oidColumn struct {
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

func (c oidColumn) key() registry.OIDColumn {
	return registry.OIDColumn{Schema: c.SchemaName, Table: c.TableName, Column: c.ColumnName}
}

func (c oidColumn) table() catalog.Name { return catalog.Name{Schema: c.SchemaName, Name: c.TableName} }

// held tells how a column holds the OIDs that change.
type held struct {
	column oidColumn
	rows   int64
	oids   []uint32
	took   time.Duration
}

// oidSearch is the result of a search.
type oidSearch struct {
	objects    []changing
	held       []held
	arguments  []string            // triggers with an OID in their arguments
	unsearched map[string][]string // columns that were not searched, by reason
	slow       []oidColumn         // those of them that would have taken too long
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

func readOIDColumns(ctx context.Context, q catalog.Querier, oid uint32, without []string) ([]oidColumn, error) {
	rows, err := q.Query(ctx, oidColumnsSQL, without, oid)
	if err != nil {
		return nil, fmt.Errorf("list columns of OIDs: %w", err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByName[oidColumn])
	if err != nil {
		return nil, fmt.Errorf("list columns of OIDs: %w", err)
	}
	return columns, nil
}

// unsearchedSchemas returns the schemas of the registry and of the job.
func (e *Env) unsearchedSchemas() []string {
	schemas := []string{e.Registry.Schema()}
	if e.ShadowSchema != "" {
		schemas = append(schemas, e.ShadowSchema, e.ShadowSchema+"_old")
	}
	if e.Job != nil {
		schemas = append(schemas, e.Job.ShadowSchema, e.Job.OldSchema)
	}
	return schemas
}

// rewritten returns the columns named by --update-oid.
func (e *Env) rewritten() []registry.OIDColumn {
	if e.Job != nil {
		return e.Job.Options.UpdateOID
	}
	return e.UpdateOID
}

func (e *Env) ignoresOIDs() bool {
	return e.IgnoreOID || e.Job != nil && e.Job.Options.IgnoreOID
}

// The search spends little time on each table, and does not read a large table as a whole.
const (
	oidSearchTime = 2 * time.Second
	oidSearchSize = 1 << 30
)

// searchOIDs looks for the OIDs of the table with that OID, and of what belongs to it. It
// looks in all columns that it may read, and in the arguments of triggers.
//
// It takes ACCESS SHARE on each table, one after the other, and writes nothing.
func (e *Env) searchOIDs(ctx context.Context, oid uint32) (*oidSearch, error) {
	matviews := []uint32{}
	if e.rebuilds() {
		for _, m := range e.Source.Matviews {
			matviews = append(matviews, m.OID)
		}
	}
	objects, err := readChanging(ctx, e.Pool, oid, matviews)
	if err != nil {
		return nil, err
	}
	columns, err := readOIDColumns(ctx, e.Pool, oid, e.unsearchedSchemas())
	if err != nil {
		return nil, err
	}
	s := &oidSearch{objects: objects, unsearched: map[string][]string{}}
	for len(columns) > 0 {
		n := 1
		for n < len(columns) && columns[n].Relation == columns[0].Relation {
			n++
		}
		if err := e.searchTable(ctx, s, columns[:n]); err != nil {
			return nil, err
		}
		columns = columns[n:]
	}
	rows, err := e.Pool.Query(ctx, oidArgumentsSQL, s.oidsFor("oid"), e.unsearchedSchemas())
	if err != nil {
		return nil, fmt.Errorf("look for OIDs in arguments of triggers: %w", err)
	}
	if s.arguments, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return nil, fmt.Errorf("look for OIDs in arguments of triggers: %w", err)
	}
	return s, nil
}

// oidsFor returns the OIDs that a column of the type base can mean.
func (s *oidSearch) oidsFor(base string) []uint32 {
	oids := []uint32{}
	for _, o := range s.objects {
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
// oidSearchTime.
func (e *Env) searchTable(ctx context.Context, s *oidSearch, columns []oidColumn) error {
	left := oidSearchTime
	for _, c := range columns {
		if !c.Populated {
			continue
		}
		named := slices.Contains(e.rewritten(), c.key())
		if why := c.unreadable(named); why != "" {
			s.unsearched[why] = append(s.unsearched[why], c.Flag)
			continue
		}
		began := time.Now()
		found, err := e.searchColumn(ctx, c, s.oidsFor(c.Base), left)
		left = max(left-time.Since(began), time.Millisecond)
		var pgErr *pgconn.PgError
		switch {
		case err == nil:
			found.took = time.Since(began)
			s.held = append(s.held, found)
		case ctx.Err() != nil || !errors.As(err, &pgErr):
			return err
		case pgErr.Code == pgerrcode.QueryCanceled:
			s.slow = append(s.slow, c)
			why := fmt.Sprintf("takes more than %s", oidSearchTime)
			s.unsearched[why] = append(s.unsearched[why], c.Flag)
		case pgErr.Code == pgerrcode.LockNotAvailable:
			s.unsearched["is locked"] = append(s.unsearched["is locked"], c.Flag)
		case pgErr.Code == pgerrcode.UndefinedTable || pgErr.Code == pgerrcode.UndefinedColumn: // dropped meanwhile
		case pgerrcode.IsConnectionException(pgErr.Code) || pgerrcode.IsOperatorIntervention(pgErr.Code):
			return err
		default:
			why := "cannot be read: " + pgErr.Message
			s.unsearched[why] = append(s.unsearched[why], c.Flag)
		}
	}
	return nil
}

// unreadable returns the reason why the column is not searched, or "". A column that is to
// be rewritten is searched even if its table is large.
func (c oidColumn) unreadable(named bool) string {
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
	case c.Size > oidSearchSize && !c.Indexed && !named:
		return "belongs to a table of more than 1 GB, and has no index"
	}
	return ""
}

// only returns the table as a statement names it. Partitions are read together with their
// partitioned table. Tables that inherit are read separately.
func (c oidColumn) only() string {
	if c.Kind == "p" {
		return c.table().String()
	}
	return "ONLY " + c.table().String()
}

// holds returns the condition that the column has one of the OIDs. oids is an expression of
// type oid[]. The condition is written so that an index on the column can be used.
func (c oidColumn) holds(oids string) string {
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
func (e *Env) searchColumn(ctx context.Context, c oidColumn, oids []uint32, within time.Duration) (held, error) {
	sql := searchScalarSQL
	if c.Shape != "scalar" {
		sql = searchArraySQL
	}
	sql = fmt.Sprintf(sql, catalog.Quote(c.ColumnName), c.only(), c.holds("$1::oid[]"))
	found := held{column: c}
	err := pgx.BeginTxFunc(ctx, e.Pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		ms := max(within.Milliseconds(), 1)
		bounds := []string{
			session.CustomPlansSQL,
			fmt.Sprintf("SET LOCAL statement_timeout = %d", ms),
			fmt.Sprintf("SET LOCAL lock_timeout = %d", max(min(ms, e.Locks.Timeout.Milliseconds()), 1)),
		}
		if err := execAll(ctx, tx, bounds); err != nil {
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

// OIDColumnError reports that --update-oid does not name a column in which OIDs could be
// rewritten.
type OIDColumnError struct{ Given, Why string }

func (e *OIDColumnError) Error() string {
	return fmt.Sprintf("--update-oid %s: %s", e.Given, e.Why)
}

// ReadOIDColumns finds the columns that are given as SCHEMA.TABLE.COLUMN, as SQL writes
// them. It returns *OIDColumnError if there is no such column.
func ReadOIDColumns(ctx context.Context, q catalog.Querier, given []string) ([]registry.OIDColumn, error) {
	if len(given) == 0 {
		return nil, nil
	}
	columns, err := readOIDColumns(ctx, q, 0, []string{})
	if err != nil {
		return nil, err
	}
	var named []registry.OIDColumn
	for _, text := range given {
		var parts []string
		err := q.QueryRow(ctx, parseIdentSQL, text).Scan(&parts)
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InvalidParameterValue || err == nil && len(parts) != 3 {
			return nil, &OIDColumnError{text, "want SCHEMA.TABLE.COLUMN as SQL writes it, quotes included"}
		}
		if err != nil {
			return nil, fmt.Errorf("--update-oid %s: %w", text, err)
		}
		column := registry.OIDColumn{Schema: parts[0], Table: parts[1], Column: parts[2]}
		if !slices.ContainsFunc(columns, func(c oidColumn) bool { return c.key() == column }) {
			return nil, &OIDColumnError{text, "there is no such column of type oid, regclass or regtype, of an array of them or of a domain over them; " +
				"of a partitioned table name its own column, not those of partitions"}
		}
		if !slices.Contains(named, column) {
			named = append(named, column)
		}
	}
	return named, nil
}

// OIDsHeldError reports that the OID of the table is stored as data, and that the options of
// the job do not say what to do about it. Nothing has been exchanged.
type OIDsHeldError struct {
	Table   catalog.Name
	Reasons []Reason
}

func (e *OIDsHeldError) Error() string {
	lines := []string{fmt.Sprintf("the OID of %s is kept as data, and nothing has been exchanged:", e.Table)}
	for _, r := range e.Reasons {
		lines = append(lines, "  "+r.String())
	}
	return strings.Join(append(lines, "give the same command again with what is said there"), "\n")
}

// oidsAnswered makes sure, before an exchange, that the options say what to do about every
// place where the OIDs of the table in use are stored by now.
func (e *Env) oidsAnswered(ctx context.Context, oid uint32) error {
	found, err := e.searchOIDs(ctx, oid)
	if err != nil {
		return err
	}
	if reasons := e.oidReasons(found); len(reasons) > 0 {
		return &OIDsHeldError{Table: e.Source.Name, Reasons: reasons}
	}
	return nil
}
