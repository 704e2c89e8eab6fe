package catalog

import (
	"fmt"
	"slices"
)

// GrantsSQL returns statements that change the privileges on an object from have to
// want. object is written as GRANT writes it ("TABLE a.b", "SEQUENCE a.b"). It returns
// nothing if the two lists are equal. The order of a list counts, too, so a list that
// differs is revoked as a whole and granted again.
//
// A privilege whose grantor is not the owner is granted by SET LOCAL ROLE to the
// grantor: our role must be a member of it.
func GrantsSQL(object, owner string, have, want []Grant) []string {
	if slices.Equal(have, want) {
		return nil
	}
	var statements, revoked []string
	for _, g := range append([]Grant{{Grantee: owner}}, have...) {
		if !slices.Contains(revoked, g.Grantee) {
			revoked = append(revoked, g.Grantee)
			statements = append(statements, "REVOKE ALL ON "+object+" FROM "+role(g.Grantee)+" CASCADE")
		}
	}
	for _, g := range inOrder(owner, want) {
		sql := "GRANT " + g.on(object) + " TO " + role(g.Grantee)
		if g.Grantable {
			sql += " WITH GRANT OPTION"
		}
		if g.Grantor != owner {
			sql = "SET LOCAL ROLE " + Quote(g.Grantor) + ";\n" + sql + ";\nRESET ROLE"
		}
		statements = append(statements, sql)
	}
	return statements
}

// inOrder puts each grant after the grant that gives its grantor the grant option.
func inOrder(owner string, grants []Grant) []Grant {
	var ordered []Grant
	rest := slices.Clone(grants)
	for len(rest) > 0 {
		before := len(rest)
		rest = slices.DeleteFunc(rest, func(g Grant) bool {
			ready := g.Grantor == owner || slices.ContainsFunc(ordered, g.allowedBy)
			if ready {
				ordered = append(ordered, g)
			}
			return ready
		})
		if len(rest) == before { // a grantor without the grant option: the server will report it
			return append(ordered, rest...)
		}
	}
	return ordered
}

// allowedBy reports whether grant o gives g's grantor the right to grant g.
func (g Grant) allowedBy(o Grant) bool {
	return o.Grantee == g.Grantor && o.Grantable && o.Privilege == g.Privilege && (o.Column == "" || o.Column == g.Column)
}

func (g Grant) on(object string) string {
	if g.Column == "" {
		return g.Privilege + " ON " + object
	}
	return fmt.Sprintf("%s (%s) ON %s", g.Privilege, Quote(g.Column), object)
}

func role(name string) string {
	if name == "" {
		return "PUBLIC"
	}
	return Quote(name)
}
