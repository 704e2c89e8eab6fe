package strategy

import (
	"cmp"
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
	// Carries is set if To has columns that From does not have, and whose values must
	// survive: To is the old table, and a revert puts it back.
	Carries bool
	// Wide is set if From is the new table: values are compared in the form that they have
	// there.
	Wide bool
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
	// FromDeferrable are those of From, for Reverse. It is set if they differ.
	FromDeferrable *[]string
	// MirrorSince is the id of the transaction that exchanged the tables. It is set
	// while SERIALIZABLE transactions from before the exchange may still run: see
	// mirrorSQL.
	MirrorSince string
	// Rows is set if changes are made to the copy row by row: see RowByRow.
	Rows registry.RowByRow
}

// Mapping says how a column of To is filled from a row of From, and the reverse. If From or
// To is empty, only the other table has the column.
type Mapping struct {
	From, To string
	// Value is the expression for the column of To, on a row of From. Back is the one for
	// the column of From, on a row of To. Empty: the column itself. Alias stands for the
	// alias of the row.
	Value, Back string
	// Renamed is the name of the column of To once To is in use, and Parked the one of the
	// column of From while From is not. Empty: it is the same.
	Renamed, Parked string
}

// Alias stands for the alias of a row in the expressions of a Mapping.
const Alias = "\x00"

// value is the expression for the column of To, on a row of From with that alias.
func (m Mapping) value(alias string) string {
	if m.Value == "" {
		return qualified(alias, m.From)
	}
	return strings.ReplaceAll(m.Value, Alias, alias)
}

// back is the expression for the column of From, on a row of To with that alias.
func (m Mapping) back(alias string) string { return Mapping{From: m.To, Value: m.Back}.value(alias) }

// reversed is the mapping once To is in use and From is not.
func (m Mapping) reversed() Mapping {
	r := Mapping{From: cmp.Or(m.Renamed, m.To), To: cmp.Or(m.Parked, m.From), Value: m.Back, Back: m.Value}
	if m.Renamed != "" {
		r.Parked = m.To
	}
	if m.Parked != "" {
		r.Renamed = m.From
	}
	return r
}

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
	l.Deferrable = t.Deferrable()
	return l
}

// Reverse returns the link in the other direction, for the time after the swap. new is
// the name of the shadow then, old the name of the source. The receiver is not changed.
func (l *Link) Reverse(new, old catalog.Name) *Link {
	r := *l
	r.MirrorSince = ""
	r.From, r.To = new, old
	r.Wide = !l.Wide
	r.Carries = r.Wide && slices.ContainsFunc(l.Columns, func(m Mapping) bool { return m.To == "" })
	if l.FromDeferrable != nil {
		r.Deferrable, r.FromDeferrable = *l.FromDeferrable, &l.Deferrable
	}
	r.Columns, r.Assigned = reversed(l.Columns), reversed(l.Assigned)
	r.Key = make([]catalog.KeyColumn, len(l.Key))
	for i, k := range l.Key {
		r.Key[i] = k
		r.Key[i].Name = l.mapping(k.Name).reversed().From
	}
	return &r
}

// reversed exchanges both sides of each mapping.
func reversed(mappings []Mapping) []Mapping {
	r := make([]Mapping, len(mappings))
	for i, m := range mappings {
		r[i] = m.reversed()
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

// mapping returns how a column of From fills one of To.
func (l *Link) mapping(from string) Mapping {
	for _, m := range l.Columns {
		if m.From == from {
			return m
		}
	}
	return Mapping{From: from, To: from}
}

// toName returns the name in To of a column of From.
func (l *Link) toName(from string) string { return l.mapping(from).To }

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

// filled returns the columns of To that are written.
func (l *Link) filled() []Mapping {
	return slices.DeleteFunc(slices.Clone(l.Columns), func(m Mapping) bool { return m.To == "" })
}

// carried returns the columns of To whose values must survive.
func (l *Link) carried() []Mapping {
	return slices.DeleteFunc(l.filled(), func(m Mapping) bool { return !l.Carries || m.From != "" })
}

// compared returns the columns that can be compared: those of both tables, and those that the
// new table has in addition.
func (l *Link) compared() []Mapping {
	return slices.DeleteFunc(l.filled(), func(m Mapping) bool { return l.Wide && m.From == "" })
}

func (l *Link) toColumns() string {
	return list(l.filled(), ", ", func(_ int, m Mapping) string { return catalog.Quote(m.To) })
}

func (l *Link) fromColumns(alias string) string {
	return list(l.filled(), ", ", func(_ int, m Mapping) string { return m.value(alias) })
}

// fromColumnsAsTo is fromColumns with the names that the columns have in To.
func (l *Link) fromColumnsAsTo(alias string) string {
	return list(l.filled(), ", ", func(_ int, m Mapping) string { return m.value(alias) + " AS " + catalog.Quote(m.To) })
}

func (l *Link) fromKey(alias string) string {
	return list(l.Key, ", ", func(_ int, k catalog.KeyColumn) string { return qualified(alias, k.Name) })
}

func (l *Link) toKey(alias string) string {
	return list(l.Key, ", ", func(_ int, k catalog.KeyColumn) string { return qualified(alias, l.toName(k.Name)) })
}

// KeyNames returns the names of the key's columns in From.
func (l *Link) KeyNames() []string {
	names := make([]string, len(l.Key))
	for i, k := range l.Key {
		names[i] = k.Name
	}
	return names
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

// toIsTo compares the keys of two row sets that have To's columns.
func (l *Link) toIsTo(a, b string) string {
	return list(l.Key, " AND ", func(_ int, k catalog.KeyColumn) string {
		return qualified(a, l.toName(k.Name)) + " " + k.Equal + " " + qualified(b, l.toName(k.Name))
	})
}

// TID returns, as text, the first tuple identifier (ctid) of a block. Offsets begin at
// 1, so no row has offset 0. Block numbers begin at 0.
//
// https://www.postgresql.org/docs/current/datatype-oid.html, "tid"
func TID(block int64) string { return fmt.Sprintf("(%d,0)", block) }
