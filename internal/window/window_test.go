package window_test

import (
	"testing"
	"time"

	"github.com/repack-go/repack/internal/window"
)

func zone(t *testing.T) *time.Location {
	t.Helper()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return berlin
}

const layout = "2006-01-02 15:04"

func TestOpen(t *testing.T) {
	t.Parallel()
	berlin := zone(t)
	for _, c := range []struct {
		windows []string
		at      string // 2026-11-27 is a Friday
		until   string // empty: closed; "always": does not close
		next    string
	}{
		{[]string{"22:00-05:00"}, "2026-11-27 21:59", "", "2026-11-27 22:00"},
		{[]string{"22:00-05:00"}, "2026-11-27 22:00", "2026-11-28 05:00", "2026-11-28 22:00"},
		{[]string{"22:00-05:00"}, "2026-11-28 04:59", "2026-11-28 05:00", "2026-11-28 22:00"},
		{[]string{"22:00-05:00"}, "2026-11-28 05:00", "", "2026-11-28 22:00"},
		{[]string{"Mon-Fri 22:00-05:00"}, "2026-11-28 04:00", "2026-11-28 05:00", "2026-11-30 22:00"},
		{[]string{"Mon-Fri 22:00-05:00"}, "2026-11-28 23:00", "", "2026-11-30 22:00"},
		{[]string{"Fri-Mon 10:00-11:00"}, "2026-11-29 10:30", "2026-11-29 11:00", "2026-11-30 10:00"},
		{[]string{"Fri-Mon 10:00-11:00"}, "2026-12-01 10:30", "", "2026-12-04 10:00"},
		{[]string{"sat,SUN 00:00-24:00"}, "2026-11-28 12:00", "2026-11-30 00:00", "2026-11-29 00:00"},
		{[]string{"22:00-24:00", "00:00-02:00"}, "2026-11-27 23:00", "2026-11-28 02:00", "2026-11-28 00:00"},
		{[]string{"00:00-24:00"}, "2026-11-27 23:00", "always", "2026-11-28 00:00"},
		{[]string{"12:00-12:00"}, "2026-11-27 12:00", "always", "2026-11-28 12:00"},
		{nil, "2026-11-27 12:00", "", ""},
	} {
		w, err := window.Parse(c.windows, berlin)
		if err != nil {
			t.Fatalf("%q: %v", c.windows, err)
		}
		at, err := time.ParseInLocation(layout, c.at, berlin)
		if err != nil {
			t.Fatal(err)
		}
		open, until := w.Open(at.UTC())
		got := ""
		switch {
		case open && until.IsZero():
			got = "always"
		case open:
			got = until.Format(layout)
		}
		if got != c.until {
			t.Errorf("%q at %s is open until %q, want %q", c.windows, c.at, got, c.until)
		}
		got = ""
		if next := w.Next(at.UTC()); !next.IsZero() {
			got = next.Format(layout)
		}
		if got != c.next {
			t.Errorf("%q opens after %s at %q, want %q", c.windows, c.at, got, c.next)
		}
	}
}

// On the days when clocks are changed, a window is as long as the clocks show.
func TestOpenWhenClocksChange(t *testing.T) {
	t.Parallel()
	berlin := zone(t)
	for _, c := range []struct {
		window, begins string
		want           time.Duration
	}{
		{"01:00-05:00", "2026-03-29 01:00", 3 * time.Hour},
		{"01:00-05:00", "2026-10-25 01:00", 5 * time.Hour},
		{"01:00-05:00", "2026-11-27 01:00", 4 * time.Hour},
		{"22:00-05:00", "2026-03-28 22:00", 6 * time.Hour},
	} {
		w, err := window.Parse([]string{c.window}, berlin)
		if err != nil {
			t.Fatal(err)
		}
		begins, err := time.ParseInLocation(layout, c.begins, berlin)
		if err != nil {
			t.Fatal(err)
		}
		if open, _ := w.Open(begins.Add(-time.Second)); open {
			t.Errorf("%s is open before %s", c.window, c.begins)
		}
		if _, until := w.Open(begins); until.Sub(begins) != c.want {
			t.Errorf("%s is open for %s from %s on, want %s", c.window, until.Sub(begins), c.begins, c.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "22:00", "22-05", "25:00-26:00", "Mo 22:00-05:00", "Mon- 22:00-05:00", "Mon-Fri", "24:00-05:00", "Mon Tue 22:00-05:00"} {
		if _, err := window.Parse([]string{text}, time.UTC); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
