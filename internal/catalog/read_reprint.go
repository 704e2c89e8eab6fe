package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Learn has the server parse every definition of t once more, on scratch objects
// in schema, and notes how it reads then. What it makes is in a savepoint of tx
// that it rolls back. The table with that OID has t's triggers and rules: t itself,
// or the one that t was described from.
//
// What cannot be made so is taken to read as it does. It takes ACCESS SHARE on t
// and on what the definitions refer to, and returns an error that reports a lock
// which was not granted in time, or a transaction that is over.
func (r *Reprints) Learn(ctx context.Context, tx pgx.Tx, schema string, t *Table, oid uint32) error {
	err := apart(ctx, tx, func(tx pgx.Tx) error { return r.learn(ctx, tx, schema, t, oid) })
	if err != nil {
		return fmt.Errorf("learn how the definitions of %s read: %w", t.Name, err)
	}
	return nil
}

// Everything is made behind one savepoint: what begins with again does away with
// what was made before it, and goes with it to the server together.
const (
	scratchpointSQL = `SAVEPOINT repack_scratch`
	again           = "ROLLBACK TO SAVEPOINT repack_scratch;\n"
)

func (r *Reprints) learn(ctx context.Context, tx pgx.Tx, schema string, t *Table, oid uint32) error {
	tried, heads, err := r.readTried(ctx, tx, schema, t, oid)
	if err != nil {
		return err
	}
	for _, d := range tried {
		if err := r.learnDependent(ctx, tx, schema, d); err != nil {
			return err
		}
	}
	is := &Table{}
	as := t.Name.In(schema)
	made, err := t.makeScratch(ctx, tx, as, heads)
	if err != nil {
		return err
	}
	if made {
		if is, err = readScratch(ctx, tx, as); err != nil {
			return err
		}
	}
	r.compare(t, is, heads)
	return nil
}

// makeScratch makes a table with as many of t's definitions as can be made, and
// none where its columns cannot: together, or where one fails, each by itself.
func (t *Table) makeScratch(ctx context.Context, tx pgx.Tx, as Name, heads map[string]head) (made bool, err error) {
	table, parts := t.scratchSQL(as), t.scratchPartsSQL(as, heads)
	_, err = tx.Exec(ctx, again+strings.Join(append([]string{table}, parts...), ";\n"))
	if err == nil || fatal(ctx, err) {
		return err == nil, err
	}
	if _, err := tx.Exec(ctx, again+table); err != nil {
		if fatal(ctx, err) {
			return false, err
		}
		_, err = tx.Exec(ctx, again)
		return false, err
	}
	for _, sql := range parts {
		if err := try(ctx, tx, sql); err != nil && fatal(ctx, err) {
			return false, err
		}
	}
	return true, nil
}

// compare notes what has become of the definitions of t on the scratch table.
func (r *Reprints) compare(t, scratch *Table, heads map[string]head) {
	type object struct{ property, name string }
	became := map[object]string{}
	scratch.withDefinitions(func(property, name, text string) string {
		if property == "trigger" || property == "rule" {
			head := heads[property+" "+name]
			text = head.move(text, head.Scratch, head.Own)
		}
		became[object{property, name}] = text
		return text
	})
	t.withDefinitions(func(property, name, text string) string {
		d := definition{property, text}
		if property == "statistics" {
			name = statisticsIn(t, scratch, name)
		}
		if form := became[object{property, name}]; form != "" {
			r.note(d, form)
		} else if _, there := r.forms[d]; !there {
			r.note(d, text)
		}
		return text
	})
}

// statisticsIn is the name that a statistics object of t has in the schema of the
// scratch table.
func statisticsIn(t, scratch *Table, name string) string {
	for _, s := range t.Statistics {
		if s.Name.String() == name {
			return s.Name.In(scratch.Name.Schema).String()
		}
	}
	return name
}

// apart runs work in a savepoint, and rolls that back.
func apart(ctx context.Context, tx pgx.Tx, work func(pgx.Tx) error) error {
	errOver := errors.New("over")
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		if err := work(tx); err != nil {
			return err
		}
		return errOver
	})
	if errors.Is(err, errOver) {
		return nil
	}
	return err
}

// try runs a statement in a savepoint.
func try(ctx context.Context, tx pgx.Tx, sql string) error {
	return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sql)
		return err
	})
}

// fatal reports whether err is about something else than the statement.
func fatal(ctx context.Context, err error) bool {
	var pgErr *pgconn.PgError
	return ctx.Err() != nil || !errors.As(err, &pgErr) || pgerrcode.IsConnectionException(pgErr.Code) ||
		pgerrcode.IsOperatorIntervention(pgErr.Code) || pgerrcode.IsInsufficientResources(pgErr.Code) ||
		pgErr.Code == pgerrcode.LockNotAvailable || pgErr.Code == pgerrcode.DeadlockDetected
}

// scratchSQL creates a table with the columns of t and nothing else that could fail
// for want of a right.
func (t *Table) scratchSQL(as Name) string {
	columns := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		c.Compression = ""
		columns[i] = c.definition(false)
	}
	return fmt.Sprintf("CREATE TABLE %s (\n\t%s\n)", as, strings.Join(columns, ",\n\t"))
}

// scratchPartsSQL gives the scratch table the definitions of t.
func (t *Table) scratchPartsSQL(as Name, heads map[string]head) []string {
	statements := t.DefaultsSQL(as, false)
	for _, c := range t.Constraints {
		if c.Type == "c" || c.Type == "x" {
			statements = append(statements, c.AddSQL(as))
		}
	}
	for _, i := range t.Indexes {
		if i.Constraint == "" {
			statements = append(statements, i.CreateSQL(as))
		}
	}
	for _, s := range t.Statistics {
		s.Target, s.Comment = nil, ""
		statements = append(statements, s.CreateSQL(as)...)
	}
	for _, x := range t.Triggers {
		statements = append(statements, heads["trigger "+x.Name].scratch(x.Definition)...)
	}
	for _, x := range t.Rules {
		statements = append(statements, heads["rule "+x.Name].scratch(x.Definition)...)
	}
	for _, p := range t.Policies {
		statements = append(statements, p.createSQL(as))
	}
	published := Table{Name: as}
	for _, p := range t.Publications {
		if p.Where != "" {
			published.Publications = append(published.Publications, p)
		}
	}
	return append(statements, published.PublishSQL()...)
}

// scratchParts are those that the scratch table can have.
var scratchParts = []part{
	{"columns", askColumns},
	{"constraints", askConstraints},
	{"indexes", askIndexes},
	{"triggers", askTriggers},
	{"rules", askRules},
	{"policies", askPolicies},
	{"publications", askPublications},
	{"extended statistics", askStatistics},
}

// readScratch describes the scratch table as far as it has definitions.
func readScratch(ctx context.Context, q Querier, name Name) (*Table, error) {
	var oid uint32
	if err := q.QueryRow(ctx, `SELECT $1::text::regclass::oid`, name.String()).Scan(&oid); err != nil {
		return nil, err
	}
	t, err := describeOne(ctx, q, oid, scratchParts)
	if err != nil {
		return nil, err
	}
	t.Name = name
	return t, nil
}

// head is what the definition of a trigger or rule begins with: own where its
// table bears the name that it was described by, scratch on the scratch table.
type head struct{ Kind, Name, Own, Scratch string }

// scratch is the statement that makes the object on the scratch table, or nothing
// where the definition does not begin to the letter as it should.
func (h head) scratch(definition string) []string {
	if sql := h.move(definition, h.Own, h.Scratch); sql != "" {
		return []string{sql}
	}
	return nil
}

// move is the definition with another head, or nothing.
func (h head) move(definition, from, to string) string {
	tail, ok := strings.CutPrefix(definition, from)
	if !ok || from == "" {
		return ""
	}
	return to + tail
}

// headsSQL says how pg_get_triggerdef and pg_get_ruledef begin where the table is
// in schema $2 and called $3, and in schema $4. See pg_trigger.h for the bits.
const headsSQL = `
SELECT   h.kind,
         h.name,
         format('%s%I.%I', h.head, $2::text, $3::text) AS own,
         format('%s%I.%I', h.head, $4::text, $3::text) AS scratch
FROM    (SELECT 'trigger'                              AS kind,
                t.tgname::text                         AS name,
                format('CREATE %sTRIGGER %I %s %s ON ',
                       CASE WHEN t.tgconstraint <> 0 THEN 'CONSTRAINT ' ELSE '' END,
                       t.tgname,
                       CASE WHEN t.tgtype::int & 2 <> 0 THEN 'BEFORE' WHEN t.tgtype::int & 64 <> 0 THEN 'INSTEAD OF' ELSE 'AFTER' END,
                       array_to_string(ARRAY[
                           CASE WHEN t.tgtype::int & 4 <> 0 THEN 'INSERT' END,
                           CASE WHEN t.tgtype::int & 8 <> 0 THEN 'DELETE' END,
                           CASE WHEN t.tgtype::int & 16 <> 0 THEN 'UPDATE' || coalesce(
                               (SELECT   ' OF ' || string_agg(quote_ident(a.attname), ', ' ORDER BY k.n)
                                FROM     unnest(t.tgattr) WITH ORDINALITY k(attnum, n)
                                JOIN     pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum = k.attnum), '') END,
                           CASE WHEN t.tgtype::int & 32 <> 0 THEN 'TRUNCATE' END], ' OR '))
                                                       AS head
         FROM   pg_trigger t
         WHERE  t.tgrelid = $1 AND NOT t.tgisinternal
         UNION ALL
         SELECT 'rule', r.rulename::text,
                format(E'CREATE RULE %I AS\n    ON %s TO ', r.rulename,
                       CASE r.ev_type WHEN '1' THEN 'SELECT' WHEN '2' THEN 'UPDATE' WHEN '3' THEN 'INSERT' ELSE 'DELETE' END)
         FROM   pg_rewrite r
         WHERE  r.ev_class = $1) h`

// readTried reads, in one round trip, what is to be known of t and of what depends
// on it, and sets the savepoint.
func (r *Reprints) readTried(ctx context.Context, tx pgx.Tx, schema string, t *Table, oid uint32) ([]triedDependent, map[string]head, error) {
	b := &pgx.Batch{}
	heads := map[string]head{}
	ask(b, func(list []head) error {
		for _, h := range list {
			heads[h.Kind+" "+h.Name] = h
		}
		return nil
	}, headsSQL, oid, t.Name.Schema, t.Name.Name, schema)
	var tried []triedDependent
	for _, d := range t.Dependents {
		key := definition{d.Kind, d.Replace}
		if _, there := r.forms[key]; there || d.OID == 0 {
			continue
		}
		r.note(key, d.Replace)
		sql, known := scratchDependents[d.Kind]
		if !known {
			continue
		}
		b.Queue(sql, d.OID, schema, false).QueryRow(func(row pgx.Row) error {
			of := triedDependent{Dependent: d}
			err := row.Scan(&of.tail, &of.statements)
			if errors.Is(err, pgx.ErrNoRows) {
				return nil
			}
			tried = append(tried, of)
			return err
		})
	}
	b.Queue(scratchpointSQL)
	err := tx.SendBatch(ctx, b).Close()
	return tried, heads, err
}

// ViewText is how a query reads that has been parsed as that of a view with those
// columns, in schema.
func ViewText(ctx context.Context, tx pgx.Tx, schema, query string, columns []Column) (text string, err error) {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	name := Name{schema, "repack_view"}.String()
	err = apart(ctx, tx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf("CREATE VIEW %s (%s) AS\n%s", name, QuoteAll(names), query)); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT rtrim(pg_get_viewdef($1::text::regclass), ';')`, name).Scan(&text)
	})
	return text, err
}
