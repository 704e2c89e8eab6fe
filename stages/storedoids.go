package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/steps"
)

// rewriteOIDs replaces OIDs in the columns that the user has named.
func (x *exchanging) rewriteOIDs() steps.Action {
	return steps.Action{
		Run: func(ctx context.Context, tx *lock.Tx) error {
			statements, err := x.oids.SQL(ctx, tx, x.in)
			if err != nil {
				return err
			}
			return steps.DoAll(ctx, tx, statements)
		},
		SQL: func(context.Context, *steps.Planner) ([]string, error) { return x.oids.SQLWith(unnumbered), nil },
	}
}

// OIDsHeldError reports that the OID of the table is stored as data, and that the options of
// the job do not say what to do about it. Nothing has been exchanged.
type OIDsHeldError struct {
	Table   catalog.Name
	Reasons []checks.Reason
}

func (e *OIDsHeldError) Error() string {
	lines := []string{fmt.Sprintf("the OID of %s is kept as data, and nothing has been exchanged:", e.Table)}
	for _, r := range e.Reasons {
		lines = append(lines, "  "+r.String())
	}
	return strings.Join(append(lines, "give the same command again with what is said there"), "\n")
}

// oidsAnswered makes sure, before an exchange, that the options say what to do about every
// place where the OIDs of the table in use are stored by now.
func (e *Env) oidsAnswered(ctx context.Context, oid uint32) error {
	found, err := e.StoredOIDs().Find(ctx, oid)
	if err != nil {
		return err
	}
	if reasons := found.Reasons(); len(reasons) > 0 {
		return &OIDsHeldError{Table: e.Source.Name, Reasons: reasons}
	}
	return nil
}
