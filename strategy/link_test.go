package strategy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
)

const plainEqual = "OPERATOR(pg_catalog.=)"

// givenLink leads from app.t to s.T, whose columns are called otherwise.
func givenLink() *Link {
	return &Link{
		From: catalog.Name{Schema: "app", Name: "t"}, To: catalog.Name{Schema: "s", Name: "T"},
		Log: catalog.Name{Schema: "s", Name: "log"}, Capture: catalog.Name{Schema: "s", Name: "capture"},
		Columns:  []Mapping{{From: "id", To: "Id"}, {From: `a"b`, To: `b"a`}, {From: "c", To: "C"}},
		Assigned: []Mapping{{From: "id", To: "Id"}, {From: `a"b`, To: `b"a`}},
		Key:      []catalog.KeyColumn{{Name: "id", Equal: plainEqual, Hashed: true}, {Name: `a"b`, Equal: "OPERATOR(ext.=)"}},
	}
}

// TestNewLink: generated columns are not copied, identities GENERATED ALWAYS not
// assigned. One outside the key forbids updates in place; of a partition it is the
// partitioned table's.
func TestNewLink(t *testing.T) {
	t.Parallel()
	trigger := []catalog.Trigger{{Name: "x"}}
	columns := []catalog.Column{{Name: "id"}, {Name: "n", Identity: "a"}, {Name: "d", Identity: "d"}, {Name: "g", Generated: "s"}, {Name: "v", Generated: "v"}}
	for _, c := range []struct {
		name                    string
		table                   catalog.Table
		key                     string
		assigned                string
		replace, reread, perRow bool
	}{
		{"identity outside the key", catalog.Table{Columns: columns}, "id", "id d", true, false, false},
		{"identity as the key", catalog.Table{Columns: columns}, "n", "id d", false, false, false},
		{"triggers", catalog.Table{Columns: columns, Triggers: trigger}, "n", "id d", false, true, false},
		{"partition", catalog.Table{Columns: columns, Partition: &catalog.Partition{}}, "id", "id n d", false, false, true},
		{"partition with the parent's triggers", catalog.Table{Columns: columns, Partition: &catalog.Partition{Triggers: trigger}}, "id", "id n d", false, true, true},
	} {
		l := NewLink(&c.table, []catalog.KeyColumn{{Name: c.key}}, catalog.Name{}, catalog.Name{}, catalog.Name{}, catalog.Name{})
		names := func(mappings []Mapping) string {
			return list(mappings, " ", func(_ int, m Mapping) string { return m.From })
		}
		if got := names(l.Columns); got != "id n d" {
			t.Errorf("%s: copies %s", c.name, got)
		}
		if got := names(l.Assigned); got != c.assigned {
			t.Errorf("%s: assigns %s, want %s", c.name, got, c.assigned)
		}
		if l.Replace != c.replace || l.Reread != c.reread || l.PerRow != c.perRow {
			t.Errorf("%s: replace %t, reread %t, per row %t", c.name, l.Replace, l.Reread, l.PerRow)
		}
	}
	l := NewLink(&catalog.Table{Constraints: []catalog.Constraint{{Name: "a"}, {Name: "b", Deferrable: true}}}, nil, catalog.Name{}, catalog.Name{}, catalog.Name{}, catalog.Name{})
	if !slices.Equal(l.Deferrable, []string{"b"}) {
		t.Errorf("can be deferred: %q", l.Deferrable)
	}
}

// TestReverse: columns and key go by their names on the other side, and the link that
// was turned round is what it was.
func TestReverse(t *testing.T) {
	t.Parallel()
	l := givenLink()
	l.MirrorSince = "77"
	now, old := catalog.Name{Schema: "app", Name: "t"}, catalog.Name{Schema: "old", Name: "t"}
	r := l.Reverse(now, old)
	if r.From != now || r.To != old || r.MirrorSince != "" || r.Log != l.Log {
		t.Errorf("%+v", r)
	}
	for got, want := range map[string]string{
		r.fromColumns("f"):      `f."Id", f."b""a", f."C"`,
		r.toColumns():           `"id", "a""b", "c"`,
		r.fromKey(""):           `"Id", "b""a"`,
		r.toKey("t"):            `t."id", t."a""b"`,
		r.toIsFrom("t", "f"):    `t."id" OPERATOR(pg_catalog.=) f."Id" AND t."a""b" OPERATOR(ext.=) f."b""a"`,
		r.onConflict():          `DO UPDATE SET "id" = EXCLUDED."id", "a""b" = EXCLUDED."a""b"`,
		l.fromKey(""):           `"id", "a""b"`,
		l.toKeyAsLog("t"):       `t."Id" AS k1, t."b""a" AS k2`,
		l.toIsLog("t", "k"):     `t."Id" OPERATOR(pg_catalog.=) k."k1" AND t."b""a" OPERATOR(ext.=) k."k2"`,
		l.fromIsLog("f", "k"):   `f."id" OPERATOR(pg_catalog.=) k."k1" AND f."a""b" OPERATOR(ext.=) k."k2"`,
		l.fromIsFrom("a", "b"):  `a."id" OPERATOR(pg_catalog.=) b."id" AND a."a""b" OPERATOR(ext.=) b."a""b"`,
		l.logColumns("") + "; ": `"k1", "k2"; `,
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	l.Assigned = nil
	if got := l.onConflict(); got != "DO NOTHING" {
		t.Errorf("with nothing to assign: %s", got)
	}
}

// TestInShare: the zero share is everything, also where the log cannot be divided.
func TestInShare(t *testing.T) {
	t.Parallel()
	l := givenLink()
	if got := l.inShare("l", Share{}); got != "" {
		t.Errorf("everything is %s", got)
	}
	if got, want := strings.TrimSpace(l.inShare("l", Share{N: 2, Of: 3})), `AND    abs(mod(hash_record_extended(ROW(l."k1", l."k2"), 0), 3)) = 2`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if l.Divisible() {
		t.Error("a key with a column that is not hashed can be divided")
	}
	if l.Key = l.Key[:1]; !l.Divisible() {
		t.Error("a key of hashed columns cannot be divided")
	}
}

// TestKeyTrigger: a trigger for rows whose key changes has a condition that the
// application evaluates, with operators of the server's own only.
func TestKeyTrigger(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		equal  []string
		perRow bool
		want   bool
	}{
		{"the server's", []string{plainEqual, "OPERATOR(pg_catalog.*=)"}, false, true},
		{"an extension's", []string{plainEqual, "OPERATOR(ext.=)"}, false, false},
		{"of a schema that begins so", []string{`OPERATOR(pg_catalogue.=)`}, false, false},
		{"for rows", []string{plainEqual}, true, false},
	} {
		l := givenLink()
		l.PerRow, l.Key = c.perRow, nil
		for i, equal := range c.equal {
			l.Key = append(l.Key, catalog.KeyColumn{Name: fmt.Sprintf("k%d", i), Equal: equal})
		}
		statements := strings.Join(l.LogCapture().Triggers, "\n")
		_, args := l.NotCapturing(2)
		if got := strings.Contains(statements, `"00_repack_key"`); got != c.want {
			t.Errorf("%s: there is one: %t", c.name, got)
		}
		if want := map[bool]int{true: 5, false: 4}[c.want]; args[0] != want || strings.Count(statements, "CREATE OR REPLACE TRIGGER") != want {
			t.Errorf("%s: %d triggers, %v are looked for; want %d", c.name, strings.Count(statements, "CREATE OR REPLACE TRIGGER"), args[0], want)
		}
		if rows := strings.Contains(statements, "REFERENCING"); rows == c.perRow {
			t.Errorf("%s: transition tables: %t", c.name, rows)
		}
	}
}

// TestWriteThrough: rows are updated in place unless Replace forbids it, constraints
// made immediate once the copy is complete, rows counted where that was asked for.
func TestWriteThrough(t *testing.T) {
	t.Parallel()
	const update, immediate, count = "ON CONFLICT", `SET CONSTRAINTS "s"."x", "s"."Y""" IMMEDIATE`, "repack.rows"
	for _, c := range []struct {
		name        string
		change      func(*Link)
		completedBy string
		has         []string
		hasNot      []string
	}{
		{"while it is filled", func(*Link) {}, "", []string{update, "NULL::xid8"}, []string{immediate, count}},
		{"complete", func(*Link) {}, "77", []string{update, immediate, "''77''::xid8"}, []string{"NULL::xid8", count}},
		{"replaced", func(l *Link) { l.Replace = true }, "77", []string{immediate}, []string{update}},
		{"nothing can be deferred", func(l *Link) { l.Deferrable = nil }, "77", []string{update}, []string{"IMMEDIATE"}},
		{"for rows, counted", func(l *Link) { l.PerRow, l.Counted = true, true }, "77", []string{count}, []string{"old_rows", "new_rows"}},
		{"for rows, not counted", func(l *Link) { l.PerRow = true }, "77", nil, []string{count, "old_rows"}},
		{"counted, for statements", func(l *Link) { l.Counted = true }, "77", []string{"old_rows"}, []string{count}},
	} {
		l := givenLink()
		l.Deferrable = []string{"x", `Y"`}
		c.change(l)
		capture := l.WriteThrough(c.completedBy)
		sql := capture.Function + strings.Join(capture.Triggers, "\n")
		for _, want := range c.has {
			if !strings.Contains(sql, want) {
				t.Errorf("%s: no %s in %s", c.name, want, sql)
			}
		}
		for _, not := range c.hasNot {
			if strings.Contains(sql, not) {
				t.Errorf("%s: %s in %s", c.name, not, sql)
			}
		}
	}
}

// TestRowByRow: triggers that fire behind those of foreign keys bear other names, and
// leave those that fire before them without effect.
func TestRowByRow(t *testing.T) {
	t.Parallel()
	for rows, want := range map[registry.RowByRow]struct{ trigger, ignored string }{
		registry.BeforeKeys: {`"00_repack_insert"`, `IF TG_NAME IN (''00_repack_key'') THEN`},
		registry.AfterKeys:  {`"RI_repack_insert"`, `IF TG_NAME IN (''00_repack_key'', ''00_repack_insert'', ''00_repack_update'', ''00_repack_delete'') THEN`},
	} {
		l := givenLink()
		l.Rows = rows
		capture := l.RowByRow()
		if !strings.Contains(capture.Function, want.ignored) || strings.Contains(capture.Function, "SET CONSTRAINTS") {
			t.Errorf("%s: %s", rows, capture.Function)
		}
		if got := strings.Join(capture.Triggers, "\n"); strings.Count(got, want.trigger) != 2 || strings.Contains(got, "REFERENCING") {
			t.Errorf("%s: %s", rows, got)
		}
		_, args := l.NotCapturing(1)
		for _, name := range args[1].([]string) {
			if !strings.Contains(strings.Join(capture.Triggers, "\n"), catalog.Quote(name)) {
				t.Errorf("%s: looks for %s, which it does not make", rows, name)
			}
		}
		if args[0] != 4 {
			t.Errorf("%s: looks for %v triggers", rows, args[0])
		}
	}
}

// TestLockReferred: the row is locked as late as the key is checked.
func TestLockReferred(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		deferrable, deferred bool
		want                 string
	}{
		{false, false, `ON "app"."n" FOR EACH ROW`},
		{true, false, `ON "app"."n" DEFERRABLE FOR EACH ROW`},
		{true, true, `ON "app"."n" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW`},
	} {
		key := catalog.ForeignKey{
			Table: catalog.Name{Schema: "app", Name: "n"}, Columns: []string{"a", `B"`}, Deferrable: c.deferrable, Deferred: c.deferred,
			Conditions: []string{"fk.a = pk.x", "fk.b = pk.y"},
		}
		sql := strings.Join(givenLink().LockReferredSQL(key, catalog.Name{Schema: "s", Name: "f"}, "tr"), "\n")
		for _, want := range []string{
			c.want, `UPDATE OF "a", "B""" ON`, `ROW(OLD."a", OLD."B""")`, "fk.a = pk.x AND fk.b = pk.y", `REVOKE ALL ON FUNCTION "s"."f"() FROM PUBLIC`,
		} {
			if !strings.Contains(sql, want) {
				t.Errorf("no %s in %s", want, sql)
			}
		}
	}
}

// TestMayBeLate: not where a trigger of the user's fires before ours.
func TestMayBeLate(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"": true, "touch": true, "S": true, "A": false, "00_a": false, "RI_a": false, "RI_repack_delete": true, "RI_repack_dele": false} {
		table := &catalog.Table{}
		if name != "" {
			table.Triggers = []catalog.Trigger{{Name: "z"}, {Name: name}}
		}
		if got := MayBeLate(table); got != want {
			t.Errorf("with trigger %q: %t, want %t", name, got, want)
		}
	}
}

// TestDiffer: generated columns differ only where their text does, too.
func TestDiffer(t *testing.T) {
	t.Parallel()
	a, g := []Mapping{{From: "a", To: "A"}}, []Mapping{{From: "g", To: `g"`}}
	const copied = `NOT record_image_eq(ROW(f."a"), ROW(t."A"))`
	const computed = `NOT record_image_eq(ROW(f."g"), ROW(t."g""")) AND NOT record_image_eq(ROW(f."g"::text), ROW(t."g"""::text))`
	for _, c := range []struct {
		copied, generated []Mapping
		want              string
	}{{a, nil, copied}, {nil, g, computed}, {a, g, copied + " OR " + computed}} {
		if got := (&Link{}).differ(c.copied, c.generated); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

// TestArguments: keys, a row each, are handed over a column each.
func TestArguments(t *testing.T) {
	t.Parallel()
	c := &Comparison{Link: givenLink()}
	c.Key[0].Type, c.Key[1].Type, c.Key[1].Collation = "bigint", "text", `"x"."Y"`
	args := c.keyArguments([][]string{{"1", "a"}, {"2", ""}, {"3", "c"}})
	if len(args) != 2 || !slices.Equal(args[0].([]string), []string{"1", "2", "3"}) || !slices.Equal(args[1].([]string), []string{"a", "", "c"}) {
		t.Errorf("%q", args)
	}
	want := `SELECT u.n, u.k1::bigint AS k1, u.k2::text COLLATE "x"."Y" AS k2 FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u("k1", "k2", n)`
	if got := c.keysQuery(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestCollision(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{"23505": true, "23P01": true, "23503": false, "40P01": false} {
		if got := Collision(fmt.Errorf("replay: %w", &pgconn.PgError{Code: code})); got != want {
			t.Errorf("%s: %t", code, got)
		}
	}
	if Collision(nil) || Collision(errors.New("23505")) {
		t.Error("an error without a code is a collision")
	}
}

func TestStrategyOfName(t *testing.T) {
	t.Parallel()
	for name, through := range map[string]bool{"change-log": false, "direct-trigger": true} {
		if s, err := New(name); err != nil || s.Name() != name || s.WritesThrough() != through || s.LocksRows() != through {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	for _, name := range []string{"", "changelog", "Direct-Trigger"} {
		if s, err := New(name); err == nil {
			t.Errorf("%q is %s", name, s.Name())
		}
	}
}
