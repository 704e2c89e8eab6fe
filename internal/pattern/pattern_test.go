package pattern_test

import (
	"testing"

	"github.com/repack-go/repack/internal/pattern"
)

func TestTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, schema, name string
		wild               bool
	}{
		{"orders", "", "^(orders)$", false},
		{"Orders", "", "^(orders)$", false},
		{`"Orders"`, "", "^(Orders)$", false},
		{`"a.b"`, "", `^(a\.b)$`, false},
		{`"a""b"`, "", `^(a"b)$`, false},
		{`"a*"`, "", `^(a\*)$`, false},
		{"pub*.o?ders", "^(pub.*)$", "^(o.ders)$", true},
		{"*.*", "^(.*)$", "^(.*)$", true},
		{"or[a-d]ers", "", "^(or[a-d]ers)$", true},
		{"(orders|items)", "", "^((orders|items))$", true},
		{"ÄRZTE", "", "^(Ärzte)$", false},
		{"a$b", "", `^(a\$b)$`, false},
		{"t[]", "", `^(t\[])$`, true},
		{`FOO"BAR"baz`, "", "^(fooBARbaz)$", false},
	} {
		p, err := pattern.Table(c.text)
		if err != nil || p.Schema != c.schema || p.Name != c.name || p.Wild != c.wild {
			t.Errorf("%s: %+v, %v", c.text, p, err)
		}
	}
	for _, text := range []string{"", `"a`, "a.b.c", ".b", "a."} {
		if p, err := pattern.Table(text); err == nil {
			t.Errorf("%q is taken as %+v", text, p)
		}
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	if p, err := pattern.Schema("App*"); err != nil || p.Schema != "^(app.*)$" || !p.Wild {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := pattern.Schema("a.b"); err == nil {
		t.Error("a name with a dot is taken for a schema's")
	}
}
