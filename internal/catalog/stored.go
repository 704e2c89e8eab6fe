package catalog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
)

// A description is stored for as long as a job lasts, and read by the binary that
// continues it, which may be of another version.

// storedVersion is that of the descriptions that Encode writes. It grows with
// every property that is added and that an older binary must not pass over. One
// without a version was written before there were any.
const storedVersion = 1

// NewerError reports a description that a newer version of the tool has written.
type NewerError struct{ Version int }

func (e *NewerError) Error() string {
	return fmt.Sprintf("the table was described by a newer version of repack (description %d, this one knows up to %d), nothing has been changed: use that version", e.Version, storedVersion)
}

type stored struct {
	Version int `json:"version"`
	*Table
}

// Encode is the description as it is stored.
func Encode(t *Table) (json.RawMessage, error) {
	text, err := json.Marshal(stored{storedVersion, t})
	if err != nil {
		return nil, fmt.Errorf("encode description of %s: %w", t.Name, err)
	}
	return text, nil
}

// Decode reads a stored description. A property that it does not have is one that
// the binary that wrote it did not know, since all are written: Diff passes it
// over. It returns *NewerError where the description may say more than is
// understood here.
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

// forget notes which properties of t, as it has been decoded, known lacks.
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

// lacking notes the paths of what all has and known has not. Members of a list are
// alike, and have one path.
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

// without takes the paths out of value.
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

// members decodes an object. Numbers stay as they are: a sequence's maximum does not
// fit a float64.
func members(text []byte) (object map[string]any, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return object, decoder.Decode(&object)
}
