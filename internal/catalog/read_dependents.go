package catalog

import "context"

// foreignKeysSQL reads the keys of the table ($2 false) or those of other
// tables to it ($2 true); a key to itself belongs to the first.
const foreignKeysSQL = `
SELECT   c.oid                                                 AS oid,
         c.conname::text                                       AS name,
         cn.nspname::text                                      AS schema_name,
         ct.relname::text                                      AS table_name,
         pg_get_userbyid(ct.relowner)::text                    AS table_owner,
         rn.nspname::text                                      AS ref_schema,
         rt.relname::text                                      AS ref_table,
         ARRAY(SELECT a.attname::text
               FROM   unnest(c.conkey) WITH ORDINALITY AS k(attnum, n)
               JOIN   pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
               ORDER  BY k.n)                                  AS columns,
         ARRAY(SELECT a.attname::text
               FROM   unnest(c.confkey) WITH ORDINALITY AS k(attnum, n)
               JOIN   pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum
               ORDER  BY k.n)                                  AS ref_columns,
         ARRAY(SELECT a.attname::text
               FROM   jsonb_array_elements_text(nullif(to_jsonb(c) -> 'confdelsetcols', 'null'))
                      WITH ORDINALITY AS k(attnum, n)
               JOIN   pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum::int2
               ORDER  BY k.n)                                  AS delete_columns,
         c.confmatchtype::text                                 AS match,
         c.confupdtype::text                                   AS on_update,
         c.confdeltype::text                                   AS on_delete,
         c.condeferrable                                       AS deferrable,
         c.condeferred                                         AS deferred,
         c.convalidated                                        AS validated,
         coalesce((to_jsonb(c) ->> 'conenforced')::bool, true) AS enforced,
         coalesce((to_jsonb(c) ->> 'conperiod')::bool, false)  AS period,
         coalesce(obj_description(c.oid, 'pg_constraint'), '') AS comment
FROM     pg_constraint c
JOIN     pg_class ct     ON ct.oid = c.conrelid
JOIN     pg_namespace cn ON cn.oid = ct.relnamespace
JOIN     pg_class rt     ON rt.oid = c.confrelid
JOIN     pg_namespace rn ON rn.oid = rt.relnamespace
WHERE    c.contype = 'f' AND c.conparentid = 0
AND      CASE WHEN $2 THEN c.confrelid = $1 AND c.conrelid <> $1 ELSE c.conrelid = $1 END
ORDER BY cn.nspname, ct.relname, c.conname`

type foreignKeyRow struct {
	ForeignKey
	SchemaName, TableName string
	RefSchema, RefTable   string
}

func readForeignKeys(ctx context.Context, q Querier, t *Table) (err error) {
	if t.ForeignKeys, err = foreignKeys(ctx, q, t.OID, false); err != nil {
		return err
	}
	t.Referencing, err = foreignKeys(ctx, q, t.OID, true)
	return err
}

func foreignKeys(ctx context.Context, q Querier, oid uint32, incoming bool) ([]ForeignKey, error) {
	rows, err := collect[foreignKeyRow](ctx, q, foreignKeysSQL, oid, incoming)
	if err != nil {
		return nil, err
	}
	keys := make([]ForeignKey, len(rows))
	for i, r := range rows {
		keys[i] = r.ForeignKey
		keys[i].Table = Name{r.SchemaName, r.TableName}
		keys[i].Referenced = Name{r.RefSchema, r.RefTable}
	}
	return keys, nil
}

// A sequence belongs to a column by an internal (identity) or automatic
// (OWNED BY) dependency; see "pg_depend" in the manual.
const sequencesSQL = `
SELECT   s.oid                                               AS oid,
         n.nspname::text                                     AS schema_name,
         s.relname::text                                     AS sequence_name,
         a.attname::text                                     AS column,
         d.deptype = 'i'                                     AS identity,
         format_type(q.seqtypid, NULL)                       AS type,
         q.seqstart                                          AS start,
         q.seqincrement                                      AS increment,
         q.seqmin                                            AS min,
         q.seqmax                                            AS max,
         q.seqcache                                          AS cache,
         q.seqcycle                                          AS cycle,
         s.relpersistence::text                              AS persistence,
         pg_get_userbyid(s.relowner)::text                   AS owner,
         coalesce(obj_description(s.oid, 'pg_class'), '')    AS comment
FROM     pg_depend d
JOIN     pg_class s     ON s.oid = d.objid AND s.relkind = 'S'
JOIN     pg_namespace n ON n.oid = s.relnamespace
JOIN     pg_sequence q  ON q.seqrelid = s.oid
JOIN     pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE    d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
AND      d.refobjid = $1 AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
ORDER BY n.nspname, s.relname`

func readSequences(ctx context.Context, q Querier, t *Table) error {
	type row struct {
		Sequence
		OID          uint32 `db:"oid"`
		SchemaName   string
		SequenceName string
	}
	rows, err := collect[row](ctx, q, sequencesSQL, t.OID)
	if err != nil {
		return err
	}
	for _, r := range rows {
		sequence := r.Sequence
		sequence.Name = Name{r.SchemaName, r.SequenceName}
		if sequence.Grants, err = RelationGrants(ctx, q, r.OID, "s"); err != nil {
			return err
		}
		t.Sequences = append(t.Sequences, sequence)
	}
	return nil
}

// grantsSQL explodes the access control lists of a relation and its columns.
// A list that was never touched stands for the owner's defaults (acldefault).
// The order is that of the list, in which pg_dump writes it.
const grantsSQL = `
SELECT   x.column_name                                        AS column,
         pg_get_userbyid(x.grantor)::text                     AS grantor,
         CASE WHEN x.grantee = 0 THEN ''
              ELSE pg_get_userbyid(x.grantee)::text END       AS grantee,
         x.privilege_type                                     AS privilege,
         x.is_grantable                                       AS grantable
FROM    (SELECT '' AS column_name, 0 AS attnum, e.*
         FROM   pg_class c
         CROSS  JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault($2::"char", c.relowner))) WITH ORDINALITY e
         WHERE  c.oid = $1
         UNION  ALL
         SELECT a.attname::text, a.attnum, e.*
         FROM   pg_attribute a
         CROSS  JOIN LATERAL aclexplode(a.attacl) WITH ORDINALITY e
         WHERE  a.attrelid = $1 AND NOT a.attisdropped) x
ORDER BY x.attnum, x.ordinality`

func readGrants(ctx context.Context, q Querier, t *Table) (err error) {
	t.Grants, err = RelationGrants(ctx, q, t.OID, "r")
	return err
}
