package stages

import (
	"context"

	"github.com/repack-go/repack/stages/steps"
)

// backfill copies the source, one range of blocks after another. Each chunk is committed
// together with its record. Blocks may be added after the source was measured; the rows
// in them have been captured.
//
// It takes ACCESS SHARE on the source (direct-trigger: ROW SHARE), for each chunk. With
// --order-by, all rows are one chunk.
func backfill(ctx context.Context, e *Env) error { return e.Control.Restart(ctx, e.copier().Run) }

func planBackfill(ctx context.Context, p *planner) ([]steps.Step, error) {
	t, err := p.copier().Plan(ctx)
	if err != nil {
		return nil, err
	}
	return p.Steps(ctx, t)
}
