package catalog

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrNotFound reports that no table has the OID or name asked for.
var ErrNotFound = errors.New("table does not exist")

// Querier is what reading needs of a connection, pool or transaction.
type Querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Read describes the table with that OID. The session's search_path must be
// pg_catalog, so that every name in a definition comes out qualified. It takes
// ACCESS SHARE on the table for an instant (pg_get_expr and its kin need it)
// and returns ErrNotFound when there is no such table.
//
// Columns that only newer servers have are read through to_jsonb(row), which
// is null where the column does not exist.
func Read(ctx context.Context, q Querier, oid uint32) (*Table, error) {
	t, err := describe(ctx, q, oid, everything)
	if err != nil {
		return nil, err
	}
	t.Matviews, err = Matviews(ctx, q, oid)
	return t, err
}

// part is one of the things that a table is described by.
type part struct {
	what string
	read func(context.Context, Querier, *Table) error
}

// everything is all but the materialized views.
var everything = []part{
	{"relation", readRelation},
	{"columns", readColumns},
	{"constraints", readConstraints},
	{"indexes", readIndexes},
	{"partition", readPartition},
	{"foreign keys", readForeignKeys},
	{"sequences", readSequences},
	{"grants", readGrants},
	{"behaviour", readBehaviour},
}

// ReadGrants describes the table with that OID as far as who may do what with it
// and its sequences. It takes no lock.
func ReadGrants(ctx context.Context, q Querier, oid uint32) (*Table, error) {
	return describe(ctx, q, oid, []part{{"sequences", readSequences}, {"grants", readGrants}})
}

// describe reads parts of the description of a table, in their order.
func describe(ctx context.Context, q Querier, oid uint32, parts []part) (*Table, error) {
	t := &Table{OID: oid}
	for _, part := range parts {
		if err := part.read(ctx, q, t); err != nil {
			return nil, fmt.Errorf("describe %s of table %d: %w", part.what, oid, err)
		}
	}
	return t, nil
}

const relationSQL = `
SELECT    n.nspname,
          c.relname,
          pg_get_userbyid(c.relowner),
          c.relpersistence::text,
          coalesce(am.amname, ''),
          coalesce(ts.spcname, ''),
          coalesce(c.reloptions, '{}'),
          coalesce(toast.reloptions, '{}'),
          c.relreplident::text,
          coalesce((SELECT ic.relname
                    FROM   pg_index i
                    JOIN   pg_class ic ON ic.oid = i.indexrelid
                    WHERE  i.indrelid = c.oid AND i.indisreplident AND c.relreplident = 'i'), ''),
          coalesce(obj_description(c.oid, 'pg_class'), ''),
          c.relrowsecurity,
          c.relforcerowsecurity
FROM      pg_class c
JOIN      pg_namespace n   ON n.oid = c.relnamespace
LEFT JOIN pg_am am         ON am.oid = c.relam
LEFT JOIN pg_tablespace ts ON ts.oid = c.reltablespace
LEFT JOIN pg_class toast   ON toast.oid = c.reltoastrelid
WHERE     c.oid = $1`

func readRelation(ctx context.Context, q Querier, t *Table) error {
	err := q.QueryRow(ctx, relationSQL, t.OID).Scan(
		&t.Name.Schema, &t.Name.Name, &t.Owner, &t.Persistence, &t.AccessMethod, &t.Tablespace,
		&t.Options, &t.ToastOptions, &t.ReplicaIdentity.Kind, &t.ReplicaIdentity.Index, &t.Comment,
		&t.RowSecurity, &t.ForceRowSecurity)
	if errors.Is(err, pgx.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

// Among a column's options servers since November 2026 (15.20, say) keep a
// version of the column for themselves, pg_attver. Nobody can set it, pg_dump
// leaves it out, and two tables never have the same.
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
JOIN      pg_type t       ON t.oid = a.atttypid
LEFT JOIN pg_collation co ON co.oid = a.attcollation
LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
LEFT JOIN pg_attrdef d    ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE     a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY  a.attnum`

func readColumns(ctx context.Context, q Querier, t *Table) (err error) {
	t.Columns, err = collect[Column](ctx, q, columnsSQL, t.OID)
	return err
}

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

func readConstraints(ctx context.Context, q Querier, t *Table) (err error) {
	t.Constraints, err = collect[Constraint](ctx, q, constraintsSQL, t.OID)
	return err
}

// collect runs a query whose columns are named as T's fields.
func collect[T any](ctx context.Context, q Querier, sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByNameLax[T])
}
