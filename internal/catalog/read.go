package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrNotFound reports that no table has the requested OID.
var ErrNotFound = errors.New("table does not exist")

// Querier is the part of a connection, pool or transaction that reading needs.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Read describes the table with that OID. It needs one round trip, and a second one if
// there are materialized views on the table.
//
// The session's search_path must be pg_catalog: then the server qualifies every name in
// a definition. Read takes ACCESS SHARE on the table for a moment, because functions
// such as pg_get_expr need it. It returns ErrNotFound if there is no such table. It
// changes nothing and may be called again.
//
// Some catalog columns exist only in newer servers. The queries read them through
// to_jsonb(row), which gives null where the column does not exist.
func Read(ctx context.Context, q Querier, oid uint32) (*Table, error) {
	t, err := describeOne(ctx, q, oid, withMatviews)
	if err != nil {
		return nil, err
	}
	return t, ReadMatviews(ctx, q, t.Matviews)
}

// Queue adds Read of a table to b. The table is complete after b's results have been
// read; one of them may be ErrNotFound. Its materialized views then have an OID and a
// query only: ReadMatviews describes the rest.
func Queue(b *pgx.Batch, oid uint32) *Table { return queue(b, oid, withMatviews) }

// everything is all parts of a description except the materialized views.
var everything = []part{
	{"relation", askRelation},
	{"columns", askColumns},
	{"constraints", askConstraints},
	{"indexes", askIndexes},
	{"partition", askPartition},
	{"foreign keys", askForeignKeys},
	{"sequences and grants", askSequencesAndGrants},
	{"triggers", askTriggers},
	{"rules", askRules},
	{"policies", askPolicies},
	{"publications", askPublications},
	{"security labels", askLabels},
	{"extended statistics", askStatistics},
	{"functions of the row type", askTyped}, // the next two use its tables
	{"views", askViews},
	{"dependents", askDependents},
}

var withMatviews = append(slices.Clone(everything), part{"materialized views", askMatviews})

// ReadGrants describes only the sequences of a table and the privileges on it and them.
// It needs one round trip and takes no lock on the table.
func ReadGrants(ctx context.Context, q Querier, oid uint32) (*Table, error) {
	return describeOne(ctx, q, oid, []part{{"sequences and grants", askSequencesAndGrants}})
}

// ask queues a query for take. The query's columns have the names of T's fields.
func ask[T any](b *pgx.Batch, take func([]T) error, sql string, args ...any) {
	b.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		list, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[T])
		if err != nil {
			return err
		}
		return take(list)
	})
}

// askFor is ask for rows that go into list unchanged.
func askFor[T any](b *pgx.Batch, list *[]T, sql string, args ...any) {
	ask(b, func(found []T) error { *list = found; return nil }, sql, args...)
}

const relationSQL = `
SELECT    n.nspname::text                                    AS schema,
          c.relname::text                                    AS name,
          pg_get_userbyid(c.relowner)::text                  AS owner,
          c.relpersistence::text                             AS persistence,
          coalesce(am.amname::text, '')                      AS access_method,
          coalesce(ts.spcname::text, '')                     AS tablespace,
          coalesce(c.reloptions, '{}')                       AS options,
          coalesce(toast.reloptions, '{}')                   AS toast_options,
          c.relreplident::text                               AS identity_kind,
          coalesce((SELECT ic.relname::text
                    FROM   pg_index i
                    JOIN   pg_class ic ON ic.oid = i.indexrelid
                    WHERE  i.indrelid = c.oid AND i.indisreplident AND c.relreplident = 'i'), '') AS identity_index,
          coalesce(obj_description(c.oid, 'pg_class'), '')   AS comment,
          c.relrowsecurity                                   AS row_security,
          c.relforcerowsecurity                              AS force_row_security
FROM      pg_class c
JOIN      pg_namespace n   ON n.oid = c.relnamespace
LEFT JOIN pg_am am         ON am.oid = c.relam
LEFT JOIN pg_tablespace ts ON ts.oid = c.reltablespace
LEFT JOIN pg_class toast   ON toast.oid = c.reltoastrelid
WHERE     c.oid = $1`

func askRelation(d *description) {
	type row struct {
		Schema, Name, Owner, Persistence, AccessMethod, Tablespace string
		Options, ToastOptions                                      []string
		IdentityKind, IdentityIndex, Comment                       string
		RowSecurity, ForceRowSecurity                              bool
	}
	want(d, relationSQL, func(rows []row) error {
		if len(rows) == 0 {
			return ErrNotFound
		}
		r, t := rows[0], d.Table
		t.Name, t.Owner, t.Persistence, t.AccessMethod, t.Tablespace = Name{r.Schema, r.Name}, r.Owner, r.Persistence, r.AccessMethod, r.Tablespace
		t.Options, t.ToastOptions, t.ReplicaIdentity.Kind, t.ReplicaIdentity.Index = r.Options, r.ToastOptions, r.IdentityKind, r.IdentityIndex
		t.Comment, t.RowSecurity, t.ForceRowSecurity = r.Comment, r.RowSecurity, r.ForceRowSecurity
		return nil
	})
}

// Since November 2026 (15.20, for example) servers store a version of the column,
// pg_attver, among the column's options. No user can set it, pg_dump leaves it out, and
// it is different in every table. So options that begin with pg_ are left out.
//
// OFFSET 0 makes the server look up each type, instead of reading all types and joining
// them to the columns.
const columnsSQL = `
SELECT    a.attname::text                                       AS name,
          format_type(a.atttypid, a.atttypmod)                  AS type,
          CASE WHEN a.attcollation <> 0 AND a.attcollation <> t.typcollation
               THEN format('%I.%I', cn.nspname, co.collname)
               ELSE '' END                                      AS collation,
          a.attnotnull                                          AS not_null,
          a.attidentity::text                                   AS identity,
          a.attgenerated::text                                  AS generated,
          coalesce(pg_get_expr(d.adbin, d.adrelid), '')         AS expression,
          CASE WHEN a.attstorage <> t.typstorage
               THEN a.attstorage::text ELSE '' END              AS storage,
          a.attcompression::text                                AS compression,
          nullif(a.attstattarget, -1)::int                      AS statistics,
          ARRAY(SELECT   o.option
                FROM     unnest(a.attoptions) WITH ORDINALITY o(option, n)
                WHERE    o.option NOT LIKE 'pg\_%'
                ORDER BY o.n)                                   AS options,
          coalesce(col_description(a.attrelid, a.attnum), '')   AS comment
FROM      pg_attribute a
CROSS     JOIN LATERAL (SELECT typcollation, typstorage FROM pg_type WHERE oid = a.atttypid OFFSET 0) t
LEFT JOIN pg_collation co ON co.oid = a.attcollation
LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
LEFT JOIN pg_attrdef d    ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE     a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY  a.attnum`

func askColumns(d *description) { wantAs(d, columnsSQL, &d.Columns) }

const constraintsSQL = `
SELECT   c.conname::text                                                  AS name,
         c.contype::text                                                  AS type,
         pg_get_constraintdef(c.oid)                                      AS definition,
         c.condeferrable                                                  AS deferrable,
         c.condeferred                                                    AS deferred,
         c.convalidated                                                   AS validated,
         coalesce((to_jsonb(c) ->> 'conperiod')::bool, false)             AS period,
         coalesce(obj_description(c.oid, 'pg_constraint'), '')            AS comment
FROM     pg_constraint c
WHERE    c.conrelid = $1 AND c.contype IN ('c', 'x', 'p', 'u', 'n')
ORDER BY c.conname`

func askConstraints(d *description) { wantAs(d, constraintsSQL, &d.Constraints) }

// collect runs a query and returns its rows. The query's columns have the names of T's
// fields.
func collect[T any](ctx context.Context, q Querier, sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByNameLax[T])
}

// extensionsOf lists the extensions that an object depends on by ALTER … DEPENDS ON
// EXTENSION.
func extensionsOf(class, oid string) string {
	return fmt.Sprintf(`ARRAY(SELECT   e.extname::text
               FROM     pg_depend x
               JOIN     pg_extension e ON e.oid = x.refobjid
               WHERE    x.classid = '%s'::regclass AND x.objid = %s AND x.deptype = 'x'
               ORDER BY e.extname)`, class, oid)
}
