package checks

// subscribedIdentity: the new table's identity has another sequence, which the subscription
// does not know. (A serial sequence stays the same.)
var subscribedIdentity = Check{
	`SELECT format('sequence %s, subscription %s', r.srrelid::regclass, r.srsubid)
	 FROM   pg_subscription_rel r
	 WHERE  r.srrelid = ANY (ARRAY(` + identitiesSQL + `))`,
	"is an identity's and belongs to the subscription, which would lose it: the new table has another sequence of that name",
	"drop it from the subscription for the time of the repack (at the publisher, then ALTER SUBSCRIPTION … REFRESH PUBLICATION)",
}

// exceptedFromPublication: the copy would not be excepted, so its rows would be published,
// and those of the new table. To except it, too, repack would have to be a superuser, and
// to write down all exceptions of the publication again, while others may change them.
var exceptedFromPublication = Check{
	`SELECT DISTINCT 'publication ' || quote_ident(p.pubname)
	 FROM   pg_publication_rel r
	 JOIN   pg_publication p ON p.oid = r.prpubid
	 WHERE  r.prrelid = ANY (ARRAY(SELECT $1::oid UNION ALL SELECT relid FROM pg_partition_ancestors($1::oid::regclass)))
	 AND   (to_jsonb(r) ->> 'prexcept')::bool`,
	"excepts the table from ALL TABLES, and would publish its copy", "publish the tables by name or by schema",
}

// propertyGraphSQL selects the property graphs with an element, or a property of an
// element, that refers to table $1. Its catalogs do not exist before PostgreSQL 19, so it
// looks at dependencies only: from the table to the element, and from the element to the
// graph. A property has an element's label in between, but an element always has a key,
// which refers to the table, too.
const propertyGraphSQL = `
SELECT DISTINCT pg_describe_object('pg_class'::regclass, g.oid, 0)
FROM   pg_depend d
CROSS  JOIN LATERAL (SELECT refobjid FROM pg_depend WHERE classid = d.classid AND objid = d.objid AND refclassid = 'pg_class'::regclass OFFSET 0) u
CROSS  JOIN LATERAL (SELECT oid FROM pg_class WHERE oid = u.refobjid AND relkind = 'g' OFFSET 0) g
WHERE  d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
AND    d.classid = to_regclass('pg_catalog.pg_propgraph_element')`

// propertyGraph is one reason for a whole graph. dependentsSQL leaves out its parts.
var propertyGraph = Check{
	propertyGraphSQL, "has it as an element, and would keep to the old one",
	"DROP PROPERTY GRAPH, or ALTER PROPERTY GRAPH … DROP VERTEX TABLES or DROP EDGE TABLES, for the time of the repack",
}

// ofPropertyGraphSQL is true of a dependency d of a part of a property graph.
const ofPropertyGraphSQL = `
d.classid = ANY (ARRAY[to_regclass('pg_catalog.pg_propgraph_element'), to_regclass('pg_catalog.pg_propgraph_label_property')]::oid[])`
