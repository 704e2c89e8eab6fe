package stages

import (
	"context"
	"time"

	"github.com/repack-go/repack/stages/builds"
)

// watchEvery is often enough for people who watch.
const watchEvery = 500 * time.Millisecond

// watchBuilds calls Hooks.WhileBuilding until the returned function is called. That function
// waits until the last call has ended.
func (e *Env) watchBuilds(ctx context.Context) (stop func()) {
	if e.Hooks.WhileBuilding == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	job := *e.Job
	go func() {
		defer close(ended)
		ticker := time.NewTicker(watchEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			running, err := builds.Read(ctx, e.Pool, &job)
			switch {
			case err != nil: // the builds continue all the same
				e.Log.Debug("no progress of index builds", "job", job.ID, "error", err)
			case len(running) > 0:
				e.Hooks.WhileBuilding(ctx, running)
			}
		}
	}()
	return func() { cancel(); <-ended }
}
