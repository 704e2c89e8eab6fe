// Package catalog is the one description of a table: read from pg_catalog by
// OID, it serves for building the shadow, for noticing DDL during a job, for
// the parity check in the swap and for refusing what cannot be carried over.
//
// A description holds no OIDs of sub-objects and no attribute numbers, so that
// a table and its faithful copy have equal descriptions.
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

// String is the name as SQL writes it, always quoted and qualified.
func (n Name) String() string { return pgx.Identifier{n.Schema, n.Name}.Sanitize() }

// In is the same bare name in another schema.
func (n Name) In(schema string) Name { return Name{Schema: schema, Name: n.Name} }

// Table describes a table as far as a repack has to know it.
type Table struct {
	OID  uint32 `json:"-"`
	Name Name   `json:"name"`

	Owner           string          `json:"owner"`
	Persistence     string          `json:"persistence"` // pg_class.relpersistence: p or u
	AccessMethod    string          `json:"access_method"`
	Tablespace      string          `json:"tablespace"` // empty: the database's default
	Options         []string        `json:"options"`
	ToastOptions    []string        `json:"toast_options"`
	ReplicaIdentity ReplicaIdentity `json:"replica_identity"`
	Partition       *Partition      `json:"partition"` // nil: of no table
	Comment         string          `json:"comment"`

	Columns     []Column     `json:"columns"`
	Constraints []Constraint `json:"constraints"`
	Indexes     []Index      `json:"indexes"`
	ForeignKeys []ForeignKey `json:"foreign_keys"` // of this table
	// Referencing are those of other tables to this one, or to a partitioned table
	// that it is in: such a key keeps it from being detached.
	Referencing []ForeignKey `json:"referenced_by"`
	KeyParts    []KeyPart    `json:"key_parts"`
	Sequences   []Sequence   `json:"sequences"` // owned by a column
	Grants      []Grant      `json:"grants"`

	RowSecurity      bool          `json:"row_security"`
	ForceRowSecurity bool          `json:"force_row_security"`
	Policies         []Policy      `json:"policies"`
	Triggers         []Trigger     `json:"triggers"`
	Rules            []Rule        `json:"rules"`
	Publications     []Publication `json:"publications"`
	Statistics       []Statistics  `json:"statistics"`
	Labels           []Label       `json:"labels"`
	Dependents       []Dependent   `json:"dependents"`
	// Matviews are no property of the table: they follow it after the swap.
	Matviews []Matview `json:"materialized_views"`

	unknown map[string]bool // properties that a stored description lacks: see Decode
}

// ReplicaIdentity is pg_class.relreplident with the index it names, if any.
type ReplicaIdentity struct {
	Kind  string `json:"kind"` // d default, n nothing, f full, i index
	Index string `json:"index"`
}

// Column describes an attribute that is not dropped, in attribute order.
type Column struct {
	Name        string   `json:"name"`
	Type        string   `json:"type"`      // format_type with an empty search_path: qualified
	Collation   string   `json:"collation"` // quoted; empty where it is the type's own
	NotNull     bool     `json:"not_null"`
	Identity    string   `json:"identity"`  // a always, d by default, empty none
	Generated   string   `json:"generated"` // s stored, v virtual, empty none
	Expression  string   `json:"expression"`
	Storage     string   `json:"storage"`     // empty where it is the type's own
	Compression string   `json:"compression"` // p pglz, l lz4, empty default
	Statistics  *int32   `json:"statistics"`
	Options     []string `json:"options"`
	Comment     string   `json:"comment"`
}

// Constraint describes a check, exclusion, primary key, unique or (from
// PostgreSQL 18 on) NOT NULL constraint; foreign keys have their own type.
type Constraint struct {
	Name       string `json:"name"`
	Type       string `json:"type"`       // pg_constraint.contype: c, x, p, u, n
	Definition string `json:"definition"` // pg_get_constraintdef
	Deferrable bool   `json:"deferrable"`
	Deferred   bool   `json:"deferred"`
	Validated  bool   `json:"validated"`
	Period     bool   `json:"period"` // WITHOUT OVERLAPS, PostgreSQL 18
	Comment    string `json:"comment"`
}

// Index describes an index. Tail is pg_get_indexdef from the access method on:
// what follows "CREATE [UNIQUE] INDEX name ON table ".
type Index struct {
	Name       string       `json:"name"`
	Tail       string       `json:"definition"`
	Unique     bool         `json:"unique"`
	Constraint string       `json:"constraint"` // name of the constraint it implements
	Tablespace string       `json:"tablespace"`
	Clustered  bool         `json:"clustered"`
	Valid      bool         `json:"valid"`
	Statistics []IndexStats `json:"statistics"`
	Comment    string       `json:"comment"`
	Size       int64        `json:"-"` // bytes on disk when it was read
	// KeyColumns are the names of the columns of an index that can tell rows
	// apart: unique, immediate, not partial, all of its columns plain and NOT
	// NULL. Otherwise it is empty.
	KeyColumns []string `json:"-"`
	Primary    bool     `json:"primary"`
}

// IsBtree reports whether the index keeps its entries in an order, and is built by
// sorting them.
func (i Index) IsBtree() bool { return strings.HasPrefix(i.Tail, "USING btree ") }

// IndexStats is a statistics target set on an index column (ALTER INDEX …
// ALTER COLUMN number SET STATISTICS).
type IndexStats struct {
	Column int16 `json:"column"`
	Target int32 `json:"target"`
}

// ForeignKey describes a foreign key constraint by its parts, so that either
// side can be another relation than the one it was read from.
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

	// ValidAbove is whether the key that a partition has it from is valid.
	ValidAbove bool `json:"valid_above"`

	// Conditions join its rows, fk, to those referred to, pk.
	Conditions     []string `json:"-"`
	RefPartitioned bool     `json:"-"`
}

// KeyPart is what a foreign key is for one partition, of either side: a row of
// pg_constraint with a name of its own, which error messages show.
type KeyPart struct {
	KeyTable   Name   `json:"key_table"` // of the key
	Key        string `json:"key"`
	Name       string `json:"name"`
	Table      Name   `json:"table"`
	Referenced Name   `json:"referenced"`
	Comment    string `json:"comment"`
}

// Sequence describes a sequence that belongs to a column. An identity's
// sequence is part of the column; an owned (serial) one is an object that
// outlives the swap.
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
	Owner       string  `json:"owner"`
	Comment     string  `json:"comment"`
	Grants      []Grant `json:"grants"`
}

// Grant is one privilege of an access control list, column grants included.
type Grant struct {
	Column    string `json:"column"` // empty: the whole relation
	Grantor   string `json:"grantor"`
	Grantee   string `json:"grantee"` // empty: PUBLIC
	Privilege string `json:"privilege"`
	Grantable bool   `json:"grantable"`
}

// Column returns the column of that name.
func (t *Table) Column(name string) (Column, bool) {
	i := slices.IndexFunc(t.Columns, func(c Column) bool { return c.Name == name })
	if i < 0 {
		return Column{}, false
	}
	return t.Columns[i], true
}

// HasName reports whether the table, one of its relations or materialized views
// bears a name, which then is taken in the schema of its shadow.
func (t *Table) HasName(name string) bool {
	return slices.Contains(t.names(), name) ||
		slices.ContainsFunc(t.Matviews, func(m Matview) bool { return slices.Contains(m.Relation.names(), name) })
}

// Stored returns the names of the columns a copy has to write: all but
// generated ones.
func (t *Table) Stored() []string {
	var names []string
	for _, c := range t.Columns {
		if c.Generated == "" {
			names = append(names, c.Name)
		}
	}
	return names
}

// Constraint returns the constraint of that name; foreign keys are not looked at.
func (t *Table) Constraint(name string) (Constraint, bool) {
	i := slices.IndexFunc(t.Constraints, func(c Constraint) bool { return c.Name == name })
	if i < 0 {
		return Constraint{}, false
	}
	return t.Constraints[i], true
}

// SelfReference reports whether a foreign key leads back to the table itself.
func (f ForeignKey) SelfReference() bool { return f.Table == f.Referenced }

// AllForeignKeys are the keys of the table and those of other tables to it, in
// the order in which they were made: the server fires their triggers in that of
// their OIDs, and it can matter which comes first.
func (t *Table) AllForeignKeys() []ForeignKey {
	keys := slices.Concat(t.ForeignKeys, t.Referencing)
	slices.SortStableFunc(keys, func(a, b ForeignKey) int { return cmp.Compare(a.OID, b.OID) })
	return keys
}

// Unvalidated is a description in which no enforced foreign key is valid, as
// when all have just been added, and without materialized views, which follow.
func (t *Table) Unvalidated() *Table {
	u := *t
	u.Matviews = nil
	u.eachForeignKey(func(k *ForeignKey) { k.Validated = false })
	return &u
}

// eachForeignKey changes the keys of t, which must be a copy, and not those of
// what t was copied from.
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

// WasValid reports whether t has the same key, and has it validated.
func (t *Table) WasValid(key ForeignKey) bool {
	valid := func(k ForeignKey) bool { return k.Table == key.Table && k.Name == key.Name && k.Validated }
	return slices.ContainsFunc(t.AllForeignKeys(), valid) || t.Partition != nil && slices.ContainsFunc(t.Partition.ForeignKeys, valid)
}

// Structure is the part of the description that a shadow has to be built with:
// what is left out can be read under the lock of the swap and given to the
// shadow there, whenever it was changed.
func (t *Table) Structure() *Table {
	s := *t
	s.Owner, s.Comment = "", ""
	s.ForeignKeys, s.Referencing, s.KeyParts, s.Sequences, s.Grants = nil, nil, nil, nil, nil
	s.RowSecurity, s.ForceRowSecurity = false, false
	s.Policies, s.Triggers, s.Rules, s.Publications, s.Labels, s.Dependents = nil, nil, nil, nil, nil, nil
	s.Matviews = nil
	s.Columns, s.Constraints, s.Indexes = slices.Clone(t.Columns), nil, slices.Clone(t.Indexes)
	for i := range s.Columns {
		s.Columns[i].Comment, s.Columns[i].Identity = "", ""
		if s.Columns[i].Generated == "" {
			s.Columns[i].Expression = ""
		}
	}
	for _, c := range t.Constraints {
		if c.Validated {
			c.Comment = ""
			s.Constraints = append(s.Constraints, c)
		}
	}
	for i := range s.Indexes {
		s.Indexes[i].Comment = ""
	}
	if t.Partition != nil {
		p := *t.Partition
		p.Triggers, p.ForeignKeys = nil, nil
		s.Partition = &p
	}
	return &s
}

// WithoutLinks is the description without what the exchange gives to either
// table: what joins it to other objects, and defaults.
func (t *Table) WithoutLinks() *Table {
	w := *t
	w.ForeignKeys, w.Referencing, w.KeyParts, w.Publications, w.Dependents, w.Matviews = nil, nil, nil, nil, nil, nil
	if t.Partition != nil {
		p := *t.Partition
		p.ForeignKeys = nil
		w.Partition = &p
	}
	w.Columns = slices.Clone(t.Columns)
	for i := range w.Columns {
		if w.Columns[i].Generated == "" {
			w.Columns[i].Expression = ""
		}
	}
	return &w
}

// Roles are the roles whose rights a repack needs: the owners of all that is
// altered with the table, and those it acts as.
func (t *Table) Roles() []string {
	roles := t.ActsAs()
	for _, k := range t.Referencing {
		roles = append(roles, k.TableOwner)
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

// ActsAs are the roles that a repack has to be able to become: those to which it
// gives what it creates, and those that have granted privileges.
func (t *Table) ActsAs() []string {
	roles := []string{t.Owner}
	for _, s := range t.Statistics {
		roles = append(roles, s.Owner)
	}
	for _, g := range t.Grants {
		roles = append(roles, g.Grantor)
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

// ValidAsIn is t with those foreign keys valid, too, that are in o: a key that
// the swap has moved may not have been validated yet.
func (t *Table) ValidAsIn(o *Table) *Table {
	v := *t
	v.eachForeignKey(func(k *ForeignKey) { k.Validated = k.Validated || o.WasValid(*k) })
	return &v
}
