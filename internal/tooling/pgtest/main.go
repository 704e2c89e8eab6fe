package pgtest

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/repack-go/repack/internal/tooling/pgserver"
)

// startTimeout bounds initdb and the first start on a busy machine.
const startTimeout = 2 * time.Minute

// shared is the server of this test process.
var shared struct {
	mu     sync.Mutex
	server *pgserver.Server
	err    error // of the one attempt to start it
}

// atOnce is how many parallel tests run at a time, at least: half of the time a
// test does nothing but wait for locks, snapshots and other sessions.
const atOnce = 4

// Main runs the tests of a package and then closes the server they shared. If a goroutine
// of the tests is left, the tests fail. Main does not return: it ends the process with the
// tests' exit code.
func Main(m *testing.M) {
	flag.Parse()
	if err := moreAtOnce(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		os.Exit(1)
	}
	before := goleak.IgnoreCurrent()
	code := m.Run()
	err := closeShared()
	if err == nil && code == 0 {
		err = goleak.Find(before)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func closeShared() error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil {
		return nil
	}
	return shared.server.Close()
}

// moreAtOnce changes go test's default, one test for each processor. What -parallel
// says holds.
func moreAtOnce() error {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", strconv.Itoa(max(atOnce, runtime.GOMAXPROCS(0))))
}

// sharedServer starts the server for the first test that asks. A start that
// went wrong is not tried again for each test.
func sharedServer(t testing.TB) *pgserver.Server {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil && shared.err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		o := serverOptions(nil)
		shared.server, shared.err = pgserver.Start(ctx, o)
		if err := pgserver.Sweep(cmp.Or(o.ParentDir, os.TempDir())); err != nil {
			t.Logf("pgtest: remove what earlier tests have left: %v", err)
		}
	}
	if shared.err != nil {
		t.Fatalf("pgtest: %v", shared.err)
	}
	return shared.server
}

func isShared(server *pgserver.Server) bool {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	return server == shared.server
}

// NewServer starts a server of the test's own, for a test that crashes it or
// needs other settings (nil: the defaults). It is closed at the end of the test.
func NewServer(t testing.TB, settings map[string]string) *pgserver.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	server, err := pgserver.Start(ctx, serverOptions(settings))
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return server
}
