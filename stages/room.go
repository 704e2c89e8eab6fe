package stages

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/steps"
)

// exchangedSQL lists the relations on which an exchange of table $1 and table $2 takes
// ACCESS EXCLUSIVE:
//   - both tables, and the sequences of $1;
//   - the views, and the tables with policies, that mention it;
//   - the tables at the other end of its foreign keys, with their partitions, unless foreign
//     keys are moved one by one ($3);
//   - the partitioned table above it with the default partition, and with all partitions if
//     a foreign key refers to it.
const exchangedSQL = `
SELECT   x.relation::regclass::text
FROM    (WITH RECURSIVE views (relation) AS (
             SELECT $1::oid
             UNION
             SELECT r.ev_class
             FROM   views v
             JOIN   pg_depend d  ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.relation
                                AND d.classid = 'pg_rewrite'::regclass
             JOIN   pg_rewrite r ON r.oid = d.objid
             WHERE  'v' = (SELECT c.relkind FROM pg_class c WHERE c.oid = r.ev_class)
         ), above (relation) AS (
             SELECT $1::oid UNION SELECT relid::oid FROM pg_partition_ancestors($1::oid::regclass)
         ), keys (referring, referred) AS (
             SELECT f.conrelid, f.confrelid
             FROM   pg_constraint f
             WHERE  f.oid = ANY (ARRAY(` + catalog.KeysSQL + `)) AND f.contype = 'f' AND NOT $3
         ), whole (relation) AS (
             SELECT referring FROM keys WHERE referred IN (SELECT relation FROM above)
             UNION SELECT referred FROM keys WHERE referred IN (SELECT relation FROM above) OR referring = $1
             UNION SELECT partdefid FROM pg_partitioned_table WHERE partdefid <> 0 AND partrelid IN (SELECT relation FROM above)
         )
         SELECT $2::oid AS relation
         UNION SELECT relation FROM views
         UNION SELECT relation FROM above
         UNION SELECT relation FROM whole
         UNION SELECT t.relid::oid FROM whole CROSS JOIN LATERAL pg_partition_tree(whole.relation::regclass) t
         UNION SELECT p.polrelid
               FROM   pg_depend d
               JOIN   pg_policy p ON p.oid = d.objid
               WHERE  d.classid = 'pg_policy'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
         UNION SELECT d.objid
               FROM   pg_depend d
               WHERE  d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
               AND    'S' = (SELECT s.relkind FROM pg_class s WHERE s.oid = d.objid)) x
WHERE    EXISTS (SELECT FROM pg_class c WHERE c.oid = x.relation OFFSET 0)
ORDER BY 1`

// roomToExchange looks at the relations that the exchange locks.
// It makes sure that every session with a lock on them will probably release it in time.
func (x *exchanging) roomToExchange(ctx context.Context, tx *lock.Tx) error {
	rows, err := tx.Query(ctx, exchangedSQL, x.out, x.in, x.Job.Options.RowByRow != "")
	if err != nil {
		return fmt.Errorf("look for what the exchange locks: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for what the exchange locks: %w", err)
	}
	return steps.RoomFor(ctx, tx, names...)
}
