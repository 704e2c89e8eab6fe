package catalog

import (
	"context"
	"fmt"
	"slices"
)

// KeyColumn is a column of the key that identifies the rows of a table.
type KeyColumn struct {
	Name      string
	Type      string // for a domain, its base type: the change log stores values that the domain may reject
	Collation string // quoted; empty: the type's own
	// Equal is the equality operator of the key's index, written OPERATOR(schema.=).
	// Our search_path is pg_catalog. There a plain = would not be that of citext, for
	// example, and the index could not be used for it.
	Equal string
	// Hashed says whether hash_record gives equal values of the column the same hash.
	// It uses the type's default equality, so Equal must be that operator.
	Hashed bool
}

// Key chooses the index that identifies rows: the primary key, otherwise the index of
// the replica identity, otherwise the unique index with the fewest columns. ok is false
// if there is no such index.
func (t *Table) Key() (Index, bool) {
	best := -1
	rank := func(i Index) int {
		switch {
		case i.Primary:
			return 0
		case i.Name == t.ReplicaIdentity.Index:
			return 1
		default:
			return 1 + len(i.KeyColumns)
		}
	}
	for n, i := range t.Indexes { // in name order, so the choice is stable
		if len(i.KeyColumns) > 0 && !t.generated(i.KeyColumns) && (best < 0 || rank(i) < rank(t.Indexes[best])) {
			best = n
		}
	}
	if best < 0 {
		return Index{}, false
	}
	return t.Indexes[best], true
}

// generated reports whether one of the columns is generated. The value of such a key is
// computed and cannot be written.
func (t *Table) generated(columns []string) bool {
	return slices.ContainsFunc(columns, func(name string) bool {
		c, _ := t.Column(name)
		return c.Generated != ""
	})
}

// Index returns the index of that name. ok is false if there is none.
func (t *Table) Index(name string) (Index, bool) {
	n := slices.IndexFunc(t.Indexes, func(i Index) bool { return i.Name == name })
	if n < 0 {
		return Index{}, false
	}
	return t.Indexes[n], true
}

// Strategy 3 of a btree operator family is equality. So is strategy 1 of a hash
// operator family; its support function 2 is the hash with a seed. See the manual,
// "Interfacing Extensions to Indexes", "Index Method Strategies".
//
// hash_record uses the default operator classes of a type. If a type has none, it uses
// those of a binary-compatible type. Of these types the query knows only varchar, which
// uses text's, and enums. All others count as not hashed. So does name: its hash
// ignores a collation that its equality respects.
const keySQL = `
SELECT    a.attname::text                                        AS name,
          b.type                                                 AS type,
          CASE WHEN a.attcollation <> 0 AND a.attcollation <> b.typcollation
               THEN (SELECT format('%I.%I', (SELECT n.nspname FROM pg_namespace n WHERE n.oid = co.collnamespace), co.collname)
                     FROM   pg_collation co
                     WHERE  co.oid = a.attcollation)
               ELSE '' END                                       AS collation,
          format('OPERATOR(%I.%s)', (SELECT n.nspname FROM pg_namespace n WHERE n.oid = op.oprnamespace), op.oprname) AS equal,
          oc.opcdefault
          AND (oc.opcintype = b.oid
               OR oc.opcintype = 'text'::regtype AND b.oid = 'varchar'::regtype
               OR oc.opcintype = 'anyenum'::regtype AND b.typtype = 'e')
          AND b.oid <> 'name'::regtype
          AND coalesce(h.consistent, false)                      AS hashed
FROM      pg_index i
CROSS     JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS k(attnum, opclass, n)
CROSS     JOIN LATERAL (SELECT * FROM pg_attribute WHERE attrelid = i.indrelid AND attnum = k.attnum OFFSET 0) a
CROSS     JOIN LATERAL (
          WITH RECURSIVE base (oid, typmod) AS (
              SELECT a.atttypid, a.atttypmod
              UNION ALL
              SELECT d.typbasetype, d.typtypmod FROM base JOIN pg_type d ON d.oid = base.oid WHERE d.typtype = 'd'
          )
          SELECT y.oid, y.typtype, y.typcollation, format_type(base.oid, base.typmod) AS type
          FROM   base JOIN pg_type y ON y.oid = base.oid WHERE y.typtype <> 'd' OFFSET 0) b
CROSS     JOIN LATERAL (SELECT * FROM pg_opclass WHERE oid = k.opclass OFFSET 0) oc
CROSS     JOIN LATERAL (
          SELECT amopopr FROM pg_amop
          WHERE  amopfamily = oc.opcfamily AND amopstrategy = 3 AND amoplefttype = oc.opcintype AND amoprighttype = oc.opcintype OFFSET 0) ao
CROSS     JOIN LATERAL (SELECT * FROM pg_operator WHERE oid = ao.amopopr OFFSET 0) op
CROSS     JOIN LATERAL (
          SELECT bool_and(EXISTS (SELECT FROM pg_amop ho
                                  WHERE  ho.amopfamily = hc.opcfamily AND ho.amopopr = op.oid AND ho.amopstrategy = 1
                                  AND    ho.amoplefttype = hc.opcintype AND ho.amoprighttype = hc.opcintype)
                          AND EXISTS (SELECT FROM pg_amproc hp
                                      WHERE  hp.amprocfamily = hc.opcfamily AND hp.amprocnum = 2
                                      AND    hp.amproclefttype = hc.opcintype AND hp.amprocrighttype = hc.opcintype)) AS consistent
          FROM   pg_opclass hc
          WHERE  hc.opcdefault AND hc.opcintype IN (b.oid, oc.opcintype)
          AND    hc.opcmethod = (SELECT am.oid FROM pg_am am WHERE am.amname = 'hash')) h
WHERE     i.indrelid = $1 AND (SELECT ic.relname FROM pg_class ic WHERE ic.oid = i.indexrelid) = $2 AND k.n <= i.indnkeyatts
ORDER BY  k.n`

// ReadKey describes the columns of the index that Key has chosen, in index order. It
// takes no lock on the table.
func ReadKey(ctx context.Context, q Querier, oid uint32, index string) ([]KeyColumn, error) {
	key, err := collect[KeyColumn](ctx, q, keySQL, oid, index)
	if err != nil {
		return nil, fmt.Errorf("describe key %q: %w", index, err)
	}
	return key, nil
}
