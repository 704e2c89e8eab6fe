package repack

import (
	"context"
	"errors"
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages"
)

// removeOrphans replaces noJobHere in a reset. A table without a job may still have
// objects of one: a dump may have contained them without the registry.
func (r *Repack) removeOrphans(ctx context.Context, e *stages.Env, oid uint32, name catalog.Name) error {
	removed, err := stages.RemoveOrphans(ctx, e, oid, name)
	if err != nil || removed {
		return err
	}
	return r.noJob(ctx, e.Pool, oid, name)
}

// resetAny returns a reset for a job of this database or of another one. If there is no
// job, it does nothing, because removeOrphans has done the work.
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

// orphans removes the objects of lost jobs for every partition. found is false if there
// were none.
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
