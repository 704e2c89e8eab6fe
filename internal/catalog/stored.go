package catalog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
)

// A description is stored as long as a job lasts. The program that continues the job
// reads it, and may be of another version.

// storedVersion is the version of the descriptions that Encode writes. It is increased
// for every new property that an older program must not ignore. A description without a
// version is older than the first version.
const storedVersion = 1

// NewerError reports a description that a newer version of repack has written. Nothing
// has been changed; only that version can continue the job.
type NewerError struct{ Version int }

// Error names both versions.
func (e *NewerError) Error() string {
	return fmt.Sprintf("the table was described by a newer version of repack (description %d, this one knows up to %d), nothing has been changed: use that version", e.Version, storedVersion)
}

type stored struct {
	Version int `json:"version"`
	*Table
}

// Encode returns the description in the form in which it is stored.
func Encode(t *Table) (json.RawMessage, error) {
	text, err := json.Marshal(stored{storedVersion, t})
	if err != nil {
		return nil, fmt.Errorf("encode description of %s: %w", t.Name, err)
	}
	return text, nil
}

// Decode reads a stored description. All properties are written, so if one is missing,
// the program that wrote the description did not know it: Diff ignores that property.
// Decode returns *NewerError if the description may contain more than this version
// understands.
func Decode(text json.RawMessage) (*Table, error) {
	s := stored{Table: &Table{}}
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("decode description: %w", err)
	}
	if s.Version > storedVersion {
		return nil, &NewerError{Version: s.Version}
	}
	known, err := members(text)
	if err != nil {
		return nil, fmt.Errorf("decode description: %w", err)
	}
	return s.Table, s.Table.forget(known)
}

// forget notes which properties of t, which has just been decoded, are missing in
// known.
func (t *Table) forget(known map[string]any) error {
	text, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode description of %s: %w", t.Name, err)
	}
	all, err := members(text)
	if err != nil {
		return fmt.Errorf("decode description of %s: %w", t.Name, err)
	}
	t.unknown = map[string]bool{}
	lacking(t.unknown, "", all, known)
	relations, _ := known["materialized_views"].([]any)
	for i, m := range t.Matviews {
		if i >= len(relations) || m.Relation == nil {
			break
		}
		matview, _ := relations[i].(map[string]any)
		relation, _ := matview["relation"].(map[string]any)
		if err := m.Relation.forget(relation); err != nil {
			return err
		}
	}
	return nil
}

// lacking notes the paths that all has and known does not have. All members of a list
// have the same path.
func lacking(paths map[string]bool, path string, all, known any) {
	switch all := all.(type) {
	case map[string]any:
		known, ok := known.(map[string]any)
		if !ok {
			return
		}
		for key, value := range all {
			if of, there := known[key]; there {
				lacking(paths, path+"."+key, value, of)
			} else {
				paths[path+"."+key] = true
			}
		}
	case []any:
		known, _ := known.([]any)
		for i := range min(len(all), len(known)) {
			lacking(paths, path, all[i], known[i])
		}
	}
}

// without removes the paths from value.
func without(paths map[string]bool, path string, value any) {
	switch value := value.(type) {
	case map[string]any:
		maps.DeleteFunc(value, func(key string, _ any) bool { return paths[path+"."+key] })
		for key, of := range value {
			without(paths, path+"."+key, of)
		}
	case []any:
		for _, element := range value {
			without(paths, path, element)
		}
	}
}

// members decodes an object. Numbers are kept as text, because the maximum of a
// sequence does not fit into a float64.
func members(text []byte) (object map[string]any, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return object, decoder.Decode(&object)
}
