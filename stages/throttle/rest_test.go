package throttle

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestBusy: the application is at work from a quarter of a session on, and from a
// hundred transactions a second on where some of its sessions are hidden from us.
func TestBusy(t *testing.T) {
	t.Parallel()
	now := time.Now()
	after := func(d time.Duration, a activity) activity { a.at = now.Add(d); return a }
	written := func(hidden int, xid int64) []activity {
		return []activity{after(0, activity{Hidden: hidden, XID: 1000}), after(500*time.Millisecond, activity{Hidden: hidden, XID: 1000 + xid})}
	}
	for _, c := range []struct {
		name string
		seen []activity
		want bool
	}{
		{"nobody", []activity{{}}, false},
		{"one session", []activity{{Active: 1}}, true},
		{"one of four times", []activity{{Active: 1}, {}, {}, {}}, true},
		{"one of five times", []activity{{}, {}, {}, {}, {Active: 1}}, false},
		{"two of five times", []activity{{Active: 2}, {}, {}, {}, {}}, true},
		{"hidden, 100 a second", written(1, 50), true},
		{"hidden, 98 a second", written(1, 49), false},
		{"hidden, no writes", written(1, 0), false},
		{"writes of sessions that are shown", written(0, 1_000_000), false},
		{"hidden until now", []activity{after(0, activity{Hidden: 1}), after(time.Second, activity{XID: 1_000_000})}, false},
		{"hidden, seen once", []activity{after(0, activity{Hidden: 1, XID: 1_000_000})}, false},
	} {
		if got := busy(c.seen); got != c.want {
			t.Errorf("%s: busy %t", c.name, got)
		}
	}
}

// TestChunkRests: a slot is given back after its chunk, whatever that came to, and
// the rest after it is as long as the chunk was, but no longer than one is meant to be.
func TestChunkRests(t *testing.T) {
	t.Parallel()
	failed := errors.New("failed")
	for _, c := range []struct {
		name       string
		took, rest time.Duration
		more       bool
		err        error
	}{
		{"short", 30 * time.Millisecond, 30 * time.Millisecond, true, nil},
		{"as long as is meant", ChunkTime, ChunkTime, true, nil},
		{"has waited", time.Hour, ChunkTime, true, nil},
		{"the last", time.Millisecond, time.Millisecond, false, nil},
		{"failed", time.Second, ChunkTime, false, failed},
	} {
		synctest.Test(t, func(t *testing.T) {
			slots := New(nil, 1, false)
			more, err := slots.Chunk(t.Context(), Copying, func() (bool, error) {
				if slots.try(1) {
					t.Errorf("%s: a second slot of one", c.name)
				}
				time.Sleep(c.took)
				return c.more, c.err
			})
			if more != c.more || !errors.Is(err, c.err) {
				t.Errorf("%s: more %t, %v", c.name, more, err)
			}
			if rest := slots.rest(); rest != c.rest {
				t.Errorf("%s: rests for %s, want %s", c.name, rest, c.rest)
			}
			if !slots.try(1) {
				t.Errorf("%s: the slot has not been given back", c.name)
			}
		})
	}
}

// TestChunkWithoutASlot does no work once the context has ended.
func TestChunkWithoutASlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slots := New(nil, 1, false)
		if !slots.try(1) {
			t.Fatal("no slot is free")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		more, err := slots.Chunk(ctx, Copying, func() (bool, error) {
			t.Error("works without a slot")
			return true, nil
		})
		if waited := time.Since(began); more || !errors.Is(err, context.DeadlineExceeded) || waited != time.Minute {
			t.Errorf("more %t, %v after %s", more, err, waited)
		}
	})
}
