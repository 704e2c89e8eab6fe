package pgtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// section is one kind of object: a query that yields a line of text for each.
type section struct {
	title string
	since int // the first major version that has it; 0: all
	sql   string
}

// CatalogDump returns the database's schema, the tool's registry apart, as text
// read from the system catalogs. It works on every version, shows things that
// pg_dump leaves out (the validity of an index, the state of a constraint's
// triggers), and holds no OID, so that a table that was built anew reads the
// same.
//
// Its queries share nothing with the code under test.
func (db *Database) CatalogDump(t testing.TB) string {
	t.Helper()
	conn := db.Connect(t)
	defer conn.Close(t.Context())
	// So that the server qualifies every name outside pg_catalog.
	if _, err := conn.Exec(t.Context(), `SET search_path = pg_catalog`); err != nil {
		t.Fatalf("pgtest: %v", err)
	}

	var text strings.Builder
	for _, s := range slices.Concat(relationSections, objectSections) {
		if db.Version() < s.since {
			continue
		}
		fmt.Fprintf(&text, "\n-- %s\n", s.title)
		for _, line := range Column[string](t, conn, s.sql) {
			fmt.Fprintln(&text, line)
		}
	}
	return text.String()
}

// userSchemas is the condition that schema n is shown, and that the object of
// class and oid does not belong to an extension.
func userSchemas(class, oid string) string {
	return fmt.Sprintf(`n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '%s')
  AND NOT EXISTS (SELECT FROM pg_depend AS x
                  WHERE x.classid = '%s'::regclass AND x.objid = %s AND x.deptype = 'e')`,
		registrySchema, class, oid)
}

// grants writes an access list sorted by grantee and privilege. A list that was
// never touched stands for the owner's defaults, and reads like them.
func grants(acl, kind, owner string) string {
	list := fmt.Sprintf("coalesce(%s, acldefault('%s', %s))", acl, kind, owner)
	return explode(list)
}

// explode writes an access list as it is.
func explode(list string) string {
	return fmt.Sprintf(`(
       SELECT string_agg(grantee || ' ' || privilege || ' from ' || grantor, ', ' ORDER BY grantee, privilege, grantor)
       FROM  (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END AS grantee,
                     pg_get_userbyid(a.grantor)::text AS grantor,
                     a.privilege_type || CASE WHEN a.is_grantable THEN '*' ELSE '' END AS privilege
              FROM   aclexplode(%s) AS a) AS g)`, list)
}

// sorted writes an array of options in one order.
func sorted(array string) string {
	return fmt.Sprintf(`(SELECT string_agg(o, ', ' ORDER BY o) FROM unnest(%s) AS o)`, array)
}
