package signals

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/repack-go/repack/internal/size"
	"github.com/repack-go/repack/stages/throttle"
)

// walRate stops work while the server writes too much write-ahead log. What the server has written
// in the last second, and what the next piece of work is expected to write, must be within the
// limit. So must they be in the last ten seconds: a large piece is made up for by a longer rest.
type walRate struct {
	current func(context.Context) (int64, error) // where the log is
	limit   int64                                // bytes a second

	mu      sync.Mutex
	ring    []position // the newest last
	allowed *int64     // where the log was when work was last allowed
	pieces  []int64    // what was written from one leave to the next question, the newest last
}

// walWindows are the times for which the limit holds on average.
var walWindows = []time.Duration{time.Second, 10 * time.Second}

const (
	walLongest = 10 * time.Second
	// lastPieces is how many pieces tell what the next one will write.
	lastPieces = 8
)

// Flag implements Signal.
func (w *walRate) Flag() string { return "--max-wal-rate" }

// Ready implements Signal. Every role may read the position of the log.
func (w *walRate) Ready(context.Context) error { return nil }

// look reads the position of the log, unless that was done shortly before.
func (w *walRate) look(ctx context.Context) error {
	if n := len(w.ring); n > 0 && time.Since(w.ring[n-1].at) < lsnEvery {
		return nil
	}
	current, err := w.current(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", w.Flag(), err)
	}
	w.note(position{time.Now(), current})
	return nil
}

// note adds a position, and forgets those that are too old. The newest of them stays, as the one
// at the beginning of the window.
func (w *walRate) note(now position) {
	w.ring = append(w.ring, now)
	begin := now.at.Add(-walLongest)
	old := 0
	for old+1 < len(w.ring) && !w.ring[old+1].at.After(begin) {
		old++
	}
	w.ring = slices.Delete(w.ring, 0, old)
	if w.allowed != nil {
		w.pieces = append(w.pieces, now.lsn-*w.allowed)
		w.pieces = w.pieces[max(len(w.pieces)-lastPieces, 0):]
		w.allowed = nil
	}
}

// since returns how much was written in the last d.
func (w *walRate) since(d time.Duration) int64 {
	last := w.ring[len(w.ring)-1]
	first := last
	for _, p := range slices.Backward(w.ring) {
		first = p
		if !p.at.After(last.at.Add(-d)) {
			break
		}
	}
	return last.lsn - first.lsn
}

// Check implements throttle.Throttler.
func (w *walRate) Check(ctx context.Context, work throttle.Work) (throttle.Verdict, error) {
	if work == throttle.Comparing {
		return throttle.Verdict{}, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.look(ctx); err != nil {
		return throttle.Verdict{}, err
	}
	v := w.verdict()
	if current := w.ring[len(w.ring)-1].lsn; !v.Stop && w.allowed == nil {
		w.allowed = &current
	}
	return v, nil
}

// verdict decides by what was written. A piece of work that alone is too large may begin when half
// of what may be written is left: otherwise it never could.
func (w *walRate) verdict() (v throttle.Verdict) {
	next := int64(0)
	if len(w.pieces) > 0 {
		next = slices.Max(w.pieces)
	}
	for _, window := range walWindows {
		budget := w.limit * int64(window/time.Second)
		used := w.since(window)
		v.Utilisation = max(v.Utilisation, float64(used+2*next)/float64(budget)) // pieces may double
		if used+min(next, budget/2) > budget && !v.Stop {
			v.Stop, v.Reason = true, fmt.Sprintf("the server has written %s of WAL in %s, limit %s a second", size.Text(used), window, size.Text(w.limit))
		}
	}
	return v
}

// nowFor is how long Now measures.
const nowFor = 500 * time.Millisecond

// Now implements Signal.
func (w *walRate) Now(ctx context.Context) (string, error) {
	first, err := w.current(ctx)
	if err != nil {
		return "", err
	}
	began := time.Now()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(nowFor):
	}
	last, err := w.current(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("the server writes %s of WAL a second", size.Text(int64(float64(last-first)/time.Since(began).Seconds()))), nil
}
