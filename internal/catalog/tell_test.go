package catalog

import "testing"

func TestTextOfDifferences(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		d    Difference
		want string
	}{
		{Difference{"columns.extra", "", `{"name":"extra","type":"integer"}`}, "column extra: added"},
		{Difference{"columns.the {odd", `{"name":"x"}`, ""}, "column the {odd: removed"},
		{Difference{"indexes.i", "", `{}`}, "index i: added"},
		{
			Difference{"columns.a", `{"name":"a","type":"text","not_null":false,"statistics":null}`, `{"name":"a","type":"integer","not_null":true,"statistics":5}`},
			"column a: not null was no, is yes; statistics was none, is 5; type was text, is integer",
		},
		{Difference{`foreign_keys.{"name":"child","schema":"app"}."child_t_fkey"`, `{}`, ""}, `foreign key child_t_fkey of "app"."child": removed`},
		{Difference{`statistics.{"name":"s","schema":"app"}`, "", "{}"}, `statistics object "app"."s": added`},
		{Difference{`options."fillfactor=70"`, "", `"fillfactor=70"`}, "storage parameter fillfactor=70: added"},
		{Difference{`grants.{"column":"","grantable":false,"grantee":"x","privilege":"SELECT"}`, "", `{}`}, "grant grantee x, privilege SELECT: added"},
		{Difference{"owner", `"a"`, `"b"`}, "owner was a, is b"},
		{Difference{"columns order", `["a","b"]`, `["b","a"]`}, "order of the columns: was a, b, is b, a"},
		{Difference{"replica_identity", `{"kind":"d","index":""}`, `{"kind":"i","index":"u"}`}, "replica identity was kind d, is index u, kind i"},
	} {
		if got := c.d.Text(); got != c.want {
			t.Errorf("%v reads %q, want %q", c.d, got, c.want)
		}
	}
}
