package catalog

import (
	"slices"
	"testing"
)

// TestGrantsSQL: nothing is done where nothing differs, and else all is granted anew,
// in its order, by those who have granted it, once they may.
func TestGrantsSQL(t *testing.T) {
	t.Parallel()
	const object = `TABLE "s"."t"`
	owners := Grant{Grantor: "o", Grantee: "o", Privilege: "SELECT"}
	public := Grant{Grantor: "o", Grantee: "", Privilege: "SELECT"}
	given := Grant{Grantor: "o", Grantee: "A b", Privilege: "SELECT", Grantable: true}
	passed := Grant{Grantor: "A b", Grantee: "c", Privilege: "SELECT"}
	column := Grant{Grantor: "o", Grantee: "c", Privilege: "UPDATE", Column: `x"`}
	for _, c := range []struct {
		name       string
		have, want []Grant
		sql        []string
	}{
		{"nothing", nil, nil, nil},
		{"the same", []Grant{owners, public}, []Grant{owners, public}, nil},
		{
			"another order",
			[]Grant{owners, public},
			[]Grant{public, owners},
			[]string{
				`REVOKE ALL ON TABLE "s"."t" FROM "o" CASCADE`, `REVOKE ALL ON TABLE "s"."t" FROM PUBLIC CASCADE`,
				`GRANT SELECT ON TABLE "s"."t" TO PUBLIC`, `GRANT SELECT ON TABLE "s"."t" TO "o"`,
			},
		},
		{"the owner's are taken away", nil, []Grant{public}, []string{`REVOKE ALL ON TABLE "s"."t" FROM "o" CASCADE`, `GRANT SELECT ON TABLE "s"."t" TO PUBLIC`}},
		{
			"each is revoked once",
			[]Grant{column, {Grantor: "o", Grantee: "c", Privilege: "SELECT"}},
			nil,
			[]string{`REVOKE ALL ON TABLE "s"."t" FROM "o" CASCADE`, `REVOKE ALL ON TABLE "s"."t" FROM "c" CASCADE`},
		},
		{
			"a column, by way of others", nil,
			[]Grant{passed, column, given},
			[]string{
				`REVOKE ALL ON TABLE "s"."t" FROM "o" CASCADE`,
				`GRANT UPDATE ("x""") ON TABLE "s"."t" TO "c"`,
				`GRANT SELECT ON TABLE "s"."t" TO "A b" WITH GRANT OPTION`,
				"SET LOCAL ROLE \"A b\";\nGRANT SELECT ON TABLE \"s\".\"t\" TO \"c\";\nRESET ROLE",
			},
		},
	} {
		if got := GrantsSQL(object, "o", c.have, c.want); !slices.Equal(got, c.sql) {
			t.Errorf("%s: %q, want %q", c.name, got, c.sql)
		}
	}
}

// TestGrantsInOrder: a right on a column may be passed on by who has it on the table,
// but not the other way round. Where nobody may, the server is to say so.
func TestGrantsInOrder(t *testing.T) {
	t.Parallel()
	grant := func(by, to, privilege, column string, grantable bool) Grant {
		return Grant{Grantor: by, Grantee: to, Privilege: privilege, Column: column, Grantable: grantable}
	}
	whole, part := grant("o", "a", "SELECT", "", true), grant("o", "a", "SELECT", "x", true)
	ofPart, ofWhole := grant("a", "b", "SELECT", "x", false), grant("a", "b", "SELECT", "", false)
	for _, c := range []struct {
		name         string
		grants, want []Grant
	}{
		{"none", nil, nil},
		{"of a column by the table's", []Grant{ofPart, whole}, []Grant{whole, ofPart}},
		{"of a column by the column's", []Grant{ofPart, part}, []Grant{part, ofPart}},
		{"of another column", []Grant{grant("a", "b", "SELECT", "y", false), part}, []Grant{part, grant("a", "b", "SELECT", "y", false)}},
		{"of the table by the table's, not the column's", []Grant{ofWhole, part, whole}, []Grant{part, whole, ofWhole}},
		{
			"by another's other privilege",
			[]Grant{ofWhole, grant("o", "a", "UPDATE", "", true), grant("o", "c", "SELECT", "", true)},
			[]Grant{grant("o", "a", "UPDATE", "", true), grant("o", "c", "SELECT", "", true), ofWhole},
		},
		{
			"without the option, and with it from another",
			[]Grant{ofWhole, grant("o", "a", "SELECT", "", false), grant("o", "c", "SELECT", "", true), grant("c", "a", "SELECT", "", true)},
			[]Grant{grant("o", "a", "SELECT", "", false), grant("o", "c", "SELECT", "", true), grant("c", "a", "SELECT", "", true), ofWhole},
		},
	} {
		if got := inOrder("o", slices.Clone(c.grants)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
