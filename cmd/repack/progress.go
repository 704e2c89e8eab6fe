package main

import (
	"context"
	"os"
	"sync"

	"github.com/schollz/progressbar/v3"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/repack-go/repack/repack"
)

func terminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// progress draws the backfill as a bar on a terminal. Elsewhere the log lines
// of the stages have to do.
type progress struct {
	mu    sync.Mutex
	shown bool
	out   any
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
			progressbar.OptionSetWriter(p.out.(*os.File)),
			progressbar.OptionSetDescription("copying blocks"),
			progressbar.OptionShowCount(),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionClearOnFinish())
	}
	_ = p.bar.Set64(now.Blocks) // a bar that cannot be drawn must not end a run
}

func (p *progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Finish()
		p.bar = nil
	}
}
