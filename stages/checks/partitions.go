package checks

import "github.com/repack-go/repack/internal/catalog"

// checkedRowByRow: ATTACH PARTITION would check such a key row by row, under its lock.
var checkedRowByRow = Check{
	`SELECT 'foreign key ' || quote_ident(f.conname) FROM pg_constraint f
	 JOIN   pg_constraint p ON p.oid = f.conparentid
	 JOIN   pg_class r      ON r.oid = f.confrelid
	 WHERE  f.contype = 'f' AND f.conrelid = $1 AND p.conrelid <> $1
	 AND   (row_security_active(r.oid) OR coalesce((to_jsonb(f) ->> 'conperiod')::bool, false))`,
	"is one of the partitioned table, with a PERIOD or to a table with row-level security, and would be checked row by row under lock",
	"drop it for the time of the repack",
}

// notValidAbove: ATTACH PARTITION checks a key of the partitioned table even if it is not
// valid.
var notValidAbove = Check{
	`SELECT 'foreign key ' || quote_ident(f.conname) FROM pg_constraint f JOIN pg_constraint p ON p.oid = f.conparentid
	 WHERE  f.contype = 'f' AND f.conrelid = $1 AND p.conrelid <> $1 AND NOT f.convalidated
	 AND    coalesce((to_jsonb(f) ->> 'conenforced')::bool, true)`,
	"is one of the partitioned table that is not valid, and yet PostgreSQL would check it when it attaches", "ALTER TABLE … VALIDATE CONSTRAINT, of the partition",
}

// detachPending: PostgreSQL attaches no partition while another one is being detached.
var detachPending = Check{
	`SELECT h.inhrelid::regclass::text FROM pg_inherits i JOIN pg_inherits h ON h.inhparent = i.inhparent
	 WHERE  i.inhrelid = $1 AND h.inhdetachpending`,
	"is being detached from the partitioned table", "ALTER TABLE … DETACH PARTITION … FINALIZE",
}

// defaultPartition: ATTACH PARTITION reads every row of the default partition, under its
// lock.
var defaultPartition = Check{
	`SELECT t.relid::text
	 FROM   pg_inherits i
	 JOIN   pg_partitioned_table p ON p.partrelid = i.inhparent
	 CROSS  JOIN LATERAL pg_partition_tree(p.partdefid) t
	 WHERE  i.inhrelid = $1 AND p.partdefid NOT IN (0, $1) AND t.isleaf
	 AND    pg_relation_size(t.relid) > 128 * current_setting('block_size')::bigint`,
	"belongs to the default partition, and has so many rows that looking at them under lock would take long", "move them to partitions of their own",
}

// likeIndexes: if two indexes are equal, ATTACH PARTITION attaches the one that it finds
// first.
var likeIndexes = Check{
	`SELECT DISTINCT 'index ' || b.indexrelid::regclass
	 FROM   pg_index a
	 JOIN   pg_inherits h ON h.inhrelid = a.indexrelid
	 JOIN   pg_index b    ON b.indrelid = a.indrelid AND b.indexrelid <> a.indexrelid AND b.indisunique = a.indisunique
	        AND b.indkey = a.indkey AND b.indclass = a.indclass AND b.indcollation = a.indcollation AND b.indoption = a.indoption
	        AND pg_get_expr(b.indexprs, b.indrelid) IS NOT DISTINCT FROM pg_get_expr(a.indexprs, a.indrelid)
	        AND pg_get_expr(b.indpred, b.indrelid) IS NOT DISTINCT FROM pg_get_expr(a.indpred, a.indrelid)
	 WHERE  a.indrelid = $1`,
	"is like another one, and which of them PostgreSQL would attach to the partitioned table's is not certain", "drop one of them",
}

// indexWithoutPart: ATTACH PARTITION would build the missing index, under its lock.
var indexWithoutPart = Check{
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
}

// hashOfText: PostgreSQL cannot prove a bound on a hash of text from the CHECK, so it
// would check every row.
var hashOfText = Check{
	`SELECT p.partrelid::regclass::text
	 FROM   pg_partition_ancestors($1::oid::regclass) a
	 JOIN   pg_partitioned_table p ON p.partrelid = a.relid
	 WHERE  p.partstrat = 'h' AND 0 <> ANY (p.partcollation::oid[])`,
	"is partitioned by the hash of text, so that PostgreSQL would look at every row under lock to attach a partition", "",
}

// ownAndInherited: ATTACH PARTITION merges a constraint of the partition with that of its
// parent.
var ownAndInherited = Check{
	`SELECT 'constraint ' || quote_ident(conname) FROM pg_constraint JOIN pg_class c ON c.oid = conrelid
	 WHERE  conrelid = $1 AND c.relispartition AND contype NOT IN ('n', 'f') AND conislocal AND coninhcount > 0`,
	"is the partition's own and the partitioned table's too, which PostgreSQL does not keep when it attaches", "",
}

// boundName: the shadow of a partition has a constraint of this name.
var boundName = Check{
	`SELECT 'constraint ' || conname FROM pg_constraint WHERE conrelid = $1 AND conname = 'repack_bound'`,
	"bears a name that is needed for the partition's bound", "rename it",
}

// partitionedRefers: a partition's keys are moved in the exchange, and before PostgreSQL 18
// a foreign key of a partitioned table cannot be NOT VALID.
var partitionedRefers = Check{
	`SELECT format('foreign key %I of %s', f.conname, f.conrelid::regclass)
	 FROM   pg_class t
	 JOIN   pg_constraint f ON f.oid = ANY (ARRAY(` + catalog.KeysSQL + `))
	 JOIN   pg_class c      ON c.oid = f.conrelid
	 WHERE  t.oid = $1 AND t.relispartition AND f.contype = 'f' AND f.conparentid = 0 AND c.relkind = 'p'
	 AND   (f.confrelid = $1 OR f.confrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid::regclass)))`,
	"belongs to a partitioned table with a foreign key to a partition or its partitioned table, which cannot be moved without a scan under lock",
	"drop the key for the time of the repack",
}
