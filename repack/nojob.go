package repack

import (
	"context"
	"fmt"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
)

// NoJobError reports that a table has no job, or that there is no such table. Nothing
// was changed. errors.Is(err, ErrNoJob) is true for it.
type NoJobError struct {
	Table catalog.Name
	// Exists says whether there is such a table.
	Exists bool
	// Near are tables with similar names, if the table does not exist.
	Near []catalog.Name
	// Last is the number of the table's latest job, which has ended. It is zero if the
	// table has never had a job.
	Last int64
	// LastState is the state of that job: done, reverted or reset.
	LastState string
}

// Error says what is missing, and what can be done.
func (e *NoJobError) Error() string {
	switch {
	case e.Last != 0:
		return fmt.Sprintf("%s: no such job: the table has no job under way, its latest, %d, is %s", e.Table, e.Last, e.LastState)
	case e.Exists:
		return fmt.Sprintf("%s: no such job: the table has no job; begin one with: repack run --table '%[1]s'", e.Table)
	default:
		return fmt.Sprintf("%s: there is no such table; %s", e.Table, notFound(e.Near))
	}
}

// Unwrap returns ErrNoJob.
func (e *NoJobError) Unwrap() error { return ErrNoJob }

// notFound returns advice for a user who has named a table that does not exist.
func notFound(near []catalog.Name) string {
	const lookedUp = "a bare name is looked up in the role's search_path"
	if len(near) == 0 {
		return lookedUp
	}
	var names []string
	for _, name := range near {
		names = append(names, name.String())
	}
	return "did you mean " + strings.Join(names, " or ") + "? (" + lookedUp + ")"
}

// noJob returns a NoJobError that says what is missing: the table, or a job for it.
func (r *Repack) noJob(ctx context.Context, q catalog.Querier, oid uint32, name catalog.Name) error {
	e := &NoJobError{Table: name, Exists: oid != 0}
	exists, err := r.registry.Exists(ctx, q)
	if err != nil {
		return err
	}
	if exists {
		jobs, err := r.registry.List(ctx, q)
		if err != nil {
			return err
		}
		for _, job := range jobs {
			if job.Table() == name {
				e.Last, e.LastState = job.ID, string(job.State)
			}
		}
	}
	if !e.Exists {
		e.Near, err = catalog.Near(ctx, q, name)
	}
	if err != nil {
		return err
	}
	return e
}

// noJobHere is noJob as a function that hold can call.
func (r *Repack) noJobHere(ctx context.Context, e *stages.Env, oid uint32, name catalog.Name) error {
	return r.noJob(ctx, e.Pool, oid, name)
}

// PrivilegesError lists the GRANT statements that let the role read the registry.
// Nothing was changed.
type PrivilegesError struct{ Grants []string }

// Error lists the statements.
func (e *PrivilegesError) Error() string {
	return "the role may not read what is remembered of jobs; have an administrator run:\n  " + strings.Join(e.Grants, "\n  ")
}

// mayRead returns *PrivilegesError if the role may not read the registry, or with jobs,
// the change logs of those jobs.
func (r *Repack) mayRead(ctx context.Context, q catalog.Querier, jobs []*registry.Job) error {
	var grants []string
	var err error
	if jobs == nil {
		grants, err = r.registry.MissingToRead(ctx, q)
	} else {
		grants, err = registry.MissingToCount(ctx, q, jobs)
	}
	if err != nil {
		return err
	}
	if len(grants) > 0 {
		return &PrivilegesError{Grants: grants}
	}
	return nil
}
