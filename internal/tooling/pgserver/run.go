package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// pollInterval is how often a starting server is asked whether it is ready.
	pollInterval = 20 * time.Millisecond
	// logTail is how much of the log an error carries, in bytes.
	logTail = 4096
	// logDrain bounds the wait for the end of the log when a child of the
	// server still holds it open.
	logDrain = 5 * time.Second
)

// Stop shuts the server down and keeps its data for Restart. A stopped server
// stays stopped without an error.
func (s *Server) Stop(mode Mode) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopLocked(mode)
}

func (s *Server) stopLocked(mode Mode) error {
	if s.proc == nil {
		return nil
	}
	err := s.proc.stop(mode)
	s.proc = nil
	return err
}

// Restart starts the server again on its data and its socket, so every
// ConnString stays valid. It first shuts down (Fast) a server that still runs.
// ctx bounds the wait until connections are accepted, recovery included.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stopLocked(Fast); err != nil {
		return fmt.Errorf("restart server: %w", err)
	}
	if err := s.startLocked(ctx); err != nil {
		return fmt.Errorf("restart server: %w", err)
	}
	return nil
}

func (s *Server) start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.startLocked(ctx)
}

// startLocked runs postgres itself and not pg_ctl, so that the server is our
// child: its end is seen at once, and it can be tied to ours.
func (s *Server) startLocked(ctx context.Context) error {
	log, err := os.OpenFile(s.LogFile(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	// No CommandContext: ctx bounds the start, not the server's life.
	cmd := exec.Command(filepath.Join(s.opts.BinDir, "postgres"), "-D", s.dataDir())
	cmd.Dir = s.dir
	cmd.Stderr = s.logWriter(log)
	cmd.WaitDelay = logDrain
	s.account.apply(cmd)
	proc, err := startProcess(cmd, log)
	if err != nil {
		return fmt.Errorf("run postgres as user %s: %w", s.account.name, err)
	}
	if err := s.awaitReady(ctx, proc); err != nil {
		return errors.Join(fmt.Errorf("%w\n%s", err, s.tailOfLog()), proc.stop(Immediate))
	}
	s.proc = proc
	return nil
}

// logWriter returns what the server's standard error goes to. The bare file is
// best: the server then writes to it without a pipe through us.
func (s *Server) logWriter(log *os.File) io.Writer {
	if s.opts.Log == nil {
		return log
	}
	return io.MultiWriter(log, s.opts.Log)
}

// awaitReady connects until the server lets us in, ends, or ctx does.
func (s *Server) awaitReady(ctx context.Context, proc *process) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var last error
	for {
		select {
		case <-proc.exited:
			return fmt.Errorf("server ended while starting: %w", proc.err)
		case <-ctx.Done():
			return fmt.Errorf("wait for server: %w (last answer: %w)", ctx.Err(), last)
		case <-ticker.C:
		}
		if last = s.ping(ctx); last == nil {
			return nil
		}
	}
}

func (s *Server) ping(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.ConnString(Superuser))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

func (s *Server) tailOfLog() []byte {
	log, err := os.ReadFile(s.LogFile())
	if err != nil {
		return []byte(err.Error())
	}
	return log[max(0, len(log)-logTail):]
}
