package catalog

import (
	"context"
	"fmt"
	"strings"
)

// indexesSQL lets the server state the head of each definition, so that what
// follows can be cut off exactly; see cutHead. A column whose NOT NULL is not
// valid (PostgreSQL 18) may have rows with NULL, which no key tells apart.
const indexesSQL = `
SELECT    ic.relname::text                                     AS name,
          format('CREATE %sINDEX %I ON %s%I.%I ',
                 CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END,
                 ic.relname, CASE c.relkind WHEN 'p' THEN 'ONLY ' ELSE '' END,
                 n.nspname, c.relname)                         AS head,
          pg_get_indexdef(i.indexrelid)                        AS definition,
          i.indisunique                                        AS is_unique,
          i.indisprimary                                       AS is_primary,
          i.indisvalid AND i.indisready AND i.indislive        AS valid,
          i.indisclustered                                     AS clustered,
          coalesce(con.conname::text, '')                      AS constraint_name,
          coalesce(ts.spcname::text, '')                       AS tablespace,
          pg_relation_size(i.indexrelid)                       AS size,
          coalesce(obj_description(i.indexrelid, 'pg_class'), '') AS comment,
          i.indisunique AND i.indimmediate AND i.indisvalid
          AND i.indpred IS NULL AND i.indexprs IS NULL
          AND coalesce(NOT (to_jsonb(con) ->> 'conperiod')::bool, true)
          AND NOT EXISTS (
              SELECT FROM pg_attribute a
              WHERE  a.attrelid = c.oid AND a.attnum = ANY (k.columns)
              AND   (NOT a.attnotnull
                     OR EXISTS (SELECT FROM pg_constraint nn
                                WHERE  nn.conrelid = c.oid AND nn.contype = 'n' AND NOT nn.convalidated
                                AND    a.attnum = ANY (nn.conkey)))) AS is_key,
          ARRAY(SELECT   a.attname::text
                FROM     unnest(k.columns) WITH ORDINALITY AS u(attnum, n)
                JOIN     pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.attnum
                ORDER BY u.n)                                  AS key_columns
FROM      pg_index i
JOIN      pg_class ic      ON ic.oid = i.indexrelid
JOIN      pg_class c       ON c.oid = i.indrelid
JOIN      pg_namespace n   ON n.oid = c.relnamespace
LEFT JOIN pg_tablespace ts ON ts.oid = ic.reltablespace
LEFT JOIN pg_constraint con ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid
                           AND con.contype IN ('p', 'u', 'x')
CROSS JOIN LATERAL (SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1] AS columns) k
WHERE     i.indrelid = $1
ORDER BY  ic.relname`

type indexRow struct {
	Name           string
	Head           string
	Definition     string
	IsUnique       bool
	IsPrimary      bool
	Valid          bool
	Clustered      bool
	ConstraintName string
	Tablespace     string
	Size           int64
	Comment        string
	IsKey          bool
	KeyColumns     []string
}

func readIndexes(ctx context.Context, q Querier, t *Table) error {
	rows, err := collect[indexRow](ctx, q, indexesSQL, t.OID)
	if err != nil {
		return err
	}
	stats, err := readIndexStats(ctx, q, t.OID)
	if err != nil {
		return err
	}
	for _, r := range rows {
		tail, err := cutHead(r)
		if err != nil {
			return err
		}
		index := Index{
			Name: r.Name, Tail: tail, Unique: r.IsUnique, Primary: r.IsPrimary, Constraint: r.ConstraintName,
			Tablespace: r.Tablespace, Clustered: r.Clustered, Valid: r.Valid,
			Statistics: stats[r.Name], Comment: r.Comment, Size: r.Size,
		}
		if r.IsKey {
			index.KeyColumns = r.KeyColumns
		}
		t.Indexes = append(t.Indexes, index)
	}
	return nil
}

// cutHead separates an index definition from the names in it, and refuses a
// definition whose beginning is not to the letter what it should be.
func cutHead(r indexRow) (string, error) {
	tail, ok := strings.CutPrefix(r.Definition, r.Head)
	if !ok {
		return "", fmt.Errorf("index %q: definition %q does not start with %q", r.Name, r.Definition, r.Head)
	}
	return tail, nil
}

const indexStatsSQL = `
SELECT   ic.relname::text AS index, a.attnum AS column, a.attstattarget::int AS target
FROM     pg_index i
JOIN     pg_class ic    ON ic.oid = i.indexrelid
JOIN     pg_attribute a ON a.attrelid = i.indexrelid
WHERE    i.indrelid = $1 AND a.attstattarget >= 0
ORDER BY ic.relname, a.attnum`

func readIndexStats(ctx context.Context, q Querier, oid uint32) (map[string][]IndexStats, error) {
	type row struct {
		Index string
		IndexStats
	}
	rows, err := collect[row](ctx, q, indexStatsSQL, oid)
	stats := map[string][]IndexStats{}
	for _, r := range rows {
		stats[r.Index] = append(stats[r.Index], r.IndexStats)
	}
	return stats, err
}
