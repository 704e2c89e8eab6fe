package catalog

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
)

// Delta is what an alteration changes: the description of a table without it, and with it.
// The two describe an empty model of the table, which has no links to other objects.
type Delta struct{ Was, Is *Table }

// Of returns t with the delta: every property that differs between Was and Is becomes that of
// Is, and the others stay as t has them. Members of lists are matched by their names. With a
// column go the foreign keys that it belongs to, its privileges and its sequence.
func (d Delta) Of(t *Table) *Table {
	c := *t
	into := reflect.ValueOf(&c).Elem()
	into.Set(merged(reflect.ValueOf(*d.Was), reflect.ValueOf(*d.Is), reflect.ValueOf(*t)))
	c.OID, c.Name, c.unknown, c.extras = t.OID, t.Name, t.unknown, t.extras
	c.Columns = inOrderOf(d.Is.Columns, c.Columns)
	slices.SortStableFunc(c.Constraints, func(a, b Constraint) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortStableFunc(c.Indexes, func(a, b Index) int { return cmp.Compare(a.Name, b.Name) })
	there := func(column string) bool { _, ok := c.Column(column); return ok || column == "" }
	c.Grants = slices.DeleteFunc(slices.Clone(c.Grants), func(g Grant) bool { return !there(g.Column) })
	c.ForeignKeys = slices.DeleteFunc(slices.Clone(c.ForeignKeys), func(k ForeignKey) bool {
		return slices.ContainsFunc(k.Columns, func(column string) bool { return !there(column) })
	})
	c.Sequences = slices.DeleteFunc(slices.Clone(c.Sequences), func(s Sequence) bool { return !there(s.Column) })
	return &c
}

// inOrderOf returns columns in the order in which the model has them.
func inOrderOf(model, columns []Column) []Column {
	place := func(c Column) int {
		return slices.IndexFunc(model, func(m Column) bool { return m.Name == c.Name })
	}
	ordered := slices.Clone(columns)
	slices.SortStableFunc(ordered, func(a, b Column) int { return cmp.Compare(place(a), place(b)) })
	return ordered
}

// merged returns now with what differs between was and is. All three have the same type.
func merged(was, is, now reflect.Value) reflect.Value {
	switch {
	case reflect.DeepEqual(was.Interface(), is.Interface()):
		return now
	case was.Kind() == reflect.Struct:
		return mergedStruct(was, is, now)
	case was.Kind() == reflect.Slice && named(was.Type().Elem()):
		return mergedList(was, is, now)
	default:
		return is
	}
}

func mergedStruct(was, is, now reflect.Value) reflect.Value {
	result := reflect.New(now.Type()).Elem()
	result.Set(now)
	for i := range now.NumField() {
		if now.Type().Field(i).IsExported() {
			result.Field(i).Set(merged(was.Field(i), is.Field(i), now.Field(i)))
		}
	}
	return result
}

// mergedList merges members of the same name. A member that the delta removes is removed, and
// one that it adds follows the others.
func mergedList(was, is, now reflect.Value) reflect.Value {
	result := reflect.MakeSlice(now.Type(), 0, now.Len())
	for i := range now.Len() {
		member := now.Index(i)
		before, after := memberOf(was, member), memberOf(is, member)
		switch {
		case before.IsValid() && after.IsValid():
			result = reflect.Append(result, merged(before, after, member))
		case before.IsValid(): // removed
		case after.IsValid():
			result = reflect.Append(result, after)
		default:
			result = reflect.Append(result, member)
		}
	}
	for i := range is.Len() {
		if member := is.Index(i); !memberOf(now, member).IsValid() && !memberOf(was, member).IsValid() {
			result = reflect.Append(result, member)
		}
	}
	return result
}

// named reports whether the members of a list have names.
func named(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	_, ok := t.FieldByName("Name")
	return ok
}

// memberOf returns the member of list that has the name of member, in whatever schema; or the
// zero Value.
func memberOf(list, member reflect.Value) reflect.Value {
	for i := range list.Len() {
		if nameOf(list.Index(i)) == nameOf(member) {
			return list.Index(i)
		}
	}
	return reflect.Value{}
}

func nameOf(member reflect.Value) string {
	switch name := member.FieldByName("Name").Interface().(type) {
	case Name:
		return name.Name
	case string:
		return name
	default:
		return fmt.Sprint(name)
	}
}

// Differences returns what the delta changes, without the file that a table is in.
func (d Delta) Differences() ([]Difference, error) { return Diff(d.Was, d.Is) }

// WithDependentsAs returns t with the texts that its dependents have on is.
func (t *Table) WithDependentsAs(is *Table) *Table {
	c := *t
	c.Dependents = slices.Clone(t.Dependents)
	for i, d := range c.Dependents {
		for _, o := range is.Dependents {
			if o.Kind == d.Kind && o.Name == d.Name {
				c.Dependents[i] = o
			}
		}
	}
	return &c
}

// storedDelta is the form in which a delta is stored.
type storedDelta struct {
	Was json.RawMessage `json:"was"`
	Is  json.RawMessage `json:"is"`
}

// MarshalJSON stores both descriptions as Encode does.
func (d Delta) MarshalJSON() ([]byte, error) {
	was, err := Encode(d.Was)
	if err != nil {
		return nil, err
	}
	is, err := Encode(d.Is)
	if err != nil {
		return nil, err
	}
	return json.Marshal(storedDelta{was, is})
}

// UnmarshalJSON reads what MarshalJSON has written. It returns *NewerError if a newer version
// of repack has written it.
func (d *Delta) UnmarshalJSON(text []byte) (err error) {
	var s storedDelta
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	if d.Was, err = Decode(s.Was); err != nil {
		return err
	}
	d.Is, err = Decode(s.Is)
	return err
}

// ModelSQL returns statements that create an empty model of t with the name as: its columns
// with defaults and comments, keys, checks, indexes and statistics objects. It has no
// identity, foreign keys, triggers, rules, policies or grants. t must not be Verbatim.
func (t *Table) ModelSQL(as Name) []string {
	statements := t.CreateSQL(as)
	for _, i := range t.Indexes {
		if c, constrained := t.Constraint(i.Constraint); constrained && !c.FromIndex() {
			continue
		}
		statements = append(statements, "SET LOCAL default_tablespace = "+Literal(i.Tablespace), i.CreateSQL(as))
	}
	for _, c := range t.Constraints {
		if (c.Type == "c" || c.Type == "n") && c.Validated {
			continue
		}
		index, _ := t.Index(c.Name)
		statements = append(statements, "SET LOCAL default_tablespace = "+Literal(index.Tablespace), c.AddSQL(as))
	}
	statements = append(statements, "SET LOCAL default_tablespace = ''")
	statements = append(statements, t.MarksSQL(as)...)
	for _, s := range t.Statistics {
		statements = append(statements, s.CreateSQL(as)...)
	}
	model := *t
	model.Name = as
	return slices.Concat(statements, t.DefaultsSQL(as, false), model.CommentsSQL())
}
