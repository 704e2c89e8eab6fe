package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/repack-go/repack/repack"
)

func terminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

const (
	progressEvery = 30 * time.Second       // default of --progress-every
	drawEvery     = 100 * time.Millisecond // between updates of the bar
	defaultWidth  = 80
)

// progress shows how far the backfill is, and then how far the index builds are. On a
// terminal that can overwrite a line, it is one line that is drawn again and again.
// Elsewhere it is a log line from time to time.
//
// The line has no colours and no control character except the carriage return. Log
// output must be written through progress while it runs, so that it does not end up on
// that line.
type progress struct {
	mu    sync.Mutex
	shown bool
	out   io.Writer
	width func() int // width of the terminal; nil: defaultWidth
	line  string     // the line on the screen
	began time.Time  // time of the first drawing of the backfill
	from  int64      // blocks at that time
	drawn time.Time

	tick <-chan time.Time // when to log a line; nil: never
	now  []any            // attributes of that line
	rate time.Duration    // between two lines
	done chan struct{}
	end  sync.Once
}

// newProgress replaces the command's standard error if it draws there.
func newProgress(c *cli.Context) *progress {
	p := &progress{shown: drawable(c.App.ErrWriter, os.Getenv("TERM")) && !c.Bool("quiet"), out: c.App.ErrWriter, rate: cmp.Or(c.Duration("progress-every"), progressEvery)}
	if file, ok := c.App.ErrWriter.(*os.File); ok {
		p.width = func() int {
			width, _, err := term.GetSize(int(file.Fd()))
			if err != nil || width <= 0 {
				return defaultWidth
			}
			return width
		}
	}
	if p.shown {
		c.App.ErrWriter = p
	}
	return p
}

// drawable reports whether w is a terminal on which a line can be overwritten.
func drawable(w io.Writer, kind string) bool { return isTerminal(w) && kind != "dumb" }

// Write writes text above the drawn line. It returns the result of the underlying
// writer.
func (p *progress) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := p.line
	p.put("")
	n, err := p.out.Write(text)
	p.put(line)
	return n, err
}

// hooks returns the hooks through which progress follows a run. Lines go to logger.
func (p *progress) hooks(logger *slog.Logger) repack.Hooks {
	if !p.shown {
		if p.tick == nil {
			ticker := time.NewTicker(p.rate)
			p.tick = ticker.C
		}
		p.done = make(chan struct{})
		go p.log(logger)
	}
	return repack.Hooks{
		BeforeStage: func(_ context.Context, stage repack.Stage) error {
			p.note("stage", stage)
			return nil
		},
		AfterChunk: func(_ context.Context, now repack.Progress) error {
			p.note("stage", repack.Backfill, "percent", percentOf(now.Blocks, now.TotalBlocks), "blocks", now.Blocks, "of", now.TotalBlocks, "rows", now.Rows)
			p.draw(now)
			return nil
		},
		WhileBuilding: func(_ context.Context, builds []repack.IndexBuild) {
			p.note("stage", repack.SyncSchema, "index", builds[0].Index, "phase", phase(builds[0]), "building", len(builds))
			p.drawBuilds(builds)
		},
		AfterStage: func(context.Context, repack.Stage) error {
			p.clear()
			return nil
		},
	}
}

func (p *progress) note(attrs ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = attrs
}

// log writes a line at each tick, until finish.
func (p *progress) log(logger *slog.Logger) {
	for {
		select {
		case <-p.done:
			return
		case <-p.tick:
			p.mu.Lock()
			attrs := p.now
			p.mu.Unlock()
			logger.Info("progress", attrs...)
		}
	}
}

// draw shows blocks, because their number is known. The number of rows is an estimate.
func (p *progress) draw(now repack.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := time.Now()
	if !p.shown || p.line != "" && at.Sub(p.drawn) < drawEvery {
		return
	}
	if p.began.IsZero() {
		p.began, p.from = at, now.Blocks
	}
	text := fmt.Sprintf("copying blocks %3d%% (%d/%d)", percentOf(now.Blocks, now.TotalBlocks), now.Blocks, now.TotalBlocks)
	if copied := now.Blocks - p.from; copied > 0 {
		left := time.Duration(float64(at.Sub(p.began)) * float64(now.TotalBlocks-now.Blocks) / float64(copied))
		text += fmt.Sprintf(", %s left", left.Round(time.Second))
	}
	p.drawn = at
	p.put(text)
}

func percentOf(n, of int64) int64 {
	if of <= 0 {
		return 100
	}
	return min(100*n/of, 100)
}

// drawBuilds shows the phase of the build that began first. A line has no room for all.
func (p *progress) drawBuilds(builds []repack.IndexBuild) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.shown {
		return
	}
	first, percent := builds[0], 0.0
	if first.Percent != nil {
		percent = min(*first.Percent, 99) // another phase may follow
	}
	text := fmt.Sprintf("building %s: %s", first.Index, phase(first))
	if len(builds) > 1 {
		text += fmt.Sprintf(" (and %d more)", len(builds)-1)
	}
	p.put(text + fmt.Sprintf(" %3.0f%%", percent))
}

// put replaces the drawn line. It cuts the text to one column less than the terminal's
// width, because some terminals start a new line after the last column.
func (p *progress) put(line string) {
	width := defaultWidth
	if p.width != nil {
		width = p.width()
	}
	if runes := []rune(line); len(runes) > width-1 {
		line = string(runes[:max(width-1, 0)])
	}
	if line == p.line {
		return
	}
	// The terminal may have become narrower.
	erase := min(utf8.RuneCountInString(p.line), max(width-1, 0)) - utf8.RuneCountInString(line)
	text := "\r" + line + strings.Repeat(" ", max(erase, 0))
	if erase > 0 {
		text += "\r" + line
	}
	_, _ = io.WriteString(p.out, text) // a line that cannot be drawn must not end a run
	p.line = line
}

// clear removes the line.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.put("")
}

// finish clears the line and ends the log lines. It may be called more than once.
func (p *progress) finish() {
	p.clear()
	p.end.Do(func() {
		if p.done != nil {
			close(p.done)
		}
	})
}
