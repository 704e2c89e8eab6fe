package throttle

import (
	"context"
	"errors"
	"log/slog"
	"slices"
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
			if w := slots.Waiting(); (w != nil) != (c.want == replayFloor) { // a floor does not end it
				t.Errorf("%s: waiting afterwards: %+v", c.name, w)
			}
		})
	}
}

// TestFloorIsStillWaiting: batches that are replayed while work is stopped neither begin the
// waiting again, nor end it, nor keep the run from giving up.
func TestFloorIsStillWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slots, said := givenThrottle(stoppedFor(12*time.Second, Verdict{Reason: "lag"})), &spoken{}
		slots.log = slog.New(said)
		slots.replayed = time.Now()
		began := time.Now()
		for range 3 { // at 5 s, at 10 s, and when the work goes on
			if err := slots.Wait(t.Context(), Replaying); err != nil {
				t.Fatal(err)
			}
			if w := slots.Waiting(); time.Since(began) < 12*time.Second && (w == nil || !w.Since.Equal(began)) {
				t.Errorf("after %s: waiting %+v, since %s", time.Since(began), w, began)
			}
		}
		if took := time.Since(began); took != 12*time.Second || slots.Waiting() != nil {
			t.Errorf("goes on after %s, waiting %+v", took, slots.Waiting())
		}
		if want := []string{"waiting", "waiting is over"}; !slices.Equal(said.messages, want) {
			t.Errorf("said %q, want %q", said.messages, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		slots := givenThrottle(stoppedFor(time.Hour, Verdict{Reason: "lag"}))
		slots.GiveUpAfter(time.Minute)
		began := time.Now()
		var err error
		for err == nil {
			err = slots.Wait(t.Context(), Replaying)
		}
		var ended *StoppedError
		if took := time.Since(began); !errors.As(err, &ended) || took < time.Minute || took > time.Minute+replayFloor+askEvery {
			t.Errorf("gives up after %s: %v", took, err)
		}
	})
}

// spoken is a slog.Handler that keeps messages.
type spoken struct{ messages []string }

func (s *spoken) Enabled(context.Context, slog.Level) bool { return true }
func (s *spoken) WithAttrs([]slog.Attr) slog.Handler       { return s }
func (s *spoken) WithGroup(string) slog.Handler            { return s }
func (s *spoken) Handle(_ context.Context, r slog.Record) error {
	s.messages = append(s.messages, r.Message)
	return nil
}

// TestVerdicts: an end goes before a stop and a pause, however they are ordered; a pause holds
// the replay although there is another stop; all reasons are told.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	says := func(v Verdict, err error) told { return func(Work) (Verdict, error) { return v, err } }
	stop, pause := says(Verdict{Stop: true, Reason: "lag", Utilisation: 1.5}, nil), says(Verdict{Stop: true, Pause: true, Reason: "paused"}, nil)
	end, goes := says(Verdict{}, &StoppedError{Reason: "told"}), says(Verdict{Utilisation: 0.5}, nil)
	fails := says(Verdict{}, errors.New("unreadable"))
	for _, c := range []struct {
		name string
		asks []Throttler
		want Verdict
		ends bool
	}{
		{"go", []Throttler{goes}, Verdict{Utilisation: 0.5}, false},
		{"stop and end", []Throttler{stop, end}, Verdict{}, true},
		{"stop and pause", []Throttler{stop, pause, fails}, Verdict{Stop: true, Pause: true, Reason: "lag; paused", Utilisation: 1.5}, false},
		{"stop and failure", []Throttler{goes, stop, fails}, Verdict{Stop: true, Reason: "lag; unreadable", Utilisation: 1.5}, false},
	} {
		got, err := givenThrottle(c.asks...).verdict(t.Context(), Copying)
		var ended *StoppedError
		if got != c.want || errors.As(err, &ended) != c.ends {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
}

// TestNearALimit: near a limit, there is one slot, and pieces are small. A piece whose slot came
// late is asked about again.
func TestNearALimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		used, stops := 0.3, [2]time.Duration{2 * time.Minute, 2 * time.Hour} // from when to when
		slots := New(nil, 2, false)
		slots.Obey(slog.New(slog.DiscardHandler), told(func(Work) (Verdict, error) {
			at := time.Since(began)
			return Verdict{Utilisation: used, Stop: at > stops[0] && at < stops[1]}, nil
		}))
		next := func() time.Duration {
			if err := slots.allowed(t.Context(), Copying); err != nil {
				t.Fatal(err)
			}
			return time.Since(began)
		}
		endAt := func(at time.Duration) { time.AfterFunc(at-time.Since(began), slots.End) }
		if next(); next() != 0 || slots.PieceTime(time.Second) != time.Second {
			t.Error("far from the limit, there are not two slots for pieces of a second")
		}
		slots.End()
		slots.End()
		used = 0.6 // twice as much would be too much
		next()
		if got := slots.PieceTime(time.Second); got != time.Second/smaller {
			t.Errorf("near the limit, a piece should take %s", got)
		}
		endAt(time.Minute)
		if at := next(); at != time.Minute {
			t.Errorf("near the limit, a second slot after %s", at)
		}
		endAt(3 * time.Minute) // work is stopped before
		if at := next(); at < stops[1] {
			t.Errorf("a piece begins after %s, though it is stopped when it gets its slot", at)
		}
	})
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
