package strategy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
)

// Link joins the table that the application writes to and the copy that follows it.
// Before the swap it leads from the source to the shadow, after the swap from the new
// table to the old table.
type Link struct {
	From, To catalog.Name
	Log      catalog.Name // the change log
	Capture  catalog.Name // the trigger function
	Columns  []Mapping    // all columns that are stored, not generated ones
	Key      []catalog.KeyColumn
	// Assigned are the columns that an update in place sets. They include the key's
	// columns: equal values need not be identical (1.0 and 1.00).
	Assigned []Mapping
	// Replace is set if a row of To cannot be updated in place, because To has an
	// identity column GENERATED ALWAYS outside the key.
	Replace bool
	// Reread is set if From has user triggers. Such a trigger may change a row again
	// before our statement trigger sees the first change; then the transition table is
	// out of date. This matters only for SERIALIZABLE writers: for all others the rows
	// are read again anyway.
	Reread bool
	// PerRow is set if capture uses row triggers: From is a partition, or transition
	// tables might need more temporary files than the application may use.
	PerRow bool
	// Counted is set if row triggers count rows, so that a transaction that changes
	// many rows is recognised before its first row is written through.
	Counted bool
	// Deferrable are the names of To's key, unique and exclusion constraints that are
	// deferrable, and so could be checked as late as the application's COMMIT.
	Deferrable []string
	// MirrorSince is the id of the transaction that exchanged the tables. It is set
	// while SERIALIZABLE transactions from before the exchange may still run: see
	// mirrorSQL.
	MirrorSince string
	// Rows is set if changes are made to the copy row by row: see RowByRow.
	Rows registry.RowByRow
}

// Mapping says which column of From fills which column of To.
type Mapping struct{ From, To string }

// value is the expression for the column of To, on a row of From with that alias.
func (m Mapping) value(alias string) string { return qualified(alias, m.From) }

// NewLink returns a Link that maps the columns of t to columns of the same name. It
// does not query the server.
func NewLink(t *catalog.Table, key []catalog.KeyColumn, from, to, log, capture catalog.Name) *Link {
	l := &Link{From: from, To: to, Log: log, Capture: capture, Key: key, Reread: len(t.Triggers) > 0, PerRow: t.Partition != nil}
	l.Reread = l.Reread || l.PerRow && len(t.Partition.Triggers) > 0
	for _, name := range t.Stored() {
		l.Columns = append(l.Columns, Mapping{From: name, To: name})
		if c, _ := t.Column(name); c.Identity != "a" || t.Partition != nil { // a partition's identity belongs to its parent
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

// Reverse returns the link in the other direction, for the time after the swap. new is
// the name of the shadow then, old the name of the source. The receiver is not changed.
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

// reversed exchanges both sides of each mapping.
func reversed(mappings []Mapping) []Mapping {
	r := make([]Mapping, len(mappings))
	for i, m := range mappings {
		r[i] = Mapping{From: m.To, To: m.From}
	}
	return r
}

// isKey reports whether a column of From belongs to the key.
func (l *Link) isKey(from string) bool {
	for _, k := range l.Key {
		if k.Name == from {
			return true
		}
	}
	return false
}

// toName returns the name in To of a column of From.
func (l *Link) toName(from string) string {
	for _, m := range l.Columns {
		if m.From == from {
			return m.To
		}
	}
	return from
}

// qualified quotes a column and, if alias is not empty, puts the alias before it.
func qualified(alias, column string) string {
	if alias == "" {
		return catalog.Quote(column)
	}
	return alias + "." + catalog.Quote(column)
}

// list joins one text per element.
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
	return list(l.Columns, ", ", func(_ int, m Mapping) string { return m.value(alias) })
}

func (l *Link) fromKey(alias string) string {
	return list(l.Key, ", ", func(_ int, k catalog.KeyColumn) string { return qualified(alias, k.Name) })
}

func (l *Link) toKey(alias string) string {
	return list(l.Key, ", ", func(_ int, k catalog.KeyColumn) string { return qualified(alias, l.toName(k.Name)) })
}

// logColumn names the columns of the change log by position, because a key column may
// have any name.
func logColumn(i int) string { return fmt.Sprintf("k%d", i+1) }

func (l *Link) logColumns(alias string) string {
	return list(l.Key, ", ", func(i int, _ catalog.KeyColumn) string { return qualified(alias, logColumn(i)) })
}

// toKeyAsLog lists To's key columns under the names of the log's columns.
func (l *Link) toKeyAsLog(alias string) string {
	return list(l.Key, ", ", func(i int, k catalog.KeyColumn) string {
		return qualified(alias, l.toName(k.Name)) + " AS " + logColumn(i)
	})
}

// Divisible reports whether the log can be divided by a hash of the key: see Share.
// Equal keys must have equal hashes, which is not so for every type and operator class.
func (l *Link) Divisible() bool {
	return !slices.ContainsFunc(l.Key, func(k catalog.KeyColumn) bool { return !k.Hashed })
}

// fromIsLog compares a key of From with a key of the log, by alias.
func (l *Link) fromIsLog(from, log string) string {
	return list(l.Key, " AND ", func(i int, k catalog.KeyColumn) string {
		return qualified(from, k.Name) + " " + k.Equal + " " + qualified(log, logColumn(i))
	})
}

// toIsLog compares a key of To with a key of the log, by alias.
func (l *Link) toIsLog(to, log string) string {
	return list(l.Key, " AND ", func(i int, k catalog.KeyColumn) string {
		return qualified(to, l.toName(k.Name)) + " " + k.Equal + " " + qualified(log, logColumn(i))
	})
}

// toIsFrom compares a key of To with a key of From, by alias.
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

// TID returns, as text, the first tuple identifier (ctid) of a block. Offsets begin at
// 1, so no row has offset 0. Block numbers begin at 0.
//
// https://www.postgresql.org/docs/current/datatype-oid.html, "tid"
func TID(block int64) string { return fmt.Sprintf("(%d,0)", block) }
