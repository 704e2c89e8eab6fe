package catalog

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// OwnSQL are common table expressions, to follow WITH RECURSIVE. repack_own lists table $1,
// its row type and array type, and the objects typed by them (see Typed). An aggregate
// and an operator may be typed by them only through a function: the state of the
// aggregate has the row type, for example.
//
// OFFSET 0 makes the server look up each object by an index, instead of reading a catalog
// and joining it.
const OwnSQL = `
repack_row (type, array_type) AS (
    SELECT t.oid, t.typarray
    FROM   pg_class c
    JOIN   pg_type t ON t.oid = c.reltype
    WHERE  c.oid = $1
), repack_own (class, id) AS (
    SELECT 'pg_class'::regclass::oid, $1::oid
    UNION ALL
    SELECT 'pg_type'::regclass::oid, r.type FROM repack_row r
    UNION ALL
    SELECT 'pg_type'::regclass::oid, r.array_type FROM repack_row r
    UNION
    SELECT d.classid, d.objid
    FROM   repack_own o
    CROSS  JOIN LATERAL (
           SELECT x.classid, x.objid FROM pg_depend x
           WHERE  x.refclassid = o.class AND x.refobjid = o.id AND o.class <> 'pg_class'::regclass
           AND    x.classid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_cast'::regclass) OFFSET 0) d
    CROSS  JOIN repack_row r
    LEFT   JOIN LATERAL (
           SELECT p.prokind = 'a' OR ARRAY[r.type, r.array_type] && (p.prorettype || p.proargtypes::oid[] || p.proallargtypes) AS is
           FROM   pg_proc p WHERE d.classid = 'pg_proc'::regclass AND p.oid = d.objid OFFSET 0) typed ON true
    WHERE  d.classid <> 'pg_proc'::regclass OR typed.is
)`

// UsesSQL is OwnSQL with repack_uses: all that depends on what repack_own lists.
const UsesSQL = OwnSQL + `, repack_uses (class, id) AS (
    SELECT DISTINCT d.classid, d.objid
    FROM   repack_own o
    CROSS  JOIN LATERAL (SELECT x.classid, x.objid FROM pg_depend x WHERE x.refclassid = o.class AND x.refobjid = o.id OFFSET 0) d
)`

// typeMark writes a type as in Typed.Arguments.
func typeMark(oid string) string {
	return fmt.Sprintf(`CASE %[1]s WHEN r.type THEN '%[2]s' WHEN r.array_type THEN '%[3]s' ELSE format_type(%[1]s, NULL) END`, oid, rowMark, arrayMark)
}

// operatorRef names an operator as a clause of CREATE does.
func operatorRef(oid string) string {
	return `(SELECT format('OPERATOR(%I.%s)', m.nspname, x.oprname) FROM pg_operator x JOIN pg_namespace m ON m.oid = x.oprnamespace WHERE x.oid = ` + oid + `)`
}

// optionsOf makes Options of rows (name, value), in their order. It leaves out those
// whose value is null.
func optionsOf(values string) string {
	return `(SELECT coalesce(jsonb_agg(jsonb_build_object('name', v.name, 'value', v.value) ORDER BY v.n) FILTER (WHERE v.value IS NOT NULL), '[]')
                  FROM  (VALUES ` + values + `) v (n, name, value))`
}

// finalModify is FINALFUNC_MODIFY of CREATE AGGREGATE.
func finalModify(function, modify string) string {
	return fmt.Sprintf(`CASE WHEN %s <> 0 THEN CASE %s WHEN 'r' THEN 'READ_ONLY' WHEN 's' THEN 'SHAREABLE' ELSE 'READ_WRITE' END END`, function, modify)
}

// labelsOf makes Labels of the security labels of an object.
func labelsOf(class, oid string) string {
	return fmt.Sprintf(`coalesce((SELECT jsonb_agg(jsonb_build_object('provider', l.provider, 'label', l.label) ORDER BY l.provider)
                   FROM   pg_seclabel l WHERE l.classoid = '%s'::regclass AND l.objoid = %s), '[]')`, class, oid)
}

// needsOf lists the functions and operators that an object depends on.
func needsOf(class, oid string) string {
	return fmt.Sprintf(`ARRAY(SELECT d.refobjid::int8 FROM pg_depend d
               WHERE  d.classid = '%s'::regclass AND d.objid = %s AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
               ORDER  BY 1)`, class, oid)
}

// typedSQL reads the objects typed by the row type. The clauses of an aggregate are those
// of CREATE AGGREGATE. A function in a clause is written by regproc, which qualifies it
// as needed.
var typedSQL = `
SELECT   p.oid                                                    AS oid,
         CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END AS kind,
         p.oid::regprocedure::text                                AS name,
         n.nspname::text                                          AS schema,
         p.proname::text                                          AS object,
         ARRAY(SELECT ` + typeMark("a.type") + `
               FROM   unnest(p.proargtypes::oid[]) WITH ORDINALITY a (type, n)
               ORDER  BY a.n)                                     AS arguments,
         CASE WHEN p.prokind = 'a' THEN pg_get_function_arguments(p.oid)
              ELSE pg_get_functiondef(p.oid) END                  AS definition,
         ` + aggregateOptions + `                                 AS options,
         pg_get_userbyid(p.proowner)::text                        AS owner,
         ` + commentOf("pg_proc", "p.oid") + ` AS comment,
         (SELECT coalesce(jsonb_agg(jsonb_build_object(
                     'grantor', pg_get_userbyid(e.grantor),
                     'grantee', CASE WHEN e.grantee = 0 THEN '' ELSE pg_get_userbyid(e.grantee) END,
                     'privilege', e.privilege_type, 'grantable', e.is_grantable) ORDER BY e.ordinality), '[]')
          FROM   aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) WITH ORDINALITY e) AS grants,
         ` + labelsOf("pg_proc", "p.oid") + `                     AS labels,
         CASE WHEN p.prokind <> 'a'
              THEN format('ALTER ROUTINE %s SECURITY %s', p.oid::regprocedure, CASE WHEN p.prosecdef THEN 'DEFINER' ELSE 'INVOKER' END)
              ELSE '' END                                         AS lock,
         ` + needsOf("pg_proc", "p.oid") + `                      AS need_oids
FROM     pg_proc p
JOIN     pg_namespace n ON n.oid = p.pronamespace
CROSS    JOIN repack_row r
WHERE    p.oid = ANY (ARRAY(SELECT o.id FROM repack_own o WHERE o.class = 'pg_proc'::regclass))
UNION ALL
SELECT   o.oid, 'operator', o.oid::regoperator::text, n.nspname::text, o.oprname::text,
         ARRAY[CASE WHEN o.oprleft = 0 THEN 'NONE' ELSE ` + typeMark("o.oprleft") + ` END, ` + typeMark("o.oprright") + `],
         '',
         ` + operatorOptions + `,
         pg_get_userbyid(o.oprowner)::text,
         ` + commentOf("pg_operator", "o.oid") + `,
         '[]',
         ` + labelsOf("pg_operator", "o.oid") + `,
         '',
         ` + needsOf("pg_operator", "o.oid") + `
FROM     pg_operator o
JOIN     pg_namespace n ON n.oid = o.oprnamespace
CROSS    JOIN repack_row r
WHERE    o.oid = ANY (ARRAY(SELECT o.id FROM repack_own o WHERE o.class = 'pg_operator'::regclass))
UNION ALL
SELECT   c.oid, 'cast', format('(%s AS %s)', format_type(c.castsource, NULL), format_type(c.casttarget, NULL)), '', '',
         ARRAY[` + typeMark("c.castsource") + `, ` + typeMark("c.casttarget") + `]
         || ARRAY(SELECT ` + typeMark("a.type") + `
                  FROM   unnest(p.proargtypes::oid[]) WITH ORDINALITY a (type, n)
                  ORDER  BY a.n),
         CASE WHEN p.oid IS NULL THEN '' ELSE format('%I.%I', n.nspname, p.proname) END,
         ` + castOptions + `,
         '',
         ` + commentOf("pg_cast", "c.oid") + `,
         '[]', '[]', '',
         ` + needsOf("pg_cast", "c.oid") + `
FROM     pg_cast c
LEFT     JOIN pg_proc p      ON p.oid = c.castfunc
LEFT     JOIN pg_namespace n ON n.oid = p.pronamespace
CROSS    JOIN repack_row r
WHERE    c.oid = ANY (ARRAY(SELECT o.id FROM repack_own o WHERE o.class = 'pg_cast'::regclass))
ORDER BY 2, 3`

var aggregateOptions = `CASE WHEN p.prokind = 'a' THEN (
             SELECT ` + optionsOf(`
                     (1, 'SFUNC', g.aggtransfn::text),
                     (2, 'STYPE', `+typeMark("g.aggtranstype")+`),
                     (3, 'SSPACE', nullif(g.aggtransspace, 0)::text),
                     (4, 'FINALFUNC', nullif(g.aggfinalfn, 0)::regproc::text),
                     (5, 'FINALFUNC_EXTRA', CASE WHEN g.aggfinalextra THEN '' END),
                     (6, 'FINALFUNC_MODIFY', `+finalModify("g.aggfinalfn", "g.aggfinalmodify")+`),
                     (7, 'COMBINEFUNC', nullif(g.aggcombinefn, 0)::regproc::text),
                     (8, 'SERIALFUNC', nullif(g.aggserialfn, 0)::regproc::text),
                     (9, 'DESERIALFUNC', nullif(g.aggdeserialfn, 0)::regproc::text),
                     (10, 'INITCOND', quote_literal(g.agginitval)),
                     (11, 'MSFUNC', nullif(g.aggmtransfn, 0)::regproc::text),
                     (12, 'MINVFUNC', nullif(g.aggminvtransfn, 0)::regproc::text),
                     (13, 'MSTYPE', CASE WHEN g.aggmtranstype <> 0 THEN `+typeMark("g.aggmtranstype")+` END),
                     (14, 'MSSPACE', nullif(g.aggmtransspace, 0)::text),
                     (15, 'MFINALFUNC', nullif(g.aggmfinalfn, 0)::regproc::text),
                     (16, 'MFINALFUNC_EXTRA', CASE WHEN g.aggmfinalextra THEN '' END),
                     (17, 'MFINALFUNC_MODIFY', `+finalModify("g.aggmfinalfn", "g.aggmfinalmodify")+`),
                     (18, 'MINITCOND', quote_literal(g.aggminitval)),
                     (19, 'SORTOP', `+operatorRef("g.aggsortop")+`),
                     (20, 'PARALLEL', CASE p.proparallel WHEN 's' THEN 'SAFE' WHEN 'r' THEN 'RESTRICTED' END),
                     (21, 'HYPOTHETICAL', CASE WHEN g.aggkind = 'h' THEN '' END)`) + `
             FROM pg_aggregate g WHERE g.aggfnoid = p.oid) ELSE '[]' END`

var operatorOptions = optionsOf(`
                     (1, 'FUNCTION', o.oprcode::text),
                     (2, 'LEFTARG', CASE WHEN o.oprleft <> 0 THEN ` + typeMark("o.oprleft") + ` END),
                     (3, 'RIGHTARG', ` + typeMark("o.oprright") + `),
                     (4, 'COMMUTATOR', ` + operatorRef("o.oprcom") + `),
                     (5, 'NEGATOR', ` + operatorRef("o.oprnegate") + `),
                     (6, 'RESTRICT', nullif(o.oprrest, 0)::regproc::text),
                     (7, 'JOIN', nullif(o.oprjoin, 0)::regproc::text),
                     (8, 'HASHES', CASE WHEN o.oprcanhash THEN '' END),
                     (9, 'MERGES', CASE WHEN o.oprcanmerge THEN '' END)`)

var castOptions = optionsOf(`
                     (1, 'AS', CASE c.castcontext WHEN 'a' THEN 'ASSIGNMENT' WHEN 'i' THEN 'IMPLICIT' END)`)

func askTyped(d *description) {
	type row struct {
		Typed
		NeedOIDs []uint32
	}
	d.with = UsesSQL
	want(d, typedSQL, func(rows []row) error {
		d.Typed = make([]Typed, len(rows))
		names := map[uint32]string{}
		for _, r := range rows {
			names[r.OID] = r.fullName()
		}
		for i, r := range rows {
			needs := []string{}
			for _, oid := range r.NeedOIDs {
				if name, there := names[oid]; there && oid != r.OID {
					needs = append(needs, name)
				}
			}
			slices.Sort(needs)
			d.Typed[i], d.Typed[i].Needs = r.Typed, needs
		}
		return nil
	})
}

// ReadTyped describes only the objects typed by the row type of a table. It needs one
// round trip and takes no lock on the table.
func ReadTyped(ctx context.Context, q Querier, oid uint32) ([]Typed, error) {
	t, err := describeOne(ctx, q, oid, []part{{"functions of the row type", askTyped, 0}})
	if err != nil {
		return nil, err
	}
	return t.Typed, nil
}

// The next three run under a search_path that begins with the table's schema. See
// elsewhere.go.

const prettyTypedSQL = `
SELECT p.oid,
       CASE WHEN p.prokind OPERATOR(pg_catalog.=) 'a'::"char" THEN pg_catalog.pg_get_function_arguments(p.oid)
            ELSE pg_catalog.pg_get_functiondef(p.oid) END
FROM   pg_catalog.pg_proc p
WHERE  p.oid OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.oid[])`

const prettyDefaultsSQL = `
SELECT a.attname::pg_catalog.text, pg_catalog.pg_get_expr(d.adbin, d.adrelid)
FROM   pg_catalog.pg_attrdef d
JOIN   pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) d.adrelid AND a.attnum OPERATOR(pg_catalog.=) d.adnum
WHERE  d.adrelid OPERATOR(pg_catalog.=) $1::pg_catalog.oid`

const prettyPoliciesSQL = `
SELECT p.polname::pg_catalog.text,
       coalesce(pg_catalog.pg_get_expr(p.polqual, p.polrelid), ''),
       coalesce(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), '')
FROM   pg_catalog.pg_policy p
WHERE  p.polrelid OPERATOR(pg_catalog.=) $1::pg_catalog.oid`

// TypedIn gives c, which CopyIn has returned, the objects typed by t's row type, and
// definitions that can be used for the copy: those of the objects and the defaults under
// TypedPath, those of the policies under the search_path of CopyIn.
//
// q must be a transaction, because TypedIn sets search_path for that transaction for a
// moment.
func (t *Table) TypedIn(ctx context.Context, q Querier, c *Table) error {
	oids, definitions, defaults := []uint32{}, map[uint32]string{}, map[string]string{}
	for _, o := range t.Typed {
		if o.IsRoutine() {
			oids = append(oids, o.OID)
		}
	}
	c.Policies = slices.Clone(t.Policies)
	b := &pgx.Batch{}
	b.Queue(PathSQL(t.Name.Schema, "pg_catalog"))
	b.Queue(prettyTypedSQL, oids).Query(func(rows pgx.Rows) error {
		var oid uint32
		var definition string
		_, err := pgx.ForEachRow(rows, []any{&oid, &definition}, func() error { definitions[oid] = definition; return nil })
		return err
	})
	askDefinitions(b, defaults, prettyDefaultsSQL, t.OID)
	underPath(b, []string{t.Name.Schema}, func() {
		b.Queue(prettyPoliciesSQL, t.OID).Query(func(rows pgx.Rows) error {
			var name, using, check string
			_, err := pgx.ForEachRow(rows, []any{&name, &using, &check}, func() error {
				for i, p := range c.Policies {
					if p.Name == name {
						c.Policies[i].Using, c.Policies[i].WithCheck = using, check
					}
				}
				return nil
			})
			return err
		})
	})
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("read the functions of the row type of %s: %w", t.Name, err)
	}
	c.Typed = []Typed{}
	for _, o := range InOrder(t.Typed) {
		if o.IsRoutine() {
			o.Definition = definitions[o.OID]
		}
		c.Typed = append(c.Typed, o)
	}
	for i, column := range c.Columns {
		if text, there := defaults[column.Name]; there && column.Generated == "" {
			c.Columns[i].Expression = text
		}
	}
	return nil
}

// TypedPath is the search_path for the definitions of TypedIn: the type of the copy, in
// schema, hides that of the table.
func (t *Table) TypedPath(schema string) []string {
	return []string{schema, t.Name.Schema, "pg_catalog"}
}
