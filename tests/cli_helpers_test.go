package tests

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// binary is the program, built once.
var binary = sync.OnceValues(func() ([]byte, error) {
	directory, err := os.MkdirTemp("", "repack-build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(directory)
	path := filepath.Join(directory, "repack")
	out, err := exec.Command("go", "build", "-o", path, "github.com/repack-go/repack/cmd/repack").CombinedOutput()
	if err != nil {
		return nil, errors.New(string(out))
	}
	return os.ReadFile(path)
})

// process is the program, with its output.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
}

// command prepares the program with no connection but what env and args say.
func command(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	program, err := binary()
	if err != nil {
		t.Fatalf("build repack: %v", err)
	}
	path := filepath.Join(t.TempDir(), "repack")
	// A process forked while the file is open for writing would keep it "busy".
	syscall.ForkLock.RLock()
	err = os.WriteFile(path, program, 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	t.Cleanup(cancel)
	p := &process{cmd: exec.CommandContext(ctx, path, args...)}
	p.cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "REPACK_DSN=") || strings.HasPrefix(v, "DATABASE_URL=")
	}), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	return p
}

func (p *process) start(t *testing.T) {
	t.Helper()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// wait returns the exit code, -1 when the program was killed.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// cli runs the program against db and wants an exit code.
func cli(t *testing.T, db *pgtest.Database, code int, args ...string) *process {
	t.Helper()
	p := command(t, []string{"REPACK_DSN=" + db.DSN}, args...)
	p.start(t)
	if got := p.wait(t); got != code {
		t.Errorf("repack %q: exit code %d, want %d\nstdout: %s\nstderr: %s", args, got, code, p.stdout.String(), p.stderr.String())
	}
	return p
}

// says fails the test unless the program's standard error has all the words.
func (p *process) says(t *testing.T, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(p.stderr.String(), word) {
			t.Errorf("standard error does not say %q:\n%s", word, p.stderr.String())
		}
	}
}
