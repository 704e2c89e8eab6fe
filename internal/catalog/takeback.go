package catalog

import (
	"context"
	"fmt"
	"strings"
)

// An event trigger may change what has just been created: its owner, its flags,
// the publications that it is in. What that does to an object of ours is undone.

// takeBackSQL lists the statements that make a new table, materialized view,
// function or schema again what CREATE makes it. The owner comes first: the
// others are his to give.
const takeBackSQL = `
SELECT coalesce(array_agg(x.statement ORDER BY x.step, x.statement), '{}')
FROM  (WITH me AS (
           SELECT oid, rolname FROM pg_roles WHERE rolname = current_user
       ), made AS (
           SELECT c.*, CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END AS word
           FROM   pg_class c
           WHERE  $1::text = 'TABLE' AND c.oid = to_regclass($2::text)
       )
       SELECT 1, format('ALTER %s %s OWNER TO %I', m.word, $2, me.rolname) FROM made m, me WHERE m.relowner <> me.oid
       UNION ALL
       SELECT 1, format('ALTER FUNCTION %s OWNER TO %I', $2, me.rolname)
       FROM   pg_proc p, me WHERE $1 = 'FUNCTION' AND p.oid = to_regprocedure($2) AND p.proowner <> me.oid
       UNION ALL
       SELECT 1, format('ALTER SCHEMA %s OWNER TO %I', $2, me.rolname)
       FROM   pg_namespace n, me WHERE $1 = 'SCHEMA' AND n.oid = to_regnamespace($2) AND n.nspowner <> me.oid
       UNION ALL
       SELECT 2, format('ALTER PUBLICATION %I DROP TABLE %s', p.pubname, $2)
       FROM   made m JOIN pg_publication_rel r ON r.prrelid = m.oid JOIN pg_publication p ON p.oid = r.prpubid
       UNION ALL
       SELECT 2, format('DROP TRIGGER %I ON %s', t.tgname, $2) FROM made m JOIN pg_trigger t ON t.tgrelid = m.oid WHERE NOT t.tgisinternal
       UNION ALL
       SELECT 2, format('DROP POLICY %I ON %s', p.polname, $2) FROM made m JOIN pg_policy p ON p.polrelid = m.oid
       UNION ALL
       SELECT 2, format('DROP RULE %I ON %s', r.rulename, $2) FROM made m JOIN pg_rewrite r ON r.ev_class = m.oid WHERE r.rulename <> '_RETURN'
       UNION ALL
       SELECT 2, format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', $2) FROM made m WHERE m.relrowsecurity
       UNION ALL
       SELECT 2, format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', $2) FROM made m WHERE m.relforcerowsecurity
       UNION ALL
       SELECT 2, format('ALTER TABLE %s REPLICA IDENTITY DEFAULT', $2) FROM made m WHERE m.relkind = 'r' AND m.relreplident <> 'd'
       UNION ALL
       SELECT 2, format('COMMENT ON %s %s IS NULL', m.word, $2) FROM made m
       WHERE  NOT $3::boolean AND obj_description(m.oid, 'pg_class') IS NOT NULL
       UNION ALL
       SELECT 2, format('COMMENT ON COLUMN %s.%I IS NULL', $2, a.attname)
       FROM   made m JOIN pg_attribute a ON a.attrelid = m.oid
       WHERE  NOT $3 AND col_description(m.oid, a.attnum) IS NOT NULL
       UNION ALL
       SELECT 2, CASE l.objsubid WHEN 0 THEN format('SECURITY LABEL FOR %I ON %s %s IS NULL', l.provider, m.word, $2)
                                 ELSE format('SECURITY LABEL FOR %I ON COLUMN %s.%I IS NULL', l.provider, $2, a.attname) END
       FROM   made m
       JOIN   pg_seclabel l       ON l.classoid = 'pg_class'::regclass AND l.objoid = m.oid
       LEFT   JOIN pg_attribute a ON a.attrelid = m.oid AND a.attnum = l.objsubid
      ) x(step, statement)`

// ChangedError reports an object of ours that is changed whenever we change it
// back, by an event trigger most likely.
type ChangedError struct {
	Kind, Object string
	Undo         []string // what would have to be done once more
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s %s has been changed by others as soon as it was made, again and again: it would need %s",
		strings.ToLower(e.Kind), e.Object, strings.Join(e.Undo, "; "))
}

// takingBack is how often TakeBack undoes what others do.
const takingBack = 2

// TakeBack undoes what event triggers have done to an object that we have just
// created; see Close for kind and object. A commented one has comments of ours,
// which stay. It returns *ChangedError where it is in vain.
func TakeBack(ctx context.Context, q Querier, kind, object string, commented bool) error {
	for attempt := 0; ; attempt++ {
		var statements []string
		if err := q.QueryRow(ctx, takeBackSQL, kind, object, commented).Scan(&statements); err != nil {
			return fmt.Errorf("look at what has been made of %s: %w", object, err)
		}
		if len(statements) == 0 {
			return nil
		}
		if attempt == takingBack {
			return &ChangedError{Kind: kind, Object: object, Undo: statements}
		}
		for _, sql := range statements {
			if _, err := q.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s, which an event trigger has made necessary: %w", sql, err)
			}
		}
	}
}
