package repack

import (
	"context"
	"errors"
	"os"
	"os/user"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/throttle"
)

// A run can be controlled from any machine that may use the registry: what it is told is
// written there, and it reads that once a second.

// Pause makes the runs of the table, or of every table if Options.Table is empty, begin no
// further piece of work: no chunk, no index build, no batch of the replay, no swap. Writes
// are still captured, so the change log grows. A pause outlives the process: a run that is
// started later waits too. reason is shown to whoever asks for the status.
//
// With now, the chunk under way ends without a result and is copied again later.
//
// It returns *NoJobError if the table has no unfinished job, and takes no lock on a table of
// the application.
func (r *Repack) Pause(ctx context.Context, reason string, now bool) error {
	return r.tell(ctx, registry.Command{Verb: registry.Pause, Arguments: registry.Arguments{Reason: reason, Now: now}})
}

// Resume ends the pauses of the table. If Options.Table is empty, it ends all pauses. It
// returns *NoJobError if the table has no unfinished job.
func (r *Repack) Resume(ctx context.Context) error {
	return r.tell(ctx, registry.Command{Verb: registry.Resume})
}

// StopRun makes the present run of the table end after the piece of work under way, with
// *StoppedError. It returns *NoJobError if the table has no unfinished job, and does nothing
// if no process works on it.
func (r *Repack) StopRun(ctx context.Context) error {
	return r.tell(ctx, registry.Command{Verb: registry.Stop})
}

// AllowSwap lets a run with Options.WaitForSwap swap the tables, at notBefore at the
// earliest. The zero time stands for now. It returns *NoJobError if the table has no
// unfinished job.
func (r *Repack) AllowSwap(ctx context.Context, notBefore time.Time) error {
	c := registry.Command{Verb: registry.SwapNow}
	if !notBefore.IsZero() {
		c.Arguments.NotBefore = &notBefore
	}
	return r.tell(ctx, c)
}

// Set changes options of the job of the table, by the names of their flags, such as "jobs". The
// run at work takes them up within seconds, and so do later runs of the job. It returns
// *UsageError for an option that cannot be changed or a value that is not valid, and *NoJobError
// if the table has no unfinished job.
func (r *Repack) Set(ctx context.Context, options map[string]string) error {
	if err := r.options.checkSettings(options); err != nil {
		return err
	}
	return r.tell(ctx, registry.Command{Verb: registry.Set, Arguments: registry.Arguments{Settings: options}})
}

// tell records a command for the runs of the table, or of every table.
func (r *Repack) tell(ctx context.Context, c registry.Command) error {
	c.By = teller()
	v, err := r.visitAny(ctx)
	if err != nil {
		return err
	}
	defer v.close(ctx)
	if r.options.Table == "" {
		return r.tellAll(ctx, v.conn, c)
	}
	ready, err := r.registryReady(ctx, v.conn, v.name)
	if err != nil {
		return err
	}
	begun := false
	if ready {
		begun, err = r.begun(ctx, v)
	}
	if err != nil {
		return err
	}
	if !begun {
		return r.noJob(ctx, v.conn, v.oid, v.name)
	}
	return r.registry.Tell(ctx, v.conn, &v.name, c)
}

// tellAll records a command for runs of every table. It creates the registry, because runs
// that begin later must find the command.
func (r *Repack) tellAll(ctx context.Context, conn *pgx.Conn, c registry.Command) error {
	if err := r.upgrade(ctx, conn); err != nil {
		return err
	}
	return r.registry.Tell(ctx, conn, nil, c)
}

// begun reports whether the table has an unfinished job, or one of its partitions, or one of
// its cascade.
func (r *Repack) begun(ctx context.Context, v *visit) (bool, error) {
	job, err := r.job(ctx, v.conn, v.oid, v.name)
	if err != nil || job != nil || r.tenure.cascade != nil || !v.partitioned {
		return job != nil || r.tenure.cascade != nil, err
	}
	_, err = r.registry.FindPartitioned(ctx, v.conn, v.oid)
	if errors.Is(err, registry.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// teller names the user and the host of this process.
func teller() string {
	name, host := "unknown", "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

// addControl adds what the job was told from elsewhere.
func (r *Repack) addControl(ctx context.Context, conn *pgx.Conn, job *registry.Job, s *Status) error {
	told, err := r.registry.Control(ctx, conn, s.Job)
	if err != nil {
		return err
	}
	s.Settings = told.Settings
	if p := told.Paused; p != nil {
		s.Paused = &Paused{By: p.By, Since: p.At, Reason: p.Arguments.Reason, All: p.All}
	}
	beat, err := r.registry.Heartbeat(ctx, conn, s.Job)
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		return err
	}
	if err == nil {
		s.HeartbeatAt = &beat.At
	}
	if s.Runner != nil {
		s.WaitingFor, s.WaitingSince = beat.WaitingFor, beat.WaitingSince
	}
	if (s.State == "running" || s.State == "stopped") && lost(job, beat.At) {
		s.State = "lost"
	}
	return nil
}

// lost reports whether the process that has the job has been silent for long. A process that
// ends says so, if it can.
func lost(job *registry.Job, beat time.Time) bool {
	if job.RunnerHost == nil || job.RunnerSince == nil {
		return false
	}
	heard := *job.RunnerSince
	if beat.After(heard) {
		heard = beat
	}
	return time.Since(heard) > registry.Silence
}

// mayBegin waits until a table that has no job yet may be begun: while every table is paused, it
// may not.
func (r *Repack) mayBegin(ctx context.Context, e *stages.Env) error {
	if !r.tenure.registry {
		return e.Throttle.Wait(ctx, throttle.Copying)
	}
	stop, err := e.Control.Follow(ctx, 0, true)
	if err != nil {
		return err
	}
	defer stop()
	return e.Throttle.Wait(ctx, throttle.Copying)
}

// throttlersReady makes sure that what work is to be stopped by can be read.
func (r *Repack) throttlersReady(ctx context.Context, e *stages.Env) error {
	err := e.LimitsReady(ctx)
	for _, throttler := range r.options.Throttlers {
		if err != nil {
			return err
		}
		err = r.throttlerReady(ctx, throttler, e.Source.Name)
	}
	return err
}

// throttlerReady asks a throttler of the caller's for the first time. One that cannot tell then is
// refused. A lost connection is no such reason.
func (r *Repack) throttlerReady(ctx context.Context, throttler Throttler, table catalog.Name) error {
	_, err := throttler.Check(ctx, Copying)
	var ended *StoppedError
	if err == nil || errors.As(err, &ended) || session.Lost(err) || ctx.Err() != nil {
		return err
	}
	return &RefusedError{Table: table, Reasons: []checks.Reason{{
		Object: "a throttler", Why: "it cannot tell whether work may begin: " + err.Error(), Remedy: "mend it, or run without it",
	}}}
}
