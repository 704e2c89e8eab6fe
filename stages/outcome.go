package stages

import (
	"context"
	"fmt"
	"time"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
)

// Outcome is the result of a job that is done.
type Outcome struct {
	Table catalog.Name
	// Before and After are the sizes of the old and of the new table when clean_up began, in
	// bytes, with TOAST and indexes.
	Before, After int64
	// Took is how long repack worked on the job, without the time between runs.
	Took time.Duration
	// LongestLock is the longest time that ACCESS EXCLUSIVE was held on the table. It is nil
	// if that is not known.
	LongestLock *time.Duration
	// OldTable is the name of the old table if it was kept, and nil if it was dropped. Drop
	// are the statements that remove it.
	OldTable *catalog.Name
	Drop     []string
}

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
	o := Outcome{Table: e.Job.Table(), Before: before, After: after, Took: time.Since(began)}
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
