package signals

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/repack-go/repack/internal/size"
	"github.com/repack-go/repack/stages/throttle"
)

// command stops work while a command says that too little is free.
type command struct {
	text  string
	limit int64
	clock clock[int64]
}

const (
	commandEvery = 10 * time.Second
	commandFor   = 10 * time.Second
	// commandEnds is how long what the command has started may hold its output open.
	commandEnds = time.Second
)

// Flag implements Signal.
func (c *command) Flag() string { return "--free-disk-command" }

// Ready implements Signal.
func (c *command) Ready(ctx context.Context) error {
	if c.limit <= 0 {
		return refused(c.Flag(), "it needs --min-free-disk, a size that its output is compared with", "give both")
	}
	if _, err := c.read(ctx); err != nil && ctx.Err() == nil {
		return refused(c.Flag(), err.Error(), "its first line must be a number of bytes")
	}
	return ctx.Err()
}

func (c *command) read(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, commandFor)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", c.text)
	cmd.WaitDelay = commandEnds
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", c.Flag(), said(ctx, err))
	}
	first, _, _ := bytes.Cut(out, []byte("\n"))
	free, err := strconv.ParseInt(strings.TrimSpace(string(first)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: the first line is no number of bytes: %q", c.Flag(), first)
	}
	return free, nil
}

// said adds what a command that failed has written to its standard error.
func said(ctx context.Context, err error) error {
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("it takes longer than %s: %w", commandFor, err)
	case errors.As(err, &exit) && len(exit.Stderr) > 0:
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}

// Check implements throttle.Throttler.
func (c *command) Check(ctx context.Context, work throttle.Work) (throttle.Verdict, error) {
	if work == throttle.Comparing {
		return throttle.Verdict{}, nil
	}
	free, err := c.clock.read(ctx, commandEvery, c.read)
	if err != nil {
		return throttle.Verdict{}, err
	}
	return throttle.Verdict{
		Stop: free < c.limit, Reason: fmt.Sprintf("%s are free, limit %s", size.Text(free), size.Text(c.limit)),
		Utilisation: float64(c.limit) / float64(max(free, 1)),
	}, nil
}

// Now implements Signal.
func (c *command) Now(ctx context.Context) (string, error) {
	free, err := c.read(ctx)
	return size.Text(free) + " are free", err
}
