package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// A session compiles a function once, for example one in PL/pgSQL. The compiled
// function keeps the OID of a row type that a variable or a cast names (DECLARE r
// orders%ROWTYPE). After the exchange the name means another type, and the old type is
// dropped with the old table. A session compiles a function again when its row in
// pg_proc is a new version. Any ALTER makes a new version.
//
// The catalog does not record that a function's body names a type. So the query returns
// all functions whose text contains the table's name, or _name, which is its array
// type. It leaves out functions that we may not alter.
const recompileSQL = `
SELECT   format('ALTER ROUTINE %s SECURITY %s', p.oid::regprocedure, CASE WHEN p.prosecdef THEN 'DEFINER' ELSE 'INVOKER' END)
FROM     pg_proc p
JOIN     pg_language l  ON l.oid = p.prolang
JOIN     pg_namespace n ON n.oid = p.pronamespace
WHERE    l.lanname NOT IN ('internal', 'c')
AND      p.prokind IN ('f', 'p')
AND      pg_has_role(p.proowner, 'USAGE')
AND      p.pronamespace <> 'pg_catalog'::regnamespace
AND      n.nspname NOT IN ('information_schema', $2::text, $2::text || '_old')
AND      NOT pg_is_other_temp_schema(n.oid)
AND      CASE WHEN $1 ~ '^\w+$' THEN p.prosrc ~* ('\m_?' || $1 || '\M')
              ELSE strpos(lower(p.prosrc), lower($1)) > 0 END
ORDER BY p.oid::regprocedure::text`

// RecompileSQL returns statements that change nothing, but make every session compile
// again the functions that mention the table. It leaves out functions in schema apart and
// in the one of that name with _old, to which an exchange moves functions. ALTER ROUTINE
// takes no lock on the table.
func (t *Table) RecompileSQL(ctx context.Context, q Querier, apart string) (statements []string, err error) {
	b := &pgx.Batch{}
	QueueRecompile(b, t.Name, apart, &statements)
	return statements, q.SendBatch(ctx, b).Close()
}

// QueueRecompile adds the query of RecompileSQL to b. statements is complete after b's
// results have been read.
func QueueRecompile(b *pgx.Batch, table Name, apart string, statements *[]string) {
	b.Queue(recompileSQL, table.Name, apart).Query(func(rows pgx.Rows) (err error) {
		if *statements, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return fmt.Errorf("look for functions that mention %s: %w", table, err)
		}
		return nil
	})
}
