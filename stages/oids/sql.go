package oids

import "github.com/repack-go/repack/internal/catalog"

// changingSQL lists the objects that get another OID when the table with OID $1 is
// exchanged: the parts of the table, the functions of its row type, and the foreign keys
// that refer to it. role is the
// object's role for the table; the old and the new object have the same role. Materialized
// views ($2) are rebuilt later, so the new OIDs of their parts are not known at the
// exchange.
const changingSQL = `
WITH RECURSIVE ` + catalog.OwnSQL + `, own (class, id, role, place, rebuilt) AS (
    SELECT 'pg_class'::regclass, c.oid, 'table', 1, c.oid <> $1
    FROM   pg_class c WHERE c.oid = ANY ($1::oid || $2::oid[])
    UNION ALL
    SELECT 'pg_class'::regclass, i.indexrelid, 'index ' || c.relname, 1, i.indrelid <> $1
    FROM   pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = ANY ($1::oid || $2::oid[])
    UNION ALL
    SELECT 'pg_class'::regclass, s.oid, 'sequence ' || s.relname, 1, false
    FROM   pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    WHERE  d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.deptype = 'i'
    UNION ALL
    SELECT 'pg_class'::regclass, c.reltoastrelid, 'TOAST table', 1, c.oid <> $1
    FROM   pg_class c WHERE c.oid = ANY ($1::oid || $2::oid[]) AND c.reltoastrelid <> 0
    UNION ALL
    SELECT 'pg_class'::regclass, i.indexrelid, 'TOAST index', 1, c.oid <> $1
    FROM   pg_class c CROSS JOIN LATERAL (SELECT indexrelid FROM pg_index WHERE indrelid = c.reltoastrelid OFFSET 0) i
    WHERE  c.oid = ANY ($1::oid || $2::oid[])
    UNION ALL
    SELECT 'pg_type'::regclass, c.reltype, 'row type', 2, c.oid <> $1
    FROM   pg_class c WHERE c.oid = ANY ($1::oid || $2::oid[]) AND c.reltype <> 0
    UNION ALL
    SELECT 'pg_type'::regclass, t.typarray, 'array type', 2, c.oid <> $1
    FROM   pg_class c JOIN pg_type t ON t.oid = c.reltype WHERE c.oid = ANY ($1::oid || $2::oid[]) AND t.typarray <> 0
    UNION ALL
    SELECT 'pg_constraint'::regclass, oid, format('constraint %I of %s', conname, nullif(conrelid, $1)), 3, false
    FROM   pg_constraint
    WHERE  oid = ANY (ARRAY(SELECT oid FROM pg_constraint WHERE conrelid = $1 UNION (` + catalog.KeysSQL + `)))
    AND   (conrelid = $1 OR contype = 'f' AND confrelid = $1 AND conparentid = 0)
    UNION ALL
    SELECT 'pg_trigger'::regclass, oid, 'trigger ' || tgname, 4, false
    FROM   pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal AND tgname !~ '^(00|RI)_repack_'
    UNION ALL
    SELECT 'pg_policy'::regclass, oid, 'policy ' || polname, 5, false FROM pg_policy WHERE polrelid = $1
    UNION ALL
    SELECT 'pg_rewrite'::regclass, oid, 'rule ' || rulename, 6, ev_class <> $1
    FROM   pg_rewrite WHERE ev_class = ANY ($1::oid || $2::oid[])
    UNION ALL
    SELECT 'pg_statistic_ext'::regclass, oid, 'statistics ' || stxname, 7, stxrelid <> $1
    FROM   pg_statistic_ext WHERE stxrelid = ANY ($1::oid || $2::oid[])
    UNION ALL
    SELECT 'pg_attrdef'::regclass, d.oid, 'default ' || a.attname, 8, false
    FROM   pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE d.adrelid = $1
    UNION ALL
    SELECT 'pg_publication_rel'::regclass, oid, 'publication ' || prpubid, 9, false
    FROM   pg_publication_rel WHERE prrelid = $1
    UNION ALL
    SELECT 'pg_proc'::regclass, p.oid,
           format('routine %I.%I %s', p.pronamespace::regnamespace, p.proname,
                  ARRAY(SELECT CASE a.type WHEN r.type THEN 'row' WHEN r.array_type THEN 'rows' ELSE a.type::text END
                        FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY a (type, n) ORDER BY a.n)), 10, false
    FROM   repack_row r, pg_proc p
    WHERE  p.oid = ANY (ARRAY(SELECT o.id FROM repack_own o WHERE o.class = 'pg_proc'::regclass))
)
SELECT   class::text AS class, id AS oid, role, rebuilt, pg_describe_object(class, id, 0) AS description
FROM     own
ORDER BY place, role, id`

// columnsSQL lists the columns that hold OIDs of relations, types or functions. Their type is
// oid, regclass, regtype, regproc or regprocedure, an array or a domain of these, or a type
// with such a value inside. A
// partitioned table stands for its partitions. Left out are:
//   - the server's own catalogs;
//   - registries, the schemas of jobs, and the schemas $1;
//   - temporary tables, which other sessions cannot read;
//   - generated columns of the table $2 itself, because the dry build compares their values.
//
// The sizes are those in pg_class, set by VACUUM: asking for the size of the file takes a
// lock.
const columnsSQL = `
WITH RECURSIVE part_of (type, part, shape) AS (
    SELECT oid, typbasetype, 'same' FROM pg_type WHERE typtype = 'd'
    UNION ALL
    SELECT typarray, oid, 'array' FROM pg_type WHERE typarray <> 0
    UNION ALL
    SELECT r.rngtypid, r.rngsubtype, 'inside' FROM pg_range r
    UNION ALL
    SELECT r.rngmultitypid, r.rngsubtype, 'inside' FROM pg_range r
    UNION ALL
    SELECT c.reltype, a.atttypid, 'inside'
    FROM   pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE  c.reltype <> 0 AND c.oid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped
), holds (type, base, shape) AS (
    SELECT oid, typname::text, 'scalar' FROM pg_type WHERE oid IN ('oid'::regtype, 'regclass'::regtype, 'regtype'::regtype, 'regproc'::regtype, 'regprocedure'::regtype)
    UNION
    SELECT 'oidvector'::regtype::oid, 'oid', 'vector'
    UNION
    SELECT p.type, h.base,
           CASE WHEN p.shape = 'same' THEN h.shape
                WHEN p.shape = 'array' AND h.shape = 'scalar' THEN 'array'
                ELSE 'inside' END
    FROM   holds h JOIN part_of p ON p.part = h.type
), holders AS (
    SELECT c.oid AS relation, n.nspname::text AS schema_name, c.relname::text AS table_name, a.attname::text AS column_name,
           a.attnum, c.relkind, h.base, h.shape, format_type(a.atttypid, NULL) AS type, c.relnamespace, a.attgenerated, a.attidentity,
           c.relispopulated, c.relhastriggers
    FROM  (SELECT type, min(base) AS base, min(shape) AS shape FROM holds GROUP BY type) h
    JOIN   pg_attribute a ON a.atttypid = h.type AND a.attnum > 0 AND NOT a.attisdropped
    JOIN   pg_class c     ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'm', 'f') AND c.relpersistence <> 't'
    JOIN   pg_namespace n ON n.oid = c.relnamespace
    WHERE  c.oid >= 16384 AND NOT c.relispartition AND NOT (c.oid = $2 AND a.attgenerated <> '')
    AND    n.nspname <> ALL ($1::text[]) AND n.nspname !~ '^repack_job_[0-9]+(_old)?$'
    AND    NOT (c.relname IN ('job', 'partitioned')
                AND (SELECT count(*) FROM pg_class x WHERE x.relnamespace = n.oid AND x.relname IN ('job', 'chunk', 'stage_history')) = 3)
), tree (root, relation) AS (
    SELECT relation, relation FROM holders
    UNION
    SELECT t.root, i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.relation
    JOIN   pg_class c ON c.oid = i.inhrelid AND c.relispartition
)
SELECT   h.relation, h.schema_name, h.table_name, h.column_name, h.relkind::text AS kind, h.base, h.shape, h.type,
         format('%I.%I.%I', h.schema_name, h.table_name, h.column_name) AS flag,
         h.relispopulated AS populated,
         has_schema_privilege(h.relnamespace, 'USAGE') AND has_column_privilege(h.relation, h.attnum, 'SELECT') AS readable,
         has_table_privilege(h.relation, 'UPDATE') AS writable,
         row_security_active(h.relation) AS secured,
         h.relkind = 'p' AND s.beyond AS beyond,
         s.size,
         EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
                 WHERE  i.indrelid = h.relation AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = h.attnum
                 AND    m.amname = ANY (CASE h.shape WHEN 'array' THEN '{gin}'::text[] ELSE '{btree,hash}' END)) AS indexed,
         coalesce((SELECT min(e.extname::text) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                   WHERE  d.classid = 'pg_class'::regclass AND d.objid = h.relation
                   AND    d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'), '') AS extension,
         EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = h.relation AND NOT t.tgisinternal
                 AND t.tgenabled IN ('O', 'A') AND t.tgtype & 16 <> 0 AND t.tgname !~ '^(00|RI)_repack_') AS triggered,
         EXISTS (SELECT FROM pg_constraint f WHERE f.contype = 'f' AND f.conrelid = h.relation AND h.attnum = ANY (f.conkey)) AS refers,
         CASE WHEN h.shape = 'inside' THEN 'the OID is inside a composite or range type, or an array of arrays'
              WHEN h.relkind = 'm' THEN 'it belongs to a materialized view, which REFRESH fills anew'
              WHEN h.relkind = 'f' THEN 'it belongs to a foreign table'
              WHEN h.attgenerated <> '' THEN 'it is generated'
              WHEN h.attidentity = 'a' THEN 'it is GENERATED ALWAYS AS IDENTITY'
              ELSE coalesce(
                   (SELECT format('rule %I rewrites UPDATE', min(r.rulename)) FROM pg_rewrite r
                    WHERE r.ev_class = h.relation AND r.ev_type = '2' AND r.ev_enabled <> 'D' HAVING count(*) > 0),
                   (SELECT format('foreign key %I refers to it without ON UPDATE CASCADE', min(f.conname)) FROM pg_constraint f
                    WHERE f.contype = 'f' AND f.confrelid = h.relation AND h.attnum = ANY (f.confkey) AND f.confupdtype <> 'c' HAVING count(*) > 0),
                   '') END AS fixed
FROM     holders h
JOIN    (SELECT t.root, bool_or(c.relkind = 'f') AS beyond,
                coalesce(sum(greatest(c.relpages, 0)::bigint * current_setting('block_size')::bigint) FILTER (WHERE c.relkind IN ('r', 'm')), 0)::bigint AS size
         FROM   tree t JOIN pg_class c ON c.oid = t.relation GROUP BY t.root) s ON s.root = h.relation
ORDER BY h.schema_name, h.table_name, h.attnum`

// argumentsSQL lists the triggers that have one of the OIDs $1 in their arguments, as a
// number on its own. Escapes of bytes are removed first, because they end in digits too.
const argumentsSQL = `
SELECT   format('trigger %I on %s', t.tgname, t.tgrelid::regclass)
FROM     pg_trigger t
JOIN     pg_class c     ON c.oid = t.tgrelid
JOIN     pg_namespace n ON n.oid = c.relnamespace
WHERE    NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgnargs > 0
AND      n.nspname <> ALL ($2::text[]) AND n.nspname !~ '^repack_job_[0-9]+(_old)?$'
AND      regexp_replace(encode(t.tgargs, 'escape'), '\\\\|\\[0-7]{3}', ' ', 'g')
         ~ ('(^|[^0-9])(' || array_to_string($1::oid[], '|') || ')([^0-9]|$)')
ORDER BY 1`

// parseIdentSQL splits a name into its parts, as the server does.
const parseIdentSQL = `SELECT parse_ident($1)`
