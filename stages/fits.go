package stages

import (
	"context"
	"fmt"
	"time"

	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/throttle"
)

// What a stage takes, as a part of the time of the backfill. It is a rough estimate: an index
// takes a fifth of that on average, and vacuum, statistics and the comparison of a sample about
// a third.
const (
	indexPart = 0.2
	restPart  = 0.3
)

// fits makes sure that a stage which cannot be stopped between two chunks ends before the window
// closes. If it would not, the run ends, or waits.
func (e *Env) fits(ctx context.Context, s registry.Stage) error {
	parts := map[registry.Stage]float64{
		registry.SyncSchema:     indexPart * float64(len(e.Source.Indexes)),
		registry.PostSyncUpdate: restPart,
	}
	if e.Hours.Work.None() || e.Job == nil || parts[s] == 0 {
		return nil
	}
	copied, err := e.Registry.Copied(ctx, e.Pool, e.Job.ID)
	if err != nil || copied.Rate == 0 {
		return err
	}
	estimate := time.Duration(parts[s] * float64(copied.Rows) / copied.Rate * float64(time.Second))
	closes, enough := e.Hours.Enough(estimate)
	if enough {
		return nil
	}
	reason := fmt.Sprintf("stage %s is estimated to take %s, and the window closes at %s", s, estimate.Round(time.Second), closes.Format("15:04 MST"))
	if !e.Hours.Wait {
		return e.stopped(ctx, &throttle.StoppedError{Reason: reason}, reason)
	}
	return e.Throttle.WaitUntil(ctx, throttle.Copying, closes, reason)
}
