// Package checks looks for what a repack of a table does not carry over. There is one
// check for each such thing; if a check finds one, the repack is refused. The checks run
// before a job begins, when each of its stages begins, and under the lock of the
// exchange.
package checks

import "github.com/repack-go/repack/internal/catalog"

// Check is a query for things that the swap does not carry over. It takes the table's OID
// and returns a description of each. It may read the common table expressions of
// catalog.UsesSQL.
type Check struct{ SQL, Why, Remedy string }

// Reason is one thing that prevents the repack, and what to do about it.
type Reason struct{ Object, Why, Remedy string }

// String is the reason and the remedy on one line.
func (r Reason) String() string {
	s := r.Why
	if r.Object != "" {
		s = r.Object + ": " + r.Why
	}
	if r.Remedy != "" {
		s += "; " + r.Remedy
	}
	return s
}

// MissingPrivilege is the object of the reasons of MissingPrivileges.
const MissingPrivilege = "missing privilege"

// MissingPrivileges returns a reason to refuse for each GRANT that must be run.
func MissingPrivileges(grants []string) []Reason {
	var reasons []Reason
	for _, grant := range grants {
		reasons = append(reasons, Reason{Object: MissingPrivilege, Why: "have an administrator run", Remedy: grant})
	}
	return reasons
}

// identitiesSQL selects the OIDs of the sequences of the identity columns of table $1.
const identitiesSQL = `
SELECT d.objid
FROM   pg_depend d
WHERE  d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.deptype = 'i'`

// OtherKinds finds relations that cannot be a table of the application. No other check
// runs on such a relation, because the other queries are written for tables.
var OtherKinds = []Check{
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

// accessMethod: only heap tables have blocks that can be copied by range.
var accessMethod = Check{
	`SELECT am.amname FROM pg_class c JOIN pg_am am ON am.oid = c.relam WHERE c.oid = $1 AND am.amname <> 'heap'`,
	"is an access method other than heap, whose blocks cannot be copied by range", "",
}

// standby: a standby takes no writes.
var standby = Check{
	`SELECT 'recovery' WHERE pg_is_in_recovery() AND $1::oid IS NOT NULL`,
	"the server is a standby", "connect to the primary",
}

// inheritance: a parent or child by inheritance would stay tied to the old table.
var inheritance = Check{
	`SELECT inhparent::regclass::text FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhrelid = $1 AND NOT c.relispartition
	 UNION ALL SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1`,
	"is joined to it by inheritance", "",
}

// typedTable: the shadow is not made OF a type.
var typedTable = Check{
	`SELECT reloftype::regtype::text FROM pg_class WHERE oid = $1 AND reloftype <> 0`,
	"is the type the table was made of (CREATE TABLE … OF)", "ALTER TABLE … NOT OF",
}

// extensionMember: DROP EXTENSION would no longer drop the table.
var extensionMember = Check{
	`SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	 WHERE d.classid = 'pg_class'::regclass AND d.objid = $1
	 AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'`,
	"is the extension the table belongs to", "ALTER EXTENSION … DROP TABLE",
}

// rowSecurity: the copy would have only a part of the rows.
var rowSecurity = Check{
	`SELECT 'row-level security' WHERE row_security_active($1::oid)`,
	"is forced on the owner, who would read a part of the rows", "run as a role with BYPASSRLS, or ALTER TABLE … NO FORCE ROW LEVEL SECURITY for the time of the repack",
}

// identityPersistence: in the new table, the sequence of an identity is as permanent as
// the table.
var identityPersistence = Check{
	`SELECT 'sequence ' || s.oid::regclass::text
	 FROM   pg_class s
	 JOIN   pg_class t ON t.oid = $1
	 WHERE  s.oid = ANY (ARRAY(` + identitiesSQL + `)) AND s.relkind = 'S'
	 AND    s.relpersistence <> t.relpersistence AND current_setting('server_version_num')::int >= 150000`,
	"is an identity's and not as permanent as its table", "ALTER SEQUENCE … SET LOGGED or SET UNLOGGED",
}

// identityUsed: an object that uses an identity's sequence would stay tied to the old
// sequence.
var identityUsed = Check{
	`SELECT DISTINCT coalesce((SELECT r.ev_class FROM pg_rewrite r WHERE u.classid = 'pg_rewrite'::regclass AND r.oid = u.objid)::regclass::text,
	                          pg_describe_object(u.classid, u.objid, 0))
	 FROM   pg_depend u
	 WHERE  u.refclassid = 'pg_class'::regclass
	 AND    u.refobjid = ANY (ARRAY(SELECT s.oid FROM pg_class s WHERE s.oid = ANY (ARRAY(` + identitiesSQL + `)) AND s.relkind = 'S'))`,
	"uses the sequence of an identity, and the new table has another one of that name", "use a sequence of its own",
}

// statisticsNames: both would have to be in the shadow's schema, with the same name.
var statisticsNames = Check{
	`SELECT 'statistics object ' || min(stxname) FROM pg_statistic_ext WHERE stxrelid = $1
	 GROUP BY stxname HAVING count(*) > 1`,
	"bears the name of another one in another schema", "rename one of them",
}

// grantorWithoutUsage: repack makes a grant again as its grantor.
var grantorWithoutUsage = Check{
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
}

// internalTriggerSQL names a trigger t of constraint c.
const internalTriggerSQL = `
	format('%s %I of %s, trigger %I on %s', CASE c.contype WHEN 'f' THEN 'foreign key' ELSE 'constraint' END,
	       c.conname, c.conrelid::regclass, t.tgname, t.tgrelid::regclass)`

// alteredInternalTrigger: the triggers of constraints are created again, and they are
// then enabled.
var alteredInternalTrigger = Check{
	`SELECT DISTINCT ` + internalTriggerSQL + `
	 FROM   pg_trigger t
	 CROSS  JOIN LATERAL (SELECT * FROM pg_constraint WHERE oid = t.tgconstraint OFFSET 0) c
	 WHERE  t.tgrelid = $1 AND t.tgisinternal AND t.tgenabled <> 'O' AND (t.tgparentid = 0 OR c.contype = 'f')`,
	"has a trigger that has been disabled or altered", "ALTER TABLE … ENABLE TRIGGER",
}

// alteredKeyTrigger is alteredInternalTrigger for the triggers that foreign keys have on
// other tables.
var alteredKeyTrigger = Check{
	`WITH RECURSIVE key (id) AS (
	     SELECT f.oid FROM pg_constraint f
	     WHERE  f.oid = ANY (ARRAY(` + catalog.KeysSQL + `)) AND f.contype = 'f' AND f.conparentid = 0
	     AND   ($1 IN (f.conrelid, f.confrelid) OR f.confrelid IN (SELECT relid FROM pg_partition_ancestors($1::oid::regclass)))
	     UNION ALL
	     SELECT f.oid FROM key k JOIN pg_constraint f ON f.conparentid = k.id AND f.conparentid > 0
	 )
	 SELECT DISTINCT ` + internalTriggerSQL + `
	 FROM   pg_trigger t
	 JOIN   pg_constraint c ON c.oid = t.tgconstraint
	 WHERE  t.tgconstraint = ANY (ARRAY(SELECT id FROM key)) AND t.tgrelid <> $1
	 AND    t.tgisinternal AND t.tgenabled <> 'O'`,
	alteredInternalTrigger.Why, alteredInternalTrigger.Remedy,
}

// captureNames: the capture triggers need this name.
var captureNames = Check{
	`SELECT 'trigger ' || quote_ident(t.tgname)
	 FROM   pg_trigger t
	 WHERE  t.tgrelid = $1 AND left(t.tgname::text, 10) IN ('00_repack_', 'RI_repack_')
	 AND    (SELECT p.proname FROM pg_proc p WHERE p.oid = t.tgfoid) !~ '^repack_(capture|refer)_'`,
	"bears a name of those that capture changes", "rename it",
}

// referNames: another repack moves foreign keys to this table.
var referNames = Check{
	`SELECT 'trigger ' || quote_ident(t.tgname)
	 FROM   pg_trigger t
	 WHERE  t.tgrelid = $1 AND left(t.tgname::text, 10) = '00_repack_'
	 AND    (SELECT p.proname FROM pg_proc p WHERE p.oid = t.tgfoid) LIKE 'repack\_refer\_%'`,
	"belongs to a repack of a table that it refers to, whose foreign keys are being moved one by one", "wait until that is done",
}

// droppedReplicaIdentity: an index that does not exist cannot be made the shadow's
// replica identity.
var droppedReplicaIdentity = Check{
	`SELECT 'index' FROM pg_class
	 WHERE  oid = $1 AND relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = $1 AND indisreplident)`,
	"that was the replica identity has been dropped", "ALTER TABLE … REPLICA IDENTITY DEFAULT, or NOTHING, which it is now",
}

// rowTypeProperties: the new table has another row type.
var rowTypeProperties = Check{
	`SELECT 'type ' || t.oid::regtype FROM pg_type t
	 WHERE  t.oid = (SELECT reltype FROM pg_class WHERE oid = $1) AND (t.typacl IS NOT NULL OR obj_description(t.oid, 'pg_type') IS NOT NULL)`,
	"is the table's row type, and its privileges or comment are not carried over", "remove them for the time of the repack",
}

// OtherCapture finds the capture triggers of a job that is not in this registry. To set
// up another job would take the triggers from that one.
var OtherCapture = Check{
	`SELECT format('trigger %I, which calls %s', t.tgname, t.tgfoid::regproc)
	 FROM   pg_trigger t
	 WHERE  t.tgrelid = $1 AND left(t.tgname::text, 10) IN ('00_repack_', 'RI_repack_')
	 AND    (SELECT p.proname FROM pg_proc p WHERE p.oid = t.tgfoid) LIKE 'repack\_capture\_%'`,
	"captures changes for a job that this registry does not know", "repack reset with the --registry-schema of that job; where that is gone, as in a restored dump, repack reset as it is",
}

// subscription: only superusers can read pg_subscription, but every role can read which
// tables subscriptions feed.
var subscription = Check{
	`SELECT 'subscription ' || srsubid::text FROM pg_subscription_rel WHERE srrelid = $1`,
	"feeds the table; its worker does not fire statement triggers", "drop the table from the subscription",
}

// always lists the checks that run on every table. Their parameters are the table's OID,
// whether materialized views are to be rebuilt, and whether a publication of all tables
// may publish what repack writes to its own tables: see Allowed.
var always = []Check{
	subscription,
	subscribedIdentity,
	accessMethod,
	standby,
	inheritance,
	boundName,
	typedTable,
	extensionMember,
	rowSecurity,
	allTablesPublication,
	publishedWithoutIdentity,
	exceptedFromPublication,
	identityPersistence,
	identityUsed,
	statisticsNames,
	grantorWithoutUsage,
	alteredInternalTrigger,
	captureNames,
	referNames,
	droppedReplicaIdentity,
	rowTypeProperties,
	propertyGraph,
	dependent,
}

// ofExtras lists the checks that run only on a table with an extra. They take only the
// table's OID. The server plans them slowly, and they find nothing in other tables.
var ofExtras = []struct {
	extra  catalog.Extras
	checks []Check
}{
	{catalog.OfPartition, []Check{
		checkedRowByRow,
		notValidAbove,
		detachPending,
		likeIndexes,
		indexWithoutPart,
		withoutOverlaps,
		hashOfText,
		ownAndInherited,
		partitionedRefers,
	}},
	{catalog.OfKeys, []Check{
		alteredKeyTrigger,
	}},
	{catalog.OfDependents, []Check{
		typedOfExtension,
		typedOfOthers,
		replacedOfExtension,
		typedGrantor,
		ownTyped,
	}},
}
