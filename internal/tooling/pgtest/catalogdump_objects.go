package pgtest

// objectSections describe what is not a relation.
var objectSections = []section{
	{title: "types", sql: typesSQL},
	{title: "functions", sql: functionsSQL},
	{title: "publications", sql: publicationsSQL},
	{title: "publication tables", sql: publicationTablesSQL},
	{title: "publication columns and filters", since: 15, sql: publicationFiltersSQL},
	{title: "publication schemas", since: 15, sql: publicationSchemasSQL},
	{title: "schemas", sql: schemasSQL},
	{title: "default privileges", sql: defaultPrivilegesSQL},
	{title: "extensions", sql: extensionsSQL},
	{title: "dependencies on extensions", sql: dependOnExtensionsSQL},
	{title: "event triggers", sql: eventTriggersSQL},
	{title: "security labels", sql: securityLabelsSQL},
}

// typesSQL leaves out the types that come with a relation or another type.
var typesSQL = `
SELECT   concat_ws(', ',
           format('%s %s', t.typtype, t.oid::regtype),
           'owner ' || pg_get_userbyid(t.typowner),
           'labels (' || (SELECT string_agg(quote_literal(e.enumlabel), ' ' ORDER BY e.enumsortorder)
                          FROM   pg_enum AS e WHERE e.enumtypid = t.oid) || ')',
           'base ' || format_type(nullif(t.typbasetype, 0::oid), t.typtypmod),
           'subtype ' || (SELECT format_type(r.rngsubtype, NULL) FROM pg_range AS r WHERE r.rngtypid = t.oid),
           'collation ' || nullif(t.typcollation, 0::oid)::regcollation,
           CASE WHEN t.typnotnull THEN 'not null' END,
           'default ' || t.typdefault,
           'granted (' || ` + grants("t.typacl", "T", "t.typowner") + ` || ')',
           'comment ' || quote_literal(obj_description(t.oid, 'pg_type')))
FROM     pg_type AS t
JOIN     pg_namespace AS n ON n.oid = t.typnamespace
WHERE    t.typtype IN ('e', 'd', 'r')
AND      ` + userSchemas("pg_type", "t.oid") + `
ORDER BY n.nspname, t.typname`

// functionsSQL shows no more of an aggregate than its name: pg_get_functiondef
// knows none.
var functionsSQL = `
SELECT   concat_ws(', ',
           CASE p.prokind WHEN 'a' THEN 'aggregate ' || p.oid::regprocedure ELSE pg_get_functiondef(p.oid) END,
           'owner ' || pg_get_userbyid(p.proowner),
           'granted (' || ` + grants("p.proacl", "f", "p.proowner") + ` || ')',
           'comment ' || quote_literal(obj_description(p.oid, 'pg_proc')))
FROM     pg_proc AS p
JOIN     pg_namespace AS n ON n.oid = p.pronamespace
WHERE    ` + userSchemas("pg_proc", "p.oid") + `
ORDER BY n.nspname, p.oid::regprocedure::text`

// publicationsSQL takes the flags as they come: each version adds some.
const publicationsSQL = `
SELECT   concat_ws(', ',
           format('%I %s', p.pubname, to_jsonb(p) - '{oid,pubname,pubowner}'::text[]),
           'owner ' || pg_get_userbyid(p.pubowner),
           'comment ' || quote_literal(obj_description(p.oid, 'pg_publication')))
FROM     pg_publication AS p
ORDER BY p.pubname`

const publicationTablesSQL = `
SELECT   format('%I: %s', p.pubname, pr.prrelid::regclass)
FROM     pg_publication_rel AS pr
JOIN     pg_publication AS p ON p.oid = pr.prpubid
ORDER BY p.pubname, pr.prrelid::regclass::text`

const publicationFiltersSQL = `
SELECT   concat_ws(', ',
           format('%I: %s', p.pubname, pr.prrelid::regclass),
           'columns ' || (SELECT string_agg(quote_ident(a.attname), ' ' ORDER BY a.attnum)
                          FROM   pg_attribute AS a
                          WHERE  a.attrelid = pr.prrelid AND a.attnum = ANY (pr.prattrs::int2[])),
           'where ' || pg_get_expr(pr.prqual, pr.prrelid))
FROM     pg_publication_rel AS pr
JOIN     pg_publication AS p ON p.oid = pr.prpubid
WHERE    pr.prattrs IS NOT NULL OR pr.prqual IS NOT NULL
ORDER BY p.pubname, pr.prrelid::regclass::text`

const publicationSchemasSQL = `
SELECT   format('%I: %I', p.pubname, n.nspname)
FROM     pg_publication_namespace AS pn
JOIN     pg_publication AS p ON p.oid = pn.pnpubid
JOIN     pg_namespace AS n ON n.oid = pn.pnnspid
ORDER BY p.pubname, n.nspname`

var schemasSQL = `
SELECT   concat_ws(', ',
           quote_ident(n.nspname),
           'owner ' || pg_get_userbyid(n.nspowner),
           'granted (' || ` + grants("n.nspacl", "n", "n.nspowner") + ` || ')',
           'comment ' || quote_literal(obj_description(n.oid, 'pg_namespace')))
FROM     pg_namespace AS n
WHERE    ` + userSchemas("pg_namespace", "n.oid") + `
ORDER BY n.nspname`

var defaultPrivilegesSQL = `
SELECT   concat_ws(', ',
           format('of %I on %s', pg_get_userbyid(d.defaclrole), d.defaclobjtype),
           'in ' || quote_ident(n.nspname),
           'granted (' || ` + explode("d.defaclacl") + ` || ')')
FROM     pg_default_acl AS d
LEFT JOIN pg_namespace AS n ON n.oid = d.defaclnamespace
ORDER BY pg_get_userbyid(d.defaclrole), n.nspname, d.defaclobjtype`

const extensionsSQL = `
SELECT   format('%I version %s in %I', e.extname, e.extversion, n.nspname)
FROM     pg_extension AS e
JOIN     pg_namespace AS n ON n.oid = e.extnamespace
ORDER BY e.extname`

// dependOnExtensionsSQL shows ALTER … DEPENDS ON EXTENSION.
const dependOnExtensionsSQL = `
SELECT   format('%s on %I', pg_describe_object(d.classid, d.objid, 0), e.extname)
FROM     pg_depend AS d
JOIN     pg_extension AS e ON e.oid = d.refobjid
WHERE    d.refclassid = 'pg_extension'::regclass AND d.deptype = 'x'
ORDER BY pg_describe_object(d.classid, d.objid, 0), e.extname`

var eventTriggersSQL = `
SELECT   concat_ws(', ',
           format('%I on %s: %s', e.evtname, e.evtevent, e.evtfoid::regprocedure),
           'tags (' || ` + sorted("e.evttags") + ` || ')',
           'owner ' || pg_get_userbyid(e.evtowner),
           'enabled ' || e.evtenabled::text)
FROM     pg_event_trigger AS e
ORDER BY e.evtname`

const securityLabelsSQL = `
SELECT   format('%s %s: %s %L', l.objtype, l.objname, l.provider, l.label)
FROM     pg_seclabels AS l
ORDER BY l.objtype, l.objname, l.provider`
