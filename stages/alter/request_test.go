package alter

import (
	"encoding/json"
	"testing"
)

func TestAsked(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]Request{
		"": {}, "null": {}, "{}": {}, `{"asked": {}, "columns": []}`: {},
		`{"asked": {"alter": ["DROP a"], "to_bigint": true, "allow_lossy": ["b"], "later": 1}, "columns": [7]}`: {
			Alter: []string{"DROP a"}, ToBigint: true, AllowLossy: []string{"b"},
		},
	} {
		var stored json.RawMessage
		if raw != "" {
			stored = json.RawMessage(raw)
		}
		if got, err := Asked(stored); err != nil || !got.Equal(want) {
			t.Errorf("%s: %+v, %v; want %+v", raw, got, err, want)
		}
	}
	if got, err := Asked(json.RawMessage(`{"asked": 1}`)); err == nil {
		t.Errorf("a number is %+v", got)
	}
}

// TestRequestEqual: each field counts, and an empty list is none.
func TestRequestEqual(t *testing.T) {
	t.Parallel()
	if !(Request{Alter: []string{}, Down: []string{}}).Equal(Request{}) {
		t.Error("an empty list is not none")
	}
	for _, r := range []Request{
		{Alter: []string{"a"}},
		{ToBigint: true},
		{Bigint: []string{"a"}},
		{Set: []string{"a"}},
		{Down: []string{"a"}},
		{ColumnOrder: "a"},
		{Tablespace: "a"},
		{IndexTablespace: "a"},
		{AllowLossy: []string{"a"}},
		{NoRevert: true},
	} {
		if same := r; !r.Equal(same) || r.Equal(Request{}) || (Request{}).Equal(r) {
			t.Errorf("%+v is not equal to itself alone", r)
		}
	}
}
