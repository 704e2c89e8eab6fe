package stages

import (
	"context"
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/steps"
)

// wideEnough makes sure that no column that refers to the key stays narrower than the key,
// unless the user allows it. Such a foreign key may have been added during the job.
func (e *Env) wideEnough(ctx context.Context) error {
	if e.Alteration == nil || e.Alteration.Asked.NoCascade || e.Alteration.Asked.Group != "" {
		return nil
	}
	narrow, err := e.Alteration.Narrower(ctx, e.Pool, e.Job.Source)
	if err != nil || len(narrow) == 0 {
		return err
	}
	drift := &steps.DriftError{Table: e.Source.Name}
	for _, column := range narrow {
		drift.Reasons = append(drift.Reasons, checks.Reason{
			Object: "column " + column, Why: "refers to the key and is narrower: greater values of the key would not fit", Remedy: "ALTER TABLE … ALTER COLUMN … TYPE bigint, or drop the foreign key",
		})
	}
	return drift
}

// wideBehind makes sure that no column becomes narrower than a column that it refers to.
func (e *Env) wideBehind(ctx context.Context) error {
	if e.Alteration == nil || e.Alteration.Asked.NoCascade || e.Member {
		return nil
	}
	behind, err := e.Alteration.NarrowerThanReferred(ctx, e.Pool, e.InUse())
	if err != nil || len(behind) == 0 {
		return err
	}
	refused := &checks.RefusedError{Table: e.Source.Name}
	for _, r := range behind {
		refused.Reasons = append(refused.Reasons, checks.Reason{
			Object: "column " + catalog.Quote(r.Column), Why: "would be narrower again than the column of " + r.Referred + " that it refers to",
			Remedy: fmt.Sprintf("go back with that table first: repack revert --table '%s'", r.Referred),
		})
	}
	return refused
}
