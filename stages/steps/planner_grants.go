package steps

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

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
SELECT    DISTINCT
          format('REVOKE ALL ON %s %s FROM %s', k.word, k.name,
                 CASE WHEN e.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(e.grantee)) END)
FROM     (SELECT o.word, o.name, r.oid AS role,
                 (CASE o.word WHEN 'TABLE' THEN 'r' WHEN 'FUNCTION' THEN 'f' ELSE 'n' END)::"char" AS kind
          FROM   unnest($1::text[], $3::text[]) o (word, name), pg_roles r
          WHERE  r.rolname = current_user) k` + defaultACLs + `
WHERE     e.grantee <> k.role
ORDER BY  1`

const defaultGrantsSQL = `
SELECT    ''                                               AS column,
          pg_get_userbyid(e.grantor)::text                 AS grantor,
          CASE WHEN e.grantee = 0 THEN ''
               ELSE pg_get_userbyid(e.grantee)::text END   AS grantee,
          e.privilege_type                                 AS privilege,
          e.is_grantable                                   AS grantable
FROM     (SELECT $1::"char" AS kind, oid AS role FROM pg_roles WHERE rolname = $3) k` + defaultACLs + `
ORDER BY  3, 2, array_position(ARRAY['INSERT', 'SELECT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'USAGE'], e.privilege_type), 5`

// DefaultGrants returns the privileges on a new table (kind "r") or sequence ("S") of role.
// The privileges of a grantee are in the order of an access control list.
func (p *Planner) DefaultGrants(ctx context.Context, kind, role, schema string) ([]catalog.Grant, error) {
	rows, err := p.pool.Query(ctx, defaultGrantsSQL, kind, schema, role)
	if err != nil {
		return nil, fmt.Errorf("read default privileges: %w", err)
	}
	grants, err := pgx.CollectRows(rows, pgx.RowToStructByName[catalog.Grant])
	if err != nil {
		return nil, fmt.Errorf("read default privileges: %w", err)
	}
	return grants, nil
}

// defaultGrantees returns the statements with which catalog.RevokeAll revokes what default
// privileges grant on new objects of ours.
func (p *Planner) defaultGrantees(ctx context.Context, made []catalog.Made) ([]string, error) {
	kinds, names := make([]string, len(made)), make([]string, len(made))
	for i, m := range made {
		kinds[i], names[i] = m.Kind, m.Name
	}
	rows, err := p.pool.Query(ctx, defaultGranteesSQL, kinds, p.Schema, names)
	if err != nil {
		return nil, fmt.Errorf("read default privileges: %w", err)
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read default privileges: %w", err)
	}
	return statements, nil
}
