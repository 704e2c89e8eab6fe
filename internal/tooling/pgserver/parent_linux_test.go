package pgserver_test

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
	"syscall"
	"testing"
	"time"

	"github.com/repack-go/repack/internal/tooling/pgserver"
)

// victimEnv makes the test program a process that starts a server and waits to
// be killed.
const victimEnv = "PGSERVER_TEST_VICTIM"

func TestMain(m *testing.M) {
	if parent := os.Getenv(victimEnv); parent != "" {
		os.Exit(victim(parent))
	}
	os.Exit(m.Run())
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	parent := sharedDir(t)
	s := start(t, pgserver.Options{ParentDir: parent})
	pid, err := postmasterPID(s)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wantEmpty(t, parent)
	awaitGone(t, pid)
}

// TestServerDiesWithItsParent kills the process of a server. What it leaves is
// removed by a Sweep, and only then.
func TestServerDiesWithItsParent(t *testing.T) {
	t.Parallel()
	parent := sharedDir(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+parent)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := pgserver.Sweep(parent); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(parent, "*")); len(left) != 1 {
		t.Errorf("of a process that lives there is %v", left)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	awaitGone(t, pid)
	if err := pgserver.Sweep(parent); err != nil {
		t.Error(err)
	}
	wantEmpty(t, parent)
}

// victim prints the server's process id and waits for its own end.
func victim(parent string) int {
	s, err := pgserver.Start(context.Background(), pgserver.Options{ParentDir: parent})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	pid, err := postmasterPID(s)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(pid)
	select {}
}

// postmasterPID reads the first line of the server's own pid file.
func postmasterPID(s *pgserver.Server) (int, error) {
	text, err := os.ReadFile(filepath.Join(s.Dir(), "data", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strconv.Atoi(line)
}

func awaitGone(t *testing.T, pid int) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.After(30 * time.Second)
	for !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		select {
		case <-timeout:
			t.Fatalf("server process %d is still there", pid)
		case <-ticker.C:
		}
	}
}
