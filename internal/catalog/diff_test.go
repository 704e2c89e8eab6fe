package catalog

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"testing"
)

// A rule and a policy with the same name are two dependents.
func TestDiffTellsKindsApart(t *testing.T) {
	t.Parallel()
	rule := Dependent{Kind: "rule", Name: "x", Replace: "a"}
	policy := Dependent{Kind: "policy", Name: "x", Replace: "b"}
	was, is := &Table{Dependents: []Dependent{rule, policy}}, &Table{Dependents: []Dependent{policy}}
	differences, err := Diff(was, is)
	if err != nil || len(differences) != 1 {
		t.Errorf("differences %v, %v, want the rule that is gone", differences, err)
	}
}

// TestDiffOfDescriptions: members are matched by name, and what differs in one is one
// difference.
func TestDiffOfDescriptions(t *testing.T) {
	t.Parallel()
	columns := func(columns ...Column) *Table { return &Table{Columns: columns} }
	a, b := Column{Name: "a", Type: "int"}, Column{Name: "b", Type: "int"}
	wide := Column{Name: "a", Type: "bigint", NotNull: true}
	key := func(table, name string) ForeignKey { return ForeignKey{Name: name, Table: Name{"app", table}} }
	for _, c := range []struct {
		name    string
		was, is *Table
		want    []string
	}{
		{"the same", columns(a, b), columns(a, b), nil},
		{"none and empty", &Table{Columns: nil}, &Table{Columns: []Column{}, Indexes: []Index{}}, nil},
		{"the first of a list", &Table{}, &Table{Indexes: []Index{{Name: "i"}}}, []string{"indexes.i"}},
		{"the last of a list", &Table{Indexes: []Index{{Name: "i"}}}, &Table{}, []string{"indexes.i"}},
		{"another order of columns", columns(a, b), columns(b, a), []string{"columns order"}},
		{"added at the end", columns(a), columns(a, b), []string{"columns order", "columns.b"}},
		{"two properties of one", columns(a), columns(wide), []string{"columns.a"}},
		{"renamed", columns(a), columns(Column{Name: "A", Type: "int"}), []string{"columns order", "columns.A", "columns.a"}},
		{"another order of indexes", &Table{Indexes: []Index{{Name: "i"}, {Name: "j"}}}, &Table{Indexes: []Index{{Name: "j"}, {Name: "i"}}}, nil},
		{"what is not compared", &Table{OID: 1, Indexes: []Index{{Name: "i", Size: 1}}}, &Table{OID: 2, Indexes: []Index{{Name: "i", Size: 2}}}, nil},
		{
			"keys of one name", &Table{Referencing: []ForeignKey{key("x", "k"), key("y", "k")}}, &Table{Referencing: []ForeignKey{key("x", "k")}},
			[]string{`referenced_by.{"name":"y","schema":"app"}."k"`},
		},
		{
			"numbers that no float64 has", &Table{Sequences: []Sequence{{Name: Name{"app", "s"}, Max: math.MaxInt64}}},
			&Table{Sequences: []Sequence{{Name: Name{"app", "s"}, Max: math.MaxInt64 - 1}}},
			[]string{`sequences.{"name":"s","schema":"app"}`},
		},
	} {
		differences, err := Diff(c.was, c.is)
		var got []string
		for _, d := range differences {
			got = append(got, d.Property)
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

// TestDiffSides: what is absent on a side is empty there.
func TestDiffSides(t *testing.T) {
	t.Parallel()
	with, without := &Table{Options: []string{"fillfactor=70"}}, &Table{Options: []string{}}
	for _, c := range []struct {
		was, is *Table
		want    Difference
	}{
		{without, with, Difference{`options."fillfactor=70"`, ``, `"fillfactor=70"`}},
		{with, without, Difference{`options."fillfactor=70"`, `"fillfactor=70"`, ``}},
		{&Table{}, with, Difference{`options."fillfactor=70"`, ``, `"fillfactor=70"`}},
		{with, &Table{}, Difference{`options."fillfactor=70"`, `"fillfactor=70"`, ``}},
		{&Table{Owner: "a"}, &Table{Owner: `b"`}, Difference{`owner`, `"a"`, `"b\""`}},
	} {
		if differences, err := Diff(c.was, c.is); err != nil || len(differences) != 1 || differences[0] != c.want {
			t.Errorf("%q, %v; want %q", differences, err, c.want)
		}
	}
}

// TestDiffOfStored: a property that the version which has stored a description did not
// know is no difference, on either side; one that it knew is.
func TestDiffOfStored(t *testing.T) {
	t.Parallel()
	now := &Table{Owner: "a", Comment: "new", Columns: []Column{{Name: "a", Type: "int", Storage: "m"}}}
	text, err := Encode(&Table{Owner: "b", Columns: []Column{{Name: "a", Type: "int"}}})
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil {
		t.Fatal(err)
	}
	delete(object, "comment")
	delete(object["columns"].([]any)[0].(map[string]any), "storage")
	if text, err = json.Marshal(object); err != nil {
		t.Fatal(err)
	}
	then, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]*Table{{then, now}, {now, then}} {
		differences, err := Diff(pair[0], pair[1])
		if err != nil || len(differences) != 1 || differences[0].Property != "owner" {
			t.Errorf("%v, %v; want the owner alone", differences, err)
		}
	}
}

// TestDecode refuses what a newer version has written, and nothing older.
func TestDecode(t *testing.T) {
	t.Parallel()
	for text, newer := range map[string]bool{`{}`: false, `{"version": 0}`: false, `{"version": 1, "owner": "a"}`: false, `{"version": 2, "owner": "a"}`: true} {
		_, err := Decode(json.RawMessage(text))
		var is *NewerError
		if errors.As(err, &is) != newer || !newer && err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{``, `[]`, `{"owner": 5}`} {
		if _, err := Decode(json.RawMessage(text)); err == nil {
			t.Errorf("%q is a description", text)
		}
	}
}
