package stages

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/steps"
)

// neighbour is a relation that the exchange locks. The tables at the other end of a foreign
// key are not among them.
type neighbour struct {
	SchemaName, RelationName string
	Step                     int32  // when it is locked: before the tables, with the partitioned table, or by a foreign key
	OfSchema, OfName         string // the referenced table that it is a partition of
}

// The steps of neighbours.
const (
	beforeTables = iota + 1
	withParent
	byForeignKey
)

// neighboursSQL lists three kinds of relations:
//   - views on the table, and relations whose rules, policies, triggers or defaults mention
//     it, its row type or a function typed by that;
//   - the partitions that are locked with the partitioned tables above the table ($2);
//   - the partitions of the tables that it refers to: a foreign key to a partitioned table
//     has triggers on each partition.
const neighboursSQL = `
WITH     RECURSIVE ` + catalog.UsesSQL + `
SELECT   n.nspname::text AS schema_name, c.relname::text AS relation_name, x.step,
         coalesce(fn.nspname::text, '') AS of_schema, coalesce(f.relname::text, '') AS of_name
FROM    (SELECT r.ev_class AS relation, 1 AS step, 0::oid AS of
         FROM   pg_rewrite r
         WHERE  r.oid = ANY (ARRAY(SELECT u.id FROM repack_uses u WHERE u.class = 'pg_rewrite'::regclass))
         UNION
         SELECT p.polrelid, 1, 0
         FROM   pg_policy p
         WHERE  p.oid = ANY (ARRAY(SELECT u.id FROM repack_uses u WHERE u.class = 'pg_policy'::regclass))
         UNION
         SELECT t.tgrelid, 1, 0
         FROM   pg_trigger t
         WHERE  t.oid = ANY (ARRAY(SELECT u.id FROM repack_uses u WHERE u.class = 'pg_trigger'::regclass)) AND NOT t.tgisinternal
         UNION
         SELECT a.adrelid, 1, 0
         FROM   pg_attrdef a
         WHERE  a.oid = ANY (ARRAY(SELECT u.id FROM repack_uses u WHERE u.class = 'pg_attrdef'::regclass))
         UNION
         SELECT t.relid::oid, 2, 0
         FROM   unnest($2::text[]) a(name)
         CROSS  JOIN LATERAL pg_partition_tree(a.name::regclass) t
         UNION
         SELECT t.relid::oid, 3, f.confrelid
         FROM   pg_constraint f
         CROSS  JOIN LATERAL pg_partition_tree(f.confrelid) t
         WHERE  f.contype = 'f' AND f.conrelid = $1 AND t.level > 0) x
CROSS    JOIN LATERAL (SELECT r.relname, r.relnamespace FROM pg_class r WHERE r.oid = x.relation OFFSET 0) c
JOIN     pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (SELECT r.relname, r.relnamespace FROM pg_class r WHERE r.oid = x.of OFFSET 0) f ON true
LEFT JOIN pg_namespace fn ON fn.oid = f.relnamespace
WHERE    x.relation <> $1
ORDER BY x.step, n.nspname, c.relname`

func (p *planner) neighbours(ctx context.Context) ([]neighbour, error) {
	above := slices.DeleteFunc(p.Source.Above(), func(name string) bool { return strings.HasPrefix(name, "ONLY ") })
	rows, err := p.Pool.Query(ctx, neighboursSQL, p.Source.OID, above)
	if err != nil {
		return nil, fmt.Errorf("look for neighbours of %s: %w", p.Source.Name, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[neighbour])
	if err != nil {
		return nil, fmt.Errorf("look for neighbours of %s: %w", p.Source.Name, err)
	}
	return found, nil
}

// exchangeLocks returns the locks of the swap's last transaction, in the order of the first
// attempt of lockForExchange.
func (p *planner) exchangeLocks(*steps.Planner) []steps.Lock {
	var locks []steps.Lock
	add := func(mode string, relation catalog.Name) {
		l := p.Strong(mode, relation)
		if !slices.ContainsFunc(locks, func(o steps.Lock) bool { return o.Relation == l.Relation }) {
			locks = append(locks, l)
		}
	}
	neighbours := func(step int32) {
		for _, n := range p.neighbour {
			if n.Step == step {
				add("ACCESS EXCLUSIVE", catalog.Name{Schema: n.SchemaName, Name: n.RelationName})
			}
		}
	}
	neighbours(beforeTables)
	moving := p.Moving(p.Source)
	for _, key := range moving.Referencing {
		add("ACCESS EXCLUSIVE", key.Table)
	}
	keys := moving.ForeignKeys
	if part := p.Source.Partition; part != nil {
		if part.Tree == nil {
			add("ACCESS EXCLUSIVE", part.Parent)
		}
		keys = slices.Concat(keys, part.ForeignKeys)
	}
	neighbours(withParent)
	add("ACCESS EXCLUSIVE", p.Source.Name)
	for _, key := range keys {
		add("ACCESS EXCLUSIVE", key.Referenced)
	}
	if p.Job.Options.RowByRow == "" {
		neighbours(byForeignKey)
	}
	for _, s := range p.Source.Sequences {
		add("ACCESS EXCLUSIVE", s.Name)
	}
	for _, table := range p.oids.Others {
		add("SHARE ROW EXCLUSIVE", table)
	}
	return locks
}
