package catalog

import (
	"fmt"
	"strings"
)

// Partition describes the place of a table in a partitioned table.
type Partition struct {
	Parent Name   `json:"parent"`
	Bound  string `json:"bound"` // FOR VALUES … or DEFAULT
	// Check is an expression that is true for every row of the partition. It combines
	// the bounds of the partition and of all partitioned tables that it is in. It is
	// empty for a default partition that is the only partition.
	Check string `json:"check"`
	// Indexes are indexes attached to an index of the parent. Triggers are those that
	// the partition has from the parent.
	Indexes  []Attached `json:"indexes"`
	Triggers []Trigger  `json:"triggers" given:"swap"`
	// NotNull are the columns that are NOT NULL in the parent and also in a declaration
	// of the table itself. From PostgreSQL 18 on these are two properties.
	NotNull []string `json:"not_null"`
	// ForeignKeys are the keys that the table has from a partitioned table that it is
	// in. DETACH leaves them on the table. ATTACH adds them, and looks up what each row
	// refers to.
	ForeignKeys []ForeignKey `json:"foreign_keys" given:"link"`
	// Default is the parent's default partition, if it is not this table. It is locked
	// together with the parent. LOCK TABLE cannot lock a foreign table, and ATTACH does
	// not read it.
	Default *Name `json:"-"`
	// Tree is the topmost partitioned table that contains the table and that a foreign
	// key refers to. To drop and add the key alters all its partitions. It is nil if no
	// key refers to one.
	Tree   *Name    `json:"-"`
	Owners []string `json:"-"` // owners of the parent, Default and Tree
	// Compared says that the table has checks or generated columns from the parent.
	// Whole says that one of its checks refers to a whole row. See Verbatim.
	Compared, Whole bool `json:"-"`
	// Hashed are bounds that Check does not prove to the server.
	Hashed []HashBound `json:"-"`
}

// Attached is an index that is attached to an index of the parent.
type Attached struct {
	Name   string `json:"name"`
	Parent Name   `json:"parent"`
}

// BoundName is the name of a CHECK constraint that says the same as a partition's
// bound. A table that is not attached has it, so that ATTACH PARTITION does not scan
// its rows.
//
// https://www.postgresql.org/docs/current/sql-altertable.html, "ATTACH PARTITION"
const BoundName = "repack_bound"

// The column numbers of a check on a whole row include 0.
const partitionSQL = `
SELECT    pn.nspname::text                               AS parent_schema,
          p.relname::text                                AS parent_name,
          pg_get_expr(c.relpartbound, c.oid)             AS bound,
          pg_get_partition_constraintdef(c.oid)          AS check,
          dn.nspname::text                               AS default_schema,
          d.relname::text                                AS default_name,
          tn.nspname::text                               AS tree_schema,
          r.relname::text                                AS tree_name,
          ARRAY(SELECT DISTINCT pg_get_userbyid(o.owner)::text
                FROM   unnest(ARRAY[p.relowner, d.relowner, r.relowner]) o(owner)
                WHERE  o.owner IS NOT NULL)              AS owners,
          ARRAY(SELECT   a.attname::text
                FROM     pg_constraint n
                JOIN     pg_attribute a ON a.attrelid = n.conrelid AND a.attnum = n.conkey[1]
                WHERE    n.conrelid = c.oid AND n.contype = 'n' AND n.conislocal AND n.coninhcount > 0
                ORDER BY a.attnum)                       AS not_null,
          EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND k.coninhcount > 0)
          OR EXISTS (SELECT FROM pg_attribute a
                     WHERE  a.attrelid = c.oid AND a.attgenerated <> '' AND a.attinhcount > 0 AND NOT a.attisdropped) AS compared,
          EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND 0 = ANY (k.conkey))    AS whole,
         (` + hashBoundsSQL + `)                         AS hashed
FROM      pg_class c
JOIN      pg_inherits i            ON i.inhrelid = c.oid
JOIN      pg_class p               ON p.oid = i.inhparent
JOIN      pg_namespace pn          ON pn.oid = p.relnamespace
JOIN      pg_partitioned_table t   ON t.partrelid = p.oid
LEFT JOIN pg_class d               ON d.oid = t.partdefid AND d.oid <> c.oid AND d.relkind <> 'f'
LEFT JOIN pg_namespace dn          ON dn.oid = d.relnamespace
LEFT JOIN LATERAL (
          SELECT   a.relid
          FROM     pg_partition_ancestors(i.inhparent) WITH ORDINALITY a(relid, n)
          WHERE    EXISTS (SELECT FROM pg_depend k
                           JOIN   pg_constraint f ON f.oid = k.objid
                           WHERE  k.classid = 'pg_constraint'::regclass AND k.refclassid = 'pg_class'::regclass AND k.refobjid = a.relid
                           AND    f.contype = 'f' AND f.conparentid = 0 AND f.confrelid = a.relid)
          ORDER BY a.n DESC
          LIMIT    1) up           ON true
LEFT JOIN pg_class r               ON r.oid = up.relid
LEFT JOIN pg_namespace tn          ON tn.oid = r.relnamespace
WHERE     c.oid = $1 AND c.relispartition`

const attachedSQL = `
SELECT   ic.relname::text AS name, pn.nspname::text AS parent_schema, pc.relname::text AS parent_name
FROM     pg_index i
JOIN     pg_class ic     ON ic.oid = i.indexrelid
JOIN     pg_inherits h   ON h.inhrelid = i.indexrelid
JOIN     pg_class pc     ON pc.oid = h.inhparent
JOIN     pg_namespace pn ON pn.oid = pc.relnamespace
WHERE    i.indrelid = $1
ORDER BY ic.relname`

func askPartition(d *description) {
	t := d.Table
	type place struct {
		ParentSchema, ParentName, Bound                  string
		Check                                            *string // null: a default partition without others takes every row
		DefaultSchema, DefaultName, TreeSchema, TreeName *string
		Owners, NotNull                                  []string
		Compared, Whole                                  bool
		Hashed                                           []HashBound
	}
	want(d, partitionSQL, func(places []place) error {
		for _, r := range places {
			p := &Partition{
				Parent: Name{r.ParentSchema, r.ParentName}, Bound: r.Bound, Owners: r.Owners, NotNull: r.NotNull, Compared: r.Compared, Whole: r.Whole, Hashed: r.Hashed,
			}
			if r.Check != nil {
				p.Check = *r.Check
			}
			if r.DefaultName != nil {
				p.Default = &Name{*r.DefaultSchema, *r.DefaultName}
			}
			if r.TreeName != nil {
				p.Tree = &Name{*r.TreeSchema, *r.TreeName}
			}
			t.Partition = p
		}
		return nil
	})
	type row struct{ Name, ParentSchema, ParentName string }
	want(d, attachedSQL, func(rows []row) error {
		if t.Partition == nil {
			return nil
		}
		t.Partition.Indexes = make([]Attached, len(rows))
		for i, r := range rows {
			t.Partition.Indexes[i] = Attached{Name: r.Name, Parent: Name{r.ParentSchema, r.ParentName}}
		}
		return nil
	})
}

// Above returns the relations that must be locked with a partition, and before it, as
// LOCK TABLE writes them. Without ONLY, LOCK TABLE locks all partitions as well. It is
// empty if the table is no partition.
func (t *Table) Above() []string {
	switch p := t.Partition; {
	case p == nil:
		return nil
	case p.Tree != nil:
		return []string{p.Tree.String()}
	case p.Default != nil:
		return []string{"ONLY " + p.Parent.String(), p.Default.String()}
	default:
		return []string{"ONLY " + p.Parent.String()}
	}
}

// DetachSQL returns statements that detach the table from its parent and drop the
// foreign keys that it had from there. It returns nothing if the table is no partition.
//
// They take ACCESS EXCLUSIVE on the table, on the parent, on the default partition and
// on the tables that those keys refer to. No foreign key may refer to the parent.
//
// https://www.postgresql.org/docs/current/sql-altertable.html, "DETACH PARTITION"
func (t *Table) DetachSQL() []string {
	if t.Partition == nil {
		return nil
	}
	statements := []string{fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s", t.Partition.Parent, t.Name)}
	for _, key := range t.Partition.ForeignKeys {
		// PostgreSQL 14 itself drops a key to a partitioned table when it detaches,
		// hence IF EXISTS.
		statements = append(statements, fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s", t.Name, Quote(key.Name)))
	}
	return statements
}

// AttachSQL returns statements that attach the table which now has t's name, in t's
// place. The table must have the constraint of BoundSQL, validated; the statements drop
// it. For the foreign keys of the parent the server looks up what each row refers to.
// This takes time in proportion to the rows.
//
// They take ACCESS EXCLUSIVE on the table and on the default partition, and SHARE
// UPDATE EXCLUSIVE on the parent.
//
// https://www.postgresql.org/docs/current/sql-altertable.html, "ATTACH PARTITION"
func (t *Table) AttachSQL() []string {
	if t.Partition == nil {
		return nil
	}
	statements := []string{fmt.Sprintf("ALTER TABLE %s ATTACH PARTITION %s %s", t.Partition.Parent, t.Name, t.Partition.Bound)}
	statements = append(statements, t.keyPartsSQL(func(p KeyPart) bool { return p.Table == t.Name && !t.readds(p) })...)
	statements = append(statements, t.DropBoundSQL(t.Name)...)
	for _, column := range t.Partition.NotNull {
		statements = append(statements, fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s SET NOT NULL", t.Name, Quote(column)))
	}
	for _, x := range t.Partition.Triggers {
		statements = append(statements, fmt.Sprintf("ALTER TABLE %s %s TRIGGER %s", t.Name, enableWords[x.Enabled], Quote(x.Name)))
		statements = append(statements, x.marksSQL(t.Name)...)
	}
	return statements
}

// BoundSQL returns statements that add the constraint BoundName to table on. With notValid
// the server does not scan the rows. They take ACCESS EXCLUSIVE on the table. If the bound
// is a hash of text, they create BoundDomain in its schema.
func (t *Table) BoundSQL(on Name, notValid bool) []string {
	if t.Partition == nil || t.Partition.Check == "" {
		return nil
	}
	hashed, statements := t.Partition.hashBoundsOf(on)
	bounds := strings.Join(append([]string{t.Partition.Check}, hashed...), " AND ")
	sql := fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s CHECK (%s)", on, BoundName, bounds)
	if notValid {
		sql += " NOT VALID"
	}
	return append(statements, sql)
}

// ValidateBoundSQL returns the statement that validates the constraint BoundName: the
// server scans the rows. It takes SHARE UPDATE EXCLUSIVE on the table.
func (t *Table) ValidateBoundSQL(on Name) []string {
	if t.Partition == nil || t.Partition.Check == "" {
		return nil
	}
	return []string{fmt.Sprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", on, BoundName)}
}

// DropBoundSQL returns the statement that drops the constraint BoundName. It takes
// ACCESS EXCLUSIVE on the table.
func (t *Table) DropBoundSQL(on Name) []string {
	if t.Partition == nil || t.Partition.Check == "" {
		return nil
	}
	return []string{fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s", on, BoundName)}
}
