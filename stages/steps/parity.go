package steps

import (
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
)

// ParityError reports that a table or materialized view is not like the one that it would
// replace. Its exchange has been rolled back.
type ParityError struct {
	Table       catalog.Name
	Differences []catalog.Difference
}

func (e *ParityError) Error() string {
	msg := fmt.Sprintf("the shadow of %s differs from it:", e.Table)
	for _, d := range e.Differences {
		msg += "\n  " + d.Text()
	}
	return msg + "\nit has not been exchanged; please report this"
}
