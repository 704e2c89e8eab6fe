package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/repack-go/repack/repack"
)

func terminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// progress draws the backfill, and then the index builds, as a bar on a
// terminal. Elsewhere the log lines of the stages have to do.
type progress struct {
	mu    sync.Mutex
	shown bool
	out   io.Writer
	bar   *progressbar.ProgressBar
}

func newProgress(c *cli.Context) *progress {
	return &progress{shown: isTerminal(c.App.ErrWriter) && !c.Bool("quiet"), out: c.App.ErrWriter}
}

func (p *progress) hooks() repack.Hooks {
	if !p.shown {
		return repack.Hooks{}
	}
	return repack.Hooks{
		AfterChunk: func(_ context.Context, now repack.Progress) error {
			p.draw(now)
			return nil
		},
		WhileBuilding: func(_ context.Context, builds []repack.IndexBuild) { p.drawBuilds(builds) },
		AfterStage: func(context.Context, repack.Stage) error {
			p.finish()
			return nil
		},
	}
}

// draw counts blocks, whose number is known: that of rows is an estimate.
func (p *progress) draw(now repack.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(now.TotalBlocks,
			progressbar.OptionSetWriter(p.out),
			progressbar.OptionSetDescription("copying blocks"),
			progressbar.OptionShowCount(),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionClearOnFinish())
	}
	_ = p.bar.Set64(now.Blocks) // a bar that cannot be drawn must not end a run
}

// drawBuilds shows the phase of the build that was begun first: a line has no
// room for all.
func (p *progress) drawBuilds(builds []repack.IndexBuild) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(100, progressbar.OptionSetWriter(p.out), progressbar.OptionSetWidth(20),
			progressbar.OptionSetElapsedTime(false), progressbar.OptionSetPredictTime(false), progressbar.OptionClearOnFinish())
	}
	first := builds[0]
	percent := int64(0)
	if first.Percent != nil {
		// At a hundred the bar would be finished for good, and there may be another phase.
		percent = min(int64(*first.Percent), 99)
	}
	_ = p.bar.Set64(percent)
	text := fmt.Sprintf("building %s: %s", first.Index, phase(first))
	if len(builds) > 1 {
		text += fmt.Sprintf(" (and %d more)", len(builds)-1)
	}
	p.bar.Describe(text)
}

func (p *progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Finish()
		p.bar = nil
	}
}
