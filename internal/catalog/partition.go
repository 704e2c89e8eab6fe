package catalog

import (
	"fmt"
)

// Partition is a table's place in a partitioned table.
type Partition struct {
	Parent Name   `json:"parent"`
	Bound  string `json:"bound"` // FOR VALUES … or DEFAULT
	// Check is true of every row by the bounds of the partition and of all
	// that it is in.
	Check string `json:"check"`
	// Indexes are attached to those of the parent, Triggers come from there.
	Indexes  []Attached `json:"indexes"`
	Triggers []Trigger  `json:"triggers"`
	// NotNull are the columns that are NOT NULL by the parent and by the table's
	// own word, which are two things from PostgreSQL 18 on.
	NotNull []string `json:"not_null"`
	// ForeignKeys are those of a partitioned table that it is in. DETACH leaves
	// them with the table; ATTACH gives them to it, and looks for what each row
	// refers to.
	ForeignKeys []ForeignKey `json:"foreign_keys"`
	// Default is the parent's default partition, where that is another one: it
	// is locked together with the parent.
	Default *Name `json:"-"`
	// Tree is the uppermost partitioned table that the table is in and a foreign
	// key refers to: with the key all partitions of it are altered.
	Tree   *Name    `json:"-"`
	Owners []string `json:"-"` // of the parent, Default and Tree
	// Compared tells whether the table has checks or generated columns from the
	// parent, and Whole whether a check of it has a whole row in it.
	Compared, Whole bool `json:"-"`
}

// Attached is an index that is a part of one of the parent's.
type Attached struct {
	Name   string `json:"name"`
	Parent Name   `json:"parent"`
}

// BoundName is the constraint that stands for a partition's bound while a table
// is not attached: with it ATTACH PARTITION has no row to look at.
const BoundName = "repack_bound"

// A check on a whole row has column 0 among its columns.
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
          EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND 0 = ANY (k.conkey))    AS whole
FROM      pg_class c
JOIN      pg_inherits i            ON i.inhrelid = c.oid
JOIN      pg_class p               ON p.oid = i.inhparent
JOIN      pg_namespace pn          ON pn.oid = p.relnamespace
JOIN      pg_partitioned_table t   ON t.partrelid = p.oid
LEFT JOIN pg_class d               ON d.oid = t.partdefid AND d.oid <> c.oid
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
		Check                                            *string // a default partition without others takes every row
		DefaultSchema, DefaultName, TreeSchema, TreeName *string
		Owners, NotNull                                  []string
		Compared, Whole                                  bool
	}
	want(d, partitionSQL, func(places []place) error {
		for _, r := range places {
			p := &Partition{
				Parent: Name{r.ParentSchema, r.ParentName}, Bound: r.Bound, Owners: r.Owners, NotNull: r.NotNull, Compared: r.Compared, Whole: r.Whole,
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

// Above are the relations that are locked with a partition, and before it, as
// LOCK TABLE takes them: without ONLY all partitions are locked.
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

// DetachSQL takes the table out of the one it is a partition of, and from it the
// foreign keys that it had from there; it is nothing where the table is no
// partition. It takes ACCESS EXCLUSIVE on both, on the default partition and on
// what the keys refer to. No key may refer to the parent.
func (t *Table) DetachSQL() []string {
	if t.Partition == nil {
		return nil
	}
	statements := []string{fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s", t.Partition.Parent, t.Name)}
	for _, key := range t.Partition.ForeignKeys {
		// PostgreSQL 14 takes one to a partitioned table away when it detaches.
		statements = append(statements, fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s", t.Name, Quote(key.Name)))
	}
	return statements
}

// AttachSQL puts the table that now bears t's name in t's place. It must have
// the constraint of BoundSQL, validated, which is then dropped. The server looks
// for what each row refers to by the foreign keys of the parent.
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
		statements = append(statements, comment("TRIGGER "+Quote(x.Name)+" ON "+t.Name.String(), x.Comment)...)
	}
	return statements
}

// BoundSQL gives a table the constraint of t's bound, notValid without a look
// at its rows.
func (t *Table) BoundSQL(on Name, notValid bool) []string {
	if t.Partition == nil || t.Partition.Check == "" {
		return nil
	}
	sql := fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s CHECK (%s)", on, BoundName, t.Partition.Check)
	if notValid {
		sql += " NOT VALID"
	}
	return []string{sql}
}

// ValidateBoundSQL has the server look at the rows. It takes SHARE UPDATE
// EXCLUSIVE on the table.
func (t *Table) ValidateBoundSQL(on Name) []string {
	if t.Partition == nil || t.Partition.Check == "" {
		return nil
	}
	return []string{fmt.Sprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", on, BoundName)}
}

// DropBoundSQL takes it away.
func (t *Table) DropBoundSQL(on Name) []string {
	if t.Partition == nil || t.Partition.Check == "" {
		return nil
	}
	return []string{fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s", on, BoundName)}
}
