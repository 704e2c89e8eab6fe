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
	// Reads are the columns of the table that the view reads.
	Reads []string
	// Updatable tells that rows can be written through the view because its query is simple
	// enough.
	Updatable bool
	Why       string
	Uncast    string // why its columns cannot be cast to the types that they have; or empty

	definition string // pg_get_viewdef
	version    string // see Dependent
}

// ViewColumn is a column of a view: the type that it has, and the one that it would have, each
// with its collation if that is not the one of the type.
type ViewColumn struct {
	Name, Was, Is   string
	WasType, IsType string // without the collations
	To              string // the type that it has, as a cast names it
}

// Retyped reports whether the type would be another one.
func (c ViewColumn) Retyped() bool { return c.Was != c.Is }

// Retyped returns the first column whose type would be another one.
func (v RetypedView) Retyped() ViewColumn {
	return v.Columns[slices.IndexFunc(v.Columns, ViewColumn.Retyped)]
}

const viewTextSQL = `
SELECT pg_catalog.pg_get_viewdef($1::pg_catalog.oid), pg_catalog.pg_table_is_visible($2::pg_catalog.oid)`

// viewColumnsSQL names a type with its collation, so that one that differs is seen.
const viewColumnsSQL = `
SELECT   was.attname::text                                                                   AS name,
         format_type(was.atttypid, was.atttypmod)                                            AS was_type,
         format_type(is_.atttypid, is_.atttypmod)                                            AS is_type,
         format_type(was.atttypid, was.atttypmod) || CASE WHEN was_c.other THEN was_c.clause ELSE '' END AS was,
         format_type(is_.atttypid, is_.atttypmod) || CASE WHEN is_c.other THEN is_c.clause ELSE '' END   AS is,
         format_type(was.atttypid, was.atttypmod) || coalesce(was_c.clause, '')              AS to
FROM     pg_attribute was
JOIN     pg_attribute is_ ON is_.attrelid = $2::text::regclass AND is_.attnum = was.attnum
LEFT     JOIN LATERAL (SELECT format(' COLLATE %I.%I', n.nspname, o.collname) AS clause, o.oid <> t.typcollation AS other
                       FROM   pg_collation o
                       JOIN   pg_namespace n ON n.oid = o.collnamespace
                       JOIN   pg_type t      ON t.oid = was.atttypid
                       WHERE  o.oid = was.attcollation) was_c ON true
LEFT     JOIN LATERAL (SELECT format(' COLLATE %I.%I', n.nspname, o.collname) AS clause, o.oid <> t.typcollation AS other
                       FROM   pg_collation o
                       JOIN   pg_namespace n ON n.oid = o.collnamespace
                       JOIN   pg_type t      ON t.oid = is_.atttypid
                       WHERE  o.oid = is_.attcollation) is_c ON true
WHERE    was.attrelid = $1 AND was.attnum > 0
ORDER BY was.attnum`

const updatableSQL = `
SELECT pg_relation_is_updatable($1::text::regclass, false) <> 0,
       ARRAY(SELECT   a.attname::text
             FROM     pg_rewrite r
             JOIN     pg_depend d    ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
             JOIN     pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE    r.ev_class = $2 AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $3 AND d.refobjsubid > 0
             ORDER BY a.attnum)`

// RetypedViews creates the views on t once more, on copied, a table of the same name in another
// schema, and returns those whose columns have other types then. They are created in schema,
// in savepoints of tx that are rolled back. They take ACCESS SHARE on what they read. With cast,
// it also tries what Cast returns of them.
//
// While the schema of a table is the first in search_path, the server prints the name of the
// table without it. So the text means the copy if the copy's schema comes first.
func (t *Table) RetypedViews(ctx context.Context, tx pgx.Tx, copied Name, schema string, cast bool) (found []RetypedView, err error) {
	for _, d := range t.Dependents {
		if d.Kind != "view" {
			continue
		}
		view := RetypedView{View: d.Name, OID: d.OID, definition: d.definition, version: d.Version}
		err := Undone(ctx, tx, func(tx pgx.Tx) error { return t.retype(ctx, tx, copied, schema, &view, cast) })
		if view.Why, err = refusedBy(ctx, err); err != nil {
			return nil, fmt.Errorf("try view %s on an altered table: %w", d.Name, err)
		}
		if view.Why != "" || slices.ContainsFunc(view.Columns, ViewColumn.Retyped) {
			found = append(found, view)
		}
	}
	return found, nil
}

// refusedBy returns what the server has said against a statement. Other errors are returned.
func refusedBy(ctx context.Context, err error) (why string, other error) {
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return "", nil
	case fatal(ctx, err) || !errors.As(err, &pgErr):
		return "", err
	case pgErr.Detail != "":
		return pgErr.Message + " (" + pgErr.Detail + ")", nil
	default:
		return pgErr.Message, nil
	}
}

// retype creates a view on copied, and reads the types of its columns.
func (t *Table) retype(ctx context.Context, tx pgx.Tx, copied Name, schema string, view *RetypedView, cast bool) error {
	var text string
	var visible bool
	b := &pgx.Batch{}
	underPath(b, []string{t.Name.Schema}, func() {
		b.Queue(viewTextSQL, view.OID, t.OID).QueryRow(func(row pgx.Row) error { return row.Scan(&text, &visible) })
	})
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	if !visible { // a relation of pg_catalog has the name of t
		return nil
	}
	as := Name{schema, "repack_trial_retyped"}.String()
	path := PathSQL(copied.Schema, t.Name.Schema)
	if err := execUnder(ctx, tx, path, "CREATE VIEW "+as+" AS "+text); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, viewColumnsSQL, view.OID, as)
	if err != nil {
		return err
	}
	if view.Columns, err = pgx.CollectRows(rows, pgx.RowToStructByName[ViewColumn]); err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, updatableSQL, as, view.OID, t.OID).Scan(&view.Updatable, &view.Reads); err != nil {
		return err
	}
	if !cast || !slices.ContainsFunc(view.Columns, ViewColumn.Retyped) {
		return nil
	}
	as = Name{schema, "repack_trial_cast"}.String()
	err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		return execUnder(ctx, tx, path, fmt.Sprintf("CREATE VIEW %s AS SELECT * FROM %s", as, view.View), replaceViewSQL(as, nil, view.casting(text)))
	})
	view.Uncast, err = refusedBy(ctx, err)
	return err
}

// execUnder sends statements under a search_path, one by one.
func execUnder(ctx context.Context, tx pgx.Tx, path string, statements ...string) error {
	for _, sql := range slices.Concat([]string{path}, statements, []string{PathSQL("pg_catalog")}) {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// casting returns a query with the columns of query, the view's own, cast to the types that they
// have.
func (v RetypedView) casting(query string) string {
	var columns []string
	for _, c := range v.Columns {
		column := "r." + Quote(c.Name)
		if c.Retyped() {
			column = fmt.Sprintf("(r.%s)::%s AS %[1]s", Quote(c.Name), c.To)
		}
		columns = append(columns, column)
	}
	return "SELECT " + strings.Join(columns, ",\n    ") + "\n   FROM (" + strings.TrimSuffix(query, ";") + ") r"
}

// Cast returns d, a view, so that it returns the types that it has returned before, from a table
// that has others. It is the view's own query, whose columns are cast.
func (d Dependent) Cast(v RetypedView) Dependent {
	d.Replace = replaceViewSQL(d.Name, d.options, v.casting(d.definition))
	return d
}

// ViewVersions returns Dependent.Version of the views on t, by OID.
func (t *Table) ViewVersions() map[uint32]string {
	versions := map[uint32]string{}
	for _, d := range t.Dependents {
		if d.Kind == "view" {
			versions[d.OID] = d.Version
		}
	}
	return versions
}

// SameQuery reports whether the query of d, a view, is still that of which v was found.
func (d Dependent) SameQuery(v RetypedView) bool { return d.Version == v.version }
