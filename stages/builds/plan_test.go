package builds

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/catalog"
)

// TestShareProcessors: a processor that builds an index of its own does not help with
// another one, and no processor is idle for long while an index is built.
func TestShareProcessors(t *testing.T) {
	for _, c := range []struct {
		processors int
		costs      []float64
		want       []int
	}{
		{1, []float64{10, 10}, []int{1, 1}},
		{2, nil, nil},
		{2, []float64{10}, []int{2}},
		{2, []float64{10, 10}, []int{1, 1}},
		{2, []float64{10, 10, 10}, []int{1, 1, 2}},
		{2, []float64{10, 10, 10, 10}, []int{1, 1, 1, 1}},
		{2, []float64{10, 9, 8}, []int{1, 1, 2}},
		{2, []float64{10, 5, 5}, []int{1, 1, 1}},
		{2, []float64{10, 1}, []int{2, 1}},
		{2, []float64{10, 9, 1}, []int{1, 1, 1}},
		{4, []float64{10}, []int{4}},
		{4, []float64{10, 10}, []int{2, 2}},
		{4, []float64{10, 10, 10}, []int{1, 1, 1}},
		{4, []float64{10, 10, 10, 10, 10}, []int{1, 1, 1, 1, 4}},
		{4, []float64{10, 10, 10, 10, 10, 10}, []int{1, 1, 1, 1, 2, 2}},
	} {
		if got := shareProcessors(c.costs, c.processors); !slices.Equal(got, c.want) {
			t.Errorf("%d processors, costs %v: %v, want %v", c.processors, c.costs, got, c.want)
		}
	}
}

// TestSortMemory: each process has its share of the entries and of the memory.
func TestSortMemory(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct {
		size    int64
		helpers int
		want    int64 // MB
	}{
		{0, 0, 8},
		{60 * mb, 0, 8},
		{0, 1, 64},
		{90 * mb, 3, 128},
		{1 << 40, 0, 1055},
		{1 << 40, 1, 1492},
	} {
		if got := sortMemory(c.size, c.helpers) / mb; got != c.want {
			t.Errorf("%s: %d MB, want %d", fmt.Sprintf("%d bytes, %d helpers", c.size, c.helpers), got, c.want)
		}
	}
}

// TestBuildCost: for the same number of entries, a random order costs more than a sorted
// one, and longer entries cost more than shorter ones.
func TestBuildCost(t *testing.T) {
	ordered, random, longer := buildCost(100e6, 4e6, true), buildCost(50e6, 4e6, false), buildCost(300e6, 4e6, false)
	if unknown := buildCost(80e6, 0, false); ordered >= random || random >= longer || unknown < ordered || unknown > longer {
		t.Errorf("in order %.0f, at random %.0f, longer %.0f, with entries that are not known %.0f", ordered, random, longer, unknown)
	}
}

// TestPlanBuilds: what takes longest is built first, by as many processes as there
// are processors left over. Of indexes this small the server is asked nothing.
func TestPlanBuilds(t *testing.T) {
	index := func(name string, size int64, unique bool) catalog.Index {
		return catalog.Index{Name: name, Size: size, Unique: unique}
	}
	for _, c := range []struct {
		name    string
		jobs    int
		missing []catalog.Index
		want    string // lists of names, with helpers
	}{
		{"none", 2, nil, ""},
		{"one", 2, []catalog.Index{index("a", 1<<20, false)}, "a+1"},
		{"one, one processor", 1, []catalog.Index{index("a", 1<<20, true)}, "a+0"},
		{"empty ones stay in order", 2, []catalog.Index{index("a", 0, false), index("b", 0, true), index("c", 0, false)}, "a+0 c+0 b+1"},
		{"by size", 2, []catalog.Index{index("a", 1<<20, false), index("b", 3<<20, true), index("c", 2<<20, false)}, "b+0 c+0 a+0"},
		{"four processors", 4, []catalog.Index{index("a", 2<<20, false), index("b", 2<<20, false)}, "a+1 b+1"},
	} {
		lists, err := (Planner{Source: &catalog.Table{}, Jobs: c.jobs}).Plan(t.Context(), nil, c.missing)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		var got []string
		for _, list := range lists {
			if len(list) != 1 {
				t.Errorf("%s: %d indexes in a list", c.name, len(list))
			}
			got = append(got, fmt.Sprintf("%s+%d", list[0].Name, list[0].Helpers))
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s: %s, want %s", c.name, text, c.want)
		}
	}
}

// TestOrderedAs: the rows come in the order of the index they are copied in, and of
// every index that begins with the same column. An expression has no name, and is like
// no other.
func TestOrderedAs(t *testing.T) {
	weights := []weight{{Index: "t_a", Column: "a"}, {Index: "t_a_b", Column: "a"}, {Index: "t_b", Column: "b"}, {Index: "t_lower", Column: ""}, {Index: "t_upper", Column: ""}}
	for _, c := range []struct {
		order catalog.Order
		want  []string
	}{
		{catalog.Order{Index: "t_a"}, []string{"t_a", "t_a_b"}},
		{catalog.Order{Index: "t_b"}, []string{"t_b"}},
		{catalog.Order{Column: "a"}, []string{"t_a", "t_a_b"}},
		{catalog.Order{Column: "c"}, nil},
		{catalog.Order{Index: "t_lower"}, []string{"t_lower"}},
	} {
		ordered := orderedAs(c.order, weights)
		var got []string
		for _, w := range weights {
			if ordered(w) {
				got = append(got, w.Index)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("order %+v: %v, want %v", c.order, got, c.want)
		}
	}
}

// TestBuiltBy finds the index by its statement, as much of it as the server shows.
func TestBuiltBy(t *testing.T) {
	source := &catalog.Table{
		Constraints: []catalog.Constraint{{Name: "apart", Type: "x", Definition: "EXCLUDE USING gist (a WITH =)"}, {Name: "key", Type: "p"}},
		Indexes: []catalog.Index{
			{Name: "i", Tail: "USING btree (a)"},
			{Name: `the "I"`, Tail: "USING btree (b)", Unique: true},
			{Name: "key", Tail: "USING btree (id)", Unique: true, Constraint: "key"},
			{Name: "apart", Tail: "USING gist (a)", Constraint: "apart"},
		},
	}
	shadow := catalog.Name{Schema: "s", Name: "T"}
	for statement, want := range map[string]string{
		`CREATE INDEX "i" ON "s"."T" USING btree (a)`:                              "i",
		`CREATE UNIQUE INDEX "the ""I""" ON "s"."T" USING btree (b)`:               `the "I"`,
		`CREATE UNIQUE INDEX "key" ON "s"."T" USING btr`:                           "key",
		`ALTER TABLE "s"."T" ADD CONSTRAINT "apart" EXCLUDE USING gist (a WITH =)`: "apart",
		`ALTER TABLE "s"."T" ADD CONSTRAINT "key" PRIMARY KEY USING INDEX "key"`:   "",
		`CREATE INDEX "apart" ON "s"."T" USING gist (a)`:                           "",
		`CREATE INDEX "i" ON "s"."other" USING btree (a)`:                          "",
		`CREATE INDEX "i" ON "s"."T" USING btree (a) WHERE a > 0`:                  "",
		`SELECT 1`: "",
		``:         "",
	} {
		if got, ok := builtBy(source, shadow, statement); got != want || ok != (want != "") {
			t.Errorf("%s builds %q, %t; want %q", statement, got, ok, want)
		}
	}
}
