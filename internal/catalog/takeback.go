package catalog

import (
	"context"
	"fmt"
	"strings"
)

// An event trigger may change an object as soon as it has been created: its owner, its
// flags, the publications that it is in. If that happens to an object of ours, we undo
// it.

// takeBackSQL lists statements for objects that were just created: kinds $1, names $2.
// The statements give tables, materialized views, functions and schemas the state that
// CREATE gives them. With $4 they also revoke every privilege that default privileges
// have granted to a role other than the owner. With $3 comments stay. The owner comes
// first, because only the owner can run the other statements.
const takeBackSQL = `
WITH me AS (
    SELECT oid, rolname FROM pg_roles WHERE rolname = current_user
), object AS (
    SELECT * FROM unnest($1::text[], $2::text[]) o (kind, name)
), made AS (
    SELECT c.*, o.name, CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END AS word
    FROM   object o
    JOIN   pg_class c ON c.oid = to_regclass(o.name)
    WHERE  o.kind = 'TABLE'
), access (kind, name, owner, acl) AS (
    SELECT 'TABLE', name, relowner, relacl FROM made
    UNION ALL
    SELECT o.kind, o.name, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
    FROM   object o JOIN pg_proc p ON p.oid = to_regprocedure(o.name) WHERE o.kind = 'FUNCTION'
    UNION ALL
    SELECT o.kind, o.name, n.nspowner, n.nspacl
    FROM   object o JOIN pg_namespace n ON n.oid = to_regnamespace(o.name) WHERE o.kind = 'SCHEMA'
)
SELECT   x.step, x.statement
FROM    (SELECT 1, format('ALTER %s %s OWNER TO %I', coalesce(m.word, a.kind), a.name, me.rolname)
         FROM   me, access a LEFT JOIN made m ON m.name = a.name AND a.kind = 'TABLE' WHERE a.owner <> me.oid
         UNION ALL
         SELECT 2, format('ALTER PUBLICATION %I DROP TABLE %s', p.pubname, m.name)
         FROM   made m JOIN pg_publication_rel r ON r.prrelid = m.oid JOIN pg_publication p ON p.oid = r.prpubid
         UNION ALL
         SELECT 2, format('DROP TRIGGER %I ON %s', t.tgname, m.name) FROM made m JOIN pg_trigger t ON t.tgrelid = m.oid WHERE NOT t.tgisinternal
         UNION ALL
         SELECT 2, format('DROP POLICY %I ON %s', p.polname, m.name) FROM made m JOIN pg_policy p ON p.polrelid = m.oid
         UNION ALL
         SELECT 2, format('DROP RULE %I ON %s', r.rulename, m.name) FROM made m JOIN pg_rewrite r ON r.ev_class = m.oid WHERE r.rulename <> '_RETURN'
         UNION ALL
         SELECT 2, format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', m.name) FROM made m WHERE m.relrowsecurity
         UNION ALL
         SELECT 2, format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', m.name) FROM made m WHERE m.relforcerowsecurity
         UNION ALL
         SELECT 2, format('ALTER TABLE %s REPLICA IDENTITY DEFAULT', m.name) FROM made m WHERE m.relkind = 'r' AND m.relreplident <> 'd'
         UNION ALL
         SELECT 2, format('COMMENT ON %s %s IS NULL', m.word, m.name) FROM made m
         WHERE  NOT $3::boolean AND obj_description(m.oid, 'pg_class') IS NOT NULL
         UNION ALL
         SELECT 2, format('COMMENT ON COLUMN %s.%I IS NULL', m.name, a.attname)
         FROM   made m JOIN pg_attribute a ON a.attrelid = m.oid
         WHERE  NOT $3 AND col_description(m.oid, a.attnum) IS NOT NULL
         UNION ALL
         SELECT 2, CASE l.objsubid WHEN 0 THEN format('SECURITY LABEL FOR %I ON %s %s IS NULL', l.provider, m.word, m.name)
                                   ELSE format('SECURITY LABEL FOR %I ON COLUMN %s.%I IS NULL', l.provider, m.name, a.attname) END
         FROM   made m
         JOIN   pg_seclabel l       ON l.classoid = 'pg_class'::regclass AND l.objoid = m.oid
         LEFT   JOIN pg_attribute a ON a.attrelid = m.oid AND a.attnum = l.objsubid
         UNION
         SELECT 3, format('REVOKE ALL ON %s %s FROM %s', a.kind, a.name,
                          CASE WHEN e.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(e.grantee)) END)
         FROM   access a
         CROSS  JOIN LATERAL aclexplode(a.acl) e
         WHERE  $4::boolean AND e.grantee <> a.owner) x (step, statement)
ORDER BY x.step, x.statement`

// ChangedError reports that another session or an event trigger, most likely the
// latter, changes an object of ours again each time that we undo the change.
type ChangedError struct {
	Kind, Object string
	Undo         []string // statements that would have to be run once more
}

// Error names the object and the statements that would still be needed.
func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s %s has been changed by others as soon as it was made, again and again: it would need %s",
		strings.ToLower(e.Kind), e.Object, strings.Join(e.Undo, "; "))
}

// takingBack is how often changes by others are undone before we give up.
const takingBack = 2

// Made is an object of ours that has just been created.
type Made struct {
	Kind string // TABLE, FUNCTION or SCHEMA
	Name string // quoted, as GRANT writes it
}

// TakeBack undoes what event triggers have done to an object that we have just created.
// Comments stay, because the object has comments of ours. It returns *ChangedError if
// the object is changed again each time.
//
// Its statements take up to ACCESS EXCLUSIVE on the object. In the transaction that
// created the object they wait for no lock.
func TakeBack(ctx context.Context, q Querier, made Made) error {
	return takeBack(ctx, q, []Made{made}, true, false)
}

// RevokeAll revokes every privilege on new objects of ours from all roles except the
// owner: default privileges may have granted some. Before that it undoes what event
// triggers have done to the objects, comments included. It returns *ChangedError if an
// object is changed again each time.
//
// Its statements take up to ACCESS EXCLUSIVE on the objects. In the transaction that
// created the objects they wait for no lock.
//
// https://www.postgresql.org/docs/current/sql-alterdefaultprivileges.html
func RevokeAll(ctx context.Context, q Querier, made ...Made) error {
	return takeBack(ctx, q, made, false, true)
}

func takeBack(ctx context.Context, q Querier, made []Made, commented, closed bool) error {
	kinds, names := make([]string, len(made)), make([]string, len(made))
	for i, m := range made {
		kinds[i], names[i] = m.Kind, m.Name
	}
	type row struct {
		Step      int
		Statement string
	}
	const revoking = 3
	for attempt := 0; ; attempt++ {
		rows, err := collect[row](ctx, q, takeBackSQL, kinds, names, commented, closed)
		if err != nil {
			return fmt.Errorf("look at what has been made of %s: %w", strings.Join(names, ", "), err)
		}
		var undo, statements []string
		for _, r := range rows {
			statements = append(statements, r.Statement)
			if r.Step != revoking {
				undo = append(undo, r.Statement)
			}
		}
		if len(statements) == 0 {
			return nil
		}
		if len(undo) > 0 && attempt == takingBack {
			return &ChangedError{Kind: kinds[0], Object: names[0], Undo: undo}
		}
		for _, sql := range statements {
			if _, err := q.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s, which default privileges or an event trigger have made necessary: %w", sql, err)
			}
		}
		if len(undo) == 0 {
			return nil
		}
	}
}
