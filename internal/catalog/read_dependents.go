package catalog

import "context"

// foreignKeySQL describes keys. The conditions are those by which the server finds
// the row that is referred to; see RI_Initial_Check in ri_triggers.c.
const foreignKeySQL = `
SELECT   c.oid                                                 AS oid,
         c.conrelid = $1                                       AS its,
         'p' IN (ct.relkind, rt.relkind)                       AS partitioned,
         c.conname::text                                       AS name,
         cn.nspname::text                                      AS schema_name,
         ct.relname::text                                      AS table_name,
         pg_get_userbyid(ct.relowner)::text                    AS table_owner,
         rn.nspname::text                                      AS ref_schema,
         rt.relname::text                                      AS ref_table,
         rt.relkind = 'p'                                      AS ref_partitioned,
         ARRAY(SELECT a.attname::text
               FROM   unnest(c.conkey) WITH ORDINALITY AS k(attnum, n)
               JOIN   pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
               ORDER  BY k.n)                                  AS columns,
         ARRAY(SELECT a.attname::text
               FROM   unnest(c.confkey) WITH ORDINALITY AS k(attnum, n)
               JOIN   pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum
               ORDER  BY k.n)                                  AS ref_columns,
         ARRAY(SELECT format('pk.%I OPERATOR(%I.%s) fk.%I', r.attname, n.nspname, o.oprname, a.attname)
                      || CASE WHEN r.attcollation <> a.attcollation THEN format(' COLLATE %I.%I', ln.nspname, l.collname) ELSE '' END
               FROM   unnest(c.conkey, c.confkey, c.conpfeqop) WITH ORDINALITY AS k(attnum, refnum, op, n)
               JOIN   pg_attribute a  ON a.attrelid = c.conrelid AND a.attnum = k.attnum
               JOIN   pg_attribute r  ON r.attrelid = c.confrelid AND r.attnum = k.refnum
               JOIN   pg_operator o   ON o.oid = k.op
               JOIN   pg_namespace n  ON n.oid = o.oprnamespace
               LEFT   JOIN pg_collation l  ON l.oid = r.attcollation
               LEFT   JOIN pg_namespace ln ON ln.oid = l.collnamespace
               ORDER  BY k.n)                                  AS conditions,
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
         coalesce(up.convalidated, false)                      AS valid_above,
         coalesce(obj_description(c.oid, 'pg_constraint'), '') AS comment
FROM     pg_constraint c
JOIN     pg_class ct     ON ct.oid = c.conrelid
JOIN     pg_namespace cn ON cn.oid = ct.relnamespace
JOIN     pg_class rt     ON rt.oid = c.confrelid
JOIN     pg_namespace rn ON rn.oid = rt.relnamespace
LEFT JOIN pg_constraint up ON up.oid = c.conparentid
WHERE    c.contype = 'f'`

const foreignKeyOrder = `
ORDER BY cn.nspname, ct.relname, c.conname`

// foreignKeysSQL reads the keys that the table has declared (its) together with
// those of other tables to it or to a partitioned table that it is in. A key to
// itself is its.
const foreignKeysSQL = foreignKeySQL + `
AND      c.conparentid = 0
AND      ($1 IN (c.conrelid, c.confrelid)
          OR c.confrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid::regclass)))` + foreignKeyOrder

// foreignKeysFromAboveSQL reads those that the table has from a partitioned table
// that it is in.
const foreignKeysFromAboveSQL = foreignKeySQL + `
AND      c.conrelid = $1
AND      up.conrelid <> $1` + foreignKeyOrder

type foreignKeyRow struct {
	ForeignKey
	Its, Partitioned      bool
	SchemaName, TableName string
	RefSchema, RefTable   string
}

func (r foreignKeyRow) key() ForeignKey {
	key := r.ForeignKey
	key.Table, key.Referenced = Name{r.SchemaName, r.TableName}, Name{r.RefSchema, r.RefTable}
	return key
}

// readForeignKeys comes after readPartition: only a key with a partitioned table
// at either end has parts, and only a partition has keys from above.
func readForeignKeys(ctx context.Context, q Querier, t *Table) error {
	rows, err := collect[foreignKeyRow](ctx, q, foreignKeysSQL, t.OID)
	if err != nil {
		return err
	}
	parts := t.Partition != nil
	t.ForeignKeys, t.Referencing = []ForeignKey{}, []ForeignKey{}
	for _, r := range rows {
		if r.Its {
			t.ForeignKeys = append(t.ForeignKeys, r.key())
		} else {
			t.Referencing = append(t.Referencing, r.key())
		}
		parts = parts || r.Partitioned
	}
	t.KeyParts = []KeyPart{}
	if parts {
		t.KeyParts, err = keyParts(ctx, q, t.OID)
	}
	return err
}

func foreignKeysFromAbove(ctx context.Context, q Querier, oid uint32) ([]ForeignKey, error) {
	rows, err := collect[foreignKeyRow](ctx, q, foreignKeysFromAboveSQL, oid)
	if err != nil {
		return nil, err
	}
	keys := make([]ForeignKey, len(rows))
	for i, r := range rows {
		keys[i] = r.key()
	}
	return keys, nil
}

// keyPartsSQL finds those of the keys that an exchange drops and adds, and of
// the keys that the table has from above its own.
const keyPartsSQL = `
WITH RECURSIVE part (key, id, its) AS (
    SELECT k.oid, c.oid, k.conrelid = $1 OR k.confrelid = $1 OR k.confrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid::regclass))
    FROM   pg_constraint k
    JOIN   pg_constraint c ON c.conparentid = k.oid
    WHERE  k.contype = 'f' AND k.conparentid = 0
    AND   ($1 IN (k.conrelid, k.confrelid)
           OR k.confrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid::regclass))
           OR k.conrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid::regclass)))
    UNION ALL
    SELECT p.key, c.oid, p.its
    FROM   part p
    JOIN   pg_constraint c ON c.conparentid = p.id
)
SELECT   kn.nspname::text                                      AS key_schema,
         kt.relname::text                                      AS key_relation,
         k.conname::text                                       AS key,
         c.conname::text                                       AS name,
         cn.nspname::text                                      AS schema_name,
         ct.relname::text                                      AS table_name,
         rn.nspname::text                                      AS ref_schema,
         rt.relname::text                                      AS ref_table,
         coalesce(obj_description(c.oid, 'pg_constraint'), '') AS comment
FROM     part p
JOIN     pg_constraint k ON k.oid = p.key
JOIN     pg_constraint c ON c.oid = p.id
JOIN     pg_class kt     ON kt.oid = k.conrelid
JOIN     pg_namespace kn ON kn.oid = kt.relnamespace
JOIN     pg_class ct     ON ct.oid = c.conrelid
JOIN     pg_namespace cn ON cn.oid = ct.relnamespace
JOIN     pg_class rt     ON rt.oid = c.confrelid
JOIN     pg_namespace rn ON rn.oid = rt.relnamespace
WHERE    p.its OR c.conrelid = $1
ORDER BY kn.nspname, kt.relname, k.conname, cn.nspname, ct.relname, c.conname`

func keyParts(ctx context.Context, q Querier, oid uint32) ([]KeyPart, error) {
	type row struct {
		KeyPart
		KeySchema, KeyRelation string
		SchemaName, TableName  string
		RefSchema, RefTable    string
	}
	rows, err := collect[row](ctx, q, keyPartsSQL, oid)
	parts := make([]KeyPart, len(rows))
	for i, r := range rows {
		parts[i] = r.KeyPart
		parts[i].KeyTable, parts[i].Table = Name{r.KeySchema, r.KeyRelation}, Name{r.SchemaName, r.TableName}
		parts[i].Referenced = Name{r.RefSchema, r.RefTable}
	}
	return parts, err
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
