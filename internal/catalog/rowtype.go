package catalog

import (
	"fmt"
	"slices"
	"strings"
)

// A table has a row type, and the row type an array type. The new table has others. A
// function that takes or returns rows of the table names the type by its OID, and no
// command changes the types of a function. So the exchange moves such a function away
// with the old table, as it is, and creates one like it for the new table. Revert moves
// it back. What calls such a function is replaced in place: see Dependent.
//
// The old functions stay until the old table is dropped, for two reasons. Triggers,
// rules and policies of the old table may call them. And a statement that began before
// the exchange, and waits for the table, may be in the middle of one.

// Typed is an object whose definition names the row type of the table or its array type:
// a function, a procedure, an aggregate, an operator or a cast.
//
// In Arguments and in the values of Options, rowMark stands for the row type and
// arrayMark for the array type. So the statements on a Typed can be written wherever the
// table is at the moment.
type Typed struct {
	OID       uint32   `json:"-"`
	Kind      string   `json:"kind"`
	Name      string   `json:"name"` // with argument types, for people
	Schema    string   `json:"schema"`
	Object    string   `json:"object"` // bare name
	Arguments []string `json:"arguments"`
	// Definition is pg_get_functiondef. Of an aggregate, it is pg_get_function_arguments,
	// and of a cast the name of its function.
	Definition string   `json:"definition"`
	Options    []Option `json:"options"` // of an aggregate, operator or cast
	Owner      string   `json:"owner"`
	Comment    string   `json:"comment"`
	Grants     []Grant  `json:"grants"`
	Labels     []Label  `json:"labels"`
	// Lock is a statement that makes other sessions that alter the object wait, and
	// changes nothing. Calls do not wait. It is empty if there is none.
	Lock string `json:"-"`
	// Needs are the full names of the functions and operators in the same list that it
	// depends on. They must be created before it.
	Needs []string `json:"needs"`
}

// fullName identifies o among the objects of a table.
func (o Typed) fullName() string { return o.Kind + " " + o.Name }

// Option is a clause of CREATE AGGREGATE, OPERATOR or CAST. A clause without a value is a
// flag.
type Option struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

const (
	rowMark   = "%"
	arrayMark = "%[]"
)

// typeOn returns a type as SQL writes it, while the table has the name on.
func typeOn(t string, on Name) string {
	switch t {
	case rowMark:
		return on.String()
	case arrayMark:
		return on.String() + "[]"
	default:
		return t
	}
}

func typesOn(types []string, on Name) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = typeOn(t, on)
	}
	return strings.Join(names, ", ")
}

// castTypes is how many Arguments of a cast are its types. The others are those of its
// function.
const castTypes = 2

// identity names the object, in that schema, as ALTER, DROP and COMMENT do.
func (o Typed) identity(schema string, on Name) string {
	kind, name := o.called(schema, on)
	return kind + " " + name
}

// called returns the two parts of identity, for statements with IF EXISTS between them.
func (o Typed) called(schema string, on Name) (kind, name string) {
	switch o.Kind {
	case "cast":
		return "CAST", fmt.Sprintf("(%s AS %s)", typeOn(o.Arguments[0], on), typeOn(o.Arguments[1], on))
	case "operator":
		return "OPERATOR", fmt.Sprintf("%s.%s (%s)", Quote(schema), o.Object, typesOn(o.Arguments, on))
	default:
		return "ROUTINE", fmt.Sprintf("%s(%s)", Name{schema, o.Object}, typesOn(o.Arguments, on))
	}
}

// InSchema reports whether the object has a schema. A cast has none.
func (o Typed) InSchema() bool { return o.Kind != "cast" }

// IsRoutine reports whether the object is a function, a procedure or an aggregate.
func (o Typed) IsRoutine() bool { return o.Kind != "cast" && o.Kind != "operator" }

// key is what o has in common with the object like it for another table.
func (o Typed) key() string {
	return o.Kind + " " + Name{o.Schema, o.Object}.String() + "(" + strings.Join(o.Arguments, ", ") + ")"
}

// createSQL creates the object for the table that has the name on.
func (o Typed) createSQL(on Name) string {
	name := Name{o.Schema, o.Object}.String()
	switch o.Kind {
	case "aggregate":
		arguments := o.Definition
		if arguments == "" {
			arguments = "*"
		}
		return fmt.Sprintf("CREATE AGGREGATE %s(%s) (\n\t%s\n)", name, arguments, o.clauses(on))
	case "operator":
		return fmt.Sprintf("CREATE OPERATOR %s.%s (\n\t%s\n)", Quote(o.Schema), o.Object, o.clauses(on))
	case "cast":
		sql := "CREATE " + o.identity("", on) + " WITH INOUT"
		if o.Definition != "" {
			sql = fmt.Sprintf("CREATE %s WITH FUNCTION %s(%s)", o.identity("", on), o.Definition, typesOn(o.Arguments[castTypes:], on))
		}
		for _, option := range o.Options {
			sql += " " + option.Name + " " + option.Value
		}
		return sql
	default:
		return strings.TrimSpace(o.Definition)
	}
}

func (o Typed) clauses(on Name) string {
	list := make([]string, len(o.Options))
	for i, option := range o.Options {
		list[i] = option.Name
		if option.Value != "" {
			list[i] += " = " + typeOn(option.Value, on)
		}
	}
	return strings.Join(list, ",\n\t")
}

// Create returns the statements that create the object for the table that has the name
// on, without privileges.
func (o Typed) Create(on Name) Part {
	identity := o.identity(o.Schema, on)
	statements := []string{o.createSQL(on)}
	if o.Owner != "" {
		statements = append(statements, fmt.Sprintf("ALTER %s OWNER TO %s", identity, Quote(o.Owner)))
	}
	statements = append(statements, comment(identity, o.Comment)...)
	for _, l := range o.Labels {
		statements = append(statements, fmt.Sprintf("SECURITY LABEL FOR %s ON %s IS %s", Quote(l.Provider), identity, Literal(l.Label)))
	}
	return Part{Object: o.fullName(), SQL: statements}
}

// MoveSQL returns a statement that moves the object to another schema, while the table
// has the name on.
func (o Typed) MoveSQL(on Name, from, to string) string {
	return fmt.Sprintf("ALTER %s SET SCHEMA %s", o.identity(from, on), Quote(to))
}

// grantsSQL turns the privileges have into those of o.
func (o Typed) grantsSQL(on Name, have []Grant) []string {
	if !o.IsRoutine() {
		return nil
	}
	return GrantsSQL(o.identity(o.Schema, on), o.Owner, have, o.Grants)
}

// Bodies are checked when a function is created, but not what they call. As in
// pg_restore, they are not checked here: search_path is not the application's.
const (
	uncheckedSQL = "SET LOCAL check_function_bodies = off"
	checkedSQL   = "SET LOCAL check_function_bodies = DEFAULT"
)

// Unchecked puts statements that create functions between those that turn the check of
// bodies off and on again.
func Unchecked(statements []string) []string {
	return slices.Concat([]string{uncheckedSQL}, statements, []string{checkedSQL})
}

// InOrder returns objects in an order in which they can be created: each after what it
// needs. Functions with a SQL-standard body call others. A cast comes before the objects
// that use its function: if it came later, the server could read x::type there as
// another cast.
func InOrder(objects []Typed) []Typed {
	at := map[string]int{}
	casts := map[string][]int{} // by function
	for i, o := range objects {
		at[o.fullName()] = i
		if o.Kind == "cast" {
			for _, function := range o.Needs {
				casts[function] = append(casts[function], i)
			}
		}
	}
	var ordered []Typed
	done := make([]bool, len(objects))
	var add func(i int)
	add = func(i int) {
		if done[i] {
			return
		}
		done[i] = true // also ends a cycle: the server will report it
		for _, name := range objects[i].Needs {
			if n, there := at[name]; there {
				add(n)
			}
			if objects[i].Kind != "cast" {
				for _, cast := range casts[name] {
					add(cast)
				}
			}
		}
		ordered = append(ordered, objects[i])
	}
	for i, o := range objects {
		if o.Kind == "cast" && len(o.Needs) == 0 {
			add(i)
		}
	}
	for i := range objects {
		add(i)
	}
	return ordered
}

// ParkTypedSQL returns statements that move the objects typed by t's row type to the
// schema to which t is about to be moved. Casts stay: they belong to the type. The
// statements take no lock on a table, and calls do not wait for them.
func (t *Table) ParkTypedSQL(to string) []string {
	var statements []string
	for _, o := range t.Typed {
		if o.InSchema() {
			statements = append(statements, o.MoveSQL(t.Name, o.Schema, to))
		}
	}
	return statements
}

// ReinstateTypedSQL undoes ParkTypedSQL for the table that has t's name again.
func (t *Table) ReinstateTypedSQL(from string) []string {
	var statements []string
	for _, o := range t.Typed {
		if o.InSchema() {
			statements = append(statements, o.MoveSQL(t.Name, from, o.Schema))
		}
	}
	return statements
}

// CreateTypedSQL returns statements that create objects like those typed by t's row type,
// for the table that has t's name, without privileges.
func (t *Table) CreateTypedSQL() []string {
	if len(t.Typed) == 0 {
		return nil
	}
	var statements []string
	for _, o := range InOrder(t.Typed) {
		statements = append(statements, o.Create(t.Name).SQL...)
	}
	return Unchecked(statements)
}

// TypedGrantsSQL returns statements that give the privileges of t's objects to those that
// CreateTypedSQL has created. have are these.
func (t *Table) TypedGrantsSQL(have []Typed) []string {
	grants := map[string][]Grant{}
	for _, o := range have {
		grants[o.key()] = o.Grants
	}
	var statements []string
	for _, o := range t.Typed {
		statements = append(statements, o.grantsSQL(t.Name, grants[o.key()])...)
	}
	return statements
}

// DropTypedSQL returns statements that drop the objects typed by the row type of the
// table parked, which ParkTypedSQL has moved, and before them what belongs to this table
// and may call them. They do nothing if there is no such object or table.
func (t *Table) DropTypedSQL(parked Name) []string {
	if len(t.Typed) == 0 {
		return nil
	}
	var statements []string
	drop := func(kind, name string) {
		statements = append(statements, fmt.Sprintf("DROP %s IF EXISTS %s ON %s", kind, Quote(name), parked))
	}
	for _, x := range t.Triggers {
		drop("TRIGGER", x.Name)
	}
	for _, r := range t.Rules {
		drop("RULE", r.Name)
	}
	for _, p := range t.Policies {
		drop("POLICY", p.Name)
	}
	ordered := InOrder(t.Typed)
	slices.Reverse(ordered)
	for _, o := range ordered {
		kind, name := o.called(parked.Schema, parked)
		statements = append(statements, fmt.Sprintf("DROP %s IF EXISTS %s", kind, name))
	}
	return statements
}

// LockTypedSQL returns statements that keep other sessions from altering the functions
// typed by t's row type until the transaction ends.
func (t *Table) LockTypedSQL() []string {
	var statements []string
	for _, o := range t.Typed {
		if o.Lock != "" {
			statements = append(statements, o.Lock)
		}
	}
	return statements
}

// typedDependents returns the functions and procedures typed by t's row type as if they
// were replaced in place. Their definitions may be printed otherwise once they have been
// parsed again, as those of Dependents may.
func (t *Table) typedDependents() []Dependent {
	var list []Dependent
	for _, o := range t.Typed {
		if o.Kind == "function" || o.Kind == "procedure" {
			list = append(list, Dependent{OID: o.OID, Kind: o.Kind, Name: o.Name, Replace: o.Definition})
		}
	}
	return list
}
