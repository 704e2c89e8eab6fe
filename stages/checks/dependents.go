package checks

// typedOfExtension: DROP EXTENSION would no longer drop the new function.
var typedOfExtension = Check{
	`SELECT pg_describe_object(o.class, o.id, 0)
	 FROM   repack_own o
	 CROSS  JOIN LATERAL (SELECT x.deptype FROM pg_depend x WHERE x.classid = o.class AND x.objid = o.id AND x.refclassid = 'pg_extension'::regclass OFFSET 0) d
	 WHERE  o.class NOT IN ('pg_class'::regclass, 'pg_type'::regclass) AND d.deptype IN ('e', 'x')`,
	"is typed by the table's row type, and belongs to or depends on an extension, which is not carried over",
	"ALTER EXTENSION … DROP, or ALTER … NO DEPENDS ON EXTENSION",
}

// typedOfOthers: all functions of the row type move to the schema of the old table, and a
// temporary function belongs to another session.
var typedOfOthers = Check{
	`WITH moved (class, id, name, types, result) AS (
	     SELECT o.class, o.id, p.proname, p.proargtypes::oid[], p.pronamespace
	     FROM   repack_own o
	     CROSS  JOIN LATERAL (SELECT * FROM pg_proc WHERE oid = o.id AND o.class = 'pg_proc'::regclass OFFSET 0) p
	     UNION ALL
	     SELECT o.class, o.id, p.oprname, ARRAY[p.oprleft, p.oprright], p.oprnamespace
	     FROM   repack_own o
	     CROSS  JOIN LATERAL (SELECT * FROM pg_operator WHERE oid = o.id AND o.class = 'pg_operator'::regclass OFFSET 0) p
	 )
	 SELECT pg_describe_object(m.class, m.id, 0)
	 FROM   moved m
	 WHERE  EXISTS (SELECT FROM moved x WHERE x.class = m.class AND x.name = m.name AND x.types = m.types AND x.id <> m.id)
	 OR     m.result IN (SELECT n.oid FROM pg_namespace n WHERE n.nspname ~ '^pg_temp_')`,
	"is typed by the table's row type, and is temporary or bears the name of another one in another schema; they have to share a schema",
	"rename or drop it for the time of the repack",
}

// replacedOfExtension: what is replaced in place would no longer be dropped with the
// extension.
var replacedOfExtension = Check{
	`SELECT pg_describe_object(u.class, u.id, 0)
	 FROM   repack_uses u
	 CROSS  JOIN LATERAL (SELECT x.deptype FROM pg_depend x WHERE x.classid = u.class AND x.objid = u.id AND x.deptype = 'x' OFFSET 0) d
	 WHERE  u.class IN ('pg_proc'::regclass, 'pg_trigger'::regclass)
	 AND    NOT EXISTS (SELECT FROM repack_own o WHERE o.class = u.class AND o.id = u.id)
	 AND    NOT EXISTS (SELECT FROM pg_depend y WHERE y.classid = u.class AND y.objid = u.id AND y.refclassid = 'pg_class'::regclass AND y.refobjid = $1)`,
	"calls a function of the row type and depends on an extension (ALTER … DEPENDS ON EXTENSION), which is not carried over", "ALTER … NO DEPENDS ON EXTENSION",
}

// typedGrantor: repack makes a grant again as its grantor, who names function and type.
var typedGrantor = Check{
	`SELECT DISTINCT 'role ' || g.grantor::regrole::text
	 FROM   pg_class c, repack_own o
	 CROSS  JOIN LATERAL (SELECT * FROM pg_proc WHERE oid = o.id AND o.class = 'pg_proc'::regclass OFFSET 0) p
	 CROSS  JOIN LATERAL aclexplode(p.proacl) g
	 WHERE  c.oid = $1 AND g.grantor <> p.proowner
	 AND    NOT (has_schema_privilege(g.grantor, p.pronamespace, 'USAGE') AND has_schema_privilege(g.grantor, c.relnamespace, 'USAGE'))`,
	"has granted privileges on a function of the table's row type, and could not grant them again without USAGE of the schemas of both",
	"GRANT USAGE ON SCHEMA … to it",
}

// ownTyped: the copy is built before there are functions of its row type.
var ownTyped = Check{
	`SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid)
	 FROM   repack_own o
	 CROSS  JOIN LATERAL (
	        SELECT x.classid, x.objid, x.objsubid FROM pg_depend x
	        WHERE  x.refclassid = o.class AND x.refobjid = o.id AND o.class NOT IN ('pg_class'::regclass, 'pg_type'::regclass) OFFSET 0) d
	 WHERE  d.classid = 'pg_constraint'::regclass AND EXISTS (SELECT FROM pg_constraint c WHERE c.oid = d.objid AND c.conrelid = $1)
	 OR     d.classid = 'pg_class'::regclass AND EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = d.objid AND i.indrelid = $1)
	 OR     d.classid = 'pg_statistic_ext'::regclass AND EXISTS (SELECT FROM pg_statistic_ext s WHERE s.oid = d.objid AND s.stxrelid = $1)
	 OR     d.classid = 'pg_attrdef'::regclass AND EXISTS (
	            SELECT FROM pg_attrdef a JOIN pg_attribute c ON c.attrelid = a.adrelid AND c.attnum = a.adnum
	            WHERE  a.oid = d.objid AND a.adrelid = $1 AND c.attgenerated <> '')`,
	"is a part of the table and calls a function of its row type; a copy of the table is made before it has such functions",
	dropIt,
}

// knownSQL begins an expression that is true of a dependency d if what depends is known: a
// part of relation $1, a foreign key to it, or an entry of it in a publication. END IS NOT
// TRUE ends it, after more classes. One row is looked up for each, in a subquery. The server
// plans EXISTS in an expression twice.
const knownSQL = `
CASE d.classid
WHEN 'pg_class'::regclass           THEN (SELECT c.relkind = 't' OR c.relkind = 'S' AND d.deptype IN ('a', 'i') FROM pg_class c WHERE c.oid = d.objid)
WHEN 'pg_constraint'::regclass      THEN (SELECT c.contype = 'f' AND c.confrelid = $1 FROM pg_constraint c WHERE c.oid = d.objid)
WHEN 'pg_statistic_ext'::regclass   THEN (SELECT s.stxrelid = $1 FROM pg_statistic_ext s WHERE s.oid = d.objid)
WHEN 'pg_publication_rel'::regclass THEN (SELECT p.prrelid = $1 FROM pg_publication_rel p WHERE p.oid = d.objid)`

// notOwnSQL is true of a dependency d if what depends is not a member of own, and no part of
// a property graph: the check propertyGraph reports these.
const notOwnSQL = `NOT EXISTS (SELECT FROM own x WHERE x.class = d.classid AND x.id = d.objid)
AND     (` + ofPropertyGraphSQL + `) IS NOT TRUE`

// readsItSQL is true of a dependency d if what depends also depends on relation $1 itself.
const readsItSQL = `EXISTS (
             SELECT FROM pg_depend y WHERE y.classid = d.classid AND y.objid = d.objid
             AND    y.refclassid = 'pg_class'::regclass AND y.refobjid = $1)`

// dependentsSQL is the safety net under the checks above. It finds every object that
// depends on the table, its row type, an object typed by it, its indexes or its
// constraints, and that the swap does not know. The new table gets objects typed by its
// own row type, under the same names; so what is parsed again then refers to them.
//
// A materialized view that is rebuilt must read the table itself: so it is known.
const dependentsSQL = `
WITH own (class, id) AS (
    SELECT class, id FROM repack_own
    UNION ALL
    SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid = $1
    UNION ALL
    SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid = $1
)
SELECT   DISTINCT coalesce((SELECT pg_describe_object('pg_class'::regclass, r.ev_class, 0) FROM pg_rewrite r
                            WHERE  d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid),
                           pg_describe_object(d.classid, d.objid, d.objsubid))
FROM     own o
CROSS    JOIN LATERAL (SELECT x.classid, x.objid, x.objsubid, x.deptype FROM pg_depend x WHERE x.refclassid = o.class AND x.refobjid = o.id OFFSET 0) d
WHERE    ` + notOwnSQL + `
AND      ` + knownSQL + `
WHEN 'pg_attrdef'::regclass THEN (
     SELECT a.adrelid = $1 OR (SELECT c.attgenerated = '' FROM pg_attribute c WHERE c.attrelid = a.adrelid AND c.attnum = a.adnum)
     FROM pg_attrdef a WHERE a.oid = d.objid)
WHEN 'pg_trigger'::regclass THEN (
     SELECT t.tgisinternal OR t.tgrelid = $1
            OR t.tgparentid = 0 AND t.tgconstraint = 0 AND (SELECT c.relkind = 'r' FROM pg_class c WHERE c.oid = t.tgrelid)
     FROM pg_trigger t WHERE t.oid = d.objid)
WHEN 'pg_rewrite'::regclass THEN (
     SELECT (SELECT c.relpersistence <> 't'
                    AND (c.relkind = 'v' OR r.rulename <> '_RETURN' OR c.oid = $1 OR c.relkind = 'm' AND $2 AND ` + readsItSQL + `)
             FROM pg_class c WHERE c.oid = r.ev_class)
     FROM pg_rewrite r WHERE r.oid = d.objid)
WHEN 'pg_policy'::regclass THEN true
WHEN 'pg_proc'::regclass   THEN true
END IS NOT TRUE
ORDER BY 1`

// matviewDependentsSQL does the same for a materialized view, whose rebuild does not know
// functions of its row type. apart is true for the row type and its array type. When an
// object that depends on these is replaced, they are not found by the view's name, unless
// the object mentions the view as well.
const matviewDependentsSQL = `
WITH own AS (
    SELECT 'pg_class'::regclass AS class, $1::oid AS id, false AS apart
    UNION ALL
    SELECT 'pg_class'::regclass, indexrelid, false FROM pg_index WHERE indrelid = $1
    UNION ALL
    SELECT 'pg_constraint'::regclass, oid, false FROM pg_constraint WHERE conrelid = $1
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid, true FROM pg_class c JOIN pg_type t ON t.oid = c.reltype WHERE c.oid = $1
    UNION ALL
    SELECT 'pg_type'::regclass, t.typarray, true FROM pg_class c JOIN pg_type t ON t.oid = c.reltype WHERE c.oid = $1
)
SELECT   DISTINCT coalesce((SELECT pg_describe_object('pg_class'::regclass, r.ev_class, 0) FROM pg_rewrite r
                            WHERE  d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid),
                           pg_describe_object(d.classid, d.objid, 0))
FROM     pg_depend d
JOIN     own o ON o.class = d.refclassid AND o.id = d.refobjid
WHERE    ` + notOwnSQL + `
AND      ` + knownSQL + `
WHEN 'pg_attrdef'::regclass THEN (SELECT a.adrelid = $1 FROM pg_attrdef a WHERE a.oid = d.objid)
WHEN 'pg_trigger'::regclass THEN (SELECT t.tgisinternal OR t.tgrelid = $1 FROM pg_trigger t WHERE t.oid = d.objid)
WHEN 'pg_rewrite'::regclass THEN (NOT o.apart OR ` + readsItSQL + `) AND EXISTS (
             SELECT FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
             WHERE  r.oid = d.objid AND c.relpersistence <> 't'
             AND    (c.relkind = 'v' OR r.rulename <> '_RETURN' OR c.oid = $1 OR c.relkind = 'm' AND $2))
WHEN 'pg_policy'::regclass THEN NOT o.apart OR ` + readsItSQL + `
WHEN 'pg_proc'::regclass   THEN NOT o.apart OR o.class = 'pg_class'::regclass AND ` + readsItSQL + `
END IS NOT TRUE
ORDER BY 1`
