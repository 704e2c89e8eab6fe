package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/repack-go/repack/repack"
)

// TestSeconds: never none, and no more than two units.
func TestSeconds(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "1 s", 1499 * time.Millisecond: "1 s", 1500 * time.Millisecond: "2 s", 119 * time.Second: "119 s", 119500 * time.Millisecond: "2 min 0 s",
		2*time.Hour - time.Second: "119 min 59 s", 2 * time.Hour: "2 h 0 min", 100*time.Hour + 59*time.Minute + 59*time.Second: "100 h 59 min",
	} {
		if got := seconds(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}

func TestPercentOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ n, of, want int64 }{
		{0, 0, 100}, // an empty table is copied
		{0, 3, 0},
		{1, 3, 33},
		{299, 300, 99}, // not all
		{300, 300, 100},
		{301, 300, 100},
		{math.MaxUint32 - 1, math.MaxUint32, 99}, // the largest table
	} {
		if got := percentOf(c.n, c.of); got != c.want {
			t.Errorf("%d of %d: %d %%, want %d", c.n, c.of, got, c.want)
		}
	}
}

func TestETA(t *testing.T) {
	t.Parallel()
	seconds := func(n float64) *float64 { return &n }
	for _, c := range []struct {
		seconds *float64
		want    string
	}{{nil, "-"}, {seconds(0), "0s"}, {seconds(0.9), "0s"}, {seconds(59), "59s"}, {seconds(3725.5), "1h2m5s"}} {
		if got := eta(repack.Status{ETASeconds: c.seconds}); got != c.want {
			t.Errorf("%v: %s, want %s", c.seconds, got, c.want)
		}
	}
}

// TestNameOfTable: as the user has written it, where it is that table's.
func TestNameOfTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ typed, schema, name, want string }{
		{"orders", "public", "orders", "orders"},
		{"App.Orders", "app", "orders", "App.Orders"},
		{`"Orders"`, "public", "Orders", `"Orders"`},
		{`app."Orders"`, "app", "Orders", `app."Orders"`},
		{"orders", "app", "orders_2024", "app.orders_2024"},
		{"app.orders", "other", "orders", "other.orders"},
		{"orders", "my app", `Say "x"`, `"my app"."Say ""x"""`},
		{"orders", "app", "2024", `app."2024"`},
		{"orders", "app", "größe", `app."größe"`},
		{"orders", "select", "user", `"select"."user"`},
		{"orders", "app", "view", "app.view"}, // a keyword that is not reserved
	} {
		if got := (teller{table: c.typed}).name(c.schema, c.name); got != c.want {
			t.Errorf("%s.%s, asked for as %s, is called %s, want %s", c.schema, c.name, c.typed, got, c.want)
		}
	}
}

// TestSessionToWaitFor names a session by what it can be found by.
func TestSessionToWaitFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		w    repack.PlannedWait
		want string
	}{
		{repack.PlannedWait{PID: 7, User: "u", State: "idle in transaction", Seconds: 90}, "pid 7 of u (idle in transaction, begun 1m30s ago)"},
		{repack.PlannedWait{GID: "g 1", User: "u", State: "prepared"}, `prepared transaction "g 1" of u (prepared, begun 0s ago)`},
		{
			repack.PlannedWait{PID: 7, User: "u", State: "active", Lock: "ROW SHARE", Snapshot: true, Query: "SELECT 1"},
			"pid 7 of u (active, begun 0s ago, holds ROW SHARE on the table, holds a snapshot, query: SELECT 1)",
		},
	} {
		if got := session(c.w); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

// TestCarriedNames: a line has room for six names, and with more for five and how many
// are left out.
func TestCarriedNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		names, want string
		full        bool
	}{
		{"a b c d e f", "a, b, c, d, e, f", false},
		{"a b c d e f g", "a, b, c, d, e and 2 more", false},
		{"a b c d e f g", "a, b, c, d, e, f, g", true},
	} {
		var b strings.Builder
		names := strings.Fields(c.names)
		planText{full: c.full}.carried(&b, []repack.PlannedProperty{{Kind: "columns", Count: len(names), Names: names}})
		if got := b.String(); !strings.HasSuffix(got, "  "+c.want+"\n") {
			t.Errorf("%q, want %s at the end", got, c.want)
		}
	}
}

// TestDurations: what Go takes is taken; what people write is answered with what they
// may have meant.
func TestDurations(t *testing.T) {
	t.Parallel()
	flag := find(lockFlags(), "lock-timeout")
	for value, says := range map[string]string{
		"500ms": "", "1h30m": "", "0": "", "0s": "", "-1s": "", "1.5s": "",
		"5":   "did you mean 5ms or 5s?",
		"2.5": "did you mean 2.5ms or 2.5s?",
		"5 s": "did you mean 5s?", "1h 30m": "did you mean 1h30m?",
		"5 minutes": "is not a duration",
		"":          "is not a duration",
		"5d":        "is not a duration",
	} {
		err := check(flag, value)
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", value, err, says)
		}
	}
}

// TestDidYouMean offers the likest word, and none that is not like.
func TestDidYouMean(t *testing.T) {
	t.Parallel()
	known := []string{"table", "dsn", "until", "order-by", "lock-timeout", "lock-retries"}
	for word, want := range map[string]string{
		"tabel": "table", "TABLE": "table", "dns": "dsn", "untilx": "until", "orderby": "order-by", "lock-retry": "lock-retries", "xyz": "", "": "",
	} {
		if want != "" {
			want = "; did you mean --" + want + "?"
		}
		if got := didYouMean(word, known, "--"); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
