package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// Read describes the table with that OID, in one round trip, and in one more the
// materialized views on it, if any. The session's search_path must be pg_catalog,
// so that every name in a definition comes out qualified. It takes ACCESS SHARE
// on the table for an instant (pg_get_expr and its kin need it) and returns
// ErrNotFound when there is no such table.
//
// Columns that only newer servers have are read through to_jsonb(row), which
// is null where the column does not exist.
func Read(ctx context.Context, q Querier, oid uint32) (*Table, error) {
	t, err := describeOne(ctx, q, oid, append(slices.Clone(everything), part{"materialized views", askMatviews}))
	if err != nil {
		return nil, err
	}
	return t, ReadMatviews(ctx, q, t.Matviews)
}

// part is one of the things that a table is described by. ask queues the queries
// for it, of which the answers are put into the table. They come in the order of
// the queries, so that one can rely on those before it.
type part struct {
	what string
	ask  func(*pgx.Batch, *Table)
}

// everything is all but the materialized views.
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
	{"views", askViews},
	{"dependents", askDependents},
}

// ReadGrants describes the table with that OID as far as who may do what with it
// and its sequences, in one round trip. It takes no lock.
func ReadGrants(ctx context.Context, q Querier, oid uint32) (*Table, error) {
	return describeOne(ctx, q, oid, []part{{"sequences and grants", askSequencesAndGrants}})
}

func describeOne(ctx context.Context, q Querier, oid uint32, parts []part) (*Table, error) {
	tables, err := describe(ctx, q, []uint32{oid}, parts)
	if err != nil {
		return nil, err
	}
	return tables[0], nil
}

// describe reads parts of the descriptions of tables, in their order, in one round
// trip (and on a connection that has not asked for them before, in two: the
// driver has the queries prepared).
func describe(ctx context.Context, q Querier, oids []uint32, parts []part) ([]*Table, error) {
	b := &pgx.Batch{}
	tables := make([]*Table, len(oids))
	for i, oid := range oids {
		tables[i] = &Table{OID: oid}
		for _, part := range parts {
			first := b.Len()
			part.ask(b, tables[i])
			for _, query := range b.QueuedQueries[first:] {
				take := query.Fn
				query.Fn = func(results pgx.BatchResults) error {
					if err := take(results); err != nil {
						return fmt.Errorf("%s of table %d: %w", part.what, oid, err)
					}
					return nil
				}
			}
		}
	}
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("describe: %w", err)
	}
	return tables, nil
}

// ask queues a query whose columns are named as T's fields, for take.
func ask[T any](b *pgx.Batch, take func([]T) error, sql string, args ...any) {
	b.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		list, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[T])
		if err != nil {
			return err
		}
		return take(list)
	})
}

// askFor is ask for what is a list of the description as it is.
func askFor[T any](b *pgx.Batch, list *[]T, sql string, args ...any) {
	ask(b, func(found []T) error { *list = found; return nil }, sql, args...)
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

func askRelation(b *pgx.Batch, t *Table) {
	b.Queue(relationSQL, t.OID).QueryRow(func(row pgx.Row) error {
		err := row.Scan(
			&t.Name.Schema, &t.Name.Name, &t.Owner, &t.Persistence, &t.AccessMethod, &t.Tablespace,
			&t.Options, &t.ToastOptions, &t.ReplicaIdentity.Kind, &t.ReplicaIdentity.Index, &t.Comment,
			&t.RowSecurity, &t.ForceRowSecurity)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotFound
		}
		return err
	})
}

// Among a column's options servers since November 2026 (15.20, say) keep a
// version of the column for themselves, pg_attver. Nobody can set it, pg_dump
// leaves it out, and two tables never have the same. OFFSET 0 has the server look
// each type up, and not walk along all types beside the columns.
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

func askColumns(b *pgx.Batch, t *Table) { askFor(b, &t.Columns, columnsSQL, t.OID) }

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

func askConstraints(b *pgx.Batch, t *Table) { askFor(b, &t.Constraints, constraintsSQL, t.OID) }

// collect runs a query whose columns are named as T's fields.
func collect[T any](ctx context.Context, q Querier, sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByNameLax[T])
}
