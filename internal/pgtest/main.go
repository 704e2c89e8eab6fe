package pgtest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/repack-go/repack/internal/pgserver"
)

// startTimeout bounds initdb and the first start on a busy machine.
const startTimeout = 2 * time.Minute

// shared is the server of this test process.
var shared struct {
	mu     sync.Mutex
	server *pgserver.Server
	err    error // of the one attempt to start it
}

// Main runs the tests of a package and then closes the server they shared. It
// does not return: it ends the process with the tests' exit code.
func Main(m *testing.M) {
	code := m.Run()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server != nil {
		if err := shared.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
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
		shared.server, shared.err = pgserver.Start(ctx, pgserver.Options{})
	}
	if shared.err != nil {
		t.Fatalf("pgtest: %v", shared.err)
	}
	return shared.server
}

// NewServer starts a server of the test's own, for a test that crashes it or
// needs other settings (nil: the defaults). It is closed at the end of the test.
func NewServer(t testing.TB, settings map[string]string) *pgserver.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	server, err := pgserver.Start(ctx, pgserver.Options{Settings: settings})
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
