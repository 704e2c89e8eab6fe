// Package events passes on what happens to a job.
package events

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
)

// every is how often a Teller looks for events.
const every = time.Second

// endsWithin limits how long the last events of a run may take.
const endsWithin = 30 * time.Second

// Teller passes on the events of a job, one after the other, while its run is at work. It reads
// them from the registry, so that none is lost if the process is killed: the run that continues the
// job passes it on.
type Teller struct {
	Registry *registry.Registry
	Querier  catalog.Querier
	Log      *slog.Logger
	// Tell passes an event on. An error is logged, and the event is not told again.
	Tell func(ctx context.Context, event registry.Event) error

	follow sync.Once
	cancel context.CancelFunc
	ended  chan struct{} // closed by End
	done   chan struct{} // closed when nothing follows any more
}

// New returns a Teller.
func New(r *registry.Registry, q catalog.Querier, log *slog.Logger, tell func(context.Context, registry.Event) error) *Teller {
	done := make(chan struct{})
	close(done)
	return &Teller{Registry: r, Querier: q, Log: log, Tell: tell, cancel: func() {}, ended: make(chan struct{}), done: done}
}

// Follow begins to look for events of job id. The work of the run does not wait for it. t may be nil.
func (t *Teller) Follow(ctx context.Context, id int64) {
	if t == nil {
		return
	}
	t.follow.Do(func() {
		ctx, t.cancel = context.WithCancel(context.WithoutCancel(ctx))
		t.done = make(chan struct{})
		go t.passOn(ctx, id)
	})
}

func (t *Teller) passOn(ctx context.Context, id int64) {
	defer close(t.done)
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		t.pass(ctx, id)
		select {
		case <-t.ended:
			return
		case <-ticks.C:
		}
	}
}

// End passes on the events that are left, also if ctx has ended. It may be called once. t may be
// nil.
func (t *Teller) End(ctx context.Context, id int64) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endsWithin)
	defer cancel()
	defer context.AfterFunc(ctx, t.cancel)()
	defer t.cancel()
	close(t.ended)
	<-t.done
	t.pass(ctx, id)
}

// pass passes on what has happened since it was called last.
func (t *Teller) pass(ctx context.Context, id int64) {
	events, err := t.Registry.Events(ctx, t.Querier, id)
	if err != nil {
		if ctx.Err() == nil {
			t.Log.Debug("events not read", "job", id, "error", err)
		}
		return
	}
	for _, e := range events {
		err := t.Tell(ctx, e)
		if ctx.Err() != nil { // it may be told by the next run
			return
		}
		if err != nil {
			t.Log.Warn("event not passed on", "event", e.Event, "job", id, "stage", e.Stage, "error", err)
		}
		if err := t.Registry.PassedOn(ctx, t.Querier, e); err != nil {
			t.Log.Warn("event may be passed on twice", "event", e.Event, "job", id, "stage", e.Stage, "error", err)
			return
		}
	}
}
