package throttle

import (
	"testing"
	"time"
)

// TestFreshSamples: samples from before a long pause do not tell whether the application
// is at work now.
func TestFreshSamples(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration, active int) activity { return activity{Active: active, at: now.Add(-d)} }
	for _, c := range []struct {
		name string
		seen []activity
		want int
		busy bool
	}{
		{"one", []activity{ago(0, 1)}, 1, true},
		{"all new", []activity{ago(2*lookEvery, 1), ago(lookEvery, 0), ago(0, 0)}, 3, true},
		{"as many as count", []activity{ago(5*lookEvery, 9), ago(4*lookEvery, 0), ago(3*lookEvery, 0), ago(2*lookEvery, 0), ago(lookEvery, 0), ago(0, 0)}, lookBack, false},
		{"old ones", []activity{ago(time.Hour, 9), ago(2*stale, 9), ago(0, 0)}, 1, false},
	} {
		got := fresh(c.seen, now)
		if len(got) != c.want || busy(got) != c.busy {
			t.Errorf("%s: %d samples, busy %t; want %d, %t", c.name, len(got), busy(got), c.want, c.busy)
		}
	}
}
