package checks

import (
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
)

// OfRetypedView is the reason that a view is against an alteration of its table.
func OfRetypedView(v catalog.RetypedView) Reason {
	r := Reason{Object: "view " + v.View, Remedy: "drop it for the time of the repack"}
	if v.Why != "" {
		r.Why = "would not work on the other table: " + v.Why
		return r
	}
	r.Why = fmt.Sprintf("its column %s would be %s and not %s, and PostgreSQL cannot replace a view by one with another type", catalog.Quote(v.Column), v.Is, v.Was)
	r.Remedy = fmt.Sprintf("drop it for the time of the repack, or create it anew beforehand so that the column is %s already", v.Is)
	return r
}
