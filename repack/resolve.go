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
	"github.com/repack-go/repack/stages/checks"
)

// resolveSQL is the only query that runs with the role's own search_path. If no table
// has the name, the query still returns the name: the table of a job may be gone.
const resolveSQL = `
SELECT    coalesce(c.oid, 0),
          coalesce(n.nspname, CASE WHEN pg_catalog.cardinality(i.parts) OPERATOR(pg_catalog.>) 1
                                   THEN i.parts[1] ELSE pg_catalog.current_schema() END, ''),
          coalesce(c.relname, i.parts[pg_catalog.cardinality(i.parts)]),
          coalesce(c.relkind OPERATOR(pg_catalog.=) 'p', false)
FROM      (SELECT pg_catalog.parse_ident($1) AS parts) i
LEFT JOIN pg_catalog.pg_class c     ON c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($1)
LEFT JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace`

// visit is a connection on which Options.Table has been looked up.
type visit struct {
	conn        *pgx.Conn
	oid         uint32 // 0: there is no such table
	name        catalog.Name
	partitioned bool
}

// visit connects, and looks up the table as the role sees it.
func (r *Repack) visit(ctx context.Context) (*visit, error) {
	if r.options.Table == "" {
		return nil, &UsageError{errors.New("no table given")}
	}
	conn, err := session.ConnectAsIs(ctx, r.config)
	if err != nil {
		return nil, err
	}
	r.tenure.connected = true
	v := &visit{conn: conn}
	if err = v.resolve(ctx, r.options.Table); err == nil {
		err = session.Configure(ctx, conn)
	}
	if err != nil {
		v.close(ctx)
		return nil, err
	}
	return v, nil
}

func (v *visit) close(ctx context.Context) { session.Close(ctx, v.conn) }

func (v *visit) resolve(ctx context.Context, table string) error {
	err := v.conn.QueryRow(ctx, resolveSQL, table).Scan(&v.oid, &v.name.Schema, &v.name.Name, &v.partitioned)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && (pgErr.Code == pgerrcode.InvalidParameterValue || pgErr.Code == pgerrcode.InvalidName ||
		pgErr.Code == pgerrcode.SyntaxError) {
		return &UsageError{fmt.Errorf("table name %q is not written as SQL writes it: %w", table, err)}
	}
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InsufficientPrivilege {
		return mayNotLook(ctx, v.conn, table, err)
	}
	if err != nil {
		return fmt.Errorf("look up table %s: %w", table, err)
	}
	return nil
}

const bearerSQL = `SELECT coalesce(to_regclass($1)::oid, 0)`

// again looks up which table has the name now. another says whether it is another one.
func (v *visit) again(ctx context.Context) (another bool, err error) {
	was := v.oid
	if err := v.conn.QueryRow(ctx, bearerSQL, v.name.String()).Scan(&v.oid); err != nil {
		return false, fmt.Errorf("look up table %s: %w", v.name, err)
	}
	return v.oid != was, nil
}

const mayNotLookSQL = `
SELECT p.parts[1], p.parts[pg_catalog.cardinality(p.parts)],
       pg_catalog.format('GRANT USAGE ON SCHEMA %I TO %I;', p.parts[1], current_user)
FROM   (SELECT pg_catalog.parse_ident($1) AS parts) p
WHERE  NOT pg_catalog.has_schema_privilege(p.parts[1], 'USAGE')`

// mayNotLook refuses a table in a schema on which the role has no USAGE privilege. If
// that is not the reason for the error, it returns cause.
func mayNotLook(ctx context.Context, conn *pgx.Conn, table string, cause error) error {
	var name catalog.Name
	var grant string
	if err := conn.QueryRow(ctx, mayNotLookSQL, table).Scan(&name.Schema, &name.Name, &grant); err != nil {
		if !errors.Is(err, pgx.ErrNoRows) {
			cause = errors.Join(cause, err)
		}
		return fmt.Errorf("look up table %s: %w", table, cause)
	}
	return &checks.RefusedError{Table: name, Reasons: checks.MissingPrivileges([]string{grant})}
}
