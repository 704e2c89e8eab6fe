package catalog

import (
	"fmt"
	"strings"
)

// The bound of a partition by hash calls satisfies_hash_partition with the columns of the
// key. In the server's own bound, this call has no collation. In a CHECK with the text of
// the bound, the call has the collation of the first key of a collatable type, such as text.
// The server does not see that the two are the same, so that ATTACH PARTITION would read all
// rows under its lock.
//
// An expression has no collation if its parts have different ones and none of them is
// explicit. So the CHECK has, in the place of one of the keys, a CASE that is always the key:
// its other branch has text of two collations. The server simplifies the CASE before it
// compares. What is left is the call as it is in the server's own bound.
//
// https://www.postgresql.org/docs/current/collation.html#COLLATION-CONCEPTS

// BoundDomain is a type with a collation other than those of columns of type name ("C") and,
// most likely, text. CHECK constraints of HashBounds need it, in the schema of their table.
const BoundDomain = "repack_bound_collation"

// HashBound is the bound of a partition by hash, or of a partitioned table that contains it,
// if the key has a collatable type.
type HashBound struct {
	Parent             uint32
	Modulus, Remainder int
	Keys               []HashKey
}

// HashKey is a column or expression of a partition key.
type HashKey struct {
	Text   string  // as SQL writes it
	Type   *string // of a column of a collatable type
	Domain bool    // Type is a domain
}

// hashBoundsSQL selects the HashBounds of table c. Only one key can be an expression,
// because the server prints all expressions together: the checks refuse other partitions.
const hashBoundsSQL = `
SELECT coalesce(jsonb_agg(jsonb_build_object('parent', h.partrelid::bigint, 'modulus', b.n[1]::int, 'remainder', b.n[2]::int, 'keys', k.keys)), '[]')
FROM   pg_partition_ancestors(c.oid) above
JOIN   pg_class x             ON x.oid = above.relid
JOIN   pg_inherits i          ON i.inhrelid = x.oid
JOIN   pg_partitioned_table h ON h.partrelid = i.inhparent
CROSS  JOIN LATERAL regexp_match(pg_get_expr(x.relpartbound, x.oid), '^FOR VALUES WITH \(modulus (\d+), remainder (\d+)\)$') b (n)
CROSS  JOIN LATERAL (
       SELECT jsonb_agg(jsonb_build_object('text', coalesce(quote_ident(a.attname), pg_get_expr(h.partexprs, h.partrelid)),
                                           'type', CASE WHEN a.attcollation <> 0 THEN format_type(a.atttypid, a.atttypmod) END,
                                           'domain', coalesce((SELECT t.typtype = 'd' FROM pg_type t WHERE t.oid = a.atttypid), false)) ORDER BY p.n) AS keys
       FROM   unnest(h.partattrs::int2[]) WITH ORDINALITY p (attnum, n)
       LEFT   JOIN pg_attribute a ON a.attrelid = h.partrelid AND a.attnum = p.attnum) k
WHERE  h.partstrat = 'h' AND 0 <> ANY (h.partcollation::oid[])`

// condition returns the bound as an expression for a CHECK. domain is BoundDomain in the
// schema of the table.
func (h HashBound) condition(domain Name) string {
	keys, mixed := make([]string, len(h.Keys)), false
	for i, k := range h.Keys {
		keys[i] = k.Text
		if k.Type != nil && !mixed {
			keys[i], mixed = k.ofNoCollation(domain), true
		}
	}
	return fmt.Sprintf("satisfies_hash_partition(%d::oid, %d, %d, %s)", h.Parent, h.Modulus, h.Remainder, strings.Join(keys, ", "))
}

// ofNoCollation returns an expression whose value is the key. All branches have exactly the
// type of the key, because a coercion of the key would be in the way of the proof. A cast to
// a domain may have the collation of the domain; an element of an array of the domain has
// that of the array.
func (k HashKey) ofNoCollation(domain Name) string {
	cast := fmt.Sprintf("CAST(CASE WHEN true THEN CAST(CAST(NULL AS name) AS text) ELSE CAST(NULL AS %s) END AS %s)", domain, *k.Type)
	if k.Domain {
		cast = fmt.Sprintf("(CAST(CASE WHEN true THEN CAST(CAST(NULL AS name) AS text) ELSE CAST(NULL AS %s) END AS %s[]))[1]", domain, *k.Type)
	}
	return fmt.Sprintf("CASE WHEN true THEN %s ELSE %s END", k.Text, cast)
}

// hashBoundsOf returns the conditions of a partition's HashBounds for a CHECK of table on, and
// the statements that create what they need.
func (p *Partition) hashBoundsOf(on Name) (conditions, statements []string) {
	domain := on
	domain.Name = BoundDomain
	for _, h := range p.Hashed {
		conditions = append(conditions, h.condition(domain))
	}
	if len(conditions) > 0 {
		statements = []string{fmt.Sprintf(`CREATE DOMAIN %s AS text COLLATE "POSIX"`, domain)}
	}
	return conditions, statements
}

// DropBoundDomainsSQL returns statements that drop BoundDomain in schemas, if the table may
// have needed it there. No table may have a CHECK of BoundSQL any more.
func (t *Table) DropBoundDomainsSQL(schemas ...string) []string {
	if t.Partition == nil {
		return nil
	}
	var statements []string
	for _, schema := range schemas {
		statements = append(statements, "DROP DOMAIN IF EXISTS "+Name{schema, BoundDomain}.String())
	}
	return statements
}
