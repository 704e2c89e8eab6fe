package catalog

import "slices"

// Reprints knows how the server prints a definition after it has parsed its own text of
// it. The text may change: the server prints varchar IN ('a', 'b'), or a BETWEEN 1 AND
// 5 AND b > 0, one way if it parsed the user's text, and another way if it parsed the
// text that it printed then. A dump and restore changes the texts in the same way.
//
// Two definitions that become the same text mean the same. Only the server can say what
// a text becomes: see Learn. The zero value is ready to use.
type Reprints struct{ forms map[definition]string }

// definition is a text that the server printed, and the property that it belongs to.
type definition struct{ property, text string }

// rounds limits how often form follows a text to the text that it becomes. There may be
// several steps, because a table that has been repacked may be repacked again.
const rounds = 8

// form returns the text that a definition becomes in the end. If nothing is known about
// it, that is the text itself.
func (r *Reprints) form(d definition) string {
	for range rounds {
		next, known := r.forms[d]
		if !known || next == d.text {
			break
		}
		d.text = next
	}
	return d.text
}

func (r *Reprints) note(d definition, becomes string) {
	if r.forms == nil {
		r.forms = map[definition]string{}
	}
	r.forms[d] = becomes
}

// Knows reports whether all definitions of t have been learned.
func (r *Reprints) Knows(t *Table) bool {
	known := true
	t.withDefinitions(func(property, _, text string) string {
		_, there := r.forms[definition{property, text}]
		known = known && there
		return text
	})
	return known
}

// Of returns t with every definition as it reads in the end.
func (r *Reprints) Of(t *Table) *Table {
	return t.withDefinitions(func(property, _, text string) string { return r.form(definition{property, text}) })
}

// Diff compares two descriptions, as the function Diff does. A definition that the
// server has only printed in another way is no difference.
func (r *Reprints) Diff(was, is *Table) ([]Difference, error) { return Diff(r.Of(was), r.Of(is)) }

// Reread returns the names of the definitions that both descriptions have, but with
// different texts.
func Reread(was, is *Table) []string {
	type object struct{ property, name string }
	before := map[object]string{}
	was.withDefinitions(func(property, name, text string) string {
		before[object{property, name}] = text
		return text
	})
	var names []string
	is.withDefinitions(func(property, name, text string) string {
		if old, there := before[object{property, name}]; there && old != text {
			names = append(names, property+" "+name)
		}
		return text
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// withDefinitions returns a copy of t in which change has replaced the text of each
// definition. property and name say what the text is the definition of.
func (t *Table) withDefinitions(change func(property, name, text string) string) *Table {
	c := *t
	c.Columns, c.Constraints, c.Indexes = slices.Clone(t.Columns), slices.Clone(t.Constraints), slices.Clone(t.Indexes)
	c.Triggers, c.Rules, c.Policies = slices.Clone(t.Triggers), slices.Clone(t.Rules), slices.Clone(t.Policies)
	c.Publications, c.Statistics = slices.Clone(t.Publications), slices.Clone(t.Statistics)
	c.Typed, c.Dependents = slices.Clone(t.Typed), slices.Clone(t.Dependents)
	set := func(property, name string, text *string) {
		if *text != "" {
			*text = change(property, name, *text)
		}
	}
	for i := range c.Columns {
		if column := &c.Columns[i]; column.Generated == "" {
			set("default", column.Name, &column.Expression)
		} else {
			set("generated column", column.Name, &column.Expression)
		}
	}
	for i := range c.Constraints {
		if constraint := &c.Constraints[i]; constraint.Type == "c" || constraint.Type == "x" {
			set("constraint", constraint.Name, &constraint.Definition)
		}
	}
	for i := range c.Indexes {
		if t.byItself(c.Indexes[i]) {
			set("index", c.Indexes[i].Name, &c.Indexes[i].Tail)
		}
	}
	for i := range c.Triggers {
		set("trigger", c.Triggers[i].Name, &c.Triggers[i].Definition)
	}
	for i := range c.Rules {
		set("rule", c.Rules[i].Name, &c.Rules[i].Definition)
	}
	for i := range c.Policies {
		set("policy", c.Policies[i].Name, &c.Policies[i].Using)
		set("policy check", c.Policies[i].Name, &c.Policies[i].WithCheck)
	}
	for i := range c.Publications {
		set("publication", c.Publications[i].Name, &c.Publications[i].Where)
	}
	for i := range c.Statistics {
		set("statistics", c.Statistics[i].Name.String(), &c.Statistics[i].Columns)
	}
	for i := range c.Typed {
		set(c.Typed[i].Kind, c.Typed[i].Name, &c.Typed[i].Definition)
	}
	for i := range c.Dependents {
		set(c.Dependents[i].Kind, c.Dependents[i].Name, &c.Dependents[i].Replace)
	}
	return &c
}

// byItself reports whether the index can have expressions or a predicate. The index of
// a primary key or unique constraint has none.
func (t *Table) byItself(i Index) bool {
	c, constrained := t.Constraint(i.Constraint)
	return !constrained || c.Type == "x"
}
