package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Learn makes the server parse every definition of t once more, and notes the text that
// it prints afterwards. To do so it creates scratch objects in schema, in a savepoint
// of tx that it rolls back. oid is the table that has t's triggers and rules: t itself,
// or the table that t was described from.
//
// If a definition cannot be created as a scratch object, Learn assumes that its text
// stays the same. It returns an error only if the cause is not the statement: a lock
// that was not granted in time, or a transaction or connection that is over.
//
// It takes ACCESS SHARE on t and on the relations that the definitions refer to.
func (r *Reprints) Learn(ctx context.Context, tx pgx.Tx, schema string, t *Table, oid uint32) error {
	err := Undone(ctx, tx, func(tx pgx.Tx) error { return r.learn(ctx, tx, schema, t, oid) })
	if err != nil {
		return fmt.Errorf("learn how the definitions of %s read: %w", t.Name, err)
	}
	return nil
}

// All scratch objects are created after one savepoint. A statement that begins with
// again first removes the objects that were created before it, in the same round trip.
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

// makeScratch creates a table with as many of t's definitions as possible: all of them
// together, or if one fails, each one separately. made is false if the columns
// themselves cannot be created.
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

// compare notes how the definitions of t read on the scratch table.
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

// statisticsIn returns the name that a statistics object of t has in the schema of the
// scratch table.
func statisticsIn(t, scratch *Table, name string) string {
	for _, s := range t.Statistics {
		if s.Name.String() == name {
			return s.Name.In(scratch.Name.Schema).String()
		}
	}
	return name
}

// try runs a statement in a savepoint.
func try(ctx context.Context, tx pgx.Tx, sql string) error {
	return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sql)
		return err
	})
}

// fatal reports whether the cause of err is not the statement: a lock, the connection,
// the server or the context.
func fatal(ctx context.Context, err error) bool {
	var pgErr *pgconn.PgError
	return ctx.Err() != nil || !errors.As(err, &pgErr) || pgerrcode.IsConnectionException(pgErr.Code) ||
		pgerrcode.IsOperatorIntervention(pgErr.Code) || pgerrcode.IsInsufficientResources(pgErr.Code) ||
		pgErr.Code == pgerrcode.LockNotAvailable || pgErr.Code == pgerrcode.DeadlockDetected
}

// scratchSQL creates a table with the columns of t. It leaves out everything else that
// could fail because a privilege is missing.
func (t *Table) scratchSQL(as Name) string {
	columns := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		c.Compression = ""
		columns[i] = c.definition(false)
	}
	return fmt.Sprintf("CREATE TABLE %s (\n\t%s\n)", as, strings.Join(columns, ",\n\t"))
}

// scratchPartsSQL returns statements that add the definitions of t to the scratch
// table.
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

// scratchParts are the parts that a scratch table can have.
var scratchParts = []part{
	{"columns", askColumns, 0},
	{"constraints", askConstraints, 0},
	{"indexes", askIndexes, 0},
	{"triggers", askTriggers, 0},
	{"rules", askRules, 0},
	{"policies", askPolicies, 0},
	{"publications", askPublications, 0},
	{"extended statistics", askStatistics, 0},
}

// readScratch describes the definitions of the scratch table.
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

// head is the beginning of the definition of a trigger or rule: Own with the name by
// which its table was described, Scratch with the name of the scratch table.
type head struct{ Kind, Name, Own, Scratch string }

// scratch returns the statement that creates the object on the scratch table. It
// returns nothing if the definition does not begin exactly with the expected head.
func (h head) scratch(definition string) []string {
	if sql := h.move(definition, h.Own, h.Scratch); sql != "" {
		return []string{sql}
	}
	return nil
}

// move returns the definition with another head, or "" if it does not begin with from.
func (h head) move(definition, from, to string) string {
	tail, ok := strings.CutPrefix(definition, from)
	if !ok || from == "" {
		return ""
	}
	return to + tail
}

// headsSQL builds the beginning of pg_get_triggerdef and pg_get_ruledef, for the table
// $3 in schema $2 and in schema $4. pg_trigger.h in the server's source defines the
// bits.
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

// readTried reads, in one round trip, what Learn must know about t and the objects that
// depend on it, and sets the savepoint.
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
	for _, d := range slices.Concat(t.Dependents, t.typedDependents()) {
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

// ViewText returns the text that the server prints of query after it has parsed it as
// the query of a view with those columns. It creates the view in schema, in a savepoint
// of tx that it rolls back. It takes ACCESS SHARE on the relations that the query
// reads.
func ViewText(ctx context.Context, tx pgx.Tx, schema, query string, columns []Column) (text string, err error) {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	name := Name{schema, "repack_view"}.String()
	err = Undone(ctx, tx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf("CREATE VIEW %s (%s) AS\n%s", name, QuoteAll(names), query)); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT rtrim(pg_get_viewdef($1::text::regclass), ';')`, name).Scan(&text)
	})
	return text, err
}
