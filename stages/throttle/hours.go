package throttle

import (
	"context"
	"fmt"
	"time"

	"github.com/repack-go/repack/internal/window"
)

// Hours is a Throttler that lets work begin at certain hours of the week only.
type Hours struct {
	// Work are the hours of all work, and Swap those of the swap. No windows: always.
	Work, Swap window.Windows
	// Wait makes the run stay at work outside the hours. Otherwise it ends.
	Wait bool
}

// Check implements Throttler.
func (h Hours) Check(_ context.Context, work Work) (Verdict, error) {
	if verdict, err := h.check("the window", h.Work, time.Now()); verdict.Stop || err != nil {
		return verdict, err
	}
	if work == Swapping {
		return h.check("the window of the swap", h.Swap, time.Now())
	}
	return Verdict{}, nil
}

func (h Hours) check(what string, windows window.Windows, now time.Time) (Verdict, error) {
	if windows.None() {
		return Verdict{}, nil
	}
	if open, _ := windows.Open(now); open {
		return Verdict{}, nil
	}
	reason := fmt.Sprintf("%s is closed, and opens at %s", what, windows.Next(now).Format("Mon 2006-01-02 15:04 MST"))
	if !h.Wait {
		return Verdict{}, &StoppedError{Reason: reason}
	}
	return Verdict{Stop: true, Reason: reason}, nil
}

// Enough reports whether work that is estimated to take so long ends before the window closes.
// It is also true if no window is as long as that: otherwise the work would never begin.
func (h Hours) Enough(estimate time.Duration) (closes time.Time, enough bool) {
	now := time.Now()
	open, until := h.Work.Open(now)
	if !open || until.IsZero() || estimate > h.Work.Longest() {
		return until, true
	}
	return until, now.Add(estimate).Before(until)
}
