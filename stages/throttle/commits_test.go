package throttle

import (
	"testing"
	"time"
)

// TestCommits sends no query to the server, because there is a fresh answer.
func TestCommits(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name    string
		flushed time.Time
		active  int
		waits   bool
	}{
		{"the first", time.Time{}, 0, true},
		{"shortly after", now, 0, false},
		{"the application is at work", now, 1, true},
		{"it is time", now.Add(-flushEvery), 0, true},
	} {
		slots := New(nil, 2, false)
		slots.flushed, slots.seen = c.flushed, []activity{{Active: c.active, at: time.Now()}}
		got, err := slots.Commits(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if waits := len(got) == 0; waits != c.waits {
			t.Errorf("%s: waits %t, want %t", c.name, waits, c.waits)
		}
		if c.waits && c.active == 0 {
			if next, _ := slots.Commits(t.Context()); len(next) == 0 {
				t.Errorf("%s: the next one waits as well", c.name)
			}
		}
	}
}
