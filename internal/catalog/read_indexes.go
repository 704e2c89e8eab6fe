package catalog

import (
	"fmt"
	"strings"
)

// indexesSQL makes the server build the head of each definition, so that it can be cut
// off exactly; see cutHead. A column whose NOT NULL is not valid (PostgreSQL 18) may
// contain NULL, and no key can identify such rows.
var indexesSQL = `
SELECT    ic.relname::text                                     AS name,
          format('CREATE %sINDEX %I ON %s%I.%I ',
                 CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END,
                 ic.relname, CASE c.relkind WHEN 'p' THEN 'ONLY ' ELSE '' END,
                (SELECT n.nspname FROM pg_namespace n WHERE n.oid = c.relnamespace), c.relname) AS head,
          pg_get_indexdef(i.indexrelid)                        AS definition,
          i.indisunique                                        AS is_unique,
          i.indisprimary                                       AS is_primary,
          i.indisvalid AND i.indisready AND i.indislive        AS valid,
          i.indisclustered                                     AS clustered,
          coalesce(con.conname::text, '')                      AS constraint_name,
          coalesce((SELECT ts.spcname::text FROM pg_tablespace ts WHERE ts.oid = ic.reltablespace), '') AS tablespace,
          pg_relation_size(i.indexrelid)                       AS size,
          ` + commentOf("pg_class", "i.indexrelid") + ` AS comment,
          ` + extensionsOf("pg_class", "i.indexrelid") + `      AS extensions,
         (SELECT jsonb_agg(jsonb_build_object('column', a.attnum, 'target', a.attstattarget) ORDER BY a.attnum)
          FROM   pg_attribute a
          WHERE  a.attrelid = i.indexrelid AND a.attstattarget >= 0) AS statistics,
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
CROSS JOIN LATERAL (SELECT oid, relname, reltablespace FROM pg_class WHERE oid = i.indexrelid OFFSET 0) ic
CROSS JOIN LATERAL (SELECT oid, relname, relkind, relnamespace FROM pg_class WHERE oid = i.indrelid OFFSET 0) c
LEFT JOIN LATERAL (SELECT * FROM pg_constraint
                   WHERE  conindid = i.indexrelid AND conrelid = i.indrelid AND contype IN ('p', 'u', 'x') OFFSET 0) con ON true
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
	Extensions     []string
	Statistics     []IndexStats
	IsKey          bool
	KeyColumns     []string
}

func askIndexes(d *description) {
	t := d.Table
	want(d, indexesSQL, func(rows []indexRow) error {
		for _, r := range rows {
			index, err := r.index()
			if err != nil {
				return err
			}
			t.Indexes = append(t.Indexes, index)
		}
		return nil
	})
}

func (r indexRow) index() (Index, error) {
	tail, err := cutHead(r)
	index := Index{
		Name: r.Name, Tail: tail, Unique: r.IsUnique, Primary: r.IsPrimary, Constraint: r.ConstraintName,
		Tablespace: r.Tablespace, Clustered: r.Clustered, Valid: r.Valid,
		Statistics: r.Statistics, Comment: r.Comment, Extensions: r.Extensions, Size: r.Size,
	}
	if r.IsKey {
		index.KeyColumns = r.KeyColumns
	}
	return index, err
}

// cutHead cuts the head, with the names in it, off an index definition. It returns an
// error if the definition does not begin exactly with that head.
func cutHead(r indexRow) (string, error) {
	tail, ok := strings.CutPrefix(r.Definition, r.Head)
	if !ok {
		return "", fmt.Errorf("index %q: definition %q does not start with %q", r.Name, r.Definition, r.Head)
	}
	return tail, nil
}
