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

// Read describes the table with that OID. It needs one round trip, a second one if the
// table has extras, and a third one if there are materialized views on the table.
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

// ReadLike is Read, in one round trip if the table has no other extras than like, which
// describes the same table as it was, or its copy. With materialized views it is one more.
func ReadLike(ctx context.Context, q Querier, oid uint32, like *Table) (*Table, error) {
	tables, err := describeLikely(ctx, q, []uint32{oid}, withMatviews, func(uint32) Extras { return like.Extras() })
	if err != nil {
		return nil, err
	}
	return tables[0], readMatviews(ctx, q, tables[0].Matviews, like)
}

// Queue adds Read of a table to b. After b's results have been read, of which one may be
// ErrNotFound, call Complete.
//
// like describes the same table as it was, or its copy. It may be nil. If the table has no
// other extras than like, and no materialized views, Complete needs no round trip.
func Queue(b *pgx.Batch, oid uint32, like *Table) *Table {
	return queue(b, oid, withMatviews, like.Extras())
}

// everything is all parts of a description except the materialized views.
var everything = []part{
	{"relation", askRelation, 0},
	{"columns", askColumns, 0},
	{"constraints", askConstraints, 0},
	{"indexes", askIndexes, 0},
	{"partition", askPartition, OfPartition},
	{"foreign keys", askForeignKeys, OfKeys},
	{"sequences and grants", askSequencesAndGrants, 0},
	{"triggers", askTriggers, OfTriggers},
	{"rules", askRules, 0},
	{"policies", askPolicies, OfPolicies},
	{"publications", askPublications, OfPublications},
	{"security labels", askLabels, OfLabels},
	{"extended statistics", askStatistics, OfStatistics},
	{"functions of the row type", askTyped, OfDependents}, // the next two use its tables
	{"views", askViews, OfDependents},
	{"dependents", askDependents, OfDependents},
}

var withMatviews = append(slices.Clone(everything), part{"materialized views", askMatviews, OfDependents})

// ReadGrants describes only the sequences of a table and the privileges on it and them.
// It needs one round trip and takes no lock on the table.
func ReadGrants(ctx context.Context, q Querier, oid uint32) (*Table, error) {
	return describeOne(ctx, q, oid, []part{{"sequences and grants", askSequencesAndGrants, 0}})
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

// The queries look up in subqueries what they could join, where that is a row with a known
// key: the server tries all orders and ways of a join, and does so for each connection.
// OFFSET 0 keeps it from making a join of a subquery.

var relationSQL = `
SELECT   (SELECT n.nspname::text FROM pg_namespace n WHERE n.oid = c.relnamespace) AS schema,
          c.relname::text                                    AS name,
          pg_get_userbyid(c.relowner)::text                  AS owner,
          c.relpersistence::text                             AS persistence,
          coalesce((SELECT am.amname::text FROM pg_am am WHERE am.oid = c.relam), '')                  AS access_method,
          coalesce((SELECT ts.spcname::text FROM pg_tablespace ts WHERE ts.oid = c.reltablespace), '') AS tablespace,
          coalesce(c.reloptions, '{}')                       AS options,
          coalesce((SELECT t.reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid), '{}')          AS toast_options,
          c.relreplident::text                               AS identity_kind,
          coalesce((SELECT (SELECT ic.relname::text FROM pg_class ic WHERE ic.oid = i.indexrelid)
                    FROM   pg_index i
                    WHERE  i.indrelid = c.oid AND i.indisreplident AND c.relreplident = 'i'), '')      AS identity_index,
          ` + commentOf("pg_class", "c.oid") + ` AS comment,
          c.relrowsecurity                                   AS row_security,
          c.relforcerowsecurity                              AS force_row_security
FROM      pg_class c
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
               THEN (SELECT format('%I.%I', (SELECT n.nspname FROM pg_namespace n WHERE n.oid = co.collnamespace), co.collname)
                     FROM   pg_collation co
                     WHERE  co.oid = a.attcollation)
               ELSE '' END                                      AS collation,
          a.attnotnull                                          AS not_null,
          a.attidentity::text                                   AS identity,
          a.attgenerated::text                                  AS generated,
          coalesce((SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
                    WHERE  d.adrelid = a.attrelid AND d.adnum = a.attnum), '') AS expression,
          CASE WHEN a.attstorage <> t.typstorage
               THEN a.attstorage::text ELSE '' END              AS storage,
          a.attcompression::text                                AS compression,
          nullif(a.attstattarget, -1)::int                      AS statistics,
          ARRAY(SELECT   o.option
                FROM     unnest(a.attoptions) WITH ORDINALITY o(option, n)
                WHERE    o.option NOT LIKE 'pg\_%'
                ORDER BY o.n)                                   AS options,
          coalesce((SELECT remark.description FROM pg_description remark
                    WHERE  remark.objoid = a.attrelid AND remark.classoid = 'pg_class'::regclass
                    AND    remark.objsubid = a.attnum), '')     AS comment
FROM      pg_attribute a
CROSS     JOIN LATERAL (SELECT typcollation, typstorage FROM pg_type WHERE oid = a.atttypid OFFSET 0) t
WHERE     a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY  a.attnum`

func askColumns(d *description) { wantAs(d, columnsSQL, &d.Columns) }

var constraintsSQL = `
SELECT   c.conname::text                                                  AS name,
         c.contype::text                                                  AS type,
         pg_get_constraintdef(c.oid)                                      AS definition,
         c.condeferrable                                                  AS deferrable,
         c.condeferred                                                    AS deferred,
         c.convalidated                                                   AS validated,
         coalesce((to_jsonb(c) ->> 'conperiod')::bool, false)             AS period,
         ` + commentOf("pg_constraint", "c.oid") + ` AS comment
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

// commentOf is the comment of an object, or an empty text. obj_description is a function in
// SQL, which the server plans each time that a statement calls it.
func commentOf(class, oid string) string {
	return fmt.Sprintf(`coalesce((SELECT remark.description FROM pg_description remark
                   WHERE  remark.objoid = %[2]s AND remark.classoid = '%[1]s'::regclass AND remark.objsubid = 0), '')`, class, oid)
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
