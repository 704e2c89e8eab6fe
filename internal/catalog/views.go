package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// RetypedView is a view that could not be replaced, because some of its columns would have
// another type. Why is set instead if it could not be created at all.
type RetypedView struct {
	View    string // quoted
	OID     uint32
	Columns []ViewColumn
	// Updatable tells that rows can be written through the view because its query is simple
	// enough.
	Updatable bool
	Why       string

	definition string // pg_get_viewdef
}

// ViewColumn is a column of a view: the type that it has, and the one that it would have.
type ViewColumn struct {
	Name, Was, Is string
	Collation     string // that it has; empty: that of its type
}

func (c ViewColumn) retyped() bool { return c.Was != c.Is }

// Retyped returns the first column whose type would be another one.
func (v RetypedView) Retyped() ViewColumn {
	return v.Columns[slices.IndexFunc(v.Columns, ViewColumn.retyped)]
}

const viewTextSQL = `SELECT pg_catalog.pg_get_viewdef($1::pg_catalog.oid)`

// viewColumnsSQL names a type with its collation, so that one that differs is seen.
const viewColumnsSQL = `
SELECT   was.attname::text                                                                     AS name,
         format_type(was.atttypid, was.atttypmod) || coalesce(' COLLATE ' || was_c.name, '')   AS was,
         format_type(is_.atttypid, is_.atttypmod) || coalesce(' COLLATE ' || is_c.name, '')    AS is,
         coalesce(was_c.name, '')                                                              AS collation
FROM     pg_attribute was
JOIN     pg_attribute is_ ON is_.attrelid = $2::text::regclass AND is_.attnum = was.attnum
LEFT     JOIN LATERAL (SELECT format('%I.%I', n.nspname, o.collname) AS name
                       FROM   pg_collation o
                       JOIN   pg_namespace n ON n.oid = o.collnamespace
                       JOIN   pg_type t      ON t.oid = was.atttypid
                       WHERE  o.oid = was.attcollation AND o.oid <> t.typcollation) was_c ON true
LEFT     JOIN LATERAL (SELECT format('%I.%I', n.nspname, o.collname) AS name
                       FROM   pg_collation o
                       JOIN   pg_namespace n ON n.oid = o.collnamespace
                       JOIN   pg_type t      ON t.oid = is_.atttypid
                       WHERE  o.oid = is_.attcollation AND o.oid <> t.typcollation) is_c ON true
WHERE    was.attrelid = $1 AND was.attnum > 0
ORDER BY was.attnum`

const updatableSQL = `SELECT pg_relation_is_updatable($1::text::regclass, false) <> 0`

// RetypedViews creates the views on t once more, on copied, a table of the same name in another
// schema, and returns those whose columns have other types then. They are created in schema,
// in savepoints of tx that are rolled back. They take ACCESS SHARE on what they read.
//
// While the schema of a table is the first in search_path, the server prints the name of the
// table without it. So the text means the copy if the copy's schema comes first.
func (t *Table) RetypedViews(ctx context.Context, tx pgx.Tx, copied Name, schema string) (found []RetypedView, err error) {
	for _, d := range t.Dependents {
		if d.Kind != "view" {
			continue
		}
		view := RetypedView{View: d.Name, OID: d.OID, definition: d.definition}
		err := Undone(ctx, tx, func(tx pgx.Tx) error { return t.retype(ctx, tx, copied, schema, &view) })
		var pgErr *pgconn.PgError
		switch {
		case err != nil && (fatal(ctx, err) || !errors.As(err, &pgErr)):
			return nil, fmt.Errorf("try view %s on an altered table: %w", d.Name, err)
		case err != nil:
			view.Why = pgErr.Message
		}
		if view.Why != "" || slices.ContainsFunc(view.Columns, ViewColumn.retyped) {
			found = append(found, view)
		}
	}
	return found, nil
}

// retype creates a view on copied, and reads the types of its columns.
func (t *Table) retype(ctx context.Context, tx pgx.Tx, copied Name, schema string, view *RetypedView) error {
	var text string
	b := &pgx.Batch{}
	underPath(b, t.Name.Schema, func() {
		b.Queue(viewTextSQL, view.OID).QueryRow(func(row pgx.Row) error { return row.Scan(&text) })
	})
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	as := Name{schema, "repack_trial_retyped"}.String()
	for _, sql := range []string{PathSQL(copied.Schema, t.Name.Schema), "CREATE VIEW " + as + " AS " + text, PathSQL("pg_catalog")} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	rows, err := tx.Query(ctx, viewColumnsSQL, view.OID, as)
	if err != nil {
		return err
	}
	if view.Columns, err = pgx.CollectRows(rows, pgx.RowToStructByName[ViewColumn]); err != nil {
		return err
	}
	return tx.QueryRow(ctx, updatableSQL, as).Scan(&view.Updatable)
}

// Cast returns d, a view, so that it returns the types that it has returned before, from a table
// that has others. It is the view's own query, whose columns are cast.
func (d Dependent) Cast(v RetypedView) Dependent {
	var columns []string
	for _, c := range v.Columns {
		column := "r." + Quote(c.Name)
		if c.retyped() {
			column = fmt.Sprintf("(r.%s)::%s AS %[1]s", Quote(c.Name), c.Was)
		}
		columns = append(columns, column)
	}
	query := "SELECT " + strings.Join(columns, ",\n    ") + "\n   FROM (" + strings.TrimSuffix(d.definition, ";") + ") r"
	d.Replace = replaceViewSQL(d.Name, d.options, query)
	return d
}

// SameQuery reports whether the query of d, a view, is still that of which v was found.
func (d Dependent) SameQuery(v RetypedView) bool { return d.definition == v.definition }

// View is a view that is dropped and created again, because a column of it, or of a view that it
// reads, gets another type.
type View struct {
	OID        uint32
	Definition string
	// Relation is everything else about it, described as a table.
	Relation *Table `db:"-"`
}

// stackSQL lists the views $1, and those that read them, each after those that it reads.
const stackSQL = `
WITH RECURSIVE stack (oid, depth) AS (
    SELECT v, 0 FROM unnest($1::oid[]) v
    UNION
    SELECT r.ev_class, s.depth + 1
    FROM   stack s
    JOIN   pg_depend d  ON d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = s.oid
    JOIN   pg_rewrite r ON r.oid = d.objid AND r.ev_class <> s.oid AND r.rulename = '_RETURN'
    WHERE  'v' = (SELECT c.relkind FROM pg_class c WHERE c.oid = r.ev_class)
)
SELECT   s.oid                             AS oid,
         rtrim(pg_get_viewdef(s.oid), ';') AS definition
FROM    (SELECT oid, max(depth) AS depth FROM stack GROUP BY oid) s
ORDER BY s.depth, s.oid`

// ReadStack describes the views with these OIDs and those that read them, in an order in which
// they can be created. It needs two round trips, or three if one of them has extras.
func ReadStack(ctx context.Context, q Querier, oids []uint32) ([]View, error) {
	if len(oids) == 0 {
		return nil, nil
	}
	rows, err := q.Query(ctx, stackSQL, oids)
	if err != nil {
		return nil, fmt.Errorf("list views on views: %w", err)
	}
	stack, err := pgx.CollectRows(rows, pgx.RowToStructByName[View])
	if err != nil {
		return nil, fmt.Errorf("list views on views: %w", err)
	}
	all := make([]uint32, len(stack))
	for i, v := range stack {
		all[i] = v.OID
	}
	relations, err := describeLikely(ctx, q, all, everything, func(uint32) Extras { return 0 })
	if err != nil {
		return nil, fmt.Errorf("describe views: %w", err)
	}
	for i, relation := range relations {
		relation.Rules = slices.DeleteFunc(relation.Rules, func(r Rule) bool { return r.Name == "_RETURN" })
		stack[i].Relation = relation
	}
	return stack, nil
}

// stackedSQL lists what depends on one of the views $1, and would be lost with it: all but the
// views of the list, and what belongs to them.
const stackedSQL = `
WITH view (oid, class, id) AS (
    SELECT v, 'pg_class'::regclass, v FROM unnest($1::oid[]) v
    UNION ALL
    SELECT t.typrelid, 'pg_type'::regclass, t.oid FROM pg_type t WHERE t.typrelid = ANY ($1::oid[])
    UNION ALL
    SELECT t.typrelid, 'pg_type'::regclass, t.typarray FROM pg_type t WHERE t.typrelid = ANY ($1::oid[])
)
SELECT   DISTINCT v.oid::regclass::text, pg_describe_object(d.classid, d.objid, 0)
FROM     view v
JOIN     pg_depend d ON d.refclassid = v.class AND d.refobjid = v.id AND d.deptype IN ('n', 'e', 'x')
WHERE    NOT (d.classid = 'pg_rewrite'::regclass
              AND EXISTS (SELECT FROM pg_rewrite r WHERE r.oid = d.objid AND r.ev_class = ANY ($1::oid[])))
UNION
SELECT   d.objid::regclass::text, pg_describe_object(d.refclassid, d.refobjid, 0)
FROM     pg_depend d
WHERE    d.classid = 'pg_class'::regclass AND d.objid = ANY ($1::oid[]) AND d.deptype = 'e'
ORDER BY 1, 2`

// Stacked is an object that would be lost if a view was dropped.
type Stacked struct{ View, Object string }

// ReadStacked lists what would be lost if the views of a stack were dropped and created again.
func ReadStacked(ctx context.Context, q Querier, stack []View) ([]Stacked, error) {
	oids := make([]uint32, len(stack))
	for i, v := range stack {
		oids[i] = v.OID
	}
	rows, err := q.Query(ctx, stackedSQL, oids)
	if err != nil {
		return nil, fmt.Errorf("look for what depends on views: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Stacked])
	if err != nil {
		return nil, fmt.Errorf("look for what depends on views: %w", err)
	}
	return list, nil
}

// LockStackSQL returns statements that take ACCESS EXCLUSIVE on views and change nothing.
func LockStackSQL(stack []View) []string {
	var statements []string
	for _, v := range slices.Backward(stack) { // a query locks a view before those that it reads
		statements = append(statements, ownerOfViewSQL(v))
	}
	return statements
}

func ownerOfViewSQL(v View) string {
	return fmt.Sprintf("ALTER VIEW %s OWNER TO %s", v.Relation.Name, Quote(v.Relation.Owner))
}

// RecreateSQL returns statements that drop the views and create them again, without their
// privileges. Their columns have the types that their queries then have. A view on t itself is
// created by the text that t has of it. They take ACCESS EXCLUSIVE on the views.
func RecreateSQL(stack []View, t *Table) []string {
	var statements []string
	for _, v := range slices.Backward(stack) {
		statements = append(statements, "DROP VIEW "+v.Relation.Name.String())
	}
	for _, v := range stack {
		create := replaceViewSQL(v.Relation.Name.String(), v.Relation.Options, v.Definition)
		for _, d := range t.Dependents {
			if d.Kind == "view" && d.OID == v.OID {
				create = d.Replace
			}
		}
		statements = append(statements, create, ownerOfViewSQL(v))
	}
	return statements
}

// DressViewsSQL gives views that were created again the rest of what they had: privileges,
// comments, defaults, rules and triggers. has are their privileges as they were created.
func DressViewsSQL(stack []View, has [][]Grant) []string {
	var statements []string
	for i, v := range stack {
		r := *v.Relation
		statements = append(statements, GrantsSQL("TABLE "+r.Name.String(), r.Owner, has[i], r.Grants)...)
		statements = append(statements, comment("VIEW "+r.Name.String(), r.Comment)...)
		r.Comment = ""
		statements = slices.Concat(statements, r.CommentsSQL(), r.DefaultsSQL(r.Name, false))
		for _, part := range slices.Concat(r.triggersAndRules(), r.rowSecurity()) {
			statements = append(statements, part.SQL...)
		}
	}
	return statements
}

// ReadViews describes views by their names, in the order of the list.
func ReadViews(ctx context.Context, q Querier, like []View) ([]*Table, error) {
	names := make([]string, len(like))
	for i, v := range like {
		names[i] = v.Relation.Name.String()
	}
	var oids []uint32
	if err := q.QueryRow(ctx, `SELECT ARRAY(SELECT n::regclass::oid FROM unnest($1::text[]) WITH ORDINALITY u (n, i) ORDER BY i)`, names).Scan(&oids); err != nil {
		return nil, fmt.Errorf("look up views: %w", err)
	}
	relations, err := describeLikely(ctx, q, oids, everything, func(oid uint32) Extras {
		return like[slices.Index(oids, oid)].Relation.Extras()
	})
	if err != nil {
		return nil, fmt.Errorf("describe views: %w", err)
	}
	for _, r := range relations {
		r.Rules = slices.DeleteFunc(r.Rules, func(rule Rule) bool { return rule.Name == "_RETURN" })
	}
	return relations, nil
}
