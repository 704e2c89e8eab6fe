package catalog

import (
	"reflect"
	"testing"
)

func TestParseOrder(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]orderTerm{
		`a`:                                {{"a", ""}},
		` A , "A" desc,b_1 Asc `:           {{"a", ""}, {"A", " DESC"}, {"b_1", " ASC"}},
		`"a,b" NULLS FIRST, "say ""x"""`:   {{"a,b", " NULLS FIRST"}, {`say "x"`, ""}},
		`"desc" desc nulls last`:           {{"desc", " DESC NULLS LAST"}},
		`desc desc, nulls nulls first`:     {{"desc", " DESC"}, {"nulls", " NULLS FIRST"}},
		`größe DESC`:                       {{"größe", " DESC"}},
		`"a"desc,"b""c"asc` + "\n\t, d$1 ": {{"a", " DESC"}, {`b"c`, " ASC"}, {"d$1", ""}},
	} {
		got, err := parseOrder(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		``, ` `, `,`, `a,`, `,a`, `a,,b`, `a b`, `a desc desc`, `a "desc"`, `a nulls`, `a nulls first last`, `a nulls first desc`,
		`"a`, `""`, `lower(a)`, `1`, `a.b`, `a; DROP TABLE t`, `a -- b`, `$1`, `a "b" c`, `'a'`, `a collate "C"`,
	} {
		if got, err := parseOrder(text); err == nil {
			t.Errorf("%s: %q, want an error", text, got)
		}
	}
}
