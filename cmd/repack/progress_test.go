package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/repack-go/repack/repack"
)

func TestProgressOfBuilds(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	p := &progress{shown: true, out: &out}
	percent := func(n float64) *float64 { return &n }
	p.drawBuilds([]repack.IndexBuild{
		{Index: "orders_pkey", Phase: "building index: scanning table", Percent: percent(40)},
		{Index: "orders_note", Phase: "building index: loading tuples in tree", Percent: percent(100)},
	})
	p.drawBuilds([]repack.IndexBuild{{Index: "orders_pkey", Phase: "building index: sorting live tuples"}})
	p.drawBuilds([]repack.IndexBuild{{Index: "orders_pkey", Phase: "building index: loading tuples in tree", Percent: percent(100)}})
	p.finish()
	p.draw(repack.Progress{Blocks: 1, TotalBlocks: 2}) // the backfill has another bar
	p.finish()
	for _, want := range []string{
		"building orders_pkey: scanning table (and 1 more)  40%",
		"building orders_pkey: sorting live tuples   0%",
		"building orders_pkey: loading tuples in tree  99%",
		"copying blocks",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not drawn:\n%q", want, out.String())
		}
	}
}

// screen returns what a terminal shows of text. A carriage return goes back to the
// beginning of the line, and the text after it overwrites the line.
func screen(text string) []string {
	var lines []string
	var line []rune
	at := 0
	for _, c := range text {
		switch c {
		case '\n':
			lines, line, at = append(lines, strings.TrimRight(string(line), " ")), nil, 0
		case '\r':
			at = 0
		default:
			line = append(line[:at], append([]rune{c}, line[min(at+1, len(line)):]...)...)
			at++
		}
	}
	return append(lines, strings.TrimRight(string(line), " "))
}

// TestLogAboveTheProgress logs while a line is drawn, and checks what the terminal
// shows.
func TestLogAboveTheProgress(t *testing.T) {
	t.Parallel()
	for _, width := range []int{20, 40, 80, 200} {
		var out strings.Builder
		p := &progress{shown: true, out: &out, width: func() int { return width }}
		p.draw(repack.Progress{Blocks: 1000, TotalBlocks: 10_000_000})
		_, _ = fmt.Fprintln(p, "a line of the log")
		p.drawBuilds([]repack.IndexBuild{{Index: strings.Repeat("długi", 30), Phase: "sorting"}, {Index: "b"}})
		_, _ = fmt.Fprintln(p, "another")
		for _, part := range strings.FieldsFunc(out.String(), func(c rune) bool { return c == '\r' || c == '\n' }) {
			if n := utf8.RuneCountInString(part); n >= width {
				t.Errorf("%d columns at a width of %d: %q", n, width, part)
			}
		}
		lines := screen(out.String())
		if len(lines) != 3 || lines[0] != "a line of the log" || lines[1] != "another" || !strings.HasPrefix(lines[2], "building długi"[:min(width-1, 8)]) {
			t.Errorf("width %d shows %q", width, lines)
		}
		p.finish()
		if lines := screen(out.String()); lines[len(lines)-1] != "" || strings.ContainsRune(out.String(), '\x1b') {
			t.Errorf("width %d leaves %q", width, out.String())
		}
	}
}

// TestProgressInTheLog checks the log lines that progress writes where there is no
// terminal.
func TestProgressInTheLog(t *testing.T) {
	t.Parallel()
	read, write := io.Pipe()
	t.Cleanup(func() { _ = read.Close() }) // which ends the reader
	tick := make(chan time.Time)
	p := &progress{out: write, tick: tick}
	hooks := p.hooks(slog.New(slog.NewTextHandler(write, nil)))
	lines := make(chan string)
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := read.Read(buffer)
			if err != nil {
				return
			}
			lines <- string(buffer[:n])
		}
	}()
	for _, c := range []struct {
		event func() error
		want  string
	}{
		{func() error { return hooks.BeforeStage(t.Context(), repack.Setup) }, "stage=setup"},
		{func() error {
			return hooks.AfterChunk(t.Context(), repack.Progress{Blocks: 5, TotalBlocks: 20, Rows: 77})
		}, "stage=backfill percent=25 blocks=5 of=20 rows=77"},
		{func() error { return nil }, "percent=25"},
		{func() error { return hooks.BeforeStage(t.Context(), repack.Swap) }, "stage=swap"},
	} {
		if err := c.event(); err != nil {
			t.Fatal(err)
		}
		tick <- time.Now()
		if line := <-lines; !strings.Contains(line, "msg=progress "+c.want) && !strings.Contains(line, c.want) || strings.ContainsRune(line, '\r') {
			t.Errorf("logged %q, want %s", line, c.want)
		}
	}
	p.finish()
	p.finish()
}

func TestGained(t *testing.T) {
	t.Parallel()
	longest := 42 * time.Millisecond
	for _, c := range []struct {
		o    repack.Outcome
		want string
	}{
		{repack.Outcome{Before: 418 << 30, After: 139 << 30, Took: 19 * time.Second, LongestLock: &longest}, "418 GB → 139 GB (279 GB, 67 %) in 19 s; longest lock 42 ms"},
		{repack.Outcome{Before: 100 << 20, After: 100 << 20, Took: 200 * time.Millisecond}, "100 MB → 100 MB (0 bytes, 0 %) in 1 s"},
		{repack.Outcome{Before: 8192, After: 16384, Took: 192 * time.Second}, "8192 bytes → 16 kB (-8192 bytes, -100 %) in 3 min 12 s"},
		{repack.Outcome{Before: 31 << 20, After: 31<<20 + 16<<10, Took: time.Second}, "31 MB → 31 MB (-16 kB, 0 %) in 1 s"},
		{repack.Outcome{Took: 4 * time.Hour}, "repacked in 4 h 0 min"},
	} {
		if got := gained(c.o); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
