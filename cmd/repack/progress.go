package main

import (
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
	progressEvery = 30 * time.Second       // between lines where there is no bar
	drawEvery     = 100 * time.Millisecond // between pictures of the bar
	defaultWidth  = 80
)

// progress shows how far the backfill, and then the index builds, are: as one
// line that is drawn over, on a terminal that can do that, elsewhere as a line
// of the log now and then. Its line has no colour, nor any other control
// character than the carriage return. What is logged meanwhile is to be written
// through it, so that it does not come to stand on that line.
type progress struct {
	mu    sync.Mutex
	shown bool
	out   io.Writer
	width func() int // of the terminal; nil: defaultWidth
	line  string     // on the screen
	began time.Time  // of the backfill's first picture
	from  int64      // blocks then
	drawn time.Time

	tick <-chan time.Time // when to log a line; nil: never
	now  []any            // attributes of that line
	done chan struct{}
	end  sync.Once
}

// newProgress takes the place of the command's standard error, where it draws.
func newProgress(c *cli.Context) *progress {
	p := &progress{shown: drawable(c.App.ErrWriter, os.Getenv("TERM")) && !c.Bool("quiet"), out: c.App.ErrWriter}
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

// drawable reports whether w is a terminal on which a line can be drawn over.
func drawable(w io.Writer, kind string) bool { return isTerminal(w) && kind != "dumb" }

// Write writes above the line that is drawn.
func (p *progress) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := p.line
	p.put("")
	n, err := p.out.Write(text)
	p.put(line)
	return n, err
}

// hooks are those by which it hears of a run; lines go to logger.
func (p *progress) hooks(logger *slog.Logger) repack.Hooks {
	if !p.shown {
		if p.tick == nil {
			ticker := time.NewTicker(progressEvery)
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

// log writes a line with each tick, until finish.
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

// draw counts blocks, whose number is known: that of rows is an estimate.
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

// drawBuilds shows the phase of the build that was begun first: a line has no
// room for all.
func (p *progress) drawBuilds(builds []repack.IndexBuild) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.shown {
		return
	}
	first, percent := builds[0], 0.0
	if first.Percent != nil {
		percent = min(*first.Percent, 99) // there may be another phase
	}
	text := fmt.Sprintf("building %s: %s", first.Index, phase(first))
	if len(builds) > 1 {
		text += fmt.Sprintf(" (and %d more)", len(builds)-1)
	}
	p.put(text + fmt.Sprintf(" %3.0f%%", percent))
}

// put draws over the line what fits into the terminal, one column less: in the
// last one some terminals begin another line.
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
	// The terminal may be narrower than it was.
	erase := min(utf8.RuneCountInString(p.line), max(width-1, 0)) - utf8.RuneCountInString(line)
	text := "\r" + line + strings.Repeat(" ", max(erase, 0))
	if erase > 0 {
		text += "\r" + line
	}
	_, _ = io.WriteString(p.out, text) // a line that cannot be drawn must not end a run
	p.line = line
}

// clear takes the line away.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.put("")
}

// finish is clear at the end, after which no line is logged.
func (p *progress) finish() {
	p.clear()
	p.end.Do(func() {
		if p.done != nil {
			close(p.done)
		}
	})
}
