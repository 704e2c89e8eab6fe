package signals

import (
	"strings"
	"testing"
	"time"
)

// TestLag follows a server that writes a thousand bytes a second, and standbys that replay up to a
// position.
func TestLag(t *testing.T) {
	t.Parallel()
	state := "streaming"
	began := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	at := func(seconds int) position {
		return position{began.Add(time.Duration(seconds) * time.Second), int64(seconds) * 1000}
	}
	upTo := func(lsn int64) standby { return standby{Name: "sb", State: &state, Received: true, Replayed: &lsn} }
	minute, second := time.Minute, time.Second
	with := func(s standby, lag *time.Duration) standby { s.Lag = lag; return s }
	for _, c := range []struct {
		name     string
		standby  standby
		seconds  int // that have been watched
		idle     int // seconds of rest before the last position
		want     time.Duration
		replayed bool
	}{
		{"in step", upTo(100_000), 100, 0, 0, true},
		{"ten seconds", upTo(90_000), 100, 0, 10 * second, false},
		{"between two positions", upTo(90_500), 100, 0, 10 * second, false},
		{"stands still since before", upTo(-1), 100, 0, 100 * second, false},
		{"one reading, the server knows", with(upTo(-1), &minute), 0, 0, minute, false},
		{"in step, though the server's figure is old", with(upTo(100_000), &minute), 100, 0, 0, true},
		{"the server's figure does not grow", with(upTo(50_000), &second), 100, 0, 50 * second, false},
		{"after a rest", upTo(100_000), 100, 3600, second, false},
	} {
		l := &lag{limit: 10 * second}
		var got []standby
		var err error
		for s := range c.seconds + 1 {
			got, err = l.measure([]standby{c.standby}, at(s))
		}
		if c.idle > 0 { // the server writes nothing, and then the first bytes
			last := at(c.seconds)
			for range c.idle {
				last.at = last.at.Add(second)
				if got, err = l.measure([]standby{c.standby}, last); err != nil || got[0].behind != 0 {
					t.Errorf("%s: behind while nothing is written: %+v, %v", c.name, got, err)
				}
			}
			last.at, last.lsn = last.at.Add(second), last.lsn+1
			got, err = l.measure([]standby{c.standby}, last)
		}
		if err != nil || got[0].behind != c.want || (got[0].bytes == 0) != c.replayed {
			t.Errorf("%s: %+v, %v; want %s", c.name, got, err, c.want)
		}
		if v := l.verdict(got); v.Stop != (c.want > l.limit) {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
}

// TestLagOfADay: the lag of a standby that stands still is right however long that takes, the ring
// is bounded, and it is small again when the standby has caught up.
func TestLagOfADay(t *testing.T) {
	t.Parallel()
	l := &lag{limit: time.Second}
	state := "streaming"
	replayed := int64(5)
	now := position{at: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)}
	const day = 24 * 60 * 60
	var got []standby
	for range day {
		now.at, now.lsn = now.at.Add(time.Second), now.lsn+1
		got, _ = l.measure([]standby{{Name: "sb", State: &state, Replayed: &replayed}}, now)
		if len(l.ring) > mostPositions {
			t.Fatalf("%d positions are kept", len(l.ring))
		}
	}
	if want := (day - 5) * time.Second; got[0].behind < want || got[0].behind > want+10*time.Second {
		t.Errorf("behind for %s, want %s", got[0].behind, want)
	}
	replayed = now.lsn
	now.at, now.lsn = now.at.Add(time.Second), now.lsn+1
	if got, _ = l.measure([]standby{{Name: "sb", State: &state, Replayed: &replayed}}, now); got[0].behind > 10*time.Second || len(l.ring) > 200 {
		t.Errorf("behind for %s with %d positions, when it has caught up", got[0].behind, len(l.ring))
	}
}

// TestLagThatIsNotKnown: what the role may not see, and what a standby has not said yet, is an
// error, and not "no lag". A receiver replays nothing, and is no standby.
func TestLagThatIsNotKnown(t *testing.T) {
	t.Parallel()
	streaming, replayed := "streaming", int64(1)
	now := position{at: time.Now(), lsn: 10}
	for _, c := range []struct {
		name    string
		standby standby
		says    string
		left    int
	}{
		{"hidden", standby{Name: "sb"}, "the role sees sb, but not how far it is", 0},
		{"silent", standby{Name: "sb", State: &streaming}, "sb has not said yet", 0},
		{"a receiver", standby{Name: "pg_receivewal", State: &streaming, Received: true}, "", 0},
		{"a standby", standby{Name: "sb", State: &streaming, Received: true, Replayed: &replayed}, "", 1},
	} {
		list, err := (&lag{limit: time.Second}).measure([]standby{c.standby}, now)
		if len(list) != c.left || (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %+v, %v", c.name, list, err)
		}
	}
	if v := (&lag{expect: 1}).verdict(nil); !v.Stop || v.Reason != "connected replicas: 0, expected: 1" {
		t.Errorf("a standby is missing: %+v", v)
	}
}
