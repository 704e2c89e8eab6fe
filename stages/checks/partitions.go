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

// likeIndexes: of indexes that are alike, ATTACH PARTITION attaches the one that was created
// first. This one must be attached now, or a revert would attach another one.
var likeIndexes = Check{
	`SELECT DISTINCT 'index ' || l.other::regclass
	 FROM  (` + catalog.LikeIndexesSQL + `) l
	 WHERE  l.other < l.attached AND (l.other_parent IS NULL OR l.other_parent > l.parent)`,
	"is like one that is attached to the partitioned table's, and older: PostgreSQL would attach it in the place of that one",
	"REINDEX INDEX CONCURRENTLY makes it the younger one; or drop one of them",
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

// withoutOverlaps: ATTACH does not compare the indexes of exclusion constraints. It would
// build another one, under lock, or fail on a second primary key.
var withoutOverlaps = Check{
	`SELECT 'constraint ' || quote_ident(c.conname) FROM pg_constraint c
	 WHERE  c.conrelid = $1 AND c.conparentid <> 0
	 AND   (c.contype = 'x' OR c.contype IN ('p', 'u') AND coalesce((to_jsonb(c) ->> 'conperiod')::bool, false))`,
	"is an exclusion constraint, or one WITHOUT OVERLAPS, of the partitioned table, and PostgreSQL would build it again under lock when it attaches",
	"drop it for the time of the repack",
}

// hashOfText: see catalog.HashBound, which needs a column of such a type, and the text of
// each expression.
var hashOfText = Check{
	`SELECT p.partrelid::regclass::text
	 FROM   pg_partition_ancestors($1::oid::regclass) a
	 JOIN   pg_partitioned_table p ON p.partrelid = a.relid
	 WHERE  p.partstrat = 'h' AND 0 <> ANY (p.partcollation::oid[])
	 AND   (NOT EXISTS (SELECT FROM pg_attribute k WHERE k.attrelid = p.partrelid AND k.attnum = ANY (p.partattrs::int2[]) AND k.attcollation <> 0)
	        OR (SELECT count(*) FROM unnest(p.partattrs::int2[]) k (attnum) WHERE k.attnum = 0) > 1)`,
	"is partitioned by the hash of text that is an expression, so that PostgreSQL would look at every row under lock to attach a partition",
	"partition by the hash of a column",
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
