// Package control makes a run obey what it is told from elsewhere, and records that it is at
// work and what it waits for. Both go through the registry.
package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/stages/throttle"
)

// readEvery is how often a run reads what it was told, and beatEvery how often it records
// that it is at work. A run that is shorter does neither.
const (
	readEvery = time.Second
	beatEvery = registry.HeartbeatEvery
)

// Control is a throttle.Throttler: it stops a run that was told to pause or to stop, and holds
// the swap until it is allowed.
type Control struct {
	*steps.Worker
	Throttle *throttle.Throttle
	// WaitForSwap makes the swap wait until somebody allows it.
	WaitForSwap bool
	// Apply is called with the options that were changed for the job, when they were.
	Apply func(map[string]registry.Setting)

	mu   sync.Mutex
	told registry.Control
	end  context.CancelCauseFunc // ends the work under way; nil: there is none that may end
}

// errPausedNow ends work that is begun again when the pause is over.
var errPausedNow = errors.New("the run was told to pause at once")

// Follow reads what job id was told, once a second, until the returned function is called.
// With at once, it reads for the first time before it returns: a pause outlives the process
// that was paused. It also records every few seconds that the run is at work. The id 0 stands
// for a table that has no job yet.
func (c *Control) Follow(ctx context.Context, id int64, atOnce bool) (stop func(), err error) {
	if atOnce {
		if err := c.read(ctx, id); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.follow(ctx, id)
	}()
	return func() { cancel(); <-done }, nil
}

func (c *Control) follow(ctx context.Context, id int64) {
	reads, beats := time.NewTicker(readEvery), time.NewTicker(beatEvery)
	defer reads.Stop()
	defer beats.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-reads.C:
			err = c.read(ctx, id)
		case <-beats.C:
			err = c.beat(ctx, id)
		}
		if err != nil && ctx.Err() == nil { // if the connection is lost, the run notices it too
			c.Log.Debug("control not read or heartbeat not recorded", "job", id, "error", err)
		}
	}
}

// read reads what the job was told.
func (c *Control) read(ctx context.Context, id int64) error {
	told, err := c.Registry.Control(ctx, c.Pool, id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.tell(c.told, told)
	isChanged := !maps.Equal(c.told.Settings, told.Settings)
	c.told = told
	if p := told.Paused; p != nil && p.Arguments.Now && c.end != nil {
		c.end(errPausedNow)
	}
	c.mu.Unlock()
	if c.Apply != nil && isChanged {
		c.Apply(told.Settings)
	}
	return nil
}

// tell logs what is new of what the run was told.
func (c *Control) tell(before, now registry.Control) {
	isNew := func(before, now *registry.Command) bool {
		return now != nil && (before == nil || !before.At.Equal(now.At))
	}
	if isNew(before.Paused, now.Paused) {
		c.Log.Info("told to pause", "by", now.Paused.By, "reason", now.Paused.Arguments.Reason)
	}
	if before.Paused != nil && now.Paused == nil {
		c.Log.Info("told to resume")
	}
	if isNew(before.Swap, now.Swap) {
		c.Log.Info("told to swap", "by", now.Swap.By)
	}
	if isNew(before.Stop, now.Stop) {
		c.Log.Info("told to stop", "by", now.Stop.By)
	}
}

// beat records that the run is at work.
func (c *Control) beat(ctx context.Context, id int64) error {
	if id == 0 {
		return nil
	}
	beat := registry.Heartbeat{}
	if w := c.Throttle.Waiting(); w != nil {
		beat.WaitingFor, beat.WaitingSince = &w.For, &w.Since
	}
	return c.Registry.Beat(ctx, c.Pool, id, c.Runner.Claim, beat)
}

// Check implements throttle.Throttler.
func (c *Control) Check(_ context.Context, work throttle.Work) (throttle.Verdict, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.told.Stop != nil:
		return throttle.Verdict{}, &throttle.StoppedError{Reason: "by " + c.told.Stop.By}
	case c.told.Paused != nil:
		return throttle.Verdict{Stop: true, Pause: true, Reason: paused(c.told.Paused)}, nil
	case work == throttle.Swapping && c.WaitForSwap:
		return c.swap(), nil
	}
	return throttle.Verdict{}, nil
}

func paused(p *registry.Command) string {
	text := fmt.Sprintf("paused by %s %s", p.By, p.At.Local().Format("15:04"))
	if p.Arguments.Reason != "" {
		text += " (" + p.Arguments.Reason + ")"
	}
	return text
}

// swap says whether the swap is allowed.
func (c *Control) swap() throttle.Verdict {
	switch allowed := c.told.Swap; {
	case allowed == nil:
		return throttle.Verdict{Stop: true, Reason: fmt.Sprintf("the swap is not allowed yet: repack swap --table '%s'", c.Source.Name)}
	case allowed.Arguments.NotBefore != nil && time.Now().Before(*allowed.Arguments.NotBefore):
		return throttle.Verdict{Stop: true, Reason: "the swap is allowed from " + allowed.Arguments.NotBefore.Local().Format(time.DateTime) + " on"}
	}
	return throttle.Verdict{}
}

// Restart runs work that a pause may end at once, and runs it again when the pause is over.
// work must be safe to run again.
func (c *Control) Restart(ctx context.Context, work func(context.Context) error) error {
	for {
		if err := c.Throttle.Wait(ctx, throttle.Copying); err != nil {
			return err
		}
		workCtx, cancel := context.WithCancelCause(ctx)
		c.mayEnd(cancel)
		err := work(workCtx)
		c.mayEnd(nil)
		ended := errors.Is(context.Cause(workCtx), errPausedNow)
		cancel(nil)
		if err == nil || !ended || ctx.Err() != nil {
			return err
		}
		c.Log.Info("the chunk under way was ended, and will be copied again", "job", c.Job.ID)
	}
}

func (c *Control) mayEnd(end context.CancelCauseFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end = end
}
