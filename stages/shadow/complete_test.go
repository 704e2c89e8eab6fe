package shadow

import (
	"slices"
	"testing"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/steps"
)

// TestMissingIndexes: neither what the shadow has nor what a constraint makes by itself.
func TestMissingIndexes(t *testing.T) {
	source := &catalog.Table{
		Constraints: []catalog.Constraint{
			{Name: "key", Type: "p"}, {Name: "one", Type: "u"}, {Name: "apart", Type: "x"}, {Name: "during", Type: "u", Period: true},
		},
		Indexes: []catalog.Index{
			{Name: "key", Constraint: "key"},
			{Name: "plain"},
			{Name: "one", Constraint: "one"},
			{Name: "apart", Constraint: "apart"},
			{Name: "during", Constraint: "during"},
			{Name: "there"},
		},
	}
	shadow := &catalog.Table{Indexes: []catalog.Index{{Name: "there"}, {Name: "of another"}}}
	b := &Builder{Worker: &steps.Worker{Source: source}}
	var got []string
	for _, i := range b.missingIndexes(shadow) {
		got = append(got, i.Name)
	}
	if want := []string{"key", "plain", "one"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if len(source.Indexes) != 6 || source.Indexes[5].Name != "there" {
		t.Errorf("the source is described as having %v", source.Indexes)
	}
}
