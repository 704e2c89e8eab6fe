// Package window says whether a time lies in hours of the week, such as "Mon-Fri
// 22:00-05:00".
package window

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Windows are hours of the week, in a time zone. A time lies in Windows if it lies in one
// of them.
type Windows struct {
	hours []hours
	zone  *time.Location
}

// hours begin at the same time on each of some days. They end on the same day, or on the
// next one.
type hours struct {
	days       [7]bool // by time.Weekday, of the beginning
	begin, end clock
}

// clock is a time of a day. 24:00 is the end of the day.
type clock struct{ hour, minute int }

// Parse reads windows. Each is "HH:MM-HH:MM", which begins on every day, or has days before
// that, separated by commas: "Sat,Sun 08:00-20:00" or "Mon-Fri 22:00-05:00". A window that
// ends at the time at which it begins, or earlier, ends on the next day.
//
// On a day when clocks are changed, the times are those that the clocks show: a window may
// be an hour longer or shorter.
func Parse(texts []string, zone *time.Location) (Windows, error) {
	w := Windows{zone: zone}
	for _, text := range texts {
		h, err := parse(text)
		if err != nil {
			return Windows{}, fmt.Errorf("window %q: %w; want HH:MM-HH:MM, or days before that, such as: Mon-Fri 22:00-05:00", text, err)
		}
		w.hours = append(w.hours, h)
	}
	return w, nil
}

func parse(text string) (h hours, err error) {
	words := strings.Fields(text)
	switch len(words) {
	case 1:
		for day := range h.days {
			h.days[day] = true
		}
	case 2:
		if h.days, err = parseDays(words[0]); err != nil {
			return h, err
		}
	default:
		return h, fmt.Errorf("%d words", len(words))
	}
	begin, end, ok := strings.Cut(words[len(words)-1], "-")
	if !ok {
		return h, fmt.Errorf("no end")
	}
	if h.begin, err = parseClock(begin); err != nil {
		return h, err
	}
	if h.end, err = parseClock(end); err != nil {
		return h, err
	}
	if h.begin.hour == 24 {
		return h, fmt.Errorf("%s is no time to begin at", begin)
	}
	return h, nil
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func parseDays(text string) (days [7]bool, err error) {
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, to := slices.Index(dayNames, strings.ToLower(first)), slices.Index(dayNames, strings.ToLower(last))
		if from < 0 || to < 0 {
			return days, fmt.Errorf("%q is not one of Mon, Tue, Wed, Thu, Fri, Sat, Sun, or a range of them", part)
		}
		for day := from; ; day = (day + 1) % len(days) {
			days[day] = true
			if day == to {
				break
			}
		}
	}
	return days, nil
}

func parseClock(text string) (clock, error) {
	if text == "24:00" {
		return clock{24, 0}, nil
	}
	t, err := time.Parse("15:04", text)
	if err != nil {
		return clock{}, fmt.Errorf("%q is not a time between 00:00 and 24:00", text)
	}
	return clock{t.Hour(), t.Minute()}, nil
}

// on returns the time at which the clock shows c on the day that is so many days after that
// of t.
func (c clock) on(t time.Time, days int) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day()+days, c.hour, c.minute, 0, 0, t.Location())
}

// span returns the begin and the end of the hours that begin on the day that is so many
// days after that of t, if they do.
func (h hours) span(t time.Time, days int) (begin, end time.Time, ok bool) {
	begin, end = h.begin.on(t, days), h.end.on(t, days)
	if !h.days[(int(t.Weekday())+days+7)%7] {
		return begin, end, false
	}
	if h.end.hour < h.begin.hour || h.end.hour == h.begin.hour && h.end.minute <= h.begin.minute {
		end = h.end.on(t, days+1)
	}
	return begin, end, begin.Before(end) // not if the clocks pass over it
}

// None reports whether there are no windows at all.
func (w Windows) None() bool { return len(w.hours) == 0 }

// Open reports whether t lies in the windows, and until when the windows stay open after t.
// until is the zero time if t lies in none, or if they never close.
func (w Windows) Open(t time.Time) (open bool, until time.Time) {
	t = t.In(w.zone)
	at := t
	for range 2 * len(dayNames) * max(len(w.hours), 1) { // windows that adjoin are one
		end, found := w.end(at)
		if !found {
			break
		}
		open, until, at = true, end, end
	}
	if open && until.Sub(t) > 7*24*time.Hour {
		return true, time.Time{}
	}
	return open, until
}

// end returns the latest end of the windows in which t lies.
func (w Windows) end(t time.Time) (end time.Time, found bool) {
	for _, h := range w.hours {
		for days := -1; days <= 0; days++ {
			begin, ends, ok := h.span(t, days)
			if ok && !t.Before(begin) && t.Before(ends) && ends.After(end) {
				end, found = ends, true
			}
		}
	}
	return end, found
}

// Next returns the time at which the next window opens after t. It is the zero time if
// there are no windows.
func (w Windows) Next(t time.Time) time.Time {
	t = t.In(w.zone)
	var next time.Time
	for _, h := range w.hours {
		for days := range len(dayNames) + 1 {
			begin, _, ok := h.span(t, days)
			if ok && begin.After(t) && (next.IsZero() || begin.Before(next)) {
				next = begin
			}
		}
	}
	return next
}

// Longest returns how long the longest of the windows is. Windows that adjoin count one by one.
func (w Windows) Longest() time.Duration {
	var longest time.Duration
	monday := time.Date(2001, 1, 1, 12, 0, 0, 0, time.UTC) // a week in which no clock is changed
	for _, h := range w.hours {
		for days := range len(dayNames) {
			if begin, end, ok := h.span(monday, days); ok {
				longest = max(longest, end.Sub(begin))
			}
		}
	}
	return longest
}
