package stages

import (
	"context"
	"fmt"
	"time"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/steps"
)

const sizesSQL = `
SELECT coalesce(pg_total_relation_size($1::oid), 0), coalesce(pg_total_relation_size($2::oid), 0)`

// sizes measures both tables while they exist, if a hook asks for the outcome.
func (e *Env) sizes(ctx context.Context) (before, after int64, err error) {
	if e.Hooks.AfterJob == nil || e.Job == nil || e.Job.Shadow == nil {
		return 0, 0, nil
	}
	if err := e.Pool.QueryRow(ctx, sizesSQL, e.Job.Source, *e.Job.Shadow).Scan(&before, &after); err != nil {
		return 0, 0, fmt.Errorf("measure %s and %s: %w", e.Job.OldTable(), e.Job.Table(), err)
	}
	return before, after, nil
}

// ended passes the outcome of a job that is done to the hook. If something about the outcome
// cannot be read, the job is done all the same.
func (e *Env) ended(ctx context.Context, began time.Time, before, after int64) {
	if e.Hooks.AfterJob == nil || e.Job == nil || e.Job.State != registry.Done {
		return
	}
	o := steps.Outcome{Table: e.Job.Table(), Before: before, After: after, Took: time.Since(began)}
	if worked, err := e.Registry.Worked(ctx, e.Pool, e.Job.ID); err != nil {
		e.Log.Warn("time of the job not known", "job", e.Job.ID, "error", err)
	} else {
		o.Took = max(o.Took, worked) // the run also looked at the table before there was a job
	}
	if ms := e.Job.LongestLockMS; ms != nil {
		longest := time.Duration(*ms) * time.Millisecond
		o.LongestLock = &longest
	}
	if e.Job.Options.KeepOld {
		old := e.Job.OldTable()
		o.OldTable, o.Drop = &old, []string{fmt.Sprintf("DROP TABLE %s;", old)}
		if e.Job.OwnSchemas {
			o.Drop = append(o.Drop, fmt.Sprintf("DROP SCHEMA %s;", catalog.Quote(e.Job.OldSchema)))
		}
	}
	e.Hooks.AfterJob(ctx, o)
}
