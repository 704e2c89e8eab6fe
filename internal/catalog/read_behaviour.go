package catalog

import (
	"fmt"
	"strings"
)

// Our capture triggers are not a property of the table. They are recognized by the
// prefix of their name and of their function's name. Triggers that come from a
// partitioned table (above) belong to the partition's place there.
var triggersSQL = `
SELECT   t.tgname::text                                        AS name,
         pg_get_triggerdef(t.oid)                              AS definition,
         t.tgenabled::text                                     AS enabled,
         t.tgparentid <> 0                                     AS above,
         ` + commentOf("pg_trigger", "t.oid") + ` AS comment,
         ` + commentOf("pg_constraint", "t.tgconstraint") + ` AS constraint_comment,
         ` + extensionsOf("pg_trigger", "t.oid") + `           AS extensions
FROM     pg_trigger t
JOIN     pg_proc p ON p.oid = t.tgfoid
WHERE    t.tgrelid = $1 AND NOT (t.tgname ~ '^(00|RI)_repack_' AND p.proname LIKE 'repack\_capture\_%')
AND      CASE WHEN t.tgparentid = 0 THEN NOT t.tgisinternal
              ELSE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.oid = t.tgconstraint AND k.contype = 'f') END
ORDER BY t.tgname`

func askTriggers(d *description) {
	t := d.Table
	type row struct {
		Trigger
		Above bool
	}
	want(d, triggersSQL, func(rows []row) error {
		own, above := []Trigger{}, []Trigger{}
		for _, r := range rows {
			if r.Above {
				above = append(above, r.Trigger)
			} else {
				own = append(own, r.Trigger)
			}
		}
		t.Triggers = own
		if t.Partition != nil {
			t.Partition.Triggers = above
		}
		return nil
	})
}

var rulesSQL = `
SELECT   r.rulename::text                                      AS name,
         pg_get_ruledef(r.oid)                                 AS definition,
         r.ev_enabled::text                                    AS enabled,
         ` + commentOf("pg_rewrite", "r.oid") + ` AS comment
FROM     pg_rewrite r
WHERE    r.ev_class = $1
ORDER BY r.rulename`

func askRules(d *description) { wantAs(d, rulesSQL, &d.Rules) }

var policiesSQL = `
SELECT   p.polname::text                                       AS name,
         CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                       WHEN 'd' THEN 'DELETE' ELSE 'ALL' END   AS command,
         p.polpermissive                                       AS permissive,
         ARRAY(SELECT CASE WHEN r.oid = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.oid)) END
               FROM   unnest(p.polroles) r(oid)
               ORDER  BY 1)                                    AS roles,
         coalesce(pg_get_expr(p.polqual, p.polrelid), '')      AS using,
         coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '') AS with_check,
         ` + commentOf("pg_policy", "p.oid") + ` AS comment
FROM     pg_policy p
WHERE    p.polrelid = $1
ORDER BY p.polname`

func askPolicies(d *description) { wantAs(d, policiesSQL, &d.Policies) }

// Row filters and column lists exist from PostgreSQL 15 on. The server looks for a name
// in the innermost query first. So prqual is the row filter if that column exists.
// Otherwise it is the null of the outer query. From PostgreSQL 19 on, the catalog also
// lists the tables that a publication of all tables excepts.
const publicationsSQL = `
SELECT   x.*
FROM    (SELECT NULL::pg_node_tree AS prqual) before15
CROSS    JOIN LATERAL (
         SELECT p.pubname::text                                            AS name,
                ARRAY(SELECT a.attname::text
                      FROM   jsonb_array_elements_text(nullif(to_jsonb(r) -> 'prattrs', 'null')) k(attnum)
                      JOIN   pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = k.attnum::int2
                      ORDER  BY a.attnum)                                  AS columns,
                coalesce(pg_get_expr(prqual, r.prrelid), '')               AS where,
                pg_get_userbyid(p.pubowner)::text                          AS owner
         FROM   pg_publication_rel r
         JOIN   pg_publication p ON p.oid = r.prpubid
         WHERE  r.prrelid = $1 AND (to_jsonb(r) ->> 'prexcept')::bool IS NOT TRUE) x
ORDER BY x.name COLLATE "C"`

func askPublications(d *description) { wantAs(d, publicationsSQL, &d.Publications) }

var statisticsSQL = `
SELECT   n.nspname::text                                       AS schema_name,
         s.stxname::text                                       AS statistics_name,
         array_to_string(ARRAY(
             SELECT CASE k WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies' WHEN 'm' THEN 'mcv' END
             FROM   unnest(s.stxkind) k
             WHERE  k <> 'e'), ', ')                           AS kinds,
         pg_get_statisticsobjdef_columns(s.oid)                AS columns,
         nullif(s.stxstattarget, -1)::int                      AS target,
         pg_get_userbyid(s.stxowner)::text                     AS owner,
         ` + commentOf("pg_statistic_ext", "s.oid") + ` AS comment
FROM     pg_statistic_ext s
JOIN     pg_namespace n ON n.oid = s.stxnamespace
WHERE    s.stxrelid = $1
ORDER BY n.nspname, s.stxname`

func askStatistics(d *description) {
	t := d.Table
	type row struct {
		Statistics
		SchemaName, StatisticsName string
	}
	want(d, statisticsSQL, func(rows []row) error {
		t.Statistics = make([]Statistics, len(rows))
		for i, r := range rows {
			t.Statistics[i] = r.Statistics
			t.Statistics[i].Name = Name{r.SchemaName, r.StatisticsName}
		}
		return nil
	})
}

const labelsSQL = `
SELECT   l.provider                                            AS provider,
         coalesce(a.attname::text, '')                         AS column,
         l.label                                               AS label
FROM     pg_seclabel l
LEFT     JOIN pg_attribute a ON a.attrelid = l.objoid AND a.attnum = l.objsubid AND l.objsubid > 0
WHERE    l.classoid = 'pg_class'::regclass AND l.objoid = $1
ORDER BY l.provider, l.objsubid`

func askLabels(d *description) { wantAs(d, labelsSQL, &d.Labels) }

// viewVersion is Dependent.Version of the view with rule r. The tree of a rule names columns of
// tables by their numbers.
const viewVersion = `hash_record_extended(ROW(r.ev_action::text, ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = r.ev_class AND a.attnum > 0 ORDER BY a.attnum)), 0)::text`

// viewsSQL finds the views whose own query refers to the table, to its row type or to
// functions and operators typed by it. pg_get_viewdef
// qualifies the table's name, like all names.
var viewsSQL = `
SELECT   DISTINCT
         v.oid                              AS oid,
         n.nspname::text                    AS schema_name,
         v.relname::text                    AS view_name,
         pg_get_userbyid(v.relowner)::text  AS owner,
         coalesce(v.reloptions, '{}')       AS options,
         pg_get_viewdef(v.oid)              AS definition,
         ` + viewVersion + ` AS version
FROM     pg_rewrite r
JOIN     pg_class v     ON v.oid = r.ev_class AND v.relkind = 'v' AND v.relpersistence = 'p'
JOIN     pg_namespace n ON n.oid = v.relnamespace
WHERE    r.oid = ANY (ARRAY(SELECT u.id FROM repack_uses u WHERE u.class = 'pg_rewrite'::regclass))
AND      r.rulename = '_RETURN'
ORDER BY 2, 3`

func askViews(d *description) {
	t := d.Table
	type row struct {
		OID                                              uint32
		SchemaName, ViewName, Owner, Definition, Version string
		Options                                          []string
	}
	want(d, viewsSQL, func(rows []row) error {
		for _, r := range rows {
			name := Name{r.SchemaName, r.ViewName}.String()
			t.Dependents = append(t.Dependents, Dependent{
				OID: r.OID, Kind: "view", Name: name, Owner: r.Owner, options: r.Options, definition: r.Definition, Version: r.Version,
				Replace: replaceViewSQL(name, r.Options, r.Definition),
				// LOCK TABLE would also lock all tables of the view.
				Lock: fmt.Sprintf("ALTER VIEW %s OWNER TO %s", name, Quote(r.Owner)),
			})
		}
		return nil
	})
}

func replaceViewSQL(name string, options []string, definition string) string {
	with := ""
	if len(options) > 0 {
		with = " WITH (" + optionList("", options) + ")"
	}
	return fmt.Sprintf("CREATE OR REPLACE VIEW %s%s AS\n%s", name, with, strings.TrimSuffix(definition, ";"))
}

// dependentsSQL finds rules, policies, triggers and defaults of other relations, and
// functions, that refer to the table, to its row type or to functions and operators
// typed by it. pg_get_ruledef always begins with CREATE RULE. The query checks that
// prefix and cuts it, as for the head of an index. OFFSET 0 keeps the server from asking for
// the definition of every rule there is: it would wait for locks on their tables, and fail
// if one is dropped at that moment.
var dependentsSQL = `
SELECT   'rule'                                                                 AS kind,
         format('%I ON %I.%I', r.rulename, n.nspname, c.relname)                AS name,
         pg_get_userbyid(c.relowner)::text                                      AS owner,
         'CREATE OR REPLACE RULE ' || substr(pg_get_ruledef(r.oid), length('CREATE RULE ') + 1) AS replace,
         format('ALTER %s %I.%I OWNER TO %I', CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END,
                n.nspname, c.relname, pg_get_userbyid(c.relowner))              AS lock,
         r.oid                                                                  AS oid,
         c.oid                                                                  AS relation,
         '{}'::text[]                                                           AS extensions
FROM    (SELECT * FROM pg_rewrite
         WHERE  oid = ANY (ARRAY(SELECT u.id FROM repack_uses u WHERE u.class = 'pg_rewrite'::regclass)) OFFSET 0) r
JOIN     pg_class c     ON c.oid = r.ev_class
JOIN     pg_namespace n ON n.oid = c.relnamespace
WHERE    r.rulename <> '_RETURN' AND r.ev_class <> $1
AND      starts_with(pg_get_ruledef(r.oid), 'CREATE RULE ')
UNION ALL
SELECT   'policy',
         format('%I ON %I.%I', p.polname, n.nspname, c.relname),
         pg_get_userbyid(c.relowner)::text,
         format('ALTER POLICY %I ON %I.%I', p.polname, n.nspname, c.relname)
         || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
         || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''),
         format('ALTER TABLE %I.%I OWNER TO %I', n.nspname, c.relname, pg_get_userbyid(c.relowner)),
         p.oid,
         c.oid,
         '{}'::text[]
FROM     pg_policy p
JOIN     pg_class c     ON c.oid = p.polrelid
JOIN     pg_namespace n ON n.oid = c.relnamespace
WHERE    p.polrelid <> $1
AND      p.oid = ANY (ARRAY(SELECT u.id FROM repack_uses u WHERE u.class = 'pg_policy'::regclass))
UNION ALL
SELECT   'function',
         p.oid::regprocedure::text,
         pg_get_userbyid(p.proowner)::text,
         pg_get_functiondef(p.oid),
         '',
         p.oid,
         0::oid,
         ` + extensionsOf("pg_proc", "p.oid") + `
FROM     pg_proc p
WHERE    p.prokind IN ('f', 'p', 'w')
AND      p.oid = ANY (ARRAY(SELECT u.id FROM repack_uses u WHERE u.class = 'pg_proc'::regclass))
AND      p.oid <> ALL (ARRAY(SELECT o.id FROM repack_own o WHERE o.class = 'pg_proc'::regclass))
UNION ALL
SELECT   'default',
         format('%I of %I.%I', a.attname, n.nspname, c.relname),
         pg_get_userbyid(c.relowner)::text,
         format('ALTER TABLE ONLY %I.%I ALTER COLUMN %I SET DEFAULT %s', n.nspname, c.relname, a.attname, pg_get_expr(d.adbin, d.adrelid)),
         format('ALTER TABLE ONLY %I.%I OWNER TO %I', n.nspname, c.relname, pg_get_userbyid(c.relowner)),
         d.oid,
         c.oid,
         '{}'::text[]
FROM     pg_attrdef d
JOIN     pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum AND a.attgenerated = ''
JOIN     pg_class c     ON c.oid = d.adrelid
JOIN     pg_namespace n ON n.oid = c.relnamespace
WHERE    d.adrelid <> $1
AND      d.oid = ANY (ARRAY(SELECT u.id FROM repack_uses u WHERE u.class = 'pg_attrdef'::regclass))
UNION ALL
SELECT   'trigger',
         format('%I ON %I.%I', t.tgname, n.nspname, c.relname),
         pg_get_userbyid(c.relowner)::text,
         'CREATE OR REPLACE ' || substr(pg_get_triggerdef(t.oid), length('CREATE ') + 1)
         || format(E';\nALTER TABLE ONLY %I.%I %s TRIGGER %I', n.nspname, c.relname,
                   CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END, t.tgname),
         format('ALTER TABLE ONLY %I.%I OWNER TO %I', n.nspname, c.relname, pg_get_userbyid(c.relowner)),
         t.oid,
         c.oid,
         '{}'::text[]
FROM    (SELECT * FROM pg_trigger
         WHERE  oid = ANY (ARRAY(SELECT u.id FROM repack_uses u WHERE u.class = 'pg_trigger'::regclass)) OFFSET 0) t
JOIN     pg_class c     ON c.oid = t.tgrelid AND c.relkind = 'r'
JOIN     pg_namespace n ON n.oid = c.relnamespace
WHERE    t.tgrelid <> $1 AND NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgconstraint = 0
AND      starts_with(pg_get_triggerdef(t.oid), 'CREATE TRIGGER ')
ORDER BY 1, 2`

// askDependents must come after askViews: views are replaced before the objects that
// may read them.
func askDependents(d *description) {
	t := d.Table
	want(d, dependentsSQL, func(others []Dependent) error {
		t.Dependents = append(t.Dependents, others...)
		return nil
	})
}
