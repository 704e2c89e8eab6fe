package throttle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// Work is a kind of work that a Throttler is asked about.
type Work int

// The kinds of work. What clean_up does is not asked about: it only frees space.
const (
	// Copying is a chunk of the backfill, or the build of an index.
	Copying Work = iota
	// Replaying is a batch of the replay.
	Replaying
	// Comparing is a chunk of the verification.
	Comparing
	// Swapping is the exchange of the tables. It is not asked about once writers write
	// through to the copy, because from then on every write costs them twice.
	Swapping
)

// Throttler says whether work may go on. A pause is a Throttler, and so are a window, a
// budget and a limit on the lag of replicas.
//
// It is asked before every piece of work, by several goroutines, so it keeps its own clock:
// it must answer at once most of the time. An error means that it cannot tell, and stops the
// work until it can; the first time, before the work begins, it is a refusal. A *StoppedError
// ends the run.
type Throttler interface {
	Check(ctx context.Context, work Work) (Verdict, error)
}

// Verdict is what a Throttler says of a piece of work.
type Verdict struct {
	// Stop says that the work must not begin.
	Stop bool
	// Reason says what is waited for, and against which limit, such as "replica sb1 is
	// 41 s behind, limit 30 s".
	Reason string
	// Utilisation is how much of the limit is used: 1 is all of it. From 0.8 on, rows are
	// copied in smaller chunks, one at a time. It is 0 if there is no such measure.
	Utilisation float64
	// Pause says that a person has stopped the work. Then the replay rests too. Otherwise
	// it replays a batch from time to time, so that the change log does not grow without
	// end.
	Pause bool
}

// StoppedError reports that a run has ended because it was told to: the window is closed, a
// budget is spent, or it has waited too long. Nothing has failed: the same command continues
// the job.
type StoppedError struct{ Reason string }

func (e *StoppedError) Error() string {
	return fmt.Sprintf("stopped as told: %s; run the same command again later", e.Reason)
}

// Waiting is what keeps work from going on.
type Waiting struct {
	For   string
	Since time.Time
}

const (
	// askEvery is how often a Throttler that has stopped the work is asked again.
	askEvery = time.Second
	// replayFloor is how often a batch is replayed while the work is stopped, but not
	// paused.
	replayFloor = 5 * time.Second
	// sayEvery is how often the log says that work is still stopped.
	sayEvery = 30 * time.Second
)

// Obey makes t ask throttlers before each piece of work. log is told when work stops, from
// time to time while it is stopped, and when it goes on.
func (t *Throttle) Obey(log *slog.Logger, throttlers ...Throttler) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.log, t.throttlers = log, throttlers
}

// GiveUpAfter makes Wait return *StoppedError when work has been stopped for that time. Zero
// means never.
func (t *Throttle) GiveUpAfter(limit time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.giveUp = limit
}

// Waiting returns what keeps work from going on, or nil.
func (t *Throttle) Waiting() *Waiting {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.stopped(time.Now()) {
		return nil
	}
	waiting := t.waiting
	return &waiting
}

// Wait returns when all throttlers let the work begin. It returns *StoppedError if one of
// them ends the run.
func (t *Throttle) Wait(ctx context.Context, work Work) error {
	return t.waitDoing(ctx, work, nothing)
}

func nothing(context.Context) error { return nil }

// WaitDoing is Wait that calls meanwhile about once a second while it waits.
func (t *Throttle) WaitDoing(ctx context.Context, work Work, meanwhile func(context.Context) error) error {
	return t.waitDoing(ctx, work, meanwhile)
}

// WaitUntil is Wait that also waits, for a reason, until it is later than a time.
func (t *Throttle) WaitUntil(ctx context.Context, work Work, at time.Time, reason string) error {
	return t.waitDoing(ctx, work, nothing, until{at, reason})
}

// until is a Throttler that stops work until it is later than a time.
type until struct {
	at     time.Time
	reason string
}

func (u until) Check(context.Context, Work) (Verdict, error) {
	return Verdict{Stop: !time.Now().After(u.at), Reason: u.reason}, nil
}

// waitDoing also asks more throttlers than those of t.
func (t *Throttle) waitDoing(ctx context.Context, work Work, meanwhile func(context.Context) error, more ...Throttler) error {
	for waits := false; ; waits = true {
		verdict, err := t.verdict(ctx, work, more...)
		isFloor := err == nil && verdict.Stop && t.floor(work, verdict)
		if err != nil || !verdict.Stop || isFloor {
			t.proceed(waits, isFloor)
			return err
		}
		if err := t.wait(ctx, verdict.Reason, !waits, meanwhile); err != nil {
			t.proceed(true, false)
			return err
		}
	}
}

// wait notes that work is stopped, and waits until the throttlers are asked again.
func (t *Throttle) wait(ctx context.Context, reason string, first bool, meanwhile func(context.Context) error) error {
	if err := t.stop(reason, first); err != nil {
		return err
	}
	if err := meanwhile(ctx); err != nil {
		return err
	}
	return pause(ctx, askEvery)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// stop notes that work is stopped, by one more goroutine if first is set. It returns
// *StoppedError if work has been stopped for too long.
func (t *Throttle) stop(reason string, first bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	begins := first && !t.stopped(now)
	if first {
		t.waiters++
	}
	switch {
	case begins:
		t.waiting = Waiting{For: reason, Since: now}
		t.said = now
		t.log.Info("waiting", "for", reason)
	case now.Sub(t.said) >= sayEvery:
		t.said = now
		t.log.Info("still waiting", "for", reason, "since", t.waiting.Since)
	}
	t.waiting.For = reason
	if t.giveUp > 0 && now.Sub(t.waiting.Since) >= t.giveUp {
		return &StoppedError{Reason: fmt.Sprintf("waited for %s: %s", t.giveUp, reason)}
	}
	return nil
}

// stopped reports whether work is stopped. A batch that is replayed nevertheless does not end
// that. t.mu is held.
func (t *Throttle) stopped(now time.Time) bool {
	return t.waiters > 0 || now.Before(t.floorEnds)
}

// proceed notes that a goroutine begins its work, or ends. waited tells that stop has counted it,
// and isFloor that work is still stopped.
func (t *Throttle) proceed(waited, isFloor bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if waited {
		t.waiters--
	}
	switch {
	case isFloor:
		if waited {
			t.floorEnds = time.Now().Add(2 * replayFloor)
		}
	case t.waiters == 0 && (waited || !t.floorEnds.IsZero()):
		t.floorEnds = time.Time{}
		t.log.Info("waiting is over", "for", t.waiting.For, "took", time.Since(t.waiting.Since).Round(time.Millisecond))
	}
}

// floor reports whether a batch is replayed although work is stopped.
func (t *Throttle) floor(work Work, verdict Verdict) bool {
	if work != Replaying || verdict.Pause {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.replayed) < replayFloor {
		return false
	}
	t.replayed = time.Now()
	return true
}

// verdict returns what all throttlers say together. One that ends the run goes before those that
// stop it.
func (t *Throttle) verdict(ctx context.Context, work Work, more ...Throttler) (all Verdict, err error) {
	t.mu.Lock()
	throttlers := slices.Concat(t.throttlers, more)
	t.mu.Unlock()
	var reasons []string
	for _, throttler := range throttlers {
		verdict, err := throttler.Check(ctx, work)
		var end *StoppedError
		switch {
		case err == nil:
		case errors.As(err, &end), ctx.Err() != nil:
			return Verdict{}, err
		default: // it was asked for, and cannot be read: that must not go unnoticed
			verdict = Verdict{Stop: true, Reason: err.Error()}
		}
		all.Utilisation = max(all.Utilisation, verdict.Utilisation)
		if verdict.Stop {
			all.Stop = true
			reasons = append(reasons, verdict.Reason)
		}
		if verdict.Pause { // the server need not be asked about more
			all.Pause = true
			break
		}
	}
	all.Reason = strings.Join(reasons, "; ")
	t.near(work, all)
	return all, nil
}

// nearly is the part of a limit from which on work is done in small pieces, one at a time.
// Otherwise all workers could go beyond the limit with a large piece each.
const nearly = 0.8

// fewSteps is how many of the last steps towards a limit tell what the next one may be.
const fewSteps = 8

// near notes whether a limit is near: also if two steps as large as the last ones would reach it,
// because pieces may double.
func (t *Throttle) near(work Work, verdict Verdict) {
	if work != Copying {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if step := verdict.Utilisation - t.used; step != 0 {
		t.steps = append(t.steps, step)
		t.steps = t.steps[max(len(t.steps)-fewSteps, 0):]
	}
	t.used = verdict.Utilisation
	t.isNear = t.used >= nearly || t.used > 0 && t.used+2*slices.Max(t.steps) >= 1
	switch {
	case !t.isNear:
		t.smaller = 1
	case t.smaller < smaller:
		t.smaller = smaller
	case slices.Max(t.steps) > largeStep:
		t.smaller = min(2*t.smaller, smallest)
	}
}

// Near a limit, pieces are smaller times smaller, and up to smallest times as long as they still
// use more than largeStep of the limit.
const (
	smaller   = 10
	smallest  = 100
	largeStep = 0.1
)

// PieceTime returns how long a piece should take that usually takes most.
func (t *Throttle) PieceTime(most time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return most / time.Duration(max(t.smaller, 1))
}
