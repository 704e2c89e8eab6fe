package repack

import (
	"context"
	"errors"
	"fmt"

	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
)

// InterruptedError reports that the context of a call ended before the work did. This
// is no failure: if there is a job, the next call continues it.
type InterruptedError struct {
	// Advice says how far the work is, and what can be done now.
	Advice string
	Err    error
}

// Error returns Advice and the text of Err.
func (e *InterruptedError) Error() string { return fmt.Sprintf("%s (%v)", e.Advice, e.Err) }

// Unwrap returns the error that the end of the context caused.
func (e *InterruptedError) Unwrap() error { return e.Err }

// unbegun returns err. If ctx has ended before there was a job in which to record that,
// it returns an *InterruptedError.
func unbegun(ctx context.Context, err error) error {
	var told *InterruptedError
	if err == nil || ctx.Err() == nil || errors.As(err, &told) {
		return err
	}
	return &InterruptedError{Advice: "interrupted before the job was taken up: run the same command again", Err: err}
}

// noting returns a function that runs work. If the context ends, the function records
// in the job that work was interrupted, and returns an *InterruptedError that says what
// can be done.
func (r *Repack) noting(work func(context.Context, *stages.Env) error) func(context.Context, *stages.Env) error {
	return func(ctx context.Context, e *stages.Env) error {
		err := work(ctx, e)
		if err == nil || ctx.Err() == nil || e.Job == nil {
			return err
		}
		noteCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releasing)
		defer cancel()
		job, noteErr := r.registry.Interrupt(noteCtx, e.Pool, e.Job.ID, e.Runner.Claim)
		if noteErr != nil {
			r.options.Logger.Warn("interruption not recorded", "job", e.Job.ID, "error", noteErr)
			job = e.Job
		}
		return &InterruptedError{Advice: interruption(job), Err: err}
	}
}

func interruption(job *registry.Job) string {
	switch {
	case job.State.Over():
		return fmt.Sprintf("interrupted when the job of %s was %s", job.Table(), job.State)
	case job.State == registry.Resetting: // by repack reset, or by a run after the disk was full
		return fmt.Sprintf("interrupted while job %d of %s was %s: finish with: repack reset --table '%[2]s'", job.ID, job.Table(), job.State)
	case job.State == registry.Reverting:
		return fmt.Sprintf("interrupted while job %d of %s was %s: run the same command again to go on", job.ID, job.Table(), job.State)
	case job.State == registry.Finishing:
		return fmt.Sprintf("interrupted in stage %s of %s: run the same command again to go on", job.Stage, job.Table())
	case job.Swapped():
		return fmt.Sprintf("interrupted in stage %s of %s: run the same command again to go on, or go back with: repack revert --table '%[2]s'",
			job.Stage, job.Table())
	default:
		return fmt.Sprintf("interrupted in stage %s of %s: run the same command again to go on, or undo it with: repack reset --table '%[2]s'",
			job.Stage, job.Table())
	}
}
