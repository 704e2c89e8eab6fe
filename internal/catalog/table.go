package catalog

import (
	"cmp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Name is a schema-qualified name, unquoted.
type Name struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
}

// String returns the name as SQL writes it: qualified, and always quoted.
func (n Name) String() string { return pgx.Identifier{n.Schema, n.Name}.Sanitize() }

// In returns the same bare name in another schema.
func (n Name) In(schema string) Name { return Name{Schema: schema, Name: n.Name} }

// Table describes a table: everything about it that a repack must know. Read fills it.
//
// The tag given says when the new table gets a property: see Structure and WithoutLinks.
// Without a tag, the shadow is built with it.
type Table struct {
	OID  uint32 `json:"-"`
	Name Name   `json:"name"`

	Owner           string          `json:"owner" given:"swap"`
	Persistence     string          `json:"persistence"` // pg_class.relpersistence: p permanent, u unlogged
	AccessMethod    string          `json:"access_method"`
	Tablespace      string          `json:"tablespace"` // empty: the database's default
	Options         []string        `json:"options"`
	ToastOptions    []string        `json:"toast_options"`
	ReplicaIdentity ReplicaIdentity `json:"replica_identity"`
	Partition       *Partition      `json:"partition"` // nil: the table is no partition
	Comment         string          `json:"comment" given:"swap"`

	Columns     []Column     `json:"columns"`
	Constraints []Constraint `json:"constraints"`
	Indexes     []Index      `json:"indexes"`
	ForeignKeys []ForeignKey `json:"foreign_keys" given:"link"` // of this table
	// Referencing are the foreign keys of other tables to this one. They include those
	// to a partitioned table that this table is in: such a key keeps the table from
	// being detached.
	Referencing []ForeignKey `json:"referenced_by" given:"link"`
	KeyParts    []KeyPart    `json:"key_parts" given:"link"`
	Sequences   []Sequence   `json:"sequences" given:"swap"` // owned by a column
	Grants      []Grant      `json:"grants" given:"swap"`

	RowSecurity      bool          `json:"row_security" given:"swap"`
	ForceRowSecurity bool          `json:"force_row_security" given:"swap"`
	Policies         []Policy      `json:"policies" given:"swap"`
	Triggers         []Trigger     `json:"triggers" given:"swap"`
	Rules            []Rule        `json:"rules" given:"swap"`
	Publications     []Publication `json:"publications" given:"link"`
	Statistics       []Statistics  `json:"statistics"`
	Labels           []Label       `json:"labels" given:"swap"`
	Typed            []Typed       `json:"row_type_objects" given:"swap"` // functions and the like of its row type
	Dependents       []Dependent   `json:"dependents" given:"link"`
	// Matviews are not a property of the table. They are rebuilt after the swap.
	Matviews []Matview `json:"materialized_views" given:"link"`

	unknown map[string]bool // properties that a stored description lacks: see Decode
	extras  foundExtras     // see Extras
}

// ReplicaIdentity is pg_class.relreplident, with the name of the index for kind i.
type ReplicaIdentity struct {
	Kind  string `json:"kind"` // d default, n nothing, f full, i index
	Index string `json:"index"`
}

// Column describes a column that is not dropped. Table.Columns has them in attribute
// order.
type Column struct {
	Name        string   `json:"name"`
	Type        string   `json:"type"`      // qualified: format_type, with an empty search_path
	Collation   string   `json:"collation"` // quoted; empty: the type's own
	NotNull     bool     `json:"not_null"`
	Identity    string   `json:"identity" given:"swap"` // a always, d by default, empty none
	Generated   string   `json:"generated"`             // s stored, v virtual, empty none
	Expression  string   `json:"expression"`            // of a generated column, or else of the default: see isDefault
	Storage     string   `json:"storage"`               // empty: the type's own
	Compression string   `json:"compression"`           // p pglz, l lz4, empty default
	Statistics  *int32   `json:"statistics"`
	Options     []string `json:"options"`
	Comment     string   `json:"comment" given:"swap"`
}

// Constraint describes a check, exclusion, primary key or unique constraint, or from
// PostgreSQL 18 on a NOT NULL constraint. Foreign keys have a type of their own,
// ForeignKey.
type Constraint struct {
	Name       string `json:"name"`
	Type       string `json:"type"`       // pg_constraint.contype: c, x, p, u, n
	Definition string `json:"definition"` // pg_get_constraintdef
	Deferrable bool   `json:"deferrable"`
	Deferred   bool   `json:"deferred"`
	Validated  bool   `json:"validated"`
	Period     bool   `json:"period"` // WITHOUT OVERLAPS, PostgreSQL 18
	Comment    string `json:"comment" given:"swap"`
}

// Index describes an index. Tail is the part of pg_get_indexdef that follows "CREATE
// [UNIQUE] INDEX name ON table ": it starts with the access method.
type Index struct {
	Name       string       `json:"name"`
	Tail       string       `json:"definition"`
	Unique     bool         `json:"unique"`
	Constraint string       `json:"constraint"` // name of the constraint that it implements
	Tablespace string       `json:"tablespace"`
	Clustered  bool         `json:"clustered"`
	Valid      bool         `json:"valid"`
	Statistics []IndexStats `json:"statistics"`
	Comment    string       `json:"comment" given:"swap"`
	Extensions []string     `json:"depends_on_extensions" given:"swap"` // ALTER INDEX … DEPENDS ON EXTENSION
	Size       int64        `json:"-"`                                  // bytes on disk at the time of reading
	// KeyColumns are the names of the index's columns, if the index can identify rows:
	// it is unique, valid, not deferrable, not partial and not WITHOUT OVERLAPS, and all
	// its key columns are plain columns that are NOT NULL. Otherwise it is empty.
	KeyColumns []string `json:"-"`
	Primary    bool     `json:"primary"`
}

// IsBtree reports whether the index is a btree. Only a btree keeps its entries in an
// order, and is built by sorting them.
func (i Index) IsBtree() bool { return strings.HasPrefix(i.Tail, "USING btree ") }

// IndexStats is a statistics target of an index column (ALTER INDEX … ALTER COLUMN
// number SET STATISTICS).
type IndexStats struct {
	Column int16 `json:"column"`
	Target int32 `json:"target"`
}

// ForeignKey describes a foreign key by its parts, so that SQL can be made from it for
// another table on either side.
type ForeignKey struct {
	OID           uint32   `json:"-"`
	Name          string   `json:"name"`
	Table         Name     `json:"table"`
	Columns       []string `json:"columns"`
	Referenced    Name     `json:"referenced"`
	RefColumns    []string `json:"referenced_columns"`
	Match         string   `json:"match"`     // s simple, f full
	OnUpdate      string   `json:"on_update"` // a no action, r restrict, c cascade, n set null, d set default
	OnDelete      string   `json:"on_delete"`
	DeleteColumns []string `json:"on_delete_columns"` // SET NULL (columns), PostgreSQL 15
	Deferrable    bool     `json:"deferrable"`
	Deferred      bool     `json:"deferred"`
	Validated     bool     `json:"validated"`
	Enforced      bool     `json:"enforced"` // PostgreSQL 18
	Period        bool     `json:"period"`   // PostgreSQL 18
	Comment       string   `json:"comment"`
	TableOwner    string   `json:"table_owner"`

	// ValidAbove says, of a key that a partition has from a partitioned table, whether
	// that table's key is valid.
	ValidAbove bool `json:"valid_above"`

	// Conditions are SQL conditions that join a row of Table, alias fk, to the row of
	// Referenced, alias pk.
	Conditions     []string `json:"-"`
	RefPartitioned bool     `json:"-"`
	TableOID       uint32   `json:"-"`
	// Partitioned says that Table is a partitioned table. The key then has a part on
	// each of its partitions.
	Partitioned bool `json:"-"`
}

// KeyPart is the part of a foreign key for one partition, on either side of the key. It
// is a row of pg_constraint with a name of its own, and error messages show that name.
type KeyPart struct {
	KeyTable   Name   `json:"key_table"` // the table that the key belongs to
	Key        string `json:"key"`
	Name       string `json:"name"`
	Table      Name   `json:"table"`
	Referenced Name   `json:"referenced"`
	Comment    string `json:"comment"`

	TableOwner  string `json:"-"`
	Partitioned bool   `json:"-"` // Table has partitions itself
	Validated   bool   `json:"-"`
	// DeleteColumns may name other columns than those of the key: PostgreSQL takes over
	// their numbers, which may be those of other columns of the partition.
	DeleteColumns []string `json:"-"`
}

// Sequence describes a sequence that belongs to a column. The sequence of an identity
// column is part of that column. An owned sequence (serial) is an object of its own: it
// stays when the tables are swapped.
type Sequence struct {
	Name        Name    `json:"name"`
	Column      string  `json:"column"`
	Identity    bool    `json:"identity"`
	Type        string  `json:"type"`
	Start       int64   `json:"start"`
	Increment   int64   `json:"increment"`
	Min         int64   `json:"min"`
	Max         int64   `json:"max"`
	Cache       int64   `json:"cache"`
	Cycle       bool    `json:"cycle"`
	Persistence string  `json:"persistence"`
	Publishable bool    `json:"-"` // a publication FOR ALL SEQUENCES would publish it
	Published   bool    `json:"-"` // there is one
	Owner       string  `json:"owner"`
	Comment     string  `json:"comment"`
	Grants      []Grant `json:"grants"`
}

// Grant is one privilege of an access control list, of the relation or of a column.
type Grant struct {
	Column    string `json:"column"` // empty: the whole relation
	Grantor   string `json:"grantor"`
	Grantee   string `json:"grantee"` // empty: PUBLIC
	Privilege string `json:"privilege"`
	Grantable bool   `json:"grantable"`
}

// Column returns the column of that name. ok is false if there is none.
func (t *Table) Column(name string) (Column, bool) {
	i := slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == name })
	if i < 0 {
		return Column{}, false
	}
	return t.Columns[i], true
}

// HasName reports whether the table, one of its indexes and sequences, or one of its
// materialized views or of theirs has that name. Then the name is not free in the
// schema of the shadow.
func (t *Table) HasName(name string) bool {
	return slices.Contains(t.names(), name) ||
		slices.ContainsFunc(t.Matviews, func(m Matview) bool { return slices.Contains(m.Relation.names(), name) })
}

// Stored returns the names of the columns that a copy must write: all except generated
// ones.
func (t *Table) Stored() []string {
	var names []string
	for _, c := range t.Columns {
		if c.Generated == "" {
			names = append(names, c.Name)
		}
	}
	return names
}

// Constraint returns the constraint of that name. It does not look at foreign keys.
func (t *Table) Constraint(name string) (Constraint, bool) {
	i := slices.IndexFunc(t.Constraints, func(c Constraint) bool { return c.Name == name })
	if i < 0 {
		return Constraint{}, false
	}
	return t.Constraints[i], true
}

// Deferrable returns the names of the constraints that are deferrable. It does not look at
// foreign keys.
func (t *Table) Deferrable() (names []string) {
	for _, c := range t.Constraints {
		if c.Deferrable {
			names = append(names, c.Name)
		}
	}
	return names
}

// SelfReference reports whether the foreign key refers to its own table.
func (f ForeignKey) SelfReference() bool { return f.Table == f.Referenced }

// AllForeignKeys returns the keys of the table and those of other tables to it, in the
// order in which they were created. The order can matter: the server fires the triggers
// of keys in the order of their OIDs.
func (t *Table) AllForeignKeys() []ForeignKey {
	keys := slices.Concat(t.ForeignKeys, t.Referencing)
	slices.SortStableFunc(keys, func(a, b ForeignKey) int { return cmp.Compare(a.OID, b.OID) })
	return keys
}

// Unvalidated returns the description as it is just after all foreign keys were added
// again: none of them is valid. It has no materialized views, because they are rebuilt
// later.
func (t *Table) Unvalidated() *Table {
	u := *t
	u.Matviews = nil
	u.eachForeignKey(func(k *ForeignKey) { k.Validated = false })
	return &u
}

// eachForeignKey calls change for each foreign key of t. t must be a copy: its lists
// are cloned first, so the description that it was copied from keeps its keys.
func (t *Table) eachForeignKey(change func(*ForeignKey)) {
	t.ForeignKeys, t.Referencing = slices.Clone(t.ForeignKeys), slices.Clone(t.Referencing)
	lists := [][]ForeignKey{t.ForeignKeys, t.Referencing}
	if t.Partition != nil {
		p := *t.Partition
		p.ForeignKeys = slices.Clone(p.ForeignKeys)
		t.Partition, lists = &p, append(lists, p.ForeignKeys)
	}
	for _, keys := range lists {
		for i := range keys {
			change(&keys[i])
		}
	}
}

// WasValid reports whether t has the same key (same table, same name), and has it as
// valid.
func (t *Table) WasValid(key ForeignKey) bool {
	valid := func(k ForeignKey) bool { return k.Table == key.Table && k.Name == key.Name && k.Validated }
	return slices.ContainsFunc(t.AllForeignKeys(), valid) || t.Partition != nil && slices.ContainsFunc(t.Partition.ForeignKeys, valid)
}

// Roles returns the roles whose rights a repack needs, sorted: the owners of all
// objects that are altered with the table, and the roles of ActsAs.
func (t *Table) Roles() []string {
	roles := t.ActsAs()
	for _, k := range t.Referencing {
		roles = append(roles, k.TableOwner)
	}
	for _, p := range t.KeyParts {
		roles = append(roles, p.TableOwner)
	}
	for _, d := range t.Dependents {
		roles = append(roles, d.Owner)
	}
	for _, p := range t.Publications {
		roles = append(roles, p.Owner)
	}
	if t.Partition != nil {
		roles = append(roles, t.Partition.Owners...)
	}
	for _, m := range t.Matviews {
		roles = append(roles, m.Relation.Roles()...)
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

// ActsAs returns the roles that a repack must be able to SET ROLE to or give objects
// to, sorted: the owners of what it creates, and the roles that have granted
// privileges.
func (t *Table) ActsAs() []string {
	roles := []string{t.Owner}
	for _, s := range t.Statistics {
		roles = append(roles, s.Owner)
	}
	for _, g := range t.Grants {
		roles = append(roles, g.Grantor)
	}
	for _, o := range t.Typed {
		if o.Owner != "" {
			roles = append(roles, o.Owner)
		}
		for _, g := range o.Grants {
			roles = append(roles, g.Grantor)
		}
	}
	for _, s := range t.Sequences {
		for _, g := range s.Grants {
			roles = append(roles, g.Grantor)
		}
	}
	for _, m := range t.Matviews {
		roles = append(roles, m.Relation.ActsAs()...)
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

// ValidAsIn returns t with each foreign key valid that is valid in t or in o. A key
// that the swap has moved may not have been validated yet.
func (t *Table) ValidAsIn(o *Table) *Table {
	v := *t
	v.eachForeignKey(func(k *ForeignKey) { k.Validated = k.Validated || o.WasValid(*k) })
	return &v
}
