package compare

import (
	"fmt"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/strategy"
)

// Error reports rows of the copy that differ from the table, and no pending change
// explains the difference. Nothing has been exchanged, and the table is as the application
// left it.
type Error struct {
	Table      catalog.Name
	Copy       catalog.Name
	KeyColumns []string
	Mismatches []strategy.Mismatch // up to maxMismatches
	Swapped    bool
}

func (e *Error) Error() string {
	what := "its shadow"
	if e.Swapped {
		what = "the old table"
	}
	many := fmt.Sprintf("%d rows", len(e.Mismatches))
	switch len(e.Mismatches) {
	case 1:
		many = "1 row"
	case maxMismatches:
		many = "at least " + many
	}
	lines := []string{fmt.Sprintf("%s and %s (%s) differ in %s without a pending change:", e.Table, what, e.Copy, many)}
	for _, m := range e.Mismatches {
		lines = append(lines, "  "+Describe(e.KeyColumns, m))
	}
	if e.Swapped {
		return strings.Join(append(lines, "the table in use is unharmed; do not revert to the old one"), "\n")
	}
	return strings.Join(append(lines, fmt.Sprintf(
		"nothing was swapped, and this job will not swap before a full comparison has passed; begin afresh with: repack reset --table '%s'",
		e.Table)), "\n")
}

// Describe returns a mismatch as one line.
func Describe(keyColumns []string, m strategy.Mismatch) string {
	parts := make([]string, len(m.Key))
	for i, value := range m.Key {
		parts[i] = fmt.Sprintf("%s = %q", keyColumns[i], value)
	}
	s := m.Kind + ": " + strings.Join(parts, ", ")
	if len(m.Columns) > 0 {
		s += " in " + strings.Join(m.Columns, ", ")
	}
	return s
}

// Result is the result of a comparison of a table and its copy.
type Result struct {
	Mode        registry.VerifyMode
	Table, Copy catalog.Name
	KeyColumns  []string
	Rows        int64 // rows of the table, looked for in the copy
	CopyRows    int64 // rows of the copy, compared with the table's
	Pending     int64 // differences that a change still in the log explains
	Mismatches  []strategy.Mismatch
}

// Err returns *Error if there are mismatches, and otherwise nil.
func (r *Result) Err(swapped bool) error {
	if len(r.Mismatches) == 0 {
		return nil
	}
	return &Error{
		Table: r.Table, Copy: r.Copy, KeyColumns: r.KeyColumns, Mismatches: r.Mismatches, Swapped: swapped,
	}
}
