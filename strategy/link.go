package strategy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
)

// Link joins the relation the application writes to and the copy that is to
// follow it. Before the swap it leads from the source to the shadow, after the
// swap from the new table to the old one.
type Link struct {
	From, To catalog.Name
	Log      catalog.Name // the change log
	Capture  catalog.Name // the trigger function
	Columns  []Mapping    // every column that is stored
	Key      []catalog.KeyColumn
	// Assigned are the columns that an update in place sets, the key's too:
	// equal values need not be the same (1.0 and 1.00).
	Assigned []Mapping
	// Replace is set where a row of To cannot be updated in place, because it
	// has an identity column GENERATED ALWAYS outside the key.
	Replace bool
	// Reread is set where user triggers fire on From: such a trigger may
	// change a row again before our statement trigger sees its first change,
	// so that the transition table is no longer the truth. It matters for
	// SERIALIZABLE writers alone; the others' rows are always read again.
	Reread bool
	// PerRow is set where triggers are for rows: From is a partition, or transition
	// tables might need more temporary files than the application may have.
	PerRow bool
	// Counted is set where triggers for rows count them, so that a transaction that
	// changes many is known before the first is written through.
	Counted bool
	// Deferrable are To's key, unique and exclusion constraints that could be
	// checked as late as at the application's COMMIT.
	Deferrable []string
	// MirrorSince is the transaction that has exchanged the tables, while there
	// may be SERIALIZABLE ones from before it: see mirrorSQL.
	MirrorSince string
	// Rows is set where changes are made to the copy row by row: see RowByRow.
	Rows registry.RowByRow
}

// Mapping says which column of From fills which column of To.
type Mapping struct{ From, To string }

// NewLink maps the columns of a table to columns of the same name.
func NewLink(t *catalog.Table, key []catalog.KeyColumn, from, to, log, capture catalog.Name) *Link {
	l := &Link{From: from, To: to, Log: log, Capture: capture, Key: key, Reread: len(t.Triggers) > 0, PerRow: t.Partition != nil}
	l.Reread = l.Reread || l.PerRow && len(t.Partition.Triggers) > 0
	for _, name := range t.Stored() {
		l.Columns = append(l.Columns, Mapping{From: name, To: name})
		if c, _ := t.Column(name); c.Identity != "a" || t.Partition != nil { // the identity is the parent's
			l.Assigned = append(l.Assigned, Mapping{From: name, To: name})
		} else if !l.isKey(name) {
			l.Replace = true
		}
	}
	for _, c := range t.Constraints {
		if c.Deferrable {
			l.Deferrable = append(l.Deferrable, c.Name)
		}
	}
	return l
}

// Reverse is the link in the other direction, for the time after the swap:
// new is the name the shadow has then, old that of the source.
func (l *Link) Reverse(new, old catalog.Name) *Link {
	r := *l
	r.MirrorSince = ""
	r.From, r.To = new, old
	r.Columns, r.Assigned = reversed(l.Columns), reversed(l.Assigned)
	r.Key = make([]catalog.KeyColumn, len(l.Key))
	for i, k := range l.Key {
		r.Key[i] = k
		r.Key[i].Name = l.toName(k.Name)
	}
	return &r
}

func reversed(mappings []Mapping) []Mapping {
	r := make([]Mapping, len(mappings))
	for i, m := range mappings {
		r[i] = Mapping{From: m.To, To: m.From}
	}
	return r
}

func (l *Link) isKey(from string) bool {
	for _, k := range l.Key {
		if k.Name == from {
			return true
		}
	}
	return false
}

// toName is the name in To of a column of From.
func (l *Link) toName(from string) string {
	for _, m := range l.Columns {
		if m.From == from {
			return m.To
		}
	}
	return from
}

func qualified(alias, column string) string {
	if alias == "" {
		return catalog.Quote(column)
	}
	return alias + "." + catalog.Quote(column)
}

// list joins one string per element.
func list[T any](elements []T, separator string, text func(i int, e T) string) string {
	texts := make([]string, len(elements))
	for i, e := range elements {
		texts[i] = text(i, e)
	}
	return strings.Join(texts, separator)
}

func (l *Link) toColumns() string {
	return list(l.Columns, ", ", func(_ int, m Mapping) string { return catalog.Quote(m.To) })
}

func (l *Link) fromColumns(alias string) string {
	return list(l.Columns, ", ", func(_ int, m Mapping) string { return qualified(alias, m.From) })
}

func (l *Link) fromKey(alias string) string {
	return list(l.Key, ", ", func(_ int, k catalog.KeyColumn) string { return qualified(alias, k.Name) })
}

func (l *Link) toKey(alias string) string {
	return list(l.Key, ", ", func(_ int, k catalog.KeyColumn) string { return qualified(alias, l.toName(k.Name)) })
}

// logColumn names the columns of the change log by position, as a key column
// may bear any name.
func logColumn(i int) string { return fmt.Sprintf("k%d", i+1) }

func (l *Link) logColumns(alias string) string {
	return list(l.Key, ", ", func(i int, _ catalog.KeyColumn) string { return qualified(alias, logColumn(i)) })
}

// toKeyAsLog names To's key columns as the log does.
func (l *Link) toKeyAsLog(alias string) string {
	return list(l.Key, ", ", func(i int, k catalog.KeyColumn) string {
		return qualified(alias, l.toName(k.Name)) + " AS " + logColumn(i)
	})
}

// Divisible reports whether the log can be divided by key: see Share.
func (l *Link) Divisible() bool {
	return !slices.ContainsFunc(l.Key, func(k catalog.KeyColumn) bool { return !k.Hashed })
}

// fromIsLog, toIsLog and fromIsTo compare keys of two relations by alias.
func (l *Link) fromIsLog(from, log string) string {
	return list(l.Key, " AND ", func(i int, k catalog.KeyColumn) string {
		return qualified(from, k.Name) + " " + k.Equal + " " + qualified(log, logColumn(i))
	})
}

func (l *Link) toIsLog(to, log string) string {
	return list(l.Key, " AND ", func(i int, k catalog.KeyColumn) string {
		return qualified(to, l.toName(k.Name)) + " " + k.Equal + " " + qualified(log, logColumn(i))
	})
}

func (l *Link) toIsFrom(to, from string) string {
	return list(l.Key, " AND ", func(_ int, k catalog.KeyColumn) string {
		return qualified(to, l.toName(k.Name)) + " " + k.Equal + " " + qualified(from, k.Name)
	})
}

// fromIsFrom compares the keys of two row sets that have From's columns.
func (l *Link) fromIsFrom(a, b string) string {
	return list(l.Key, " AND ", func(_ int, k catalog.KeyColumn) string {
		return qualified(a, k.Name) + " " + k.Equal + " " + qualified(b, k.Name)
	})
}

// TID is the text of the first tuple identifier that block can hold.
func TID(block int64) string { return fmt.Sprintf("(%d,0)", block) }
