package repack

import (
	"context"
	"errors"
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages"
)

// removeOrphans stands in for noJobHere in a reset: a table without a job may have
// artefacts of one all the same, which a dump has brought without the registry.
func (r *Repack) removeOrphans(ctx context.Context, e *stages.Env, oid uint32, name catalog.Name) error {
	removed, err := stages.RemoveOrphans(ctx, e, oid, name)
	if err != nil || removed {
		return err
	}
	return r.noJob(ctx, e.Pool, oid, name)
}

// resetAny is reset, of a job of this database or of another. Where there is no job
// removeOrphans has done it.
func resetAny(reset func(context.Context, *stages.Env) error) func(context.Context, *stages.Env) error {
	return func(ctx context.Context, e *stages.Env) error {
		switch {
		case e.Job == nil:
			return nil
		case e.Restored:
			return stages.ResetRestored(ctx, e)
		default:
			return reset(ctx, e)
		}
	}
}

// orphans removes them of every partition.
func (p *partitioned) orphans(ctx context.Context, reset func(context.Context, *stages.Env) error) (found bool, err error) {
	for _, l := range p.partitions {
		switch err := p.each(l).undoTable(ctx, reset); {
		case errors.Is(err, ErrNoJob):
		case err != nil:
			return found, fmt.Errorf("partition %s: %w", l.Name, err)
		default:
			found = true
		}
	}
	return found, nil
}
