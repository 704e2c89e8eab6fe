package stages

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/strategy"
)

// obstacle is a query for things that the swap does not carry over. It takes
// the table's OID and returns a description of each.
type obstacle struct{ sql, why, remedy string }

// identitiesSQL selects the OIDs of the sequences of the identity columns of table $1.
const identitiesSQL = `
SELECT d.objid
FROM   pg_depend d
WHERE  d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.deptype = 'i'`

// otherKinds are what can be no table of the application's. Of such a relation
// nothing else is asked: the other queries are made for tables.
var otherKinds = []obstacle{
	{
		`SELECT 'table' FROM pg_class WHERE oid = $1 AND relkind <> 'r'`,
		"is not an ordinary table", "repack the table behind it, or its partitions",
	},
	{
		`SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		 WHERE c.oid = $1 AND (n.nspname IN ('pg_catalog', 'information_schema', 'pg_toast') OR c.relpersistence = 't')`,
		"is a schema of the system, or of temporary tables", "",
	},
}

var obstacleChecks = []obstacle{
	{
		`SELECT am.amname FROM pg_class c JOIN pg_am am ON am.oid = c.relam WHERE c.oid = $1 AND am.amname <> 'heap'`,
		"is an access method other than heap, whose blocks cannot be copied by range", "",
	},
	{
		`SELECT 'recovery' WHERE pg_is_in_recovery() AND $1::oid IS NOT NULL`,
		"the server is a standby", "connect to the primary",
	},
	{
		`SELECT inhparent::regclass::text FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhrelid = $1 AND NOT c.relispartition
		 UNION ALL SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1`,
		"is joined to it by inheritance", "",
	},
	{
		`SELECT 'foreign key ' || quote_ident(f.conname) FROM pg_constraint f
		 JOIN   pg_constraint p ON p.oid = f.conparentid
		 JOIN   pg_class r      ON r.oid = f.confrelid
		 WHERE  f.contype = 'f' AND f.conrelid = $1 AND p.conrelid <> $1
		 AND   (row_security_active(r.oid) OR coalesce((to_jsonb(f) ->> 'conperiod')::bool, false))`,
		"is one of the partitioned table, with a PERIOD or to a table with row-level security, and would be checked row by row under lock",
		"drop it for the time of the repack",
	},
	{
		`SELECT 'foreign key ' || quote_ident(f.conname) FROM pg_constraint f JOIN pg_constraint p ON p.oid = f.conparentid
		 WHERE  f.contype = 'f' AND f.conrelid = $1 AND p.conrelid <> $1 AND NOT f.convalidated
		 AND    coalesce((to_jsonb(f) ->> 'conenforced')::bool, true)`,
		"is one of the partitioned table that is not valid, and yet PostgreSQL would check it when it attaches", "ALTER TABLE … VALIDATE CONSTRAINT, of the partition",
	},
	{
		`SELECT h.inhrelid::regclass::text FROM pg_inherits i JOIN pg_inherits h ON h.inhparent = i.inhparent
		 WHERE  i.inhrelid = $1 AND h.inhdetachpending`,
		"is being detached from the partitioned table", "ALTER TABLE … DETACH PARTITION … FINALIZE",
	},
	{
		`SELECT t.relid::text
		 FROM   pg_inherits i
		 JOIN   pg_partitioned_table p ON p.partrelid = i.inhparent
		 CROSS  JOIN LATERAL pg_partition_tree(p.partdefid) t
		 WHERE  i.inhrelid = $1 AND p.partdefid NOT IN (0, $1) AND t.isleaf
		 AND    pg_relation_size(t.relid) > 128 * current_setting('block_size')::bigint`,
		"belongs to the default partition, and has so many rows that looking at them under lock would take long", "move them to partitions of their own",
	},
	{
		`SELECT DISTINCT 'index ' || b.indexrelid::regclass
		 FROM   pg_index a
		 JOIN   pg_inherits h ON h.inhrelid = a.indexrelid
		 JOIN   pg_index b    ON b.indrelid = a.indrelid AND b.indexrelid <> a.indexrelid AND b.indisunique = a.indisunique
		        AND b.indkey = a.indkey AND b.indclass = a.indclass AND b.indcollation = a.indcollation AND b.indoption = a.indoption
		        AND pg_get_expr(b.indexprs, b.indrelid) IS NOT DISTINCT FROM pg_get_expr(a.indexprs, a.indrelid)
		        AND pg_get_expr(b.indpred, b.indrelid) IS NOT DISTINCT FROM pg_get_expr(a.indpred, a.indrelid)
		 WHERE  a.indrelid = $1`,
		"is like another one, and which of them PostgreSQL would attach to the partitioned table's is not certain", "drop one of them",
	},
	{
		`SELECT 'index ' || i.indexrelid::regclass
		 FROM   pg_inherits h
		 JOIN   pg_class c ON c.oid = h.inhrelid AND c.relispartition
		 JOIN   pg_index i ON i.indrelid = h.inhparent
		 WHERE  h.inhrelid = $1
		 AND    i.indexrelid <> ALL (ARRAY(SELECT a.inhparent FROM pg_index x JOIN pg_inherits a ON a.inhrelid = x.indexrelid
		                                   WHERE  x.indrelid = $1))
		 ORDER  BY 1`,
		"is the partitioned table's and has no part on the partition (CREATE INDEX ON ONLY), so that PostgreSQL would build or attach one under lock",
		"create it on the partition with CREATE INDEX CONCURRENTLY and attach it (ALTER INDEX … ATTACH PARTITION), or drop it",
	},
	{
		`SELECT p.partrelid::regclass::text
		 FROM   pg_partition_ancestors($1::oid::regclass) a
		 JOIN   pg_partitioned_table p ON p.partrelid = a.relid
		 WHERE  p.partstrat = 'h' AND 0 <> ANY (p.partcollation::oid[])`,
		"is partitioned by the hash of text, so that PostgreSQL would look at every row under lock to attach a partition", "",
	},
	{
		`SELECT 'constraint ' || quote_ident(conname) FROM pg_constraint JOIN pg_class c ON c.oid = conrelid
		 WHERE  conrelid = $1 AND c.relispartition AND contype NOT IN ('n', 'f') AND conislocal AND coninhcount > 0`,
		"is the partition's own and the partitioned table's too, which PostgreSQL does not keep when it attaches", "",
	},
	{
		`SELECT 'constraint ' || conname FROM pg_constraint WHERE conrelid = $1 AND conname = 'repack_bound'`,
		"bears a name that is needed for the partition's bound", "rename it",
	},
	{
		`SELECT reloftype::regtype::text FROM pg_class WHERE oid = $1 AND reloftype <> 0`,
		"is the type the table was made of (CREATE TABLE … OF)", "ALTER TABLE … NOT OF",
	},
	{
		`SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
		 WHERE d.classid = 'pg_class'::regclass AND d.objid = $1
		 AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'`,
		"is the extension the table belongs to", "ALTER EXTENSION … DROP TABLE",
	},
	{
		`SELECT 'row-level security' WHERE row_security_active($1::oid)`,
		"is forced on the owner, who would read a part of the rows", "run as a role with BYPASSRLS, or ALTER TABLE … NO FORCE ROW LEVEL SECURITY for the time of the repack",
	},
	{
		`SELECT 'publication ' || pubname FROM pg_publication WHERE puballtables AND $1::oid IS NOT NULL`,
		"is FOR ALL TABLES and would publish the shadow's rows to subscribers", "publish the tables by name or by schema",
	},
	{
		`SELECT 'sequence ' || s.oid::regclass::text
		 FROM   pg_class s
		 JOIN   pg_class t ON t.oid = $1
		 WHERE  s.oid = ANY (ARRAY(` + identitiesSQL + `)) AND s.relkind = 'S'
		 AND    s.relpersistence <> t.relpersistence AND current_setting('server_version_num')::int >= 150000`,
		"is an identity's and not as permanent as its table", "ALTER SEQUENCE … SET LOGGED or SET UNLOGGED",
	},
	{
		`SELECT DISTINCT coalesce(r.ev_class::regclass::text, pg_describe_object(u.classid, u.objid, 0))
		 FROM   pg_depend d
		 JOIN   pg_class s ON s.oid = d.objid AND s.relkind = 'S'
		 JOIN   pg_depend u ON u.refclassid = 'pg_class'::regclass AND u.refobjid = s.oid
		 LEFT   JOIN pg_rewrite r ON u.classid = 'pg_rewrite'::regclass AND r.oid = u.objid
		 WHERE  d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.deptype = 'i'`,
		"uses the sequence of an identity, and the new table has another one of that name", "use a sequence of its own",
	},
	{
		`SELECT pg_describe_object(classid, objid, 0) FROM pg_depend
		 WHERE  deptype = 'x'
		 AND   (classid = 'pg_class'::regclass AND objid IN (SELECT indexrelid FROM pg_index WHERE indrelid = $1)
		        OR classid = 'pg_trigger'::regclass AND objid IN (SELECT oid FROM pg_trigger WHERE tgrelid = $1)
		        OR classid = 'pg_proc'::regclass AND objid IN (
		            SELECT objid FROM pg_depend WHERE classid = 'pg_proc'::regclass AND refobjid = $1))`,
		"depends on an extension (ALTER … DEPENDS ON EXTENSION), which is not carried over", "ALTER … NO DEPENDS ON EXTENSION",
	},
	{
		`SELECT 'statistics object ' || min(stxname) FROM pg_statistic_ext WHERE stxrelid = $1
		 GROUP BY stxname HAVING count(*) > 1`,
		"bears the name of another one in another schema", "rename one of them",
	},
	{
		`SELECT 'role ' || g.grantor::regrole::text
		 FROM   pg_class c
		 CROSS  JOIN LATERAL (
		        SELECT grantor FROM aclexplode(c.relacl)
		        UNION
		        SELECT x.grantor FROM pg_attribute a, aclexplode(a.attacl) x WHERE a.attrelid = c.oid
		        UNION
		        SELECT x.grantor FROM pg_class s, aclexplode(s.relacl) x
		        WHERE  s.oid = ANY (ARRAY(` + identitiesSQL + `)) AND s.relkind = 'S') g
		 WHERE  c.oid = $1 AND g.grantor <> c.relowner AND NOT has_schema_privilege(g.grantor, c.relnamespace, 'USAGE')`,
		"has granted privileges on the table, and could not grant them again without USAGE of its schema", "GRANT USAGE ON SCHEMA … to it",
	},
	{
		`SELECT format('foreign key %I of %s', f.conname, f.conrelid::regclass) FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid
		 WHERE f.oid = ANY (ARRAY(` + catalog.KeysSQL + `)) AND f.contype = 'f' AND f.conparentid = 0 AND c.relkind = 'p'
		 AND  (f.confrelid = $1 OR f.confrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid::regclass)))`,
		"belongs to a partitioned table with a foreign key to it or to a table that it is a partition of, which cannot be moved without a scan under lock",
		"drop the key for the time of the repack",
	},
	{
		`WITH RECURSIVE key (id) AS (
		     SELECT f.oid FROM pg_constraint f
		     WHERE  f.oid = ANY (ARRAY(` + catalog.KeysSQL + `)) AND f.contype = 'f' AND f.conparentid = 0
		     AND   ($1 IN (f.conrelid, f.confrelid) OR f.confrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid::regclass)))
		     UNION ALL
		     SELECT f.oid FROM key k JOIN pg_constraint f ON f.conparentid = k.id AND f.conparentid > 0
		 )
		 SELECT DISTINCT format('%s %I of %s, trigger %I on %s', CASE c.contype WHEN 'f' THEN 'foreign key' ELSE 'constraint' END,
		                        c.conname, c.conrelid::regclass, t.tgname, t.tgrelid::regclass)
		 FROM   pg_trigger t
		 JOIN   pg_constraint c ON c.oid = t.tgconstraint
		 WHERE  t.oid = ANY (ARRAY(
		            SELECT oid FROM pg_trigger WHERE tgrelid = $1
		            UNION
		            SELECT oid FROM pg_trigger WHERE tgconstraint = ANY (ARRAY(SELECT id FROM key))))
		 AND    t.tgisinternal AND t.tgenabled <> 'O'
		 AND   (t.tgrelid = $1 AND (t.tgparentid = 0 OR c.contype = 'f') OR t.tgconstraint IN (SELECT id FROM key))`,
		"has a trigger that has been disabled or altered", "ALTER TABLE … ENABLE TRIGGER",
	},
	{
		`SELECT 'trigger ' || quote_ident(t.tgname)
		 FROM   pg_trigger t
		 JOIN   pg_proc p ON p.oid = t.tgfoid
		 WHERE  t.tgrelid = $1 AND t.tgname ~ '^(00|RI)_repack_' AND p.proname !~ '^repack_(capture|refer)_'`,
		"bears a name of those that capture changes", "rename it",
	},
	{
		`SELECT 'trigger ' || quote_ident(t.tgname)
		 FROM   pg_trigger t
		 JOIN   pg_proc p ON p.oid = t.tgfoid
		 WHERE  t.tgrelid = $1 AND t.tgname ~ '^00_repack_' AND p.proname LIKE 'repack\_refer\_%'`,
		"belongs to a repack of a table that it refers to, whose foreign keys are being moved one by one", "wait until that is done",
	},
	{
		`SELECT 'index' FROM pg_class
		 WHERE  oid = $1 AND relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = $1 AND indisreplident)`,
		"that was the replica identity has been dropped", "ALTER TABLE … REPLICA IDENTITY DEFAULT, or NOTHING, which it is now",
	},
	{
		`SELECT 'type ' || t.oid::regtype FROM pg_type t
		 WHERE  t.oid = (SELECT reltype FROM pg_class WHERE oid = $1) AND (t.typacl IS NOT NULL OR obj_description(t.oid, 'pg_type') IS NOT NULL)`,
		"is the table's row type, and its privileges or comment are not carried over", "remove them for the time of the repack",
	},
	{
		`SELECT 'constraint ' || quote_ident(conname) FROM pg_constraint
		 WHERE  conrelid = $1 AND contype = 't' AND obj_description(oid, 'pg_constraint') IS NOT NULL`,
		"is a constraint trigger with a comment on the constraint, which is not carried over", "COMMENT ON TRIGGER instead",
	},
}

// strangers are the capture triggers of a job that is not of this registry:
// setting up another would take them from it.
var strangers = obstacle{
	`SELECT format('trigger %I, which calls %s', t.tgname, t.tgfoid::regproc)
	 FROM   pg_trigger t
	 JOIN   pg_proc p ON p.oid = t.tgfoid
	 WHERE  t.tgrelid = $1 AND t.tgname ~ '^(00|RI)_repack_' AND p.proname LIKE 'repack\_capture\_%'`,
	"captures changes for a job that this registry does not know", "repack reset with the --registry-schema of that job; where that is gone, as in a restored dump, repack reset as it is",
}

// Subscriptions may only be looked at by superusers; the tables they feed by
// everybody.
const subscriptionSQL = `SELECT 'subscription ' || srsubid::text FROM pg_subscription_rel WHERE srrelid = $1`

// dependentsSQL is the net under the list above: whatever depends on the table,
// its row type, indexes or constraints and is none of what the swap knows. What
// is apart, the row type, is not found by the table's
// name when a dependent is replaced, unless that mentions the table as well.
const dependentsSQL = `
WITH own AS (
    SELECT 'pg_class'::regclass AS class, $1::oid AS id, false AS apart
    UNION ALL
    SELECT 'pg_class'::regclass, indexrelid, false FROM pg_index WHERE indrelid = $1
    UNION ALL
    SELECT 'pg_constraint'::regclass, oid, false FROM pg_constraint WHERE conrelid = $1
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid, true FROM pg_class c JOIN pg_type t ON t.oid = c.reltype WHERE c.oid = $1
    UNION ALL
    SELECT 'pg_type'::regclass, t.typarray, true FROM pg_class c JOIN pg_type t ON t.oid = c.reltype WHERE c.oid = $1
)
SELECT   DISTINCT coalesce((SELECT pg_describe_object('pg_class'::regclass, r.ev_class, 0) FROM pg_rewrite r
                            WHERE  d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid),
                           pg_describe_object(d.classid, d.objid, 0))
FROM     pg_depend d
JOIN     own o ON o.class = d.refclassid AND o.id = d.refobjid
WHERE    NOT EXISTS (SELECT FROM own x WHERE x.class = d.classid AND x.id = d.objid)
AND      NOT (d.classid = 'pg_class'::regclass AND EXISTS (
             SELECT FROM pg_class c WHERE c.oid = d.objid AND (c.relkind = 't' OR c.relkind = 'S' AND d.deptype IN ('a', 'i'))))
AND      NOT (d.classid = 'pg_constraint'::regclass AND EXISTS (
             SELECT FROM pg_constraint c WHERE c.oid = d.objid AND c.contype = 'f' AND c.confrelid = $1))
AND      NOT (d.classid = 'pg_attrdef'::regclass AND EXISTS (
             SELECT FROM pg_attrdef a WHERE a.oid = d.objid AND a.adrelid = $1))
AND      NOT (d.classid = 'pg_trigger'::regclass AND EXISTS (
             SELECT FROM pg_trigger t WHERE t.oid = d.objid AND (t.tgisinternal OR t.tgrelid = $1)))
AND      NOT (d.classid = 'pg_rewrite'::regclass AND (NOT o.apart OR EXISTS (
             SELECT FROM pg_depend y WHERE y.classid = d.classid AND y.objid = d.objid
             AND    y.refclassid = 'pg_class'::regclass AND y.refobjid = $1)) AND EXISTS (
             SELECT FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
             WHERE  r.oid = d.objid AND c.relpersistence <> 't'
             AND    (c.relkind = 'v' OR r.rulename <> '_RETURN' OR c.oid = $1 OR c.relkind = 'm' AND $2)))
AND      NOT (d.classid = 'pg_policy'::regclass AND (NOT o.apart OR EXISTS (
             SELECT FROM pg_depend y WHERE y.classid = d.classid AND y.objid = d.objid
             AND    y.refclassid = 'pg_class'::regclass AND y.refobjid = $1)))
AND      NOT (d.classid = 'pg_proc'::regclass AND (NOT o.apart OR o.class = 'pg_class'::regclass AND EXISTS (
             SELECT FROM pg_depend y WHERE y.classid = d.classid AND y.objid = d.objid
             AND    y.refclassid = 'pg_class'::regclass AND y.refobjid = $1)))
AND      NOT (d.classid = 'pg_statistic_ext'::regclass AND EXISTS (
             SELECT FROM pg_statistic_ext s WHERE s.oid = d.objid AND s.stxrelid = $1))
AND      NOT (d.classid = 'pg_publication_rel'::regclass AND EXISTS (
             SELECT FROM pg_publication_rel p WHERE p.oid = d.objid AND p.prrelid = $1))
ORDER BY 1`

// tableChecks are all that are made of a table, by its OID and whether materialized
// views are to be rebuilt.
var tableChecks = append(append([]obstacle{{
	subscriptionSQL, "feeds the table; its worker does not fire statement triggers", "drop the table from the subscription",
}}, obstacleChecks...), dependent)

// obstacles lists what is in the way of repacking the table. Materialized views
// are none where they are to be rebuilt, but what is joined to them may be.
func obstacles(ctx context.Context, q catalog.Querier, oid uint32, rebuilds bool, more ...obstacle) (reasons []Reason, err error) {
	b := &pgx.Batch{}
	queueLook(b, &reasons, slices.Concat(tableChecks, more), oid, rebuilds)
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, err
	}
	var matviews []catalog.Matview
	if rebuilds {
		if matviews, err = catalog.Matviews(ctx, q, oid); err != nil {
			return nil, err
		}
	}
	return moreObstacles(ctx, q, oid, rebuilds, reasons, matviews)
}

// queueObstacles asks for them as a part of b, except those that moreObstacles adds,
// and whether changes are being captured, for which it returns
// strategy.ErrNotCapturing.
func (e *Env) queueObstacles(b *pgx.Batch, reasons *[]Reason, oid uint32) {
	sql, args := e.Link.NotCapturing(3)
	gone := obstacle{sql: sql, why: "does not capture changes"}
	queueLook(b, reasons, append(tableChecks[:len(tableChecks):len(tableChecks)], gone), append([]any{oid, e.rebuilds()}, args...)...)
	found := b.QueuedQueries[b.Len()-1]
	take := found.Fn
	found.Fn = func(results pgx.BatchResults) error {
		err := take(results)
		if err == nil && slices.ContainsFunc(*reasons, func(r Reason) bool { return r.Why == gone.why }) {
			return strategy.ErrNotCapturing
		}
		return err
	}
}

// moreObstacles completes reasons: what can be rebuilt, and what is joined to the
// materialized views on the table, which are looked at where they are to be rebuilt.
func moreObstacles(ctx context.Context, q catalog.Querier, oid uint32, rebuilds bool, reasons []Reason, matviews []catalog.Matview) ([]Reason, error) {
	reasons, err := rebuildable(ctx, q, oid, rebuilds, reasons)
	if err != nil || !rebuilds || len(matviews) == 0 {
		return reasons, err
	}
	b := &pgx.Batch{}
	for _, m := range matviews {
		onMatview := obstacle{dependentsSQL, fmt.Sprintf("depends on materialized view %s, which is rebuilt", m.Relation.Name), dropIt}
		queueLook(b, &reasons, append([]obstacle{onMatview}, matviewChecks...), m.OID, true)
	}
	return reasons, q.SendBatch(ctx, b).Close()
}

const dropIt = "drop it for the time of the repack"

// dependent is what would keep to the old table.
var dependent = obstacle{dependentsSQL, "depends on the table and would keep to the old one", dropIt}

// rebuildable says of what depends on the table that it can be rebuilt, where that
// helps: of a materialized view that uses no more than the table's row type it does
// not.
func rebuildable(ctx context.Context, q catalog.Querier, oid uint32, rebuilds bool, reasons []Reason) ([]Reason, error) {
	if rebuilds || !slices.ContainsFunc(reasons, func(r Reason) bool { return r.Why == dependent.why }) {
		return reasons, nil
	}
	left, err := look(ctx, q, []obstacle{dependent}, oid, true)
	for i, reason := range reasons {
		if reason.Why == dependent.why && !slices.Contains(left, reason) {
			reasons[i].Remedy = dropIt + ", or have it rebuilt with --rebuild-matviews"
		}
	}
	return reasons, err
}

// look makes all checks in one query, and returns a reason for each object that
// they find. One without a name has been dropped since the snapshot of the query.
func look(ctx context.Context, q catalog.Querier, checks []obstacle, args ...any) (reasons []Reason, err error) {
	b := &pgx.Batch{}
	queueLook(b, &reasons, checks, args...)
	return reasons, q.SendBatch(ctx, b).Close()
}

// queueLook is look as a part of b.
func queueLook(b *pgx.Batch, reasons *[]Reason, checks []obstacle, args ...any) {
	queries := make([]string, len(checks))
	for i, check := range checks {
		queries[i] = fmt.Sprintf("SELECT %d, x.object::text FROM (%s) x (object)", i, check.sql)
	}
	b.Queue(strings.Join(queries, "\nUNION ALL\n"), args...).Query(func(rows pgx.Rows) error {
		var number int
		var object *string
		_, err := pgx.ForEachRow(rows, []any{&number, &object}, func() error {
			if object != nil {
				*reasons = append(*reasons, Reason{Object: *object, Why: checks[number].why, Remedy: checks[number].remedy})
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("look for what is in the way: %w", err)
		}
		return nil
	})
}

// matviewChecks are what cannot be carried over of a materialized view.
var matviewChecks = []obstacle{
	{
		`SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d
		 WHERE d.deptype IN ('e', 'x') AND d.classid = 'pg_class'::regclass
		 AND  (d.objid = $1 OR d.objid IN (SELECT indexrelid FROM pg_index WHERE indrelid = $1))`,
		"belongs to or depends on an extension, and cannot be rebuilt", "ALTER EXTENSION … DROP, or ALTER … NO DEPENDS ON EXTENSION",
	},
	{
		`SELECT 'security label of ' || pg_describe_object(classoid, objoid, objsubid) FROM pg_seclabel
		 WHERE classoid = 'pg_class'::regclass AND objoid = $1`,
		"is not carried over", "remove it for the time of the repack",
	},
	{
		`SELECT 'index ' || indexrelid::regclass FROM pg_index WHERE indrelid = $1 AND NOT (indisvalid AND indisready AND indislive)`,
		"is invalid, left by a failed CREATE INDEX CONCURRENTLY", "REINDEX INDEX CONCURRENTLY or DROP INDEX CONCURRENTLY",
	},
	{
		`SELECT 'rule _RETURN of ' || ev_class::regclass FROM pg_rewrite r
		 WHERE ev_class = $1 AND (ev_enabled <> 'O' OR obj_description(r.oid, 'pg_rewrite') IS NOT NULL)`,
		"has a comment or a state, which are not carried over", "",
	},
}
