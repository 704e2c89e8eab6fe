package alter

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/strategy"
)

// Alteration is what a job changes. It is fixed before setup, and stored with the job.
type Alteration struct {
	Asked Request       `json:"asked"`
	Delta catalog.Delta `json:"delta"`
	// Columns are those that are stored, in the source, in the target, or in both.
	Columns []Column `json:"columns"`
	// Renames are new names of columns of the target, by the names that they have until the
	// new table is in use. The swap renames them last: until then, triggers, policies and
	// views that mention them can be created from their texts.
	Renames map[string]string `json:"renames"`
	// Key are the columns of the source that identify rows. KeyIndex is the index of the
	// target that does. LogTypes are types that take the keys of both tables.
	Key      []string `json:"key"`
	KeyIndex string   `json:"key_index"`
	LogTypes []string `json:"log_types"`
	// Persistence is the one that the sequences of the table's columns get with the table; or
	// empty. Before PostgreSQL 15 they keep theirs.
	Persistence string `json:"persistence,omitempty"`
	// Texts are those of dependents after the swap, if they are printed otherwise than before it:
	// by kind and name.
	Texts map[string]string `json:"texts,omitempty"`
	// Recreated are the views that were dropped and created again in the swap. Views are those
	// that cannot be replaced, as they were when the alteration was looked at.
	Recreated []Recreated `json:"recreated,omitempty"`
	Views     Views       `json:"-"`
	// Versions are those of the views on the new table at the swap, by name: see
	// catalog.Dependent.
	Versions map[string]string `json:"versions,omitempty"`
	// Sequences are those that draw values for altered columns, and get another type.
	Sequences []Sequence `json:"sequences"`
}

// Column is a column of the source, of the target, or of both.
type Column struct {
	Source string `json:"source"` // empty: the target alone has it
	Target string `json:"target"` // empty: the source alone has it
	// Up is the value in the target, and Down the one in the source.
	Up   Value `json:"up"`
	Down Value `json:"down"`
}

// Value is what a column is filled with, from a row of the other table: the column itself, or
// cast to the type Cast, or else an expression of the other table's columns. The server has
// printed the expression.
type Value struct {
	Cast       string `json:"cast,omitempty"`
	Expression string `json:"expression,omitempty"`
}

// on makes the value one of a row with an alias. column is that of the row's table. The
// expression names columns alone, or with the name of the table.
func (v Value) on(table, column string) string {
	switch {
	case v.Expression != "":
		return fmt.Sprintf("(SELECT %s FROM (SELECT %s.*) AS %s)", v.Expression, strategy.Alias, catalog.Quote(table))
	case v.Cast != "":
		return fmt.Sprintf("(%s.%s)::%s", strategy.Alias, catalog.Quote(column), v.Cast)
	default:
		return ""
	}
}

// Sequence is a sequence that gets another type.
type Sequence struct {
	Name   catalog.Name `json:"name"`
	Column string       `json:"column"` // for which it draws values
	Was    string       `json:"was"`
	Is     string       `json:"is"`
}

// Decode returns a stored alteration, or nil if text is null. It returns
// *catalog.NewerError if a newer version of repack has written it.
func Decode(text json.RawMessage) (*Alteration, error) {
	if len(text) == 0 {
		return nil, nil
	}
	a := &Alteration{}
	if err := json.Unmarshal(text, a); err != nil {
		return nil, fmt.Errorf("decode alteration: %w", err)
	}
	return a, nil
}

// Encode returns the alteration in the form in which it is stored: null for nil.
func (a *Alteration) Encode() (json.RawMessage, error) {
	if a == nil {
		return nil, nil
	}
	text, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("encode alteration: %w", err)
	}
	return text, nil
}

// Reversible reports whether changes since the swap reach the old table, so that it can be put
// back.
func (a *Alteration) Reversible() bool { return a == nil || !a.Asked.NoRevert }

// Target returns the description that t has with the alteration. If a is nil, it is t.
func (a *Alteration) Target(t *catalog.Table) *catalog.Table {
	if a == nil {
		return t
	}
	target := a.Delta.Of(t)
	target.Sequences = slices.Clone(target.Sequences)
	for i, s := range target.Sequences {
		if a.Persistence != "" {
			target.Sequences[i].Persistence, s.Persistence = a.Persistence, a.Persistence
		}
		for _, w := range a.Sequences {
			if w.Name.Name == s.Name.Name && s.Type == w.Was {
				target.Sequences[i] = retyped(s, w.Is)
			}
		}
	}
	return target
}

// Restored returns the description that t, the new table, would have without the alteration.
// source is that of the source at the swap. If a is nil, it is t.
func (a *Alteration) Restored(source, t *catalog.Table) *catalog.Table {
	if a == nil {
		return t
	}
	restored := catalog.Delta{Was: a.Target(source), Is: source}.Of(t)
	restored.Dependents = slices.Clone(restored.Dependents)
	for i, d := range restored.Dependents {
		if was, unchanged := a.before(source, d); unchanged {
			restored.Dependents[i].Replace = was
		}
	}
	return restored
}

func textKey(d catalog.Dependent) string { return d.Kind + " " + d.Name }

// before returns the text that a dependent had before the swap, if it has not been changed since
// and the text is another one now.
func (a *Alteration) before(source *catalog.Table, d catalog.Dependent) (text string, unchanged bool) {
	unchanged = d.Kind == "view" && d.Version != "" && a.Versions[d.Name] == d.Version // even if its text has new names
	if now, noted := a.Texts[textKey(d)]; !unchanged && (!noted || now != d.Replace) {
		return "", false
	}
	for _, was := range source.Dependents {
		if textKey(was) == textKey(d) {
			return was.Replace, true
		}
	}
	return "", false
}

// Changed returns t, the new table, with those dependents whose texts on the old table are not
// known from before the swap.
func (a *Alteration) Changed(source, t *catalog.Table) *catalog.Table {
	c := *t
	c.Dependents = slices.DeleteFunc(slices.Clone(t.Dependents), func(d catalog.Dependent) bool {
		_, unchanged := a.before(source, d)
		return unchanged
	})
	return &c
}

// Reread returns a with the views that were created again, and with the texts of dependents that
// the server prints otherwise on the new table is than on the source was.
func (a *Alteration) Reread(was, is *catalog.Table, recreated []Recreated) *Alteration {
	c := *a
	c.Recreated = recreated
	c.Texts, c.Versions = map[string]string{}, map[string]string{}
	texts := map[string]string{}
	for _, d := range was.Dependents {
		texts[textKey(d)] = d.Replace
	}
	for _, d := range is.Dependents {
		if texts[textKey(d)] != d.Replace {
			c.Texts[textKey(d)] = d.Replace
		}
		if d.Kind == "view" {
			c.Versions[d.Name] = d.Version
		}
	}
	return &c
}

// bounds are the values that a sequence of a type can have.
var bounds = map[string][2]int64{
	"smallint": {-1 << 15, 1<<15 - 1},
	"integer":  {-1 << 31, 1<<31 - 1},
	"bigint":   {-1 << 63, 1<<63 - 1},
}

// retyped returns a sequence as ALTER SEQUENCE … AS leaves it: a bound that was the one of
// the old type becomes the one of the new type.
//
// https://www.postgresql.org/docs/current/sql-altersequence.html
func retyped(s catalog.Sequence, to string) catalog.Sequence {
	was, is := bounds[s.Type], bounds[to]
	if s.Max == was[1] {
		s.Max = is[1]
	}
	if s.Min == was[0] {
		s.Min = is[0]
	}
	s.Type = to
	return s
}

// SequencesSQL returns the statements that give sequences their types in the target t. The
// sequences of identity columns are made anew, with their types. A statement takes SHARE ROW
// EXCLUSIVE on the sequence.
func (a *Alteration) SequencesSQL(t *catalog.Table) []string {
	if a == nil {
		return nil
	}
	var statements []string
	for _, s := range a.Sequences {
		if !a.identity(t, s) {
			statements = append(statements, fmt.Sprintf("ALTER SEQUENCE %s AS %s", s.Name, s.Is))
		}
	}
	if a.Persistence != "" {
		statements = append(statements, persistenceSQL(t, a.Persistence)...)
	}
	return statements
}

// persistenceSQL makes the sequences of t that are no identities logged or unlogged.
func persistenceSQL(t *catalog.Table, persistence string) (statements []string) {
	word := map[string]string{"u": "UNLOGGED", "p": "LOGGED"}[persistence]
	for _, s := range t.Sequences {
		if !s.Identity {
			statements = append(statements, fmt.Sprintf("ALTER SEQUENCE %s SET %s", s.Name, word))
		}
	}
	return statements
}

// fitSQL gives a sequence that is beyond the range of a type the greatest value there is, or
// the least one if it descends. Every row fits by then.
const fitSQL = `
SELECT setval(%[1]s::regclass, coalesce((SELECT CASE WHEN q.seqincrement > 0 THEN max(t.%[3]s) ELSE min(t.%[3]s) END FROM %[2]s t), q.seqstart))
FROM   pg_sequence q, %[4]s s
WHERE  q.seqrelid = %[1]s::regclass AND s.last_value NOT BETWEEN %[5]d AND %[6]d`

// SequencesBackSQL returns the statements that give sequences their types in the source again.
// t is the target, under the name that it has now.
func (a *Alteration) SequencesBackSQL(t *catalog.Table) []string {
	if a == nil {
		return nil
	}
	var statements []string
	for _, s := range a.Sequences {
		if narrower(s.Was, s.Is) {
			statements = append(statements, fmt.Sprintf(fitSQL, catalog.Literal(s.Name.String()), t.Name, catalog.Quote(s.Column), s.Name, bounds[s.Was][0], bounds[s.Was][1]))
		}
		if !a.identity(t, s) {
			statements = append(statements, fmt.Sprintf("ALTER SEQUENCE %s AS %s", s.Name, s.Was))
		}
	}
	if a.Persistence != "" {
		statements = append(statements, persistenceSQL(t, a.Delta.Was.Persistence)...)
	}
	return statements
}

// identity reports whether the sequence belongs to an identity column of t.
func (a *Alteration) identity(t *catalog.Table, s Sequence) bool {
	return slices.ContainsFunc(t.Sequences, func(o catalog.Sequence) bool { return o.Identity && o.Name == s.Name })
}

// Link makes link, from the source to the shadow, follow the alteration. table is the source.
func (a *Alteration) Link(link *strategy.Link, table *catalog.Table) {
	if a == nil {
		return
	}
	link.Columns, link.Assigned, link.Replace = nil, nil, false
	for _, c := range a.Columns {
		m := strategy.Mapping{
			From: c.Source, To: c.Target, Renamed: a.Renames[c.Target],
			Value: c.Up.on(table.Name.Name, c.Source), Back: c.Down.on(table.Name.Name, cmp.Or(a.Renames[c.Target], c.Target)),
		}
		link.Columns = append(link.Columns, m)
		if c.Source == "" { // its value may depend on others
			link.Assigned = append(link.Assigned, m)
		}
		if c.Source == "" || c.Target == "" {
			continue
		}
		column, _ := table.Column(c.Source)
		isKey := slices.Contains(a.Key, c.Source)
		switch {
		case column.Identity != "a":
			link.Assigned = append(link.Assigned, m)
		case !isKey:
			link.Replace = true
		}
	}
	link.Key = slices.Clone(link.Key)
	for i := range link.Key { // it may have been read from the new table
		link.Key[i].Name, link.Key[i].Type = a.Key[i], a.LogTypes[i]
	}
	source := link.Deferrable
	link.Deferrable, link.FromDeferrable = a.Target(table).Deferrable(), &source
}

// RenamesColumns reports whether columns get new names.
func (a *Alteration) RenamesColumns() bool { return a != nil && len(a.Renames) > 0 }

// RenameSQL returns the statements that give the columns of the new table their names. They
// take ACCESS EXCLUSIVE on it.
func (a *Alteration) RenameSQL(table catalog.Name) []string {
	if a == nil {
		return nil
	}
	return renameSQL(table, a.Renames)
}

// RenamedLikeSQL returns the statements that make an empty table, under the name of table, with
// the columns of the old table by which the new one has them. So views on the new table can be
// tried on it.
func (a *Alteration) RenamedLikeSQL(old, table catalog.Name) []string {
	statements := []string{fmt.Sprintf("CREATE TABLE %s (LIKE %s INCLUDING INDEXES)", table, old)}
	renames := maps.Clone(a.Renames)
	for _, c := range a.Delta.Is.Columns {
		if _, there := a.Delta.Was.Column(c.Name); !there {
			delete(renames, c.Name)
		}
	}
	for _, c := range a.Delta.Was.Columns {
		if _, there := a.Delta.Is.Column(c.Name); !there {
			statements = append(statements, fmt.Sprintf("ALTER TABLE %s DROP COLUMN %s", table, catalog.Quote(c.Name)))
		}
	}
	return append(statements, renameSQL(table, renames)...)
}

// RenameBackSQL undoes RenameSQL.
func (a *Alteration) RenameBackSQL(table catalog.Name) []string {
	if a == nil {
		return nil
	}
	back := map[string]string{}
	for from, to := range a.Renames {
		back[to] = from
	}
	return renameSQL(table, back)
}

// renameSQL renames columns. Two may exchange their names, so all get others first.
func renameSQL(table catalog.Name, names map[string]string) (statements []string) {
	from := slices.Sorted(maps.Keys(names))
	other := func(i int) string { return fmt.Sprintf("repack_renamed_%d", i) }
	for i, name := range from {
		statements = append(statements, renameColumnSQL(table, name, other(i)))
	}
	for i, name := range from {
		statements = append(statements, renameColumnSQL(table, other(i), names[name]))
	}
	return statements
}

func renameColumnSQL(table catalog.Name, from, to string) string {
	return fmt.Sprintf("ALTER TABLE %s RENAME COLUMN %s TO %s", table, catalog.Quote(from), catalog.Quote(to))
}

// Comparable returns t, the source, without generated columns that the target computes in
// another way or does not have. If a is nil, it is t.
func (a *Alteration) Comparable(t *catalog.Table) *catalog.Table {
	if a == nil {
		return t
	}
	c := *t
	c.Columns = slices.DeleteFunc(slices.Clone(t.Columns), func(column catalog.Column) bool {
		was, _ := a.Delta.Was.Column(column.Name)
		is, there := a.Delta.Is.Column(column.Name)
		_, renamed := a.Renames[column.Name]
		return column.Generated != "" && (!there || renamed || was.Type != is.Type || was.Generated != is.Generated || was.Expression != is.Expression)
	})
	return &c
}

// Lines describes what is changed, a difference on each line.
func (a *Alteration) Lines() ([]string, error) {
	lines := []string{}
	if a == nil {
		return lines, nil
	}
	differences, err := a.Delta.Differences()
	if err != nil {
		return nil, err
	}
	for _, d := range differences {
		lines = append(lines, d.Text())
	}
	for _, from := range slices.Sorted(maps.Keys(a.Renames)) {
		if _, there := a.Delta.Was.Column(from); there {
			lines = append(lines, fmt.Sprintf("column %s: becomes %s", catalog.Quote(from), catalog.Quote(a.Renames[from])))
		} else {
			lines = append(lines, fmt.Sprintf("column %s: added", catalog.Quote(a.Renames[from])))
		}
	}
	for _, set := range a.Asked.Set {
		lines = append(lines, "values: "+set)
	}
	if a.Asked.Recompress {
		lines = append(lines, "values: compressed again")
	}
	for _, s := range a.Sequences {
		lines = append(lines, fmt.Sprintf("sequence %s: %s becomes %s", s.Name, s.Was, s.Is))
	}
	return lines, nil
}
