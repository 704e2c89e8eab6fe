package repack

import (
	"context"
	"time"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
)

// StageRun is one time that a stage of a job was at work.
type StageRun = registry.StageRun

// History lists when the stages of all jobs of the table began and ended, and their errors. It
// returns *NoJobError if the table never had a job. It creates nothing, and takes no lock on a table
// of the application.
func (r *Repack) History(ctx context.Context) ([]StageRun, error) {
	v, err := r.visit(ctx)
	if err != nil {
		return nil, err
	}
	defer v.close(ctx)
	exists, err := r.registry.Exists(ctx, v.conn)
	if err != nil {
		return nil, err
	}
	var ids []int64
	if exists {
		if err := r.mayRead(ctx, v.conn, nil); err != nil {
			return nil, err
		}
		jobs, err := r.registry.JobsOf(ctx, v.conn, v.name)
		if err != nil {
			return nil, err
		}
		for _, job := range jobs {
			ids = append(ids, job.ID)
		}
	}
	if len(ids) == 0 {
		return nil, r.noJob(ctx, v.conn, v.oid, v.name)
	}
	return r.registry.History(ctx, v.conn, ids)
}

// Prune deletes from the registry what is known of jobs that ended before a time, with dryRun only
// counts them, and returns their number. Jobs that have not ended stay. In a database without a
// registry there is nothing to do.
func (r *Repack) Prune(ctx context.Context, before time.Time, dryRun bool) (jobs int64, err error) {
	r.options.Table = ""
	v, err := r.visitAny(ctx)
	if err != nil {
		return 0, err
	}
	defer v.close(ctx)
	ready, err := r.registryReady(ctx, v.conn, catalog.Name{})
	if err != nil || !ready {
		return 0, err
	}
	if dryRun {
		return r.registry.CountOld(ctx, v.conn, before)
	}
	return r.registry.Prune(ctx, v.conn, before)
}
