package checks

import (
	"fmt"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
)

// RefusedError reports that a table cannot be repacked. Nothing has been changed.
type RefusedError struct {
	Table   catalog.Name
	Reasons []Reason
}

func (e *RefusedError) Error() string {
	lines := []string{fmt.Sprintf("%s cannot be repacked, nothing has been changed:", e.Table)}
	if e.Table == (catalog.Name{}) { // it is not about a table
		lines[0] = "refused, nothing has been changed:"
	}
	for _, r := range e.Reasons {
		lines = append(lines, "  "+r.String())
	}
	return strings.Join(lines, "\n")
}
