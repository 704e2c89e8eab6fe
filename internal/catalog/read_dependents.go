package catalog

// KeysSQL is a query for the OIDs of the foreign keys of table $1, and of those to it
// or to a partitioned table that it is in. It also returns other constraints on their
// columns.
//
// pg_constraint has no index on the referenced table. But a key depends on the columns
// that it refers to, so pg_depend finds it. That is also true of a key that is NOT
// ENFORCED, and so has no trigger on the referenced table.
const KeysSQL = `
SELECT k.oid
FROM   pg_constraint k
WHERE  k.conrelid = $1 AND k.contype = 'f'
UNION
SELECT d.objid
FROM   pg_depend d
WHERE  d.classid = 'pg_constraint'::regclass AND d.refclassid = 'pg_class'::regclass
AND    d.refobjid = ANY (ARRAY(SELECT $1::oid UNION ALL SELECT relid FROM pg_partition_ancestors($1::oid::regclass)))`

// deleteColumnsSQL are the columns of SET NULL (columns) of key c, from PostgreSQL 15 on.
const deleteColumnsSQL = `
         ARRAY(SELECT a.attname::text
               FROM   jsonb_array_elements_text(nullif(to_jsonb(c) -> 'confdelsetcols', 'null'))
                      WITH ORDINALITY AS k(attnum, n)
               JOIN   pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum::int2
               ORDER  BY k.n)`

// foreignKeysSQL reads three groups of keys: those that the table has declared (its),
// those of other tables to it or to a partitioned table that it is in, and those that
// it has from a partitioned table (above). A key to the table itself is its.
//
// The conditions are those with which the server finds the referenced row; see
// RI_Initial_Check in ri_triggers.c.
var foreignKeysSQL = `
SELECT   c.oid                                                 AS oid,
         c.conrelid = $1                                       AS its,
         c.conparentid <> 0                                    AS above,
         c.conname::text                                       AS name,
         cn.nspname::text                                      AS schema_name,
         ct.relname::text                                      AS table_name,
         pg_get_userbyid(ct.relowner)::text                    AS table_owner,
         rn.nspname::text                                      AS ref_schema,
         rt.relname::text                                      AS ref_table,
         rt.relkind = 'p'                                      AS ref_partitioned,
         c.conrelid                                            AS table_oid,
         ct.relkind = 'p'                                      AS partitioned,
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
               ORDER  BY k.n)                                  AS conditions,` + deleteColumnsSQL + `                                  AS delete_columns,
         c.confmatchtype::text                                 AS match,
         c.confupdtype::text                                   AS on_update,
         c.confdeltype::text                                   AS on_delete,
         c.condeferrable                                       AS deferrable,
         c.condeferred                                         AS deferred,
         c.convalidated                                        AS validated,
         coalesce((to_jsonb(c) ->> 'conenforced')::bool, true) AS enforced,
         coalesce((to_jsonb(c) ->> 'conperiod')::bool, false)  AS period,
         coalesce(up.convalidated, false)                      AS valid_above,
         ` + commentOf("pg_constraint", "c.oid") + ` AS comment
FROM     pg_constraint c
JOIN     pg_class ct     ON ct.oid = c.conrelid
JOIN     pg_namespace cn ON cn.oid = ct.relnamespace
JOIN     pg_class rt     ON rt.oid = c.confrelid
JOIN     pg_namespace rn ON rn.oid = rt.relnamespace
LEFT JOIN pg_constraint up ON up.oid = c.conparentid
WHERE    c.oid = ANY (ARRAY(` + KeysSQL + `)) AND c.contype = 'f'
AND      CASE WHEN c.conparentid = 0
              THEN $1 IN (c.conrelid, c.confrelid)
                   OR c.confrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid::regclass))
              ELSE c.conrelid = $1 AND up.conrelid <> $1 END
ORDER BY cn.nspname, ct.relname, c.conname`

type foreignKeyRow struct {
	ForeignKey
	Its, Above            bool
	SchemaName, TableName string
	RefSchema, RefTable   string
}

func (r foreignKeyRow) key() ForeignKey {
	key := r.ForeignKey
	key.Table, key.Referenced = Name{r.SchemaName, r.TableName}, Name{r.RefSchema, r.RefTable}
	return key
}

// askForeignKeys must come after askPartition: only a partition has keys from above.
func askForeignKeys(d *description) {
	askKeys(d)
	askKeyParts(d)
}

func askKeys(d *description) {
	t := d.Table
	want(d, foreignKeysSQL, func(rows []foreignKeyRow) error {
		t.ForeignKeys, t.Referencing = []ForeignKey{}, []ForeignKey{}
		above := []ForeignKey{}
		for _, r := range rows {
			switch {
			case r.Above:
				above = append(above, r.key())
			case r.Its:
				t.ForeignKeys = append(t.ForeignKeys, r.key())
			default:
				t.Referencing = append(t.Referencing, r.key())
			}
		}
		if t.Partition != nil {
			t.Partition.ForeignKeys = above
		}
		return nil
	})
}

// keyPartsSQL finds parts of keys. If an exchange drops and adds the key again, these
// are all its parts. If the table has the key from above, it is only the table's own
// part. Most constraints have conparentid 0. The condition > 0 tells the planner that
// few rows qualify.
const keyPartsSQL = `
WITH RECURSIVE part (key, id, its) AS (
    SELECT k.oid, c.oid, $1 IN (k.conrelid, k.confrelid) OR k.confrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid::regclass))
    FROM   pg_constraint k
    JOIN   pg_constraint c ON c.conparentid = k.oid AND c.conparentid > 0
    WHERE  k.oid = ANY (ARRAY(` + KeysSQL + `
           UNION
           SELECT f.oid
           FROM   pg_constraint f
           WHERE  f.conrelid = ANY (ARRAY(SELECT relid FROM pg_partition_ancestors($1::oid::regclass))) AND f.contype = 'f'))
    AND    k.contype = 'f' AND k.conparentid = 0
    AND   ($1 IN (k.conrelid, k.confrelid)
           OR k.confrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid::regclass))
           OR k.conrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid::regclass)))
    UNION ALL
    SELECT p.key, c.oid, p.its
    FROM   part p
    JOIN   pg_constraint c ON c.conparentid = p.id AND c.conparentid > 0
)
SELECT   kn.nspname::text                                      AS key_schema,
         kt.relname::text                                      AS key_relation,
         k.conname::text                                       AS key,
         c.conname::text                                       AS name,
         cn.nspname::text                                      AS schema_name,
         ct.relname::text                                      AS table_name,
         rn.nspname::text                                      AS ref_schema,
         rt.relname::text                                      AS ref_table,
         pg_get_userbyid(ct.relowner)::text                    AS table_owner,
         ct.relkind = 'p'                                      AS partitioned,
         c.convalidated                                        AS validated,
         CASE WHEN c.confdeltype IN ('n', 'd') THEN` + deleteColumnsSQL + ` ELSE ARRAY[]::text[] END AS delete_columns,
         coalesce((SELECT s.description FROM pg_description s
                   WHERE  s.objoid = c.oid AND s.classoid = 'pg_constraint'::regclass AND s.objsubid = 0), '') AS comment
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

func askKeyParts(d *description) {
	t := d.Table
	type row struct {
		KeyPart
		KeySchema, KeyRelation string
		SchemaName, TableName  string
		RefSchema, RefTable    string
	}
	want(d, keyPartsSQL, func(rows []row) error {
		t.KeyParts = make([]KeyPart, len(rows))
		for i, r := range rows {
			part := &t.KeyParts[i]
			*part = r.KeyPart
			part.KeyTable, part.Table = Name{r.KeySchema, r.KeyRelation}, Name{r.SchemaName, r.TableName}
			part.Referenced = Name{r.RefSchema, r.RefTable}
		}
		return nil
	})
}

// A sequence belongs to a column by an internal dependency (identity) or an automatic
// one (OWNED BY); see "pg_depend" in the manual.
var sequencesSQL = `
SELECT   s.oid                                               AS oid,
         n.nspname::text                                     AS schema_name,
         s.relname::text                                     AS sequence_name,
        (SELECT a.attname::text FROM pg_attribute a
          WHERE  a.attrelid = d.refobjid AND a.attnum = d.refobjsubid) AS column,
         d.deptype = 'i'                                     AS identity,
         format_type(q.seqtypid, NULL)                       AS type,
         q.seqstart                                          AS start,
         q.seqincrement                                      AS increment,
         q.seqmin                                            AS min,
         q.seqmax                                            AS max,
         q.seqcache                                          AS cache,
         q.seqcycle                                          AS cycle,
         s.relpersistence::text                              AS persistence,
         s.relpersistence = 'p'
         AND current_setting('server_version_num')::int >= 190000 AS publishable,
         s.relpersistence = 'p'
         AND EXISTS (SELECT FROM pg_publication p
                     WHERE (to_jsonb(p) ->> 'puballsequences')::bool) AS published,
         pg_get_userbyid(s.relowner)::text                   AS owner,
         ` + commentOf("pg_class", "s.oid") + ` AS comment
FROM     pg_depend d
CROSS    JOIN LATERAL (SELECT * FROM pg_class WHERE oid = d.objid AND relkind = 'S' OFFSET 0) s
CROSS    JOIN LATERAL (SELECT nspname FROM pg_namespace WHERE oid = s.relnamespace OFFSET 0) n
CROSS    JOIN LATERAL (SELECT * FROM pg_sequence WHERE seqrelid = s.oid OFFSET 0) q
WHERE    d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
AND      d.refobjid = $1 AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
ORDER BY n.nspname, s.relname`

// grantsSQL reads the access control lists of a table, its sequences and their columns.
// A list that is null stands for the owner's default privileges (acldefault). The rows
// are in the order of the list, which is also the order in which pg_dump writes them.
const grantsSQL = `
WITH relation AS (
    SELECT c.oid,
           coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner)) AS acl
    FROM   pg_class c
    WHERE  c.oid = ANY (ARRAY(
               SELECT $1::oid
               UNION ALL
               SELECT d.objid
               FROM   pg_depend d
               WHERE  d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
               AND    d.refobjid = $1 AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
               AND    'S' = (SELECT s.relkind FROM pg_class s WHERE s.oid = d.objid)))
)
SELECT   x.relation                                           AS relation,
         x.column_name                                        AS column,
         pg_get_userbyid(x.grantor)::text                     AS grantor,
         CASE WHEN x.grantee = 0 THEN ''
              ELSE pg_get_userbyid(x.grantee)::text END       AS grantee,
         x.privilege_type                                     AS privilege,
         x.is_grantable                                       AS grantable
FROM    (SELECT r.oid AS relation, '' AS column_name, 0 AS attnum, e.*
         FROM   relation r
         CROSS  JOIN LATERAL aclexplode(r.acl) WITH ORDINALITY e
         UNION  ALL
         SELECT r.oid, a.attname::text, a.attnum, e.*
         FROM   relation r
         JOIN   pg_attribute a ON a.attrelid = r.oid AND NOT a.attisdropped
         CROSS  JOIN LATERAL aclexplode(a.attacl) WITH ORDINALITY e) x
ORDER BY x.relation, x.attnum, x.ordinality`

func askSequencesAndGrants(d *description) {
	t := d.Table
	type sequence struct {
		Sequence
		OID          uint32
		SchemaName   string
		SequenceName string
	}
	type grant struct {
		Relation uint32
		Grant
	}
	var sequences []sequence
	wantAs(d, sequencesSQL, &sequences)
	want(d, grantsSQL, func(rows []grant) error {
		grants := map[uint32][]Grant{}
		for _, r := range rows {
			grants[r.Relation] = append(grants[r.Relation], r.Grant)
		}
		t.Grants = orEmpty(grants[t.OID])
		for _, s := range sequences {
			s.Name, s.Grants = Name{s.SchemaName, s.SequenceName}, orEmpty(grants[s.OID])
			t.Sequences = append(t.Sequences, s.Sequence)
		}
		return nil
	})
}

// orEmpty returns an empty list instead of nil. In a stored description null and [] are
// different.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
