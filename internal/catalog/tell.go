package catalog

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// kinds are the names of the members of a description's lists.
var kinds = map[string]string{
	"columns": "column", "constraints": "constraint", "indexes": "index", "foreign_keys": "foreign key", "referenced_by": "foreign key to it",
	"key_parts": "part of a foreign key", "sequences": "sequence", "grants": "grant", "policies": "policy", "triggers": "trigger", "rules": "rule",
	"publications": "publication", "statistics": "statistics object", "labels": "security label", "dependents": "dependent", "row_type_objects": "object of the row type",
	"materialized_views": "materialized view", "options": "storage parameter", "toast_options": "storage parameter of TOAST",
}

// Text returns the difference in words for people, such as "column extra: added" or
// "column note: type was text, is integer". String has the full JSON of both sides
// instead.
func (d Difference) Text() string {
	if d.Property == "columns order" {
		return fmt.Sprintf("order of the columns: was %s, is %s", words(d.Was), words(d.Is))
	}
	list, name, member := strings.Cut(d.Property, ".")
	kind, known := kinds[list]
	if !member || !known {
		return fmt.Sprintf("%s was %s, is %s", strings.ReplaceAll(d.Property, "_", " "), words(d.Was), words(d.Is))
	}
	what := kind + " " + memberName(name)
	switch {
	case d.Was == "":
		return what + ": added"
	case d.Is == "":
		return what + ": removed"
	default:
		return what + ": " + strings.Join(changes(d.Was, d.Is), "; ")
	}
}

// memberName returns the name of a list's member without JSON: a table and a name, a
// name with its schema, or all properties of the member.
func memberName(name string) string {
	if !strings.HasPrefix(name, "{") && !strings.HasPrefix(name, `"`) {
		return name
	}
	var parts []string
	for rest := name; rest != ""; {
		var value any
		decoder := json.NewDecoder(strings.NewReader(rest))
		if err := decoder.Decode(&value); err != nil {
			return name // it only looks like JSON
		}
		parts = slices.Insert(parts, 0, plain(value))
		rest = strings.TrimPrefix(rest[decoder.InputOffset():], ".")
	}
	return strings.Join(parts, " of ")
}

// changes lists the properties in which two descriptions of a member differ.
func changes(was, is string) []string {
	before, after := object(was), object(is)
	if before == nil || after == nil {
		return []string{fmt.Sprintf("was %s, is %s", words(was), words(is))}
	}
	all := maps.Clone(before)
	maps.Copy(all, after)
	var list []string
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if a, b := compact(before[key]), compact(after[key]); a != b {
			list = append(list, fmt.Sprintf("%s was %s, is %s", strings.ReplaceAll(key, "_", " "), words(a), words(b)))
		}
	}
	return list
}

func object(text string) map[string]any {
	var members map[string]any
	if err := json.Unmarshal([]byte(text), &members); err != nil {
		return nil
	}
	return members
}

// words returns JSON as a person reads it.
func words(text string) string {
	var value any
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return text
	}
	return plain(value)
}

func plain(value any) string {
	switch v := value.(type) {
	case nil:
		return "none"
	case string:
		if v == "" {
			return "none"
		}
		return v
	case bool:
		return map[bool]string{true: "yes", false: "no"}[v]
	case []any:
		var list []string
		for _, element := range v {
			list = append(list, plain(element))
		}
		if len(list) == 0 {
			return "none"
		}
		return strings.Join(list, ", ")
	case map[string]any:
		return plainObject(v)
	default:
		return fmt.Sprint(v)
	}
}

// plainObject returns a name with its schema, or the properties that have a value.
func plainObject(v map[string]any) string {
	schema, hasSchema := v["schema"].(string)
	name, hasName := v["name"].(string)
	if hasSchema && hasName && len(v) == 2 {
		return Name{Schema: schema, Name: name}.String()
	}
	var list []string
	for _, key := range slices.Sorted(maps.Keys(v)) {
		if text := plain(v[key]); text != "none" && text != "no" {
			list = append(list, strings.ReplaceAll(key, "_", " ")+" "+text)
		}
	}
	return strings.Join(list, ", ")
}
