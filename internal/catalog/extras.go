package catalog

import (
	"context"
	"fmt"
	"strings"
)

// Extras are things that most tables lack. Each has queries that the server plans slowly.
// So a description asks which extras the table has, and reads only those.
type Extras uint

// These are the extras. A partition has OfKeys and OfTriggers, too, because it may have keys
// and triggers from its partitioned table.
const (
	OfPartition    Extras = 1 << iota // it is a partition
	OfKeys                            // foreign keys, in both directions
	OfTriggers                        // triggers, without those that capture changes
	OfPolicies                        // policies of its own
	OfPublications                    // entries in publications
	OfLabels                          // security labels
	OfStatistics                      // extended statistics
	OfDependents                      // other objects that depend on the table or on its row type
)

const isPartitionSQL = `EXISTS (SELECT FROM pg_class c WHERE c.oid = $1 AND c.relispartition)`

// dependentSQL is true if another object depends on the table, by any of its columns, or if
// anything depends on its row type, except the array type.
const dependentSQL = `EXISTS (
             SELECT FROM pg_depend d
             WHERE  d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
             AND    $1 <> CASE d.classid
                          WHEN 'pg_rewrite'::regclass THEN (SELECT r.ev_class FROM pg_rewrite r WHERE r.oid = d.objid)
                          WHEN 'pg_policy'::regclass  THEN (SELECT p.polrelid FROM pg_policy p WHERE p.oid = d.objid)
                          WHEN 'pg_trigger'::regclass THEN (SELECT t.tgrelid FROM pg_trigger t WHERE t.oid = d.objid)
                          WHEN 'pg_attrdef'::regclass THEN (SELECT a.adrelid FROM pg_attrdef a WHERE a.oid = d.objid)
                          WHEN 'pg_proc'::regclass    THEN 0
                          ELSE $1 END)
         OR EXISTS (
             SELECT FROM pg_depend d
             WHERE  d.refclassid = 'pg_type'::regclass AND d.classid <> 'pg_type'::regclass
             AND    d.refobjid = ANY (ARRAY(SELECT unnest(ARRAY[t.oid, t.typarray]) FROM pg_type t
                                            WHERE  t.oid = (SELECT c.reltype FROM pg_class c WHERE c.oid = $1))))`

// extras has a condition for each extra. A condition may also be true of a table without
// the extra. It looks up in subqueries what it could join, which is faster to plan.
var extras = []struct {
	extra Extras
	sql   string
}{
	{OfPartition, isPartitionSQL},
	{OfKeys, isPartitionSQL + `
         OR EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = $1 AND k.contype = 'f')
         OR EXISTS (SELECT FROM pg_depend d
                    WHERE  d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.classid = 'pg_constraint'::regclass
                    AND    'f' = (SELECT k.contype FROM pg_constraint k WHERE k.oid = d.objid))`},
	{OfTriggers, isPartitionSQL + `
         OR EXISTS (SELECT FROM pg_trigger t
                    WHERE  t.tgrelid = $1 AND NOT t.tgisinternal
                    AND    NOT (t.tgname ~ '^(00|RI)_repack_'
                                AND (SELECT p.proname FROM pg_proc p WHERE p.oid = t.tgfoid) LIKE 'repack\_capture\_%'))`},
	{OfPolicies, `EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = $1)`},
	{OfPublications, `EXISTS (SELECT FROM pg_publication_rel r WHERE r.prrelid = $1)`},
	{OfLabels, `EXISTS (SELECT FROM pg_seclabel l WHERE l.objoid = $1 AND l.classoid = 'pg_class'::regclass)`},
	{OfStatistics, `EXISTS (SELECT FROM pg_statistic_ext s WHERE s.stxrelid = $1)`},
	{OfDependents, dependentSQL},
}

// conditions returns rows of each extra and its condition.
func conditions() string {
	var rows []string
	for _, e := range extras {
		rows = append(rows, fmt.Sprintf("(%d, %s)", e.extra, e.sql))
	}
	return strings.Join(rows, ",\n        ")
}

// extrasSQL selects the extras of table $1 as numbers.
var extrasSQL = `SELECT x.extra AS extra FROM (VALUES ` + conditions() + `) x (extra, has) WHERE x.has`

// foundExtras are those that the table has, and those whose queries have been sent.
type foundExtras struct{ has, asked Extras }

func askExtras(d *description) {
	type row struct{ Extra Extras }
	d.with = ""
	want(d, extrasSQL, func(rows []row) error {
		for _, r := range rows {
			d.extras.has |= r.Extra
		}
		return nil
	})
}

// Extras returns what t may have. For a stored description it is known from what t has.
func (t *Table) Extras() (have Extras) {
	if t == nil {
		return 0
	}
	for _, x := range []struct {
		extra Extras
		has   bool
	}{
		{OfPartition | OfKeys | OfTriggers, t.Partition != nil},
		{OfKeys, len(t.ForeignKeys)+len(t.Referencing)+len(t.KeyParts) > 0},
		{OfTriggers, len(t.Triggers) > 0},
		{OfPolicies, len(t.Policies) > 0},
		{OfPublications, len(t.Publications) > 0},
		{OfLabels, len(t.Labels) > 0},
		{OfStatistics, len(t.Statistics) > 0},
		{OfDependents, len(t.Typed)+len(t.Dependents)+len(t.Matviews) > 0},
	} {
		if x.has {
			have |= x.extra
		}
	}
	return have | t.extras.has
}

// Complete reads what Queue has left out, because the table has it and like has not. It
// also reads the materialized views on the table. Each of the two needs a round trip, if
// there is something to read. It may return ErrNotFound: see ReadMatviews.
func Complete(ctx context.Context, q Querier, t, like *Table) error {
	if err := complete(ctx, q, []*Table{t}, withMatviews); err != nil {
		return described(err)
	}
	return readMatviews(ctx, q, t.Matviews, like)
}
