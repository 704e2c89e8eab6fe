package throttle

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// told is a Throttler that answers from a function.
type told func(Work) (Verdict, error)

func (t told) Check(_ context.Context, work Work) (Verdict, error) { return t(work) }

func givenThrottle(t ...Throttler) *Throttle {
	slots := New(nil, 1, false)
	slots.Obey(slog.New(slog.DiscardHandler), t...)
	return slots
}

// stoppedFor returns a Throttler that stops work for a time from now on.
func stoppedFor(d time.Duration, verdict Verdict) told {
	until := time.Now().Add(d)
	return func(Work) (Verdict, error) {
		if time.Now().Before(until) {
			verdict.Stop = true
			return verdict, nil
		}
		return Verdict{}, nil
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		work    Work
		verdict Verdict
		want    time.Duration // for the second piece of work
	}{
		{"copying", Copying, Verdict{Reason: "lag"}, time.Minute},
		{"replaying has a floor", Replaying, Verdict{Reason: "lag"}, replayFloor},
		{"replaying, paused", Replaying, Verdict{Reason: "paused", Pause: true}, time.Minute},
		{"comparing", Comparing, Verdict{Reason: "lag"}, time.Minute},
		{"swapping", Swapping, Verdict{Reason: "lag"}, time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			slots := givenThrottle(stoppedFor(time.Minute, c.verdict))
			slots.replayed = time.Now()
			began, waited := time.Now(), 0
			err := slots.WaitDoing(t.Context(), c.work, func(context.Context) error {
				waited++
				if w := slots.Waiting(); w == nil || w.For != c.verdict.Reason || !w.Since.Equal(began) {
					t.Errorf("%s: waiting %+v", c.name, w)
				}
				return nil
			})
			if took := time.Since(began); err != nil || took != c.want || waited == 0 {
				t.Errorf("%s: waited for %s (%d times), want %s: %v", c.name, took, waited, c.want, err)
			}
			if w := slots.Waiting(); w != nil {
				t.Errorf("%s: still waiting: %+v", c.name, w)
			}
		})
	}
}

// TestWaitThatEnds: what cannot be read stops the work, and a budget, a limit on waiting, the
// end of the context and a failure meanwhile end it.
func TestWaitThatEnds(t *testing.T) {
	t.Parallel()
	const limit = time.Hour + askEvery/2
	failed := errors.New("failed")
	spent := &StoppedError{Reason: "spent"}
	answers := func(err error) func() told {
		return func() told { return func(Work) (Verdict, error) { return Verdict{}, err } }
	}
	lag := func() told { return stoppedFor(time.Hour, Verdict{Reason: "lag"}) }
	for _, c := range []struct {
		name      string
		throttler func() told // made when the clock of the test runs
		giveUp    time.Duration
		meanwhile error
		want      error
		after     time.Duration
	}{
		{"cannot be read", answers(failed), 0, nil, context.DeadlineExceeded, limit},
		{"ends", answers(spent), 0, nil, spent, 0},
		{"gives up", lag, time.Minute, nil, &StoppedError{Reason: "waited for 1m0s: lag"}, time.Minute},
		{"fails meanwhile", lag, 0, failed, failed, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			slots := givenThrottle(c.throttler())
			slots.GiveUpAfter(c.giveUp)
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			began := time.Now()
			err := slots.WaitDoing(ctx, Copying, func(context.Context) error { return c.meanwhile })
			var ended, want *StoppedError
			same := errors.Is(err, c.want) || errors.As(err, &ended) && errors.As(c.want, &want) && ended.Reason == want.Reason
			if took := time.Since(began); !same || took != c.after {
				t.Errorf("%s: %v after %s, want %v after %s", c.name, err, took, c.want, c.after)
			}
			if w := slots.Waiting(); w != nil {
				t.Errorf("%s: still waiting: %+v", c.name, w)
			}
		})
	}
}
