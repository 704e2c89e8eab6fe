package demo

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// view is what can be said of the tables at one time.
type view struct {
	sizes       []size
	quiet       checksum
	keys        keys
	definitions []string
}

type size struct {
	Relation string
	Bytes    int64
}

func (v view) total() (bytes int64) {
	for _, s := range v.sizes {
		bytes += s.Bytes
	}
	return bytes
}

const sizesSQL = `
SELECT c.relname, pg_table_size(c.oid)
FROM   pg_class c
WHERE  c.oid = 'repack_demo.orders'::regclass
UNION  ALL
(
SELECT   c.relname, pg_relation_size(c.oid)
FROM     pg_index i
JOIN     pg_class c ON c.oid = i.indexrelid
WHERE    i.indrelid = 'repack_demo.orders'::regclass
ORDER BY c.relname
)`

// checksum is of the orders that no writer touches.
type checksum struct {
	Rows int64
	Sum  string
}

const checksumSQL = `
SELECT count(*), coalesce(sum(hashtextextended(o::text, 0)), 0)::text
FROM   repack_demo.orders o
WHERE  %s`

// keys counts foreign keys between the tables.
type keys struct{ Valid, All int64 }

const keysSQL = `
SELECT count(*) FILTER (WHERE convalidated), count(*)
FROM   pg_constraint
WHERE  contype = 'f'
AND    (conrelid, confrelid) IN (
       ('repack_demo.orders'::regclass, 'repack_demo.customers'::regclass),
       ('repack_demo.order_items'::regclass, 'repack_demo.orders'::regclass),
       ('repack_demo.payments'::regclass, 'repack_demo.orders'::regclass))`

// definitionsSQL describes the tables in the server's own words. Every trigger that is no
// foreign key's would be repack's.
const definitionsSQL = `
WITH tables AS (
    SELECT oid, oid::regclass::text AS name
    FROM   pg_class
    WHERE  oid IN ('repack_demo.customers'::regclass, 'repack_demo.orders'::regclass, 'repack_demo.order_items'::regclass, 'repack_demo.payments'::regclass)
)
SELECT   concat_ws(' ', t.name, d.definition) COLLATE "C" AS line
FROM     tables t
CROSS    JOIN LATERAL (
         SELECT concat_ws(' ', c.conname, pg_get_constraintdef(c.oid))
         FROM   pg_constraint c
         WHERE  c.conrelid = t.oid
         UNION  ALL
         SELECT pg_get_indexdef(i.indexrelid)
         FROM   pg_index i
         WHERE  i.indrelid = t.oid
         UNION  ALL
         SELECT concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
                          pg_get_expr(e.adbin, e.adrelid), pg_get_serial_sequence(t.name, a.attname))
         FROM   pg_attribute a
         LEFT   JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
         WHERE  a.attrelid = t.oid AND a.attnum > 0
         UNION  ALL
         SELECT concat_ws(' ', 'trigger', g.tgname)
         FROM   pg_trigger g
         WHERE  g.tgrelid = t.oid AND NOT g.tgisinternal) AS d (definition)
ORDER BY line`

func (s *show) look(ctx context.Context) (v view, err error) {
	rows, err := s.conn.Query(ctx, sizesSQL)
	if err != nil {
		return v, fmt.Errorf("measure tables: %w", err)
	}
	if v.sizes, err = pgx.CollectRows(rows, pgx.RowToStructByPos[size]); err != nil {
		return v, fmt.Errorf("measure tables: %w", err)
	}
	sql := fmt.Sprintf(checksumSQL, fmt.Sprintf(quietSQL, "customer_id"))
	if err := s.conn.QueryRow(ctx, sql, s.seed.args(liveIDs)).Scan(&v.quiet.Rows, &v.quiet.Sum); err != nil {
		return v, fmt.Errorf("compute checksum: %w", err)
	}
	if err := s.conn.QueryRow(ctx, keysSQL).Scan(&v.keys.Valid, &v.keys.All); err != nil {
		return v, fmt.Errorf("read foreign keys: %w", err)
	}
	if rows, err = s.conn.Query(ctx, definitionsSQL); err != nil {
		return v, fmt.Errorf("read definitions: %w", err)
	}
	if v.definitions, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return v, fmt.Errorf("read definitions: %w", err)
	}
	return v, nil
}
