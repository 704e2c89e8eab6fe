package repack

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/stages"
)

// resolveSQL runs with the role's own search_path, as nothing else does. A name
// that no table bears is still a name, for jobs whose table is gone.
const resolveSQL = `
SELECT    coalesce(c.oid, 0),
          coalesce(n.nspname, CASE WHEN pg_catalog.cardinality(i.parts) OPERATOR(pg_catalog.>) 1
                                   THEN i.parts[1] ELSE pg_catalog.current_schema() END, ''),
          coalesce(c.relname, i.parts[pg_catalog.cardinality(i.parts)])
FROM      (SELECT pg_catalog.parse_ident($1) AS parts) i
LEFT JOIN pg_catalog.pg_class c     ON c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1)
LEFT JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace`

// resolve finds the table that name means to the role; oid is zero where there
// is none.
func resolve(ctx context.Context, config *session.Target, table string) (oid uint32, name catalog.Name, err error) {
	conn, err := session.ConnectAsIs(ctx, config)
	if err != nil {
		return 0, name, err
	}
	defer session.Close(ctx, conn)
	err = conn.QueryRow(ctx, resolveSQL, table).Scan(&oid, &name.Schema, &name.Name)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == pgerrcode.InvalidParameterValue || pgErr.Code == pgerrcode.InvalidName ||
		pgErr.Code == pgerrcode.SyntaxError) {
		return 0, name, &UsageError{fmt.Errorf("table name %q is not written as SQL writes it: %w", table, err)}
	}
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InsufficientPrivilege {
		return 0, name, mayNotLook(ctx, conn, table, err)
	}
	if err != nil {
		return 0, name, fmt.Errorf("look up table %s: %w", table, err)
	}
	return oid, name, nil
}

const mayNotLookSQL = `
SELECT p.parts[1], p.parts[pg_catalog.cardinality(p.parts)],
       pg_catalog.format('GRANT USAGE ON SCHEMA %I TO %I;', p.parts[1], current_user)
FROM   (SELECT pg_catalog.parse_ident($1) AS parts) p
WHERE  NOT pg_catalog.has_schema_privilege(p.parts[1], 'USAGE')`

// mayNotLook refuses a table in a schema that the role may not look into. Where that
// is not why it was forbidden to look, cause is returned.
func mayNotLook(ctx context.Context, conn *pgx.Conn, table string, cause error) error {
	var name catalog.Name
	var grant string
	if err := conn.QueryRow(ctx, mayNotLookSQL, table).Scan(&name.Schema, &name.Name, &grant); err != nil {
		if !errors.Is(err, pgx.ErrNoRows) {
			cause = errors.Join(cause, err)
		}
		return fmt.Errorf("look up table %s: %w", table, cause)
	}
	return &stages.RefusedError{Table: name, Reasons: stages.MissingPrivileges([]string{grant})}
}
