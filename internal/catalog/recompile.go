package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// A session compiles a function once, and what it has compiled keeps the OID of
// a row type that a variable or cast names (DECLARE r orders%ROWTYPE), which the
// name does not mean any more after the exchange, and which is dropped with the
// old table. It compiles the function again when the row in pg_proc is another
// version, which any ALTER makes it. That the body names a type is recorded
// nowhere, so these are all whose text has the table's name in it, _name being
// the array; but none that is not ours to alter.
const recompileSQL = `
SELECT   format('ALTER ROUTINE %s SECURITY %s', p.oid::regprocedure, CASE WHEN p.prosecdef THEN 'DEFINER' ELSE 'INVOKER' END)
FROM     pg_proc p
JOIN     pg_language l  ON l.oid = p.prolang
JOIN     pg_namespace n ON n.oid = p.pronamespace
WHERE    l.lanname NOT IN ('internal', 'c')
AND      p.prokind IN ('f', 'p')
AND      pg_has_role(p.proowner, 'USAGE')
AND      n.nspname NOT IN ('pg_catalog', 'information_schema', $2)
AND      NOT pg_is_other_temp_schema(n.oid)
AND      CASE WHEN $1 ~ '^\w+$' THEN p.prosrc ~* ('\m_?' || $1 || '\M')
              ELSE strpos(lower(p.prosrc), lower($1)) > 0 END
ORDER BY p.oid::regprocedure::text`

// RecompileSQL are statements that change nothing, and after which every session
// compiles anew what it has compiled of functions that mention the table. Those
// in schema apart are left alone.
func (t *Table) RecompileSQL(ctx context.Context, q Querier, apart string) (statements []string, err error) {
	b := &pgx.Batch{}
	QueueRecompile(b, t.Name, apart, &statements)
	return statements, q.SendBatch(ctx, b).Close()
}

// QueueRecompile is RecompileSQL as a part of b.
func QueueRecompile(b *pgx.Batch, table Name, apart string, statements *[]string) {
	b.Queue(recompileSQL, table.Name, apart).Query(func(rows pgx.Rows) (err error) {
		if *statements, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return fmt.Errorf("look for functions that mention %s: %w", table, err)
		}
		return nil
	})
}
