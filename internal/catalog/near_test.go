package catalog

import (
	"slices"
	"testing"
)

// TestNearest offers what may have been meant, the likeliest first.
func TestNearest(t *testing.T) {
	t.Parallel()
	app := func(names ...string) []Name {
		var list []Name
		for _, n := range names {
			list = append(list, Name{"app", n})
		}
		return list
	}
	for _, c := range []struct {
		name string
		to   Name
		are  []Name
		want []Name
	}{
		{"none", Name{"app", "orders"}, nil, nil},
		{"other case before another letter", Name{"app", "orders"}, app("order", "Orders"), app("Orders", "order")},
		{"the schema before the name", Name{"app", "orders"}, []Name{{"app", "order"}, {"public", "orders"}}, []Name{{"public", "orders"}, {"app", "order"}}},
		{"the nearer schema", Name{"app", "orders"}, []Name{{"public", "orders"}, {"apps", "orders"}}, []Name{{"apps", "orders"}, {"public", "orders"}}},
		{"no more than three", Name{"app", "orders"}, app("order1", "order2", "order3", "order4"), app("order1", "order2", "order3")},
		{"the best of many", Name{"app", "orders"}, app("order1", "order2", "order3", "Orders"), app("Orders", "order1", "order2")},
		{"two slips", Name{"app", "orders"}, app("odrers", "orrs", "rs"), app("odrers", "orrs")},
		{"a slip in five letters", Name{"app", "order"}, app("ordre", "orde"), app("orde")},
		{"letters of several bytes", Name{"app", "straße_größe"}, app("strasse_größe", "straße_große", "straẞe_gräße"), app("straße_große", "straẞe_gräße", "strasse_größe")},
		{"no slip in two letters of several bytes", Name{"app", "öä"}, app("öü", "ÖÄ"), app("ÖÄ")},
		{"no slip in two letters", Name{"app", "ab"}, app("ac", "AB"), app("AB")},
	} {
		if got := nearest(c.to, c.are); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
