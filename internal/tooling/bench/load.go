package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// loadScript updates single rows, chosen at random.
const loadScript = `\set id random(1, %d)
UPDATE t SET amount = amount + 1 WHERE id = :id
`

// load is pgbench at work until it is stopped, as it logs every statement.
type load struct {
	cmd        *exec.Cmd
	dir        string
	output     strings.Builder
	statements []statement // once it has been stopped
}

// statement is one that has ended.
type statement struct {
	end  time.Time
	took time.Duration
}

// startLoad has clients update up to rate rows a second together; zero: as many
// as they can.
func (b *bench) startLoad(ctx context.Context, clients int, rate float64) (l *load, err error) {
	dir, err := os.MkdirTemp("", "repack-bench-load-")
	if err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	l = &load{dir: dir}
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, fmt.Appendf(nil, loadScript, b.rows), 0o600); err != nil {
		return nil, fmt.Errorf("write script: %w", err)
	}
	args := []string{
		"--no-vacuum", "--protocol", "prepared", "--time", "86400", "--client", strconv.Itoa(clients), "--jobs", strconv.Itoa(min(clients, 2)),
		"--log", "--log-prefix", filepath.Join(dir, "log"), "--file", script,
	}
	if rate > 0 {
		args = append(args, "--rate", strconv.FormatFloat(rate, 'f', 0, 64))
	}
	l.cmd = exec.CommandContext(ctx, filepath.Join(b.server.BinDir(), "pgbench"), append(args, copied)...)
	if l.cmd.Env, err = b.environment(); err != nil {
		return nil, err
	}
	l.cmd.Stdout, l.cmd.Stderr = &l.output, &l.output
	if err := l.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start pgbench: %w", err)
	}
	return l, nil
}

// unwritten is how long a line of the log may take to get to its file.
const unwritten = 500 * time.Millisecond

// stop ends the load and reads what it has logged.
func (l *load) stop() (err error) {
	defer func() { err = errors.Join(err, os.RemoveAll(l.dir)) }()
	time.Sleep(unwritten)
	_ = l.cmd.Process.Signal(os.Interrupt) // an error means that it has ended
	_ = l.cmd.Wait()                       // it was told to end, and says so
	logs, err := filepath.Glob(filepath.Join(l.dir, "log.*"))
	if err != nil {
		return fmt.Errorf("list logs: %w", err)
	}
	for _, path := range logs {
		if err := l.read(path); err != nil {
			return err
		}
	}
	if len(l.statements) == 0 {
		return fmt.Errorf("pgbench has done nothing: %s", l.output.String())
	}
	return nil
}

// read takes what one thread has logged. How long a statement took begins, with
// a rate, when it was due: by the last column earlier than it was sent. The last
// line may be cut off.
func (l *load) read(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var client, transaction, took, script, second, micros, late int64
		n, _ := fmt.Sscan(lines.Text(), &client, &transaction, &took, &script, &second, &micros, &late) // n says it all
		if n >= 6 {
			l.statements = append(l.statements, statement{time.Unix(second, micros*1000), time.Duration(took-late) * time.Microsecond})
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	return nil
}

// spell is what a load came to in a span of time.
type spell struct {
	perSecond float64
	longest   time.Duration
}

// between looks at a load that has been stopped.
func (l *load) between(from, to time.Time) (s spell) {
	count := 0
	for _, done := range l.statements {
		if !done.end.Before(from) && done.end.Before(to) {
			count++
			s.longest = max(s.longest, done.took)
		}
	}
	s.perSecond = float64(count) / to.Sub(from).Seconds()
	return s
}

// warm is how long a load gets to get going.
const warm = time.Second

// spellOf has a load go on for as long as the flag says, after a while to get
// going, and returns the span.
func (b *bench) spellOf(ctx context.Context) (from, to time.Time, err error) {
	for _, d := range []time.Duration{warm, b.seconds} {
		from = to
		select {
		case <-ctx.Done():
			return from, to, ctx.Err()
		case <-time.After(d):
		}
		to = time.Now()
	}
	return from, to, nil
}

// under measures so many clients without anybody beside them.
func (b *bench) under(ctx context.Context, clients int) (spell, error) {
	l, err := b.startLoad(ctx, clients, 0)
	if err != nil {
		return spell{}, err
	}
	from, to, err := b.spellOf(ctx)
	if err := errors.Join(err, l.stop()); err != nil {
		return spell{}, err
	}
	return l.between(from, to), nil
}
