package alter

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestParseKinds: every action that repack carries out, in each of its forms.
func TestParseKinds(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]Action{
		`ADD a int`:                                         {Kind: AddColumn, Column: "a"},
		`ADD COLUMN a int NOT NULL DEFAULT 1`:               {Kind: AddColumn, Column: "a"},
		`ADD IF NOT EXISTS a int`:                           {Kind: AddColumn, Column: "a"},
		`add column if not exists a int`:                    {Kind: AddColumn, Column: "a"},
		`ADD if int`:                                        {Kind: AddColumn, Column: "if"},
		`ADD exclude int`:                                   {Kind: AddColumn, Column: "exclude"},
		`ADD "constraint" int`:                              {Kind: AddColumn, Column: "constraint"},
		`ADD "primary" int PRIMARY KEY`:                     {Kind: AddColumn, Column: "primary"},
		`ADD "COLUMN" int`:                                  {Kind: AddColumn, Column: "COLUMN"},
		`ADD serial int`:                                    {Kind: AddColumn, Column: "serial"},
		`ADD a app.serial`:                                  {Kind: AddColumn, Column: "a"},
		`ADD a serial.kind`:                                 {Kind: AddColumn, Column: "a"},
		`ADD a "Serial"`:                                    {Kind: AddColumn, Column: "a"},
		`ADD a app.references`:                              {Kind: AddColumn, Column: "a"},
		`ADD a text DEFAULT 'x REFERENCES y'`:               {Kind: AddColumn, Column: "a"},
		`ADD a text DEFAULT $$AS IDENTITY$$`:                {Kind: AddColumn, Column: "a"},
		`ADD a text CHECK (a ~ ALL (SELECT references))`:    {Kind: AddColumn, Column: "a"},
		`ADD a text /* AS IDENTITY */ COLLATE "REFERENCES"`: {Kind: AddColumn, Column: "a"},
		`ADD a int GENERATED ALWAYS AS (b + 1) STORED`:      {Kind: AddColumn, Column: "a"},

		`ADD CONSTRAINT c CHECK (a > 0)`:                         {Kind: AddConstraint, Constraint: "c"},
		`ADD CONSTRAINT "C, d" UNIQUE (a)`:                       {Kind: AddConstraint, Constraint: "C, d"},
		`ADD CONSTRAINT c NOT NULL a`:                            {Kind: AddConstraint, Constraint: "c"},
		`ADD PRIMARY KEY (a)`:                                    {Kind: AddConstraint},
		`ADD UNIQUE (a) USING INDEX TABLESPACE fast`:             {Kind: AddConstraint},
		`ADD UNIQUE NULLS NOT DISTINCT (a, b)`:                   {Kind: AddConstraint},
		`ADD CHECK (a > 0) NO INHERIT`:                           {Kind: AddConstraint},
		`ADD CHECK (a NOT IN ('NOT VALID'))`:                     {Kind: AddConstraint},
		`ADD NOT NULL a`:                                         {Kind: AddConstraint},
		`ADD EXCLUDE (a WITH =)`:                                 {Kind: AddConstraint},
		`ADD EXCLUDE USING gist (a WITH &&, b WITH =) WHERE (a)`: {Kind: AddConstraint},
		`ADD LIKE other`:                                         {Kind: AddConstraint},

		`DROP a`:                                 {Kind: DropColumn, Column: "a"},
		`DROP COLUMN a RESTRICT`:                 {Kind: DropColumn, Column: "a"},
		`DROP IF EXISTS a`:                       {Kind: DropColumn, Column: "a"},
		`DROP COLUMN IF EXISTS a`:                {Kind: DropColumn, Column: "a"},
		`DROP if`:                                {Kind: DropColumn, Column: "if"},
		`DROP cascade`:                           {Kind: DropColumn, Column: "cascade"},
		`DROP "constraint"`:                      {Kind: DropColumn, Column: "constraint"},
		`DROP CONSTRAINT c`:                      {Kind: DropConstraint, Constraint: "c"},
		`DROP CONSTRAINT IF EXISTS "C" RESTRICT`: {Kind: DropConstraint, Constraint: "C"},

		`RENAME a TO b`:                  {Kind: RenameColumn, Column: "a", To: "b"},
		`RENAME COLUMN "A" TO "B c"`:     {Kind: RenameColumn, Column: "A", To: "B c"},
		`RENAME "constraint" TO B`:       {Kind: RenameColumn, Column: "constraint", To: "b"},
		`RENAME "to" TO "TO"`:            {Kind: RenameColumn, Column: "to", To: "TO"},
		`RENAME CONSTRAINT A TO B`:       {Kind: RenameConstraint, Constraint: "a", To: "b"},
		`RENAME COLUMN "column" TO data`: {Kind: RenameColumn, Column: "column", To: "data"},

		`ALTER a TYPE int`:                                              {Kind: AlterType, Column: "a"},
		`ALTER COLUMN a SET DATA TYPE numeric(12,2)`:                    {Kind: AlterType, Column: "a"},
		`ALTER a TYPE text COLLATE "using" USING lower(b)`:              {Kind: AlterType, Column: "a", Using: "lower(b)"},
		`ALTER a TYPE int[] USING ARRAY[a, 1]`:                          {Kind: AlterType, Column: "a", Using: "ARRAY[a, 1]"},
		`ALTER a TYPE int USING (SELECT x FROM y JOIN z USING (i)) + 1`: {Kind: AlterType, Column: "a", Using: "(SELECT x FROM y JOIN z USING (i)) + 1"},
		`ALTER a TYPE int USING ' USING b'::int`:                        {Kind: AlterType, Column: "a", Using: "' USING b'::int"},
		`ALTER a TYPE app.using USING a /* b */ || c`:                   {Kind: AlterType, Column: "a", Using: "a /* b */ || c"},
		`ALTER a TYPE "USING"`:                                          {Kind: AlterType, Column: "a"},
		`ALTER a SET DEFAULT nextval('a, b')`:                           {Kind: SetDefault, Column: "a"},
		`ALTER a SET DEFAULT b USING c`:                                 {Kind: SetDefault, Column: "a"},
		`ALTER "set" SET DEFAULT 1`:                                     {Kind: SetDefault, Column: "set"},
		`ALTER type TYPE int`:                                           {Kind: AlterType, Column: "type"},
		`ALTER a DROP DEFAULT`:                                          {Kind: DropDefault, Column: "a"},
		`ALTER a SET NOT NULL`:                                          {Kind: SetNotNull, Column: "a"},
		`ALTER a DROP NOT NULL`:                                         {Kind: DropNotNull, Column: "a"},
		`ALTER a SET EXPRESSION AS (b + c)`:                             {Kind: SetExpression, Column: "a"},
		`ALTER a DROP EXPRESSION IF EXISTS`:                             {Kind: DropExpression, Column: "a"},
		`ALTER a SET STORAGE EXTERNAL`:                                  {Kind: SetStorage, Column: "a"},
		`ALTER a SET COMPRESSION lz4`:                                   {Kind: SetCompression, Column: "a"},
		`ALTER a SET STATISTICS -1`:                                     {Kind: SetStatistics, Column: "a"},
		`ALTER a SET (n_distinct = -0.5)`:                               {Kind: SetColumnOptions, Column: "a"},
		`ALTER a RESET (n_distinct)`:                                    {Kind: SetColumnOptions, Column: "a"},

		`SET (fillfactor = 70, autovacuum_enabled = off)`: {Kind: SetOptions},
		`RESET (fillfactor)`:                              {Kind: ResetOptions},
		`SET TABLESPACE fast`:                             {Kind: SetTablespace},
		`SET LOGGED`:                                      {Kind: SetLogged},
		`SET UNLOGGED`:                                    {Kind: SetUnlogged},
	} {
		want.SQL = sql
		got, err := Parse(sql, "app", "orders")
		if err != nil || !slices.Equal(got, []Action{want}) {
			t.Errorf("%s:\n%+v, %v; want\n%+v", sql, got, err, want)
		}
	}
}

// TestParseRefuses: each action that repack does not carry out is refused with its reason.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for why, texts := range map[string][]string{
		whyPlain: {
			`OWNER TO bob`, `SET SCHEMA other`, `RENAME TO other`, `rename to other`,
			`ENABLE TRIGGER x`, `ENABLE ALWAYS TRIGGER x`, `ENABLE REPLICA TRIGGER x`, `DISABLE TRIGGER ALL`,
			`ENABLE RULE x`, `ENABLE ALWAYS RULE x`, `ENABLE REPLICA RULE x`, `DISABLE RULE x`,
			`ENABLE ROW LEVEL SECURITY`, `DISABLE ROW LEVEL SECURITY`, `FORCE ROW LEVEL SECURITY`, `NO FORCE ROW LEVEL SECURITY`,
			`INHERIT parent`, `NO INHERIT parent`, `ATTACH PARTITION p DEFAULT`, `DETACH PARTITION p CONCURRENTLY`, `OF kind`, `NOT OF`,
			`REPLICA IDENTITY FULL`, `CLUSTER ON i`, `SET WITHOUT CLUSTER`, `SET WITHOUT OIDS`,
			`ALTER CONSTRAINT c DEFERRABLE`,
			`ALTER a ADD GENERATED ALWAYS AS IDENTITY`, `ALTER COLUMN a SET GENERATED BY DEFAULT`, `ALTER a DROP IDENTITY IF EXISTS`,
			`ALTER a RESTART`, `ALTER a RESTART WITH 5`, `ALTER a SET RESTART 5`, `ALTER a SET START 5`, `ALTER a SET INCREMENT BY 2`,
			`ALTER a SET MINVALUE 1`, `ALTER a SET MAXVALUE 9`, `ALTER a SET NO MAXVALUE`, `ALTER a SET CACHE 2`, `ALTER a SET CYCLE`,
		},
		whyUnblocking:   {`VALIDATE CONSTRAINT c`},
		whyAccessMethod: {`SET ACCESS METHOD heap2`},
		whyCascade:      {`DROP a CASCADE`, `DROP COLUMN IF EXISTS a cascade`, `DROP cascade CASCADE`, `DROP CONSTRAINT c CASCADE`},
		whyForeignKey: {
			`ADD FOREIGN KEY (a) REFERENCES b`, `ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES b NOT VALID`,
			`ADD a int REFERENCES b`, `ADD COLUMN a int DEFAULT 1. REFERENCES b (c)`, `ADD a int DEFAULT 1_000. REFERENCES b`, `ADD a int CONSTRAINT "x" references b`,
		},
		whyUnfilled: {
			`ADD a serial`, `ADD COLUMN a BIGSERIAL NOT NULL`, `ADD a smallserial`, `ADD a serial2`, `ADD a serial4`, `ADD a serial8`, `ADD a "serial"`,
			`ADD a int GENERATED ALWAYS AS IDENTITY`, `ADD IF NOT EXISTS a int NOT NULL GENERATED BY DEFAULT AS IDENTITY (START 5)`,
		},
		whyNotValid:   {`ADD CHECK (a > 0) NOT VALID`, `ADD CONSTRAINT c CHECK (a > 0) NO INHERIT not /* */ valid`, `ADD CONSTRAINT c NOT NULL a NOT VALID`},
		whyUsingIndex: {`ADD UNIQUE USING INDEX i`, `ADD CONSTRAINT c PRIMARY KEY USING INDEX i DEFERRABLE`},
		whyTogether:   {`RENAME a TO b`, `RENAME CONSTRAINT a TO b`},
		whyUnknown: {
			`VACUUM`, `UPDATE orders SET a = 1`, `"ADD" a int`, `'DROP a'`, `1`, `(DROP a)`, `*`, `ADD`, `ADD COLUMN`, `ADD 'a' int`, `ADD CONSTRAINT`,
			`DROP`, `DROP COLUMN`, `DROP CONSTRAINT IF EXISTS`, `DROP $1`, `RENAME`, `RENAME a b`, `RENAME a TO`, `RENAME a TO 'b'`, `RENAME COLUMN TO b`,
			`ALTER`, `ALTER a`, `ALTER 3 SET STATISTICS 1`, `ALTER a "TYPE" int`, `ALTER a SET "DEFAULT" 1`, `ALTER a OPTIONS (x 'y')`,
			`SET`, `SET fillfactor = 70`, `SET "LOGGED"`, `RESET`, `ENABLE`, `SPLIT PARTITION p INTO (q, r)`, "ENABLE\u00a0RULE x", "\u017fET LOGGED",
		},
	} {
		for _, sql := range texts {
			_, err := Parse("DROP x, "+sql+" ; ", "app", "orders")
			var refused *ActionError
			if !errors.As(err, &refused) || *refused != (ActionError{Action: sql, Why: why}) || err.Error() != sql+" "+why {
				t.Errorf("%s: %v; want that it %s", sql, err, why)
			}
		}
	}
}

// TestParseTogether: the order of the actions does not matter.
func TestParseTogether(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`RENAME a TO b, DROP x`, `RENAME a TO b, RENAME c TO d`, `ALTER TABLE orders RENAME a TO b, DROP x`} {
		_, err := Parse(text, "app", "orders")
		var refused *ActionError
		if !errors.As(err, &refused) || *refused != (ActionError{Action: `RENAME a TO b`, Why: whyTogether}) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestParseSplits: only commas between actions separate them, and what stands around an action
// does not belong to it.
func TestParseSplits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want []string
	}{
		{`DROP a,DROP b`, []string{`DROP a`, `DROP b`}},
		{" \t\r\n\f\vDROP a\n,\n  DROP b ;; -- end", []string{`DROP a`, `DROP b`}},
		{`DROP "a, b", DROP "c"", d"`, []string{`DROP "a, b"`, `DROP "c"", d"`}},
		{`ADD a numeric(1, 2) DEFAULT ('{1,2}'::int[])[1], DROP b`, []string{`ADD a numeric(1, 2) DEFAULT ('{1,2}'::int[])[1]`, `DROP b`}},
		{`ADD a int[] DEFAULT ARRAY[1, (2), f(3, 4)], DROP b`, []string{`ADD a int[] DEFAULT ARRAY[1, (2), f(3, 4)]`, `DROP b`}},
		{"DROP a -- , DROP x (\n, DROP b -- ' ; )\r, DROP c", []string{`DROP a`, `DROP b`, `DROP c`}},
		{"DROP -- , x\n a, DROP b", []string{"DROP -- , x\n a", `DROP b`}},
		{`/* , ( /* ' */ " */ DROP a /* , */, /**/ DROP /*/ ; */ b /***/`, []string{`DROP a`, `DROP /*/ ; */ b`}},
		{`ALTER a SET DEFAULT 1-/*,*/-2*/*,*/3, DROP b`, []string{`ALTER a SET DEFAULT 1-/*,*/-2*/*,*/3`, `DROP b`}},
		{`ALTER a SET DEFAULT 'it''s, (', DROP b`, []string{`ALTER a SET DEFAULT 'it''s, ('`, `DROP b`}},
		{`ALTER a SET DEFAULT 'c:\', DROP b, ALTER c SET DEFAULT ','`, []string{`ALTER a SET DEFAULT 'c:\'`, `DROP b`, `ALTER c SET DEFAULT ','`}},
		{`ALTER a SET DEFAULT E'\', \\', DROP b`, []string{`ALTER a SET DEFAULT E'\', \\'`, `DROP b`}},
		{`ALTER a SET DEFAULT e'x'', \'', DROP b`, []string{`ALTER a SET DEFAULT e'x'', \''`, `DROP b`}},
		{"ALTER a SET DEFAULT E'1' -- '\n\t--\n '\\', ', DROP b", []string{"ALTER a SET DEFAULT E'1' -- '\n\t--\n '\\', '", `DROP b`}},
		{`ALTER a SET DEFAULT E'1' '\', DROP b`, []string{`ALTER a SET DEFAULT E'1' '\'`, `DROP b`}},
		{`ALTER a SET DEFAULT type'\', DROP b`, []string{`ALTER a SET DEFAULT type'\'`, `DROP b`}},
		{`ALTER a SET DEFAULT U&'\', DROP b, ALTER a SET DEFAULT u&','`, []string{`ALTER a SET DEFAULT U&'\'`, `DROP b`, `ALTER a SET DEFAULT u&','`}},
		{`ALTER a SET DEFAULT B'1,' || X'2,', ALTER a SET DEFAULT N','`, []string{`ALTER a SET DEFAULT B'1,' || X'2,'`, `ALTER a SET DEFAULT N','`}},
		{`ALTER a SET DEFAULT $$, ' $a$ ( $$, DROP b`, []string{`ALTER a SET DEFAULT $$, ' $a$ ( $$`, `DROP b`}},
		{`ALTER a SET DEFAULT $é1$, $$ $e$ $é$ $É1$ $é1$, DROP b`, []string{`ALTER a SET DEFAULT $é1$, $$ $e$ $é$ $É1$ $é1$`, `DROP b`}},
		{`DROP a$$, DROP b$$`, []string{`DROP a$$`, `DROP b$$`}},
		{`ALTER a SET DEFAULT 1$$, $$, DROP b`, []string{`ALTER a SET DEFAULT 1$$, $$`, `DROP b`}},
		{`ALTER a SET DEFAULT $1$, DROP b$`, []string{`ALTER a SET DEFAULT $1$`, `DROP b$`}},
		{`ALTER a SET DEFAULT 1E'\', ', DROP b`, []string{`ALTER a SET DEFAULT 1E'\', '`, `DROP b`}},
		{`ALTER a SET DEFAULT 1.5e-3 + .5 + 1_000, DROP b`, []string{`ALTER a SET DEFAULT 1.5e-3 + .5 + 1_000`, `DROP b`}},
		{`ALTER TABLE orders DROP a, DROP b;`, []string{`DROP a`, `DROP b`}},
		{`alter /* */ table if exists only APP.Orders * DROP a`, []string{`DROP a`}},
		{`ALTER TABLE "app" . "orders" RENAME a TO b`, []string{`RENAME a TO b`}},
	} {
		actions, err := Parse(c.text, "app", "orders")
		var got []string
		for _, a := range actions {
			got = append(got, a.SQL)
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%q, %v; want\n%q", c.text, got, err, c.want)
		}
	}
}

// TestParseTable: a whole statement must be for the table, by the rules for names.
func TestParseTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, schema, table string
		is                  bool
	}{
		{`Orders`, "app", "orders", true},
		{`"Orders"`, "app", "Orders", true},
		{`"Orders"`, "app", "orders", false},
		{`Orders`, "app", "Orders", false},
		{`app.orders`, "app", "orders", true},
		{`"App"."a.b"`, "App", "a.b", true},
		{`app.orders`, "App", "orders", false},
		{`other.orders`, "app", "orders", false},
		{`app.other`, "app", "orders", false},
		{`app.only`, "app", "only", true},
		{`if`, "app", "if", true},
		{`"if exists"`, "app", "if exists", true},
		{`db.app.orders`, "app", "orders", false},
		{`ORDÉRS`, "app", "ordÉrs", true},
		{`ORDÉRS`, "app", "ordérs", false},
		{`'orders'`, "app", "orders", false},
		{`(orders)`, "app", "orders", false},
		{``, "app", "orders", false},
		{strings.Repeat("o", 70), "app", strings.Repeat("o", 63), true},
	} {
		_, err := Parse("ALTER TABLE "+c.name+" DROP a", c.schema, c.table)
		if (err == nil) != c.is {
			t.Errorf("%s is %s.%s: %v, want %t", c.name, c.schema, c.table, err, c.is)
		}
		if err != nil && !strings.Contains(err.Error(), "the ALTER TABLE statement is not for ") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestParseNames: names are as the server stores them.
func TestParseNames(t *testing.T) {
	t.Parallel()
	for written, want := range map[string]string{
		`Mail`: "mail", `"Mail"`: "Mail", `"a""b"`: `a"b`, `MÜNZE`: "mÜnze", `"MÜNZE"`: "MÜNZE", `Größe_1$`: "größe_1$", `名前`: "名前", `_x`: "_x",
		`"a'b"`: "a'b", `"--"`: "--", `"/*"`: "/*", `"$$"`: "$$", `"a;b"`: "a;b", `"a\"`: `a\`, `""""`: `"`, `E`: "e", `U`: "u",
		strings.Repeat("A", 64):                    strings.Repeat("a", 63),
		`"` + strings.Repeat("A", 63) + `"`:        strings.Repeat("A", 63),
		`"` + strings.Repeat("x", 62) + `é"`:       strings.Repeat("x", 62),
		`"` + strings.Repeat("x", 61) + `éé"`:      strings.Repeat("x", 61) + "é",
		`"` + strings.Repeat("x", 60) + `名` + `y"`: strings.Repeat("x", 60) + "名",
		`"` + strings.Repeat(`""`, 40) + `"`:       strings.Repeat(`"`, 40),
	} {
		got, err := Parse("DROP "+written, "app", "orders")
		if err != nil || len(got) != 1 || got[0].Column != want {
			t.Errorf("%s: %+v, %v; want %s", written, got, err, want)
		}
	}
}

// TestParseErrors: what is not a list of actions is refused, and the error says where.
func TestParseErrors(t *testing.T) {
	t.Parallel()
	const missing = "an action is missing: there is no text, or nothing before or after a comma"
	for text, want := range map[string]string{
		"": missing, " ": missing, ";": missing, "-- DROP a": missing, "/* DROP a */": missing, ",": missing,
		"DROP a,": missing, ", DROP a": missing, "DROP a,, DROP b": missing, "DROP a, -- b": missing, "ALTER TABLE orders;": missing,

		"DROP a; DROP b":         "there is text after the semicolon at byte 7: an --alter takes one statement",
		"DROP a;; DELETE FROM b": "there is text after the semicolon at byte 7: an --alter takes one statement",
		"ADD a int CHECK (a; b)": "the semicolon at byte 19 is in parentheses or brackets",
		"ADD a int[1;2]":         "the semicolon at byte 12 is in parentheses or brackets",

		"ADD a CHECK (b":           "the ( at byte 13 is not closed",
		"ADD a CHECK (b[1)":        "the ) at byte 17 closes nothing",
		"ADD a CHECK (b])":         "the ] at byte 15 closes nothing",
		"ALTER a TYPE b USING c))": "the ) at byte 23 closes nothing",
		"ADD a int[":               "the [ at byte 10 is not closed",
		"ADD a CHECK ('(')')":      "the string that begins at byte 18 has no end",
		"DROP a -- (\n)":           "the ) at byte 13 closes nothing",

		"ALTER a SET DEFAULT 'x":             "the string that begins at byte 21 has no end",
		"ALTER a SET DEFAULT 'x''":           "the string that begins at byte 21 has no end",
		`ALTER a SET DEFAULT E'x\'`:          "the string that begins at byte 21 has no end",
		`ALTER a SET DEFAULT E'x\`:           "the string that begins at byte 21 has no end",
		"ALTER a SET DEFAULT E'x'\n'\\'":     "the string that begins at byte 21 has no end",
		"ALTER a SET DEFAULT U&'x":           "the string that begins at byte 23 has no end",
		"ALTER a SET DEFAULT $$x$":           "the string that begins at byte 21 has no end",
		"ALTER a SET DEFAULT $a$x$A$":        "the string that begins at byte 21 has no end",
		`DROP "a`:                            "the name that begins at byte 6 has no end",
		`DROP "a""`:                          "the name that begins at byte 6 has no end",
		`DROP é, DROP "`:                     "the name that begins at byte 15 has no end",
		`DROP ""`:                            "the name at byte 6 is empty",
		`DROP U&"d\0061t"`:                   `the name U&"…" at byte 6 is not supported: write its letters themselves`,
		"DROP a /* /* */":                    "the comment that begins at byte 8 has no end",
		"DROP a /*/":                         "the comment that begins at byte 8 has no end",
		"ALTER TABLE other DROP a":           `the ALTER TABLE statement is not for "app"."orders"`,
		"ALTER TABLE":                        `the ALTER TABLE statement is not for "app"."orders"`,
		"ALTER TABLE ALL IN TABLESPACE fast": `the ALTER TABLE statement is not for "app"."orders"`,
	} {
		if got, err := Parse(text, "app", "orders"); err == nil || err.Error() != want {
			t.Errorf("%s: %+v, %v; want %s", text, got, err, want)
		}
	}
}

func TestAssignment(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, column, expression string }{
		{`email = lower(email)`, "email", "lower(email)"},
		{`Email=a=b`, "email", "a=b"},
		{` "A = b" = 'x; y' || f(1, 2) -- lower`, "A = b", "'x; y' || f(1, 2)"},
		{`/* = */ a /* = */ = /* = */ -1 + /* b */ 2`, "a", "-1 + /* b */ 2"},
		{"größe = ARRAY[1, 2]", "größe", "ARRAY[1, 2]"},
	} {
		column, expression, err := assignment(c.text)
		if err != nil || column != c.column || expression != c.expression {
			t.Errorf("%s: %s and %s, %v; want %s and %s", c.text, column, expression, err, c.column, c.expression)
		}
	}
	for text, want := range map[string]string{
		``: `"" is not COLUMN = EXPRESSION`, `a`: `"a" is not COLUMN = EXPRESSION`, `a =`: `"a =" is not COLUMN = EXPRESSION`,
		`= 1`: `"= 1" is not COLUMN = EXPRESSION`, `'a' = 1`: `"'a' = 1" is not COLUMN = EXPRESSION`,
		`t.a = 1`: `"t.a = 1" is not COLUMN = EXPRESSION`, `a[1] = 1`: `"a[1] = 1" is not COLUMN = EXPRESSION`,
		`(a) = 1`: `"(a) = 1" is not COLUMN = EXPRESSION`, `a + 1 = 1`: `"a + 1 = 1" is not COLUMN = EXPRESSION`,
		`a = 1, b = 2`: `"a = 1, b = 2" is more than one assignment: give the flag again for each`,
		`a = 1; b`:     `"a = 1; b" is more than one assignment: give the flag again for each`,
		`a = (1`:       `the ( at byte 5 is not closed`,
		`a = 1) + (2`:  `the ) at byte 6 closes nothing`,
	} {
		if column, expression, err := assignment(text); err == nil || err.Error() != want {
			t.Errorf("%s: %s and %s, %v; want %s", text, column, expression, err, want)
		}
	}
}

func TestColumnList(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		`id, placed_at, *`:                    {"id", "placed_at", "*"},
		`ID`:                                  {"id"},
		`"A, b",*, "c""d" /* , */ , größe --`: {"A, b", "*", `c"d`, "größe"},
	} {
		if got, err := columnList(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{``, `a,`, `,a`, `a b`, `a *`, `a, 'b'`, `a.b`, `a, 1`, `* *`, `(a)`, `a; b`, `"a`, `t.*`} {
		if got, err := columnList(text); err == nil {
			t.Errorf("%s: %q", text, got)
		}
	}
}
