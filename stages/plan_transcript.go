package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
)

// transcript is a transaction that sends nothing. It records the statements of the functions
// that work in it.
type transcript struct {
	pgx.Tx // nil: the methods that are missing here are not for planning
	reads  catalog.Querier
	schema string // the schema in which objects would be created
	sql    []string
}

// bounded returns the transcript as a transaction with bounded waits.
func (t *transcript) bounded() *lock.Tx { return &lock.Tx{Tx: t} }

// Exec records a statement.
func (t *transcript) Exec(_ context.Context, sql string, _ ...any) (pgconn.CommandTag, error) {
	t.note(sql)
	return pgconn.CommandTag{}, nil
}

// QueryRow records a statement that may write. Nothing is pending, so counts are zero and
// conditions are false. Only sameTablesSQL is true: the names are those of the job's tables.
func (t *transcript) QueryRow(_ context.Context, sql string, _ ...any) pgx.Row {
	if !strings.HasPrefix(strings.TrimSpace(sql), "SELECT") {
		t.note(sql)
	}
	return answer{yes: sql == sameTablesSQL}
}

// Query answers the only query about objects that do not exist yet. catalog.RevokeAll asks
// which roles have access to them by default privileges.
func (t *transcript) Query(ctx context.Context, _ string, args ...any) (pgx.Rows, error) {
	return t.reads.Query(ctx, defaultGranteesSQL, args[0], t.schema, args[1])
}

func (t *transcript) noteAll(statements []string) {
	for _, sql := range statements {
		t.note(sql)
	}
}

// note records a statement. It leaves out the settings that bound waits and work, because
// the plan shows the bound with the lock.
func (t *transcript) note(sql string) {
	for _, setting := range []string{"SET LOCAL lock_timeout = ", "SET LOCAL statement_timeout = "} {
		if rest, ok := strings.CutPrefix(sql, setting); ok {
			_, sql, _ = strings.Cut(rest, ";\n")
		}
	}
	if sql = strings.TrimRight(strings.TrimSpace(sql), ";"); sql != "" {
		t.sql = append(t.sql, sql)
	}
}

// sending returns work that sends the statements.
func sending(statements []string) func(context.Context, *transcript) error {
	return func(ctx context.Context, t *transcript) error { return execAll(ctx, t, statements) }
}

type answer struct{ yes bool }

// Scan leaves dest as it is unless the answer is yes.
func (a answer) Scan(dest ...any) error {
	if yes, ok := dest[0].(*bool); ok && a.yes {
		*yes = true
	}
	return nil
}

// defaultACLs joins the privileges that a new object gets. They are those set for all
// schemas, or else the server's default, and those set for its schema; see pg_default_acl
// in the manual.
// k.kind is the kind's letter there. k.role is the creator.
const defaultACLs = `
LEFT JOIN pg_default_acl g  ON g.defaclrole = k.role AND g.defaclnamespace = 0 AND g.defaclobjtype = k.kind
LEFT JOIN pg_namespace n    ON n.nspname = $2
LEFT JOIN pg_default_acl s  ON s.defaclrole = k.role AND s.defaclnamespace = n.oid AND s.defaclobjtype = k.kind
CROSS JOIN LATERAL (
          SELECT * FROM aclexplode(coalesce(g.defaclacl, acldefault(replace(k.kind::text, 'S', 's')::"char", k.role)))
          UNION
          SELECT * FROM aclexplode(s.defaclacl)) e`

const defaultGranteesSQL = `
SELECT    DISTINCT 3                                                           AS step,
          format('REVOKE ALL ON %s %s FROM %s', k.word, k.name,
                 CASE WHEN e.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(e.grantee)) END) AS statement
FROM     (SELECT o.word, o.name, r.oid AS role,
                 (CASE o.word WHEN 'TABLE' THEN 'r' WHEN 'FUNCTION' THEN 'f' ELSE 'n' END)::"char" AS kind
          FROM   unnest($1::text[], $3::text[]) o (word, name), pg_roles r
          WHERE  r.rolname = current_user) k` + defaultACLs + `
WHERE     e.grantee <> k.role
ORDER BY  2`

const defaultGrantsSQL = `
SELECT    ''                                               AS column,
          pg_get_userbyid(e.grantor)::text                 AS grantor,
          CASE WHEN e.grantee = 0 THEN ''
               ELSE pg_get_userbyid(e.grantee)::text END   AS grantee,
          e.privilege_type                                 AS privilege,
          e.is_grantable                                   AS grantable
FROM     (SELECT $1::"char" AS kind, oid AS role FROM pg_roles WHERE rolname = $3) k` + defaultACLs + `
ORDER BY  3, 2, array_position(ARRAY['INSERT', 'SELECT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'USAGE'], e.privilege_type), 5`

// defaultGrants returns the privileges on a new table (kind "r") or sequence ("S") of role.
// The privileges of a grantee are in the order of an access control list.
func defaultGrants(ctx context.Context, q catalog.Querier, kind, role, schema string) ([]catalog.Grant, error) {
	rows, err := q.Query(ctx, defaultGrantsSQL, kind, schema, role)
	if err != nil {
		return nil, fmt.Errorf("read default privileges: %w", err)
	}
	grants, err := pgx.CollectRows(rows, pgx.RowToStructByName[catalog.Grant])
	if err != nil {
		return nil, fmt.Errorf("read default privileges: %w", err)
	}
	return grants, nil
}
