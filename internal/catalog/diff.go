package catalog

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Difference is one property in which two descriptions differ. Property is a path such
// as columns.id. Was and Is are JSON; one of them is empty if that side does not have
// the property.
type Difference struct {
	Property, Was, Is string
}

// String returns the property with the full JSON of both sides. Text is for people.
func (d Difference) String() string {
	switch {
	case d.Was == "":
		return fmt.Sprintf("%s added: %s", d.Property, d.Is)
	case d.Is == "":
		return fmt.Sprintf("%s removed: %s", d.Property, d.Was)
	default:
		return fmt.Sprintf("%s was %s, is %s", d.Property, d.Was, d.Is)
	}
}

// Diff compares two descriptions property by property. It returns the differences in
// order of Property.
//
// Members of lists (columns, indexes and so on) are matched by name, not by position.
// The order of the columns is a property of its own. A property that one of the two, as
// a stored description, does not know is no difference: see Decode.
func Diff(was, is *Table) ([]Difference, error) {
	unknown := maps.Clone(was.unknown)
	if unknown == nil {
		unknown = map[string]bool{}
	}
	maps.Copy(unknown, is.unknown)
	before, err := properties(was, unknown)
	if err != nil {
		return nil, err
	}
	after, err := properties(is, unknown)
	if err != nil {
		return nil, err
	}
	paths := maps.Clone(before)
	maps.Copy(paths, after)
	var diffs []Difference
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if before[path] != after[path] {
			diffs = append(diffs, Difference{Property: path, Was: before[path], Is: after[path]})
		}
	}
	return diffs, nil
}

// properties makes a flat map of a description: one entry for each property, and one
// for each member of a list. So an added column is one difference. Paths in unknown are
// left out, and so is what the description does not have.
func properties(t *Table, unknown map[string]bool) (map[string]string, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("encode description of %s: %w", t.Name, err)
	}
	object, err := members(text)
	if err != nil {
		return nil, fmt.Errorf("decode description of %s: %w", t.Name, err)
	}
	without(unknown, "", object)
	flat := map[string]string{}
	for key, value := range object {
		list, ok := value.([]any)
		switch {
		case value == nil: // a list without members, or no partition
			continue
		case !ok:
			flat[key] = compact(value)
			continue
		}
		var order []string
		for _, element := range list {
			name := elementName(element)
			order = append(order, name)
			flat[key+"."+name] = compact(element)
		}
		if key == "columns" && len(order) > 0 {
			flat["columns order"] = compact(order)
		}
	}
	return flat, nil
}

// elementName identifies a member of a list: by its name if it has one, otherwise by
// its whole JSON.
func elementName(element any) string {
	object, ok := element.(map[string]any)
	if !ok {
		return compact(element)
	}
	name, ok := object["name"]
	if !ok {
		return compact(element)
	}
	if table, ok := object["table"]; ok {
		return compact(table) + "." + compact(name)
	}
	if kind, ok := object["kind"]; ok { // a rule and a policy of one table may have the same name
		return compact(kind) + " " + compact(name)
	}
	if text, ok := name.(string); ok {
		return text
	}
	return compact(name)
}

func compact(value any) string {
	text, err := json.Marshal(value)
	if err != nil { // cannot happen: value came out of a JSON decoder
		return fmt.Sprint(value)
	}
	return string(text)
}
