package pgtest

// relationSections describe relations and what hangs on them.
var relationSections = []section{
	{title: "relations", sql: relationsSQL},
	{title: "columns", sql: columnsSQL},
	{title: "constraints", sql: constraintsSQL},
	{title: "indexes", sql: indexesSQL},
	{title: "triggers", sql: triggersSQL},
	{title: "policies", sql: policiesSQL},
	{title: "rules", sql: rulesSQL},
	{title: "views", sql: viewsSQL},
	{title: "sequences", sql: sequencesSQL},
	{title: "extended statistics", sql: statisticsSQL},
}

var relationsSQL = `
SELECT   concat_ws(', ',
           format('%s %s', c.relkind, c.oid::regclass),
           'owner ' || pg_get_userbyid(c.relowner),
           'persistence ' || c.relpersistence::text,
           'access method ' || am.amname,
           'tablespace ' || ts.spcname,
           'of ' || nullif(c.reloftype, 0::oid)::regtype,
           'options (' || ` + sorted("c.reloptions") + ` || ')',
           'toast options (' || ` + sorted("toast.reloptions") + ` || ')',
           'replica identity ' || c.relreplident::text,
           CASE WHEN c.relrowsecurity THEN 'row security' END,
           CASE WHEN c.relforcerowsecurity THEN 'force row security' END,
           'inherits ' || (SELECT string_agg(h.inhparent::regclass::text, ' ' ORDER BY h.inhseqno)
                           FROM   pg_inherits AS h WHERE h.inhrelid = c.oid),
           'partition by ' || pg_get_partkeydef(c.oid),
           'partition ' || pg_get_expr(c.relpartbound, c.oid),
           'granted (' || CASE c.relkind WHEN 'S' THEN ` + grants("c.relacl", "s", "c.relowner") + `
                                         ELSE ` + grants("c.relacl", "r", "c.relowner") + ` END || ')',
           'comment ' || quote_literal(obj_description(c.oid, 'pg_class')))
FROM     pg_class AS c
JOIN     pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_am AS am ON am.oid = c.relam
LEFT JOIN pg_tablespace AS ts ON ts.oid = c.reltablespace
LEFT JOIN pg_class AS toast ON toast.oid = c.reltoastrelid
WHERE    c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c', 'S')
AND      ` + userSchemas("pg_class", "c.oid") + `
ORDER BY n.nspname, c.relname`

// columnsSQL shows the order of the columns and not their numbers: those of a
// rewritten table have no gaps where columns were dropped.
var columnsSQL = `
SELECT   concat_ws(', ',
           format('%s.%I %s', c.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod)),
           'collation ' || nullif(a.attcollation, 0::oid)::regcollation,
           CASE WHEN a.attnotnull THEN 'not null' END,
           'default ' || pg_get_expr(d.adbin, d.adrelid),
           'identity ' || nullif(a.attidentity::text, ''),
           'generated ' || nullif(a.attgenerated::text, ''),
           'storage ' || a.attstorage::text,
           'compression ' || nullif(a.attcompression::text, ''),
           'statistics ' || nullif(coalesce(a.attstattarget::int, -1), -1)::text,
           'options (' || ` + sorted("(SELECT array_agg(o) FROM unnest(a.attoptions) o WHERE o NOT LIKE 'pg\\_%')") + ` || ')',
           'foreign options (' || ` + sorted("a.attfdwoptions") + ` || ')',
           'inherited from ' || nullif(a.attinhcount::int, 0)::text,
           CASE WHEN NOT a.attislocal THEN 'not local' END,
           'granted (' || ` + explode("a.attacl") + ` || ')',
           'comment ' || quote_literal(col_description(c.oid, a.attnum)))
FROM     pg_attribute AS a
JOIN     pg_class AS c ON c.oid = a.attrelid
JOIN     pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE    c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
AND      a.attnum > 0 AND NOT a.attisdropped
AND      ` + userSchemas("pg_class", "c.oid") + `
ORDER BY n.nspname, c.relname, a.attnum`

// constraintsSQL shows the state of the triggers that enforce a foreign key,
// which no dump does. Whether a key is inherited, or could be, says only whether it
// was made together with a partition or attached: pg_dump attaches. conenforced is there
// since PostgreSQL 18. A key to a partitioned table has a row for each partition,
// which VALIDATE CONSTRAINT leaves not valid before 18: that is not shown.
var constraintsSQL = `
SELECT   concat_ws(', ',
           format('%I on %s: %s', con.conname,
                  coalesce(nullif(con.conrelid, 0::oid)::regclass::text, con.contypid::regtype::text),
                  CASE WHEN p.partition IS NULL THEN pg_get_constraintdef(con.oid)
                       ELSE 'reference to partition ' || con.confrelid::regclass END),
           'type ' || con.contype::text,
           CASE WHEN NOT con.convalidated AND p.partition IS NULL THEN 'not valid' END,
           CASE WHEN to_jsonb(con) ->> 'conenforced' = 'false' THEN 'not enforced' END,
           CASE WHEN con.condeferrable THEN 'deferrable' END,
           CASE WHEN con.condeferred THEN 'deferred' END,
           CASE WHEN con.connoinherit AND con.contype NOT IN ('p', 'u', 'f') THEN 'no inherit' END,
           CASE WHEN NOT con.conislocal THEN 'not local' END,
           'inherited from ' || nullif(con.coninhcount::int, 0)::text,
           'index ' || nullif(con.conindid, 0::oid)::regclass,
           'triggers (' || (
             SELECT string_agg(format('%s on %s %s', t.tgfoid::regproc, t.tgrelid::regclass, t.tgenabled), ', '
                               ORDER BY t.tgfoid::regproc::text, t.tgrelid::regclass::text)
             FROM   pg_trigger AS t WHERE t.tgconstraint = con.oid) || ')',
           'comment ' || quote_literal(obj_description(con.oid, 'pg_constraint')))
FROM     pg_constraint AS con
JOIN     pg_namespace AS n ON n.oid = con.connamespace
LEFT JOIN LATERAL (SELECT con.confrelid AS partition FROM pg_constraint AS up
                   WHERE up.oid = con.conparentid AND up.contype = 'f' AND up.conrelid = con.conrelid) AS p ON true
WHERE    ` + userSchemas("pg_constraint", "con.oid") + `
ORDER BY n.nspname, con.conrelid::regclass::text, con.contypid::regtype::text, con.conname`

// indexesSQL shows what pg_get_indexdef leaves out: the tablespace, the flags and
// the statistics targets of expressions.
var indexesSQL = `
SELECT   concat_ws(', ',
           pg_get_indexdef(i.indexrelid),
           CASE WHEN i.indisprimary THEN 'primary' END,
           CASE WHEN NOT i.indimmediate THEN 'not immediate' END,
           CASE WHEN NOT i.indisvalid THEN 'invalid' END,
           CASE WHEN NOT i.indisready THEN 'not ready' END,
           CASE WHEN NOT i.indislive THEN 'not live' END,
           CASE WHEN i.indisclustered THEN 'clustered' END,
           CASE WHEN i.indisreplident THEN 'replica identity' END,
           'tablespace ' || ts.spcname,
           'statistics (' || (
             SELECT string_agg(format('%s %s', a.attnum, a.attstattarget), ', ' ORDER BY a.attnum)
             FROM   pg_attribute AS a
             WHERE  a.attrelid = i.indexrelid AND coalesce(a.attstattarget, -1) >= 0) || ')',
           'parent ' || (SELECT h.inhparent::regclass FROM pg_inherits AS h WHERE h.inhrelid = i.indexrelid),
           'comment ' || quote_literal(obj_description(i.indexrelid, 'pg_class')))
FROM     pg_index AS i
JOIN     pg_class AS c ON c.oid = i.indrelid
JOIN     pg_class AS ic ON ic.oid = i.indexrelid
JOIN     pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_tablespace AS ts ON ts.oid = ic.reltablespace
WHERE    ` + userSchemas("pg_class", "c.oid") + `
ORDER BY n.nspname, c.relname, ic.relname`

var triggersSQL = `
SELECT   concat_ws(', ',
           pg_get_triggerdef(t.oid),
           'enabled ' || t.tgenabled::text,
           CASE WHEN t.tgparentid <> 0 THEN 'of a partition' END,
           'comment ' || quote_literal(obj_description(t.oid, 'pg_trigger')))
FROM     pg_trigger AS t
JOIN     pg_class AS c ON c.oid = t.tgrelid
JOIN     pg_namespace AS n ON n.oid = c.relnamespace
WHERE    NOT t.tgisinternal
AND      ` + userSchemas("pg_class", "c.oid") + `
ORDER BY n.nspname, c.relname, t.tgname`

var policiesSQL = `
SELECT   concat_ws(', ',
           format('%I on %s', p.polname, c.oid::regclass),
           CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END,
           'command ' || p.polcmd::text,
           'to ' || (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r)::text END, ' '
                                       ORDER BY r = 0, pg_get_userbyid(r))
                     FROM   unnest(p.polroles) AS r),
           'using ' || pg_get_expr(p.polqual, p.polrelid),
           'with check ' || pg_get_expr(p.polwithcheck, p.polrelid),
           'comment ' || quote_literal(obj_description(p.oid, 'pg_policy')))
FROM     pg_policy AS p
JOIN     pg_class AS c ON c.oid = p.polrelid
JOIN     pg_namespace AS n ON n.oid = c.relnamespace
WHERE    ` + userSchemas("pg_class", "c.oid") + `
ORDER BY n.nspname, c.relname, p.polname`

var rulesSQL = `
SELECT   concat_ws(', ',
           pg_get_ruledef(r.oid),
           'enabled ' || r.ev_enabled::text,
           'comment ' || quote_literal(obj_description(r.oid, 'pg_rewrite')))
FROM     pg_rewrite AS r
JOIN     pg_class AS c ON c.oid = r.ev_class
JOIN     pg_namespace AS n ON n.oid = c.relnamespace
WHERE    r.rulename <> '_RETURN'
AND      ` + userSchemas("pg_class", "c.oid") + `
ORDER BY n.nspname, c.relname, r.rulename`

var viewsSQL = `
SELECT   format('%s%s:%s', c.oid::regclass, CASE WHEN c.relispopulated THEN '' ELSE ' (not populated)' END,
                pg_get_viewdef(c.oid))
FROM     pg_class AS c
JOIN     pg_namespace AS n ON n.oid = c.relnamespace
WHERE    c.relkind IN ('v', 'm')
AND      ` + userSchemas("pg_class", "c.oid") + `
ORDER BY n.nspname, c.relname`

var sequencesSQL = `
SELECT   concat_ws(', ',
           format('%s as %s start %s increment %s minimum %s maximum %s cache %s', c.oid::regclass,
                  s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache),
           CASE WHEN s.seqcycle THEN 'cycle' END,
           (SELECT format('%s %s.%I', CASE d.deptype WHEN 'i' THEN 'identity of' ELSE 'owned by' END,
                          a.attrelid::regclass, a.attname)
            FROM   pg_depend AS d
            JOIN   pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
            WHERE  d.classid = 'pg_class'::regclass AND d.objid = c.oid
            AND    d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')))
FROM     pg_sequence AS s
JOIN     pg_class AS c ON c.oid = s.seqrelid
JOIN     pg_namespace AS n ON n.oid = c.relnamespace
WHERE    ` + userSchemas("pg_class", "c.oid") + `
ORDER BY n.nspname, c.relname`

var statisticsSQL = `
SELECT   concat_ws(', ',
           pg_get_statisticsobjdef(s.oid),
           'owner ' || pg_get_userbyid(s.stxowner),
           'target ' || nullif(coalesce(s.stxstattarget::int, -1), -1)::text,
           'comment ' || quote_literal(obj_description(s.oid, 'pg_statistic_ext')))
FROM     pg_statistic_ext AS s
JOIN     pg_namespace AS n ON n.oid = s.stxnamespace
WHERE    ` + userSchemas("pg_statistic_ext", "s.oid") + `
ORDER BY n.nspname, s.stxname`
