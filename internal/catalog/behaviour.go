package catalog

import (
	"fmt"
	"strings"
)

// Trigger describes a user trigger. Definition is pg_get_triggerdef, with the
// table's name in it, and so fits whatever table bears that name.
type Trigger struct {
	Name       string `json:"name"`
	Definition string `json:"definition"`
	Enabled    string `json:"enabled"` // pg_trigger.tgenabled: O, D, R, A
	Comment    string `json:"comment"`
}

// Rule describes a rule of the table other than a view's.
type Rule struct {
	Name       string `json:"name"`
	Definition string `json:"definition"`
	Enabled    string `json:"enabled"`
	Comment    string `json:"comment"`
}

// Policy describes a row-level security policy.
type Policy struct {
	Name       string   `json:"name"`
	Command    string   `json:"command"` // ALL, SELECT, INSERT, UPDATE, DELETE
	Permissive bool     `json:"permissive"`
	Roles      []string `json:"roles"` // quoted; PUBLIC for all
	Using      string   `json:"using"`
	WithCheck  string   `json:"with_check"`
	Comment    string   `json:"comment"`
}

// Publication describes the table's explicit membership in a publication.
type Publication struct {
	Name    string   `json:"name"`
	Columns []string `json:"columns"` // empty: all
	Where   string   `json:"where"`
	Owner   string   `json:"owner"`
}

// Statistics describes an extended statistics object on the table.
type Statistics struct {
	Name    Name   `json:"name"`
	Kinds   string `json:"kinds"`   // as CREATE STATISTICS lists them; empty: one expression
	Columns string `json:"columns"` // pg_get_statisticsobjdef_columns
	Target  *int32 `json:"target"`
	Owner   string `json:"owner"`
	Comment string `json:"comment"`
}

// Label is a security label on the table or one of its columns.
type Label struct {
	Provider string `json:"provider"`
	Column   string `json:"column"`
	Label    string `json:"label"`
}

// Dependent is an object elsewhere whose stored definition refers to the table
// by OID: a view, a rule, a policy or a function with a SQL-standard body.
// Replace, run when another table bears the name, makes it refer to that one;
// the object stays the same, with its grants, comments and own dependents.
type Dependent struct {
	OID     uint32 `json:"-"` // of the view, rule, policy or function
	Kind    string `json:"kind"`
	Name    string `json:"name"` // quoted
	Owner   string `json:"owner"`
	Replace string `json:"replace"`
	// Lock takes the lock that Replace will want, and changes nothing; empty
	// where none is needed. Queries lock a view before its tables, so we do.
	Lock string `json:"lock"`

	options    []string // of a view
	definition string   // of a view
}

var enableWords = map[string]string{"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}

// AddBehaviourSQL gives a table that bears t's name t's triggers, rules,
// policies, row-level security and labels.
func (t *Table) AddBehaviourSQL() []string {
	var statements []string
	for _, part := range t.Behaviour() {
		statements = append(statements, part.SQL...)
	}
	return statements
}

// Part is an object that belongs to a table, or depends on it, and what makes it.
type Part struct {
	Object string
	SQL    []string
}

// Behaviour is AddBehaviourSQL, object by object.
func (t *Table) Behaviour() []Part {
	var parts []Part
	for _, x := range t.Triggers {
		parts = append(parts, Part{
			"trigger " + Quote(x.Name),
			append([]string{x.Definition}, comment("TRIGGER "+Quote(x.Name)+" ON "+t.Name.String(), x.Comment)...),
		})
	}
	for _, r := range t.Rules {
		parts = append(parts, Part{
			"rule " + Quote(r.Name),
			append([]string{r.Definition}, comment("RULE "+Quote(r.Name)+" ON "+t.Name.String(), r.Comment)...),
		})
	}
	parts = append(parts, Part{"the state of its triggers and rules", t.EnableSQL()})
	for _, p := range t.Policies {
		parts = append(parts, Part{
			"policy " + Quote(p.Name),
			append([]string{p.createSQL(t.Name)}, comment("POLICY "+Quote(p.Name)+" ON "+t.Name.String(), p.Comment)...),
		})
	}
	var flags []string
	if t.RowSecurity {
		flags = append(flags, fmt.Sprintf("ALTER TABLE %s ENABLE ROW LEVEL SECURITY", t.Name))
	}
	if t.ForceRowSecurity {
		flags = append(flags, fmt.Sprintf("ALTER TABLE %s FORCE ROW LEVEL SECURITY", t.Name))
	}
	parts = append(parts, Part{"row-level security", flags})
	for _, l := range t.Labels {
		parts = append(parts, Part{"security label of " + Quote(l.Provider), []string{l.sql(t.Name)}})
	}
	return parts
}

// DropBehaviourSQL takes t's triggers, rules and policies from it.
func (t *Table) DropBehaviourSQL() []string {
	var statements []string
	for _, x := range t.Triggers {
		statements = append(statements, fmt.Sprintf("DROP TRIGGER %s ON %s", Quote(x.Name), t.Name))
	}
	for _, r := range t.Rules {
		statements = append(statements, fmt.Sprintf("DROP RULE %s ON %s", Quote(r.Name), t.Name))
	}
	for _, p := range t.Policies {
		statements = append(statements, fmt.Sprintf("DROP POLICY %s ON %s", Quote(p.Name), t.Name))
	}
	return statements
}

// EnableSQL brings triggers and rules into the state that t describes.
func (t *Table) EnableSQL() []string { return t.stateSQL(func(state string) string { return state }) }

// DisableSQL switches triggers and rules off: those of a table that is parked
// must not fire when it is kept in step.
func (t *Table) DisableSQL() []string { return t.stateSQL(func(string) string { return "D" }) }

func (t *Table) stateSQL(wanted func(state string) string) []string {
	var statements []string
	for _, x := range t.Triggers {
		statements = append(statements, fmt.Sprintf("ALTER TABLE %s %s TRIGGER %s", t.Name, enableWords[wanted(x.Enabled)], Quote(x.Name)))
	}
	for _, r := range t.Rules {
		statements = append(statements, fmt.Sprintf("ALTER TABLE %s %s RULE %s", t.Name, enableWords[wanted(r.Enabled)], Quote(r.Name)))
	}
	return statements
}

func (p Policy) createSQL(table Name) string {
	kind := "PERMISSIVE"
	if !p.Permissive {
		kind = "RESTRICTIVE"
	}
	sql := fmt.Sprintf("CREATE POLICY %s ON %s AS %s FOR %s TO %s", Quote(p.Name), table, kind, p.Command, strings.Join(p.Roles, ", "))
	if p.Using != "" {
		sql += " USING (" + p.Using + ")"
	}
	if p.WithCheck != "" {
		sql += " WITH CHECK (" + p.WithCheck + ")"
	}
	return sql
}

func (l Label) sql(table Name) string {
	object := "TABLE " + table.String()
	if l.Column != "" {
		object = "COLUMN " + table.String() + "." + Quote(l.Column)
	}
	return fmt.Sprintf("SECURITY LABEL FOR %s ON %s IS %s", Quote(l.Provider), object, Literal(l.Label))
}

// PublishSQL adds a table that bears t's name to the publications t is in.
func (t *Table) PublishSQL() []string {
	var statements []string
	for _, part := range t.Publishing() {
		statements = append(statements, part.SQL...)
	}
	return statements
}

// Publishing is PublishSQL, publication by publication.
func (t *Table) Publishing() []Part {
	var parts []Part
	for _, p := range t.Publications {
		sql := fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE ONLY %s", Quote(p.Name), t.Name)
		if len(p.Columns) > 0 {
			sql += " (" + QuoteAll(p.Columns) + ")"
		}
		if p.Where != "" {
			sql += " WHERE (" + p.Where + ")"
		}
		parts = append(parts, Part{"publication " + Quote(p.Name), []string{sql}})
	}
	return parts
}

// UnpublishSQL takes a table that bears t's name out of them.
func (t *Table) UnpublishSQL() []string {
	var statements []string
	for _, p := range t.Publications {
		statements = append(statements, fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE ONLY %s", Quote(p.Name), t.Name))
	}
	return statements
}

// CreateSQL creates the statistics object in the table's schema.
func (s Statistics) CreateSQL(table Name) []string {
	name := s.Name.In(table.Schema)
	kinds := ""
	if s.Kinds != "" {
		kinds = " (" + s.Kinds + ")"
	}
	statements := []string{fmt.Sprintf("CREATE STATISTICS %s%s ON %s FROM %s", name, kinds, s.Columns, table)}
	if s.Target != nil {
		statements = append(statements, fmt.Sprintf("ALTER STATISTICS %s SET STATISTICS %d", name, *s.Target))
	}
	return append(statements, comment("STATISTICS "+name.String(), s.Comment)...)
}

// OwnerSQL gives the statistics object, in place, to its owner.
func (s Statistics) OwnerSQL() string {
	return fmt.Sprintf("ALTER STATISTICS %s OWNER TO %s", s.Name, Quote(s.Owner))
}

// MoveSQL moves the statistics object, of the name s has, between schemas: a
// table does not take it along.
func (s Statistics) MoveSQL(from, to string) string {
	return fmt.Sprintf("ALTER STATISTICS %s SET SCHEMA %s", s.Name.In(from), Quote(to))
}
