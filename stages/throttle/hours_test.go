package throttle

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/repack-go/repack/internal/window"
)

func windows(t *testing.T, texts ...string) window.Windows {
	t.Helper()
	w, err := window.Parse(texts, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// The clock of a bubble begins at 2000-01-01 00:00 UTC, a Saturday.
func TestHours(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		hours Hours
		work  Work
		waits time.Duration // until the work may begin; -1: the run ends
	}{
		{"no windows", Hours{}, Copying, 0},
		{"open", Hours{Work: windows(t, "22:00-05:00")}, Copying, 0},
		{"closed", Hours{Work: windows(t, "02:00-05:00")}, Copying, -1},
		{"closed, waits", Hours{Work: windows(t, "02:00-05:00"), Wait: true}, Copying, 2 * time.Hour},
		{"closed for the swap", Hours{Work: windows(t, "22:00-05:00"), Swap: windows(t, "03:00-04:00")}, Swapping, -1},
		{"closed for the swap, waits", Hours{Swap: windows(t, "03:00-04:00"), Wait: true}, Swapping, 3 * time.Hour},
		{"closed for the swap only", Hours{Swap: windows(t, "03:00-04:00")}, Copying, 0},
		{"the swap needs both", Hours{Work: windows(t, "03:30-05:00"), Swap: windows(t, "03:00-04:00"), Wait: true}, Swapping, 3*time.Hour + 30*time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			err := givenThrottle(c.hours).Wait(t.Context(), c.work)
			var ended *StoppedError
			switch took := time.Since(began); {
			case c.waits < 0 && !errors.As(err, &ended):
				t.Errorf("%s: %v after %s, want the run to end", c.name, err, took)
			case c.waits >= 0 && (err != nil || took < c.waits || took > c.waits+2*askEvery):
				t.Errorf("%s: %v after %s, want %s", c.name, err, took, c.waits)
			}
		})
	}
}

func TestEnough(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			windows  []string
			estimate time.Duration
			want     bool
		}{
			{[]string{"22:00-05:00"}, 4 * time.Hour, true},
			{[]string{"22:00-05:00"}, 6 * time.Hour, false},
			{[]string{"22:00-05:00"}, 8 * time.Hour, true}, // it never fits
			{[]string{"00:00-24:00"}, 24 * time.Hour, true},
			{nil, time.Hour, true},
		} {
			if _, got := (Hours{Work: windows(t, c.windows...)}).Enough(c.estimate); got != c.want {
				t.Errorf("%q is enough for %s: %t", c.windows, c.estimate, got)
			}
		}
	})
}

// TestWaitUntil: what does not fit into the window waits for its end, and for the next one.
func TestWaitUntil(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slots := givenThrottle(Hours{Work: windows(t, "00:00-02:00", "05:00-06:00"), Wait: true})
		began := time.Now()
		go func() {
			time.Sleep(time.Minute)
			if w := slots.Waiting(); w == nil || w.For != "too long" {
				t.Errorf("waiting %+v", w)
			}
		}()
		err := slots.WaitUntil(t.Context(), Copying, began.Add(2*time.Hour), "too long")
		if took := time.Since(began); err != nil || took < 5*time.Hour || took > 5*time.Hour+2*askEvery {
			t.Errorf("waited for %s: %v", took, err)
		}
	})
}
