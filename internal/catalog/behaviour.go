package catalog

import (
	"fmt"
	"slices"
	"strings"
)

// Trigger describes a user trigger. Definition is pg_get_triggerdef. It contains the
// table's name, so it can be run for whatever table has that name.
type Trigger struct {
	Name       string `json:"name"`
	Definition string `json:"definition"`
	Enabled    string `json:"enabled"` // pg_trigger.tgenabled: O, D, R, A
	Comment    string `json:"comment"`
	// ConstraintComment is the comment on the constraint of a constraint trigger.
	ConstraintComment string   `json:"constraint_comment"`
	Extensions        []string `json:"depends_on_extensions"` // ALTER TRIGGER … DEPENDS ON EXTENSION
}

// Rule describes a rule of the table. Definition is pg_get_ruledef.
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
	Roles      []string `json:"roles"` // quoted; PUBLIC: all roles
	Using      string   `json:"using"`
	WithCheck  string   `json:"with_check"`
	Comment    string   `json:"comment"`
}

// Publication describes a publication that lists the table by name.
type Publication struct {
	Name    string   `json:"name"`
	Columns []string `json:"columns"` // empty: all
	Where   string   `json:"where"`
	Owner   string   `json:"owner"`
}

// Statistics describes an extended statistics object on the table.
type Statistics struct {
	Name    Name   `json:"name"`
	Kinds   string `json:"kinds"`   // as CREATE STATISTICS lists them; empty: a single expression
	Columns string `json:"columns"` // pg_get_statisticsobjdef_columns
	Target  *int32 `json:"target"`
	Owner   string `json:"owner"`
	Comment string `json:"comment"`
}

// Label is a security label on the table or on one of its columns.
type Label struct {
	Provider string `json:"provider"`
	Column   string `json:"column"`
	Label    string `json:"label"`
}

// Dependent is an object elsewhere whose stored definition refers to the table by OID:
// a view, a rule, a policy or a function with a SQL-standard body.
//
// Replace is a statement. If another table has the table's name when it runs, the
// object refers to that table afterwards. The object stays the same one: it keeps its
// grants, its comments and what depends on it.
type Dependent struct {
	OID uint32 `json:"-"` // of the view, rule, policy or function
	// Relation is the relation that a rule, policy, default or trigger belongs to.
	Relation uint32 `json:"-"`
	// Version is another one once a view has been replaced, or one of its columns has got another
	// name. It stays the same if a column of the table gets another name.
	Version string `json:"-"`
	Kind    string `json:"kind"`
	Name    string `json:"name"` // quoted
	Owner   string `json:"owner"`
	Replace string `json:"replace"`
	// Lock is a statement that acquires the lock that Replace will need, and changes
	// nothing. It is empty if no lock is needed. We lock a view before its tables,
	// because queries lock it first.
	Lock string `json:"lock"`
	// Extensions are those that a function depends on.
	Extensions []string `json:"depends_on_extensions"`

	options    []string // of a view
	definition string   // of a view
}

var enableWords = map[string]string{"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}

// AddBehaviourSQL returns statements that create t's triggers, rules, policies,
// row-level security and security labels on the table that has t's name. They take up
// to ACCESS EXCLUSIVE on it.
func (t *Table) AddBehaviourSQL() []string {
	var statements []string
	for _, part := range t.Behaviour() {
		statements = append(statements, part.SQL...)
	}
	return statements
}

// Part is an object that belongs to a table or depends on it, and the statements that
// create it. Object names it for messages.
type Part struct {
	Object string
	SQL    []string
}

// Behaviour returns the statements of AddBehaviourSQL, grouped by object.
func (t *Table) Behaviour() []Part {
	return slices.Concat(t.triggersAndRules(), []Part{{"the state of its triggers and rules", t.EnableSQL()}}, t.rowSecurity())
}

// triggersAndRules are enabled when they are created.
func (t *Table) triggersAndRules() (parts []Part) {
	for _, x := range t.Triggers {
		parts = append(parts, Part{
			"trigger " + Quote(x.Name),
			append([]string{x.Definition}, x.marksSQL(t.Name)...),
		})
	}
	for _, r := range t.Rules {
		parts = append(parts, Part{
			"rule " + Quote(r.Name),
			append([]string{r.Definition}, comment("RULE "+Quote(r.Name)+" ON "+t.Name.String(), r.Comment)...),
		})
	}
	return parts
}

// rowSecurity has the security labels, too.
func (t *Table) rowSecurity() (parts []Part) {
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
		parts = append(parts, Part{"security label of " + Quote(l.Provider), []string{l.sqlOn("TABLE", t.Name)}})
	}
	return parts
}

// DropBehaviourSQL returns statements that drop t's triggers, rules and policies. They
// take ACCESS EXCLUSIVE on t.
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

// EnableSQL returns statements that enable and disable triggers and rules as t
// describes them. For a trigger they take SHARE ROW EXCLUSIVE on t, for a rule ACCESS
// EXCLUSIVE.
func (t *Table) EnableSQL() []string { return t.stateSQL(func(state string) string { return state }) }

// DisableSQL returns statements that disable all triggers and rules of t. While a table
// is kept in step as the old table, they must not fire. Locks are those of EnableSQL.
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

// sqlOn returns the statement that labels a relation of that kind, or its column.
func (l Label) sqlOn(kind string, relation Name) string {
	object := kind + " " + relation.String()
	if l.Column != "" {
		object = "COLUMN " + relation.String() + "." + Quote(l.Column)
	}
	return fmt.Sprintf("SECURITY LABEL FOR %s ON %s IS %s", Quote(l.Provider), object, Literal(l.Label))
}

// PublishSQL returns statements that add the table with t's name to t's publications.
// They take SHARE UPDATE EXCLUSIVE on the table.
func (t *Table) PublishSQL() []string {
	var statements []string
	for _, part := range t.Publishing() {
		statements = append(statements, part.SQL...)
	}
	return statements
}

// Publishing returns the statements of PublishSQL, grouped by publication.
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

// UnpublishSQL returns statements that drop the table with t's name from t's
// publications. They take SHARE UPDATE EXCLUSIVE on the table.
func (t *Table) UnpublishSQL() []string {
	var statements []string
	for _, p := range t.Publications {
		statements = append(statements, fmt.Sprintf("ALTER PUBLICATION %s DROP TABLE ONLY %s", Quote(p.Name), t.Name))
	}
	return statements
}

// CreateSQL returns statements that create the statistics object for table, in the
// schema of table. CREATE STATISTICS takes SHARE UPDATE EXCLUSIVE on table.
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

// OwnerSQL returns a statement that gives the statistics object, under its own name, to
// its owner.
func (s Statistics) OwnerSQL() string {
	return fmt.Sprintf("ALTER STATISTICS %s OWNER TO %s", s.Name, Quote(s.Owner))
}

// MoveSQL returns a statement that moves the statistics object to another schema. ALTER
// TABLE … SET SCHEMA does not move statistics objects with the table.
func (s Statistics) MoveSQL(from, to string) string {
	return fmt.Sprintf("ALTER STATISTICS %s SET SCHEMA %s", s.Name.In(from), Quote(to))
}
