package stages

import (
	"context"

	"github.com/repack-go/repack/stages/steps"
)

// preValidate refuses what cannot be carried over, and names missing privileges. It changes
// nothing: what it can try of the job, it tries in a transaction that it rolls back. It
// takes only ACCESS SHARE on the table: see drySwap.
func preValidate(ctx context.Context, e *Env) error {
	p := e.preflight()
	if err := p.Run(ctx); err != nil {
		return err
	}
	e.validated, e.bounded, e.key, e.capture, e.Alteration = true, p.Bounded, p.Key, p.Capture, p.Alteration
	return e.roomForCopy(ctx)
}

func planPreValidate(ctx context.Context, p *planner) ([]steps.Step, error) {
	return p.Steps(ctx, steps.Transaction{Does: "look for what cannot be carried over and for missing privileges", Locks: (*steps.Planner).Reading})
}
