package catalog

import (
	"context"
	"fmt"
	"slices"
)

// KeyColumn is a column of the key that tells the rows of a table apart.
type KeyColumn struct {
	Name      string
	Type      string // a domain's base type: the log takes values that a domain would not
	Collation string // quoted; empty where it is the type's own
	// Equal is the operator that the key's index calls equality, written
	// OPERATOR(schema.=): with search_path = pg_catalog a plain = would not
	// be citext's, say, nor could the index serve it.
	Equal string
	// Hashed tells that hash_record gives equal values of the column the same
	// hash: that it takes the type's own equality, and that this is Equal.
	Hashed bool
}

// Key chooses the index that identifies rows: the primary key, else the
// replica identity, else the unique index with the fewest columns. ok is false
// where there is none.
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
	for n, i := range t.Indexes { // in name order, so that the choice is stable
		if len(i.KeyColumns) > 0 && !t.generated(i.KeyColumns) && (best < 0 || rank(i) < rank(t.Indexes[best])) {
			best = n
		}
	}
	if best < 0 {
		return Index{}, false
	}
	return t.Indexes[best], true
}

// generated reports whether one of the columns is computed: such a key is not
// written, but comes about.
func (t *Table) generated(columns []string) bool {
	return slices.ContainsFunc(columns, func(name string) bool {
		c, _ := t.Column(name)
		return c.Generated != ""
	})
}

// Index returns the index of that name.
func (t *Table) Index(name string) (Index, bool) {
	n := slices.IndexFunc(t.Indexes, func(i Index) bool { return i.Name == name })
	if n < 0 {
		return Index{}, false
	}
	return t.Indexes[n], true
}

// Strategy 3 of a btree operator family is equality, as is strategy 1 of a hash
// operator family, whose support function 2 is the hash that takes a seed: "Index
// Method Strategies" in the manual's chapter on extending indexes.
//
// hash_record takes the type's default operator classes, and of types without
// one of their own those of a type that is the same inside. Of these only
// varchar, which has text's, and enums are looked for: others count as not hashed,
// and neither does name, whose hash passes over a collation that its equality heeds.
const keySQL = `
SELECT    a.attname::text                                        AS name,
          b.type                                                 AS type,
          CASE WHEN a.attcollation <> 0 AND a.attcollation <> b.typcollation
               THEN format('%I.%I', cn.nspname, co.collname)
               ELSE '' END                                       AS collation,
          format('OPERATOR(%I.%s)', opn.nspname, op.oprname)     AS equal,
          oc.opcdefault
          AND (oc.opcintype = b.oid
               OR oc.opcintype = 'text'::regtype AND b.oid = 'varchar'::regtype
               OR oc.opcintype = 'anyenum'::regtype AND b.typtype = 'e')
          AND b.oid <> 'name'::regtype
          AND coalesce(h.consistent, false)                      AS hashed
FROM      pg_index i
JOIN      pg_class ic     ON ic.oid = i.indexrelid
CROSS     JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS k(attnum, opclass, n)
JOIN      pg_attribute a  ON a.attrelid = i.indrelid AND a.attnum = k.attnum
CROSS     JOIN LATERAL (
          WITH RECURSIVE base (oid, typmod) AS (
              SELECT a.atttypid, a.atttypmod
              UNION ALL
              SELECT d.typbasetype, d.typtypmod FROM base JOIN pg_type d ON d.oid = base.oid WHERE d.typtype = 'd'
          )
          SELECT y.oid, y.typtype, y.typcollation, format_type(base.oid, base.typmod) AS type
          FROM   base JOIN pg_type y ON y.oid = base.oid WHERE y.typtype <> 'd') b
LEFT JOIN pg_collation co ON co.oid = a.attcollation
LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
JOIN      pg_opclass oc   ON oc.oid = k.opclass
JOIN      pg_amop ao      ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
                         AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
JOIN      pg_operator op  ON op.oid = ao.amopopr
JOIN      pg_namespace opn ON opn.oid = op.oprnamespace
CROSS     JOIN LATERAL (
          SELECT bool_and(EXISTS (SELECT FROM pg_amop ho
                                  WHERE  ho.amopfamily = hc.opcfamily AND ho.amopopr = op.oid AND ho.amopstrategy = 1
                                  AND    ho.amoplefttype = hc.opcintype AND ho.amoprighttype = hc.opcintype)
                          AND EXISTS (SELECT FROM pg_amproc hp
                                      WHERE  hp.amprocfamily = hc.opcfamily AND hp.amprocnum = 2
                                      AND    hp.amproclefttype = hc.opcintype AND hp.amprocrighttype = hc.opcintype)) AS consistent
          FROM   pg_opclass hc JOIN pg_am am ON am.oid = hc.opcmethod AND am.amname = 'hash'
          WHERE  hc.opcdefault AND hc.opcintype IN (b.oid, oc.opcintype)) h
WHERE     i.indrelid = $1 AND ic.relname = $2 AND k.n <= i.indnkeyatts
ORDER BY  k.n`

// ReadKey describes the columns of an index that Key has chosen.
func ReadKey(ctx context.Context, q Querier, oid uint32, index string) ([]KeyColumn, error) {
	key, err := collect[KeyColumn](ctx, q, keySQL, oid, index)
	if err != nil {
		return nil, fmt.Errorf("describe key %q: %w", index, err)
	}
	return key, nil
}
