package pgserver

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Mode says how a server is shut down.
//
// https://www.postgresql.org/docs/current/server-shutdown.html
type Mode string

const (
	// Fast ends every session, rolls back what is open and writes a checkpoint.
	Fast Mode = "fast"
	// Immediate gives up at once, as a crash does; the next start recovers.
	Immediate Mode = "immediate"
)

// stopTimeout bounds a shutdown. The server itself kills what does not end
// within five seconds of an immediate one.
const stopTimeout = 30 * time.Second

// process is a running server. exited is closed once it has ended.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // how it ended; read only after exited is closed
}

// startProcess starts cmd from an operating system thread that does nothing else
// until cmd ends: a parent-death signal is sent when the starting thread ends,
// and the Go runtime may end any other. log is closed when nothing is left to be
// written to it.
func startProcess(cmd *exec.Cmd, log io.Closer) (*process, error) {
	p := &process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.exited)
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// stop signals the process and waits for its end; past stopTimeout it is killed.
func (p *process) stop(mode Mode) error {
	signal := syscall.SIGINT
	if mode == Immediate {
		signal = syscall.SIGQUIT
	}
	if err := p.signal(signal); err != nil {
		return fmt.Errorf("stop server (%s): %w", mode, err)
	}
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	select {
	case <-p.exited:
		return nil
	case <-timeout.C:
	}
	if err := p.signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill server: %w", err)
	}
	<-p.exited
	return fmt.Errorf("stop server (%s): not stopped within %s, killed", mode, stopTimeout)
}

// signal is content with a process that has ended already.
func (p *process) signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}
