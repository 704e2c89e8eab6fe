package catalog

import (
	"math"
	"slices"
	"strings"
	"testing"
)

// TestNames: a dot, a comma or a quote in a name is no part of the SQL around it.
// TestQuoting has the server read them.
func TestNames(t *testing.T) {
	t.Parallel()
	for want, names := range map[string][]string{``: nil, `"a"`: {"a"}, `"a, b", "c""d", "select"`: {"a, b", `c"d`, "select"}} {
		if got := QuoteAll(names); got != want {
			t.Errorf("%q are quoted %s, want %s", names, got, want)
		}
	}
	name := Name{`a.b`, `C"d`}
	if got := name.String(); got != `"a.b"."C""d"` {
		t.Errorf("%#v is %s", name, got)
	}
	if got := name.In("e").String(); got != `"e"."C""d"` {
		t.Errorf("%#v in schema e is %s", name, got)
	}
}

// TestStorageOptions: a value has its own equals signs and quotes, and may be empty.
func TestStorageOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		t    Table
		want string
	}{
		{Table{}, ``},
		{Table{Options: []string{"fillfactor=70"}}, `"fillfactor" = '70'`},
		{Table{ToastOptions: []string{"autovacuum_enabled=off"}}, `toast."autovacuum_enabled" = 'off'`},
		{
			Table{Options: []string{"a=x=y", `B=it's`, "c="}, ToastOptions: []string{"d=1", "e=2"}},
			`"a" = 'x=y', "B" = 'it''s', "c" = '', toast."d" = '1', toast."e" = '2'`,
		},
	} {
		if got := c.t.storageOptions(); got != c.want {
			t.Errorf("%q, of TOAST %q: %s, want %s", c.t.Options, c.t.ToastOptions, got, c.want)
		}
	}
}

// TestColumnDefinition: what only the table in use may have is left out.
func TestColumnDefinition(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		c       Column
		notNull bool
		want    string
	}{
		{Column{Name: `A "b"`, Type: "text"}, true, `"A ""b""" text`},
		{Column{Name: "a", Type: "text", NotNull: true}, true, `"a" text NOT NULL`},
		{Column{Name: "a", Type: "text", NotNull: true}, false, `"a" text`}, // has a constraint of its own
		{Column{Name: "a", Type: "int", Expression: "5"}, true, `"a" int`},
		{Column{Name: "a", Type: "int", Identity: "a", NotNull: true}, true, `"a" int NOT NULL`},
		{Column{Name: "a", Type: "int", Generated: "s", Expression: "b + 1"}, true, `"a" int GENERATED ALWAYS AS (b + 1) STORED`},
		{Column{Name: "a", Type: "int", Generated: "v", Expression: "b + 1"}, true, `"a" int GENERATED ALWAYS AS (b + 1) VIRTUAL`},
		{
			Column{Name: "a", Type: "text", Compression: "l", Collation: `"x"."Y"`, NotNull: true, Generated: "s", Expression: "b"},
			true,
			`"a" text COMPRESSION lz4 COLLATE "x"."Y" NOT NULL GENERATED ALWAYS AS (b) STORED`,
		},
		{Column{Name: "a", Type: "text", Compression: "p"}, true, `"a" text COMPRESSION pglz`},
	} {
		if got := c.c.definition(c.notNull); got != c.want {
			t.Errorf("%+v: %s, want %s", c.c, got, c.want)
		}
	}
}

// TestAddConstraint: of a finished index where the server can, else by its definition.
func TestAddConstraint(t *testing.T) {
	t.Parallel()
	table := Name{"s", "T"}
	for _, c := range []struct {
		c    Constraint
		want string
	}{
		{Constraint{Name: "k", Type: "p", Definition: "PRIMARY KEY (a)"}, `"k" PRIMARY KEY USING INDEX "k"`},
		{Constraint{Name: "u", Type: "u", Deferrable: true}, `"u" UNIQUE USING INDEX "u" DEFERRABLE`},
		{Constraint{Name: "u", Type: "u", Deferrable: true, Deferred: true}, `"u" UNIQUE USING INDEX "u" DEFERRABLE INITIALLY DEFERRED`},
		{Constraint{Name: "x", Type: "x", Definition: "EXCLUDE (a WITH =) DEFERRABLE", Deferrable: true}, `"x" EXCLUDE (a WITH =) DEFERRABLE`},
		{Constraint{Name: "w", Type: "p", Period: true, Definition: "PRIMARY KEY (a, b WITHOUT OVERLAPS)"}, `"w" PRIMARY KEY (a, b WITHOUT OVERLAPS)`},
		{Constraint{Name: `C"`, Type: "c", Definition: "CHECK (a > 0) NOT VALID"}, `"C""" CHECK (a > 0) NOT VALID`},
	} {
		if got, want := c.c.AddSQL(table), `ALTER TABLE "s"."T" ADD CONSTRAINT `+c.want; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestAddForeignKey: the key is added without a look at the rows, and with all that
// was said of it.
func TestAddForeignKey(t *testing.T) {
	t.Parallel()
	key := func(change func(*ForeignKey)) ForeignKey {
		f := ForeignKey{
			Name: "k", Table: Name{"a", "t"}, Columns: []string{"x", "y"}, Referenced: Name{"b", "P"}, RefColumns: []string{"I", "j"},
			Match: "s", OnUpdate: "a", OnDelete: "a", Enforced: true, Validated: true,
		}
		change(&f)
		return f
	}
	const head = `ALTER TABLE "a"."t" ADD CONSTRAINT "k" FOREIGN KEY `
	for _, c := range []struct {
		f    ForeignKey
		want string
	}{
		{key(func(*ForeignKey) {}), `("x", "y") REFERENCES "b"."P" ("I", "j") ON UPDATE NO ACTION ON DELETE NO ACTION NOT VALID`},
		{
			key(func(f *ForeignKey) { f.Match, f.OnUpdate, f.OnDelete = "f", "c", "r" }),
			`("x", "y") REFERENCES "b"."P" ("I", "j") MATCH FULL ON UPDATE CASCADE ON DELETE RESTRICT NOT VALID`,
		},
		{
			key(func(f *ForeignKey) {
				f.OnUpdate, f.OnDelete, f.DeleteColumns, f.Deferrable = "d", "n", []string{"y"}, true
			}),
			`("x", "y") REFERENCES "b"."P" ("I", "j") ON UPDATE SET DEFAULT ON DELETE SET NULL ("y") DEFERRABLE NOT VALID`,
		},
		{
			key(func(f *ForeignKey) { f.Period = true }),
			`("x", PERIOD "y") REFERENCES "b"."P" ("I", PERIOD "j") ON UPDATE NO ACTION ON DELETE NO ACTION NOT VALID`,
		},
		{
			key(func(f *ForeignKey) { f.Enforced, f.Deferrable, f.Deferred = false, true, true }),
			`("x", "y") REFERENCES "b"."P" ("I", "j") ON UPDATE NO ACTION ON DELETE NO ACTION DEFERRABLE INITIALLY DEFERRED NOT ENFORCED`,
		},
	} {
		columns := slices.Clone(c.f.Columns)
		if got := c.f.AddSQL(); got != head+c.want {
			t.Errorf("%s, want %s", got, head+c.want)
		}
		if !slices.Equal(c.f.Columns, columns) {
			t.Errorf("the key's columns have become %q", c.f.Columns)
		}
	}
}

// TestIdentity: a sequence has any range of bigint, and goes where the table is.
func TestIdentity(t *testing.T) {
	t.Parallel()
	s := Sequence{
		Name: Name{"app", "T_id_seq"}, Column: "Id", Type: "bigint", Start: -1, Increment: -1, Min: math.MinInt64, Max: math.MaxInt64, Cache: 7, Cycle: true,
	}
	got := strings.Join(s.IdentitySQL(Name{"s", "T"}, true), "\n")
	want := `ALTER TABLE "s"."T" ALTER COLUMN "Id" ADD GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME "s"."T_id_seq")
ALTER SEQUENCE "s"."T_id_seq" AS bigint START WITH -1 RESTART WITH -1 INCREMENT BY -1 MINVALUE -9223372036854775808 MAXVALUE 9223372036854775807 CACHE 7 CYCLE`
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	s.Cycle = false
	got = strings.Join(s.IdentitySQL(Name{"s", "T"}, false), "\n")
	if !strings.Contains(got, "GENERATED BY DEFAULT AS IDENTITY") || !strings.HasSuffix(got, "CACHE 7 NO CYCLE") {
		t.Errorf("by default, without a cycle: %s", got)
	}
}

// TestDefaults: a generated column's expression is no default.
func TestDefaults(t *testing.T) {
	t.Parallel()
	table := &Table{Columns: []Column{
		{Name: "a", Expression: "5"}, {Name: "none"}, {Name: "g", Generated: "s", Expression: "a"}, {Name: `B"`, Expression: "'it''s'"},
	}}
	set := []string{`ALTER TABLE "s"."t" ALTER COLUMN "a" SET DEFAULT 5`, `ALTER TABLE "s"."t" ALTER COLUMN "B""" SET DEFAULT 'it''s'`}
	drop := []string{`ALTER TABLE "s"."t" ALTER COLUMN "a" DROP DEFAULT`, `ALTER TABLE "s"."t" ALTER COLUMN "B""" DROP DEFAULT`}
	if got := table.DefaultsSQL(Name{"s", "t"}, false); !slices.Equal(got, set) {
		t.Errorf("%q, want %q", got, set)
	}
	if got := table.DefaultsSQL(Name{"s", "t"}, true); !slices.Equal(got, drop) {
		t.Errorf("%q, want %q", got, drop)
	}
}

// A label of a view is not that of a table: SECURITY LABEL ON TABLE refuses a view. No provider of
// labels is at hand to try it with.
func TestLabelsOfViews(t *testing.T) {
	t.Parallel()
	v := View{Relation: &Table{Name: Name{"app", "v"}, Labels: []Label{{Provider: "p", Label: "a'b"}, {Provider: "p", Column: "c d", Label: "x"}}}}
	want := []string{
		`SECURITY LABEL FOR "p" ON VIEW "app"."v" IS 'a''b'`,
		`SECURITY LABEL FOR "p" ON COLUMN "app"."v"."c d" IS 'x'`,
	}
	if got := v.dressSQL(); !slices.Equal(got, want) {
		t.Errorf("statements: %q, want %q", got, want)
	}
}
