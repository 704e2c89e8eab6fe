package stages

import (
	"strings"

	"github.com/repack-go/repack/internal/catalog"
)

// Carried is a kind of property that the new table will also have.
type Carried struct {
	Kind  string   `json:"kind"`
	Count int      `json:"count"`
	Names []string `json:"names"`
}

// names lists a property of each element and leaves out empty ones.
func names[T any](elements []T, name func(T) string) []string {
	var list []string
	for _, e := range elements {
		if n := name(e); n != "" {
			list = append(list, n)
		}
	}
	return list
}

// carriedOver lists what a table has, by kind. The kinds are in the order in which pg_dump
// would write them.
func carriedOver(t *catalog.Table) []Carried {
	carried := []Carried{}
	add := func(kind string, list []string) {
		if len(list) > 0 {
			carried = append(carried, Carried{Kind: kind, Count: len(list), Names: list})
		}
	}
	add("columns", names(t.Columns, func(c catalog.Column) string { return c.Name }))
	add("defaults", names(t.Columns, func(c catalog.Column) string { return when(c.Generated == "" && c.Expression != "", c.Name) }))
	add("generated columns", names(t.Columns, func(c catalog.Column) string { return when(c.Generated != "", c.Name) }))
	add("identity columns", names(t.Columns, func(c catalog.Column) string { return when(c.Identity != "", c.Name) }))
	// NOT NULL counts as a property of the column. From PostgreSQL 18 on it is a constraint.
	add("constraints", names(t.Constraints, func(c catalog.Constraint) string { return when(c.Type != "n", c.Name) }))
	add("indexes", names(t.Indexes, func(i catalog.Index) string { return when(i.Constraint == "", i.Name) }))
	add("foreign keys", names(t.ForeignKeys, func(k catalog.ForeignKey) string { return k.Name + " to " + k.Referenced.String() }))
	if t.Partition != nil {
		add("foreign keys of the partitioned table", names(t.Partition.ForeignKeys, func(k catalog.ForeignKey) string { return k.Name + " to " + k.Referenced.String() }))
	}
	add("foreign keys to it", names(t.Referencing, func(k catalog.ForeignKey) string {
		return k.Name + " of " + k.Table.String() + when(k.Referenced != t.Name, " to "+k.Referenced.String())
	}))
	add("sequences", names(t.Sequences, func(s catalog.Sequence) string { return s.Name.String() }))
	add("settings", settings(t))
	add("grants", names(t.Grants, func(g catalog.Grant) string { return when(g.Grantee != t.Owner, grantName(g)) }))
	add("triggers", names(t.Triggers, func(x catalog.Trigger) string { return x.Name }))
	add("rules", names(t.Rules, func(r catalog.Rule) string { return r.Name }))
	add("policies", names(t.Policies, func(x catalog.Policy) string { return x.Name }))
	add("publications", names(t.Publications, func(x catalog.Publication) string { return x.Name }))
	add("statistics objects", names(t.Statistics, func(s catalog.Statistics) string { return s.Name.String() }))
	add("security labels", names(t.Labels, func(l catalog.Label) string { return strings.TrimSpace(l.Provider + " " + l.Column) }))
	add("comments", comments(t))
	add("functions of the row type", names(t.Typed, func(o catalog.Typed) string { return o.Kind + " " + o.Name }))
	add("dependents", names(t.Dependents, func(d catalog.Dependent) string { return d.Kind + " " + d.Name }))
	add("materialized views", names(t.Matviews, func(m catalog.Matview) string { return m.Relation.Name.String() }))
	return carried
}

func when(condition bool, text string) string {
	if !condition {
		return ""
	}
	return text
}

func grantName(g catalog.Grant) string {
	grantee := "PUBLIC"
	if g.Grantee != "" {
		grantee = catalog.Quote(g.Grantee)
	}
	column := ""
	if g.Column != "" {
		column = " (" + catalog.Quote(g.Column) + ")"
	}
	return g.Privilege + column + " to " + grantee
}

// settings lists the properties of the table itself that differ from the default.
func settings(t *catalog.Table) []string {
	list := names(t.Options, func(o string) string { return o })
	list = append(list, names(t.ToastOptions, func(o string) string { return "toast." + o })...)
	for _, s := range []string{
		when(t.Persistence == "u", "unlogged"),
		when(t.Tablespace != "", "tablespace "+catalog.Quote(t.Tablespace)),
		when(t.ReplicaIdentity.Kind == "n", "replica identity nothing"),
		when(t.ReplicaIdentity.Kind == "f", "replica identity full"),
		when(t.ReplicaIdentity.Kind == "i", "replica identity "+catalog.Quote(t.ReplicaIdentity.Index)),
		when(t.RowSecurity, "row-level security"),
		when(t.ForceRowSecurity, "row-level security forced"),
	} {
		if s != "" {
			list = append(list, s)
		}
	}
	return list
}

// comments lists what has a comment.
func comments(t *catalog.Table) []string {
	var list []string
	add := func(object, comment string) {
		if comment != "" {
			list = append(list, object)
		}
	}
	add("table", t.Comment)
	for _, c := range t.Columns {
		add("column "+c.Name, c.Comment)
	}
	for _, c := range t.Constraints {
		add("constraint "+c.Name, c.Comment)
	}
	for _, k := range t.AllForeignKeys() {
		add("foreign key "+k.Name, k.Comment)
	}
	for _, i := range t.Indexes {
		add("index "+i.Name, i.Comment)
	}
	for _, s := range t.Sequences {
		add("sequence "+s.Name.Name, s.Comment)
	}
	for _, x := range t.Triggers {
		add("trigger "+x.Name, x.Comment)
	}
	for _, x := range t.Rules {
		add("rule "+x.Name, x.Comment)
	}
	for _, x := range t.Policies {
		add("policy "+x.Name, x.Comment)
	}
	for _, s := range t.Statistics {
		add("statistics "+s.Name.Name, s.Comment)
	}
	return list
}
