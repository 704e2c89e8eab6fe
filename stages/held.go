package stages

import (
	"context"
	"time"
)

// noteLocked logs for how long a transaction of the job held strong locks, others
// waiting behind it meanwhile, and keeps the longest time in the registry.
func (e *Env) noteLocked(ctx context.Context, took time.Duration) {
	e.Log.Info("strong locks released", "job", e.Job.ID, "table", e.Source.Name.String(), "locked", took.Round(time.Millisecond))
	if took <= e.longest {
		return
	}
	e.longest = took
	noteCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recording)
	defer cancel()
	if err := e.Registry.NoteLocked(noteCtx, e.Pool, e.Job.ID, e.Runner.Claim, took); err != nil {
		e.Log.Warn("time of locks not recorded", "job", e.Job.ID, "error", err)
	}
}
