package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgserver"
)

func TestDemoWithoutAServerSaysWhatToInstall(t *testing.T) {
	t.Setenv(pgserver.BinDirEnv, filepath.Join(t.TempDir(), "empty"))
	// A demo must not land in a database that was meant for something else.
	t.Setenv("REPACK_DSN", "postgres://nobody@invalid.example/production")
	t.Setenv("DATABASE_URL", "postgres://nobody@invalid.example/production")
	var stdout, stderr strings.Builder
	if code := run(t.Context(), []string{"repack", "demo"}, &stdout, &stderr); code != exitFailed {
		t.Errorf("exit code %d, want %d", code, exitFailed)
	}
	if !strings.Contains(stderr.String(), "install the package postgresql") {
		t.Errorf("standard error does not say what to install: %s", stderr.String())
	}
}

func TestDemoUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--rows", "10"}, {"--strategy", "best"}, {"--log-level", "loud"}, {"--dsn", "port=none"}, {"stray"}, {"--unknown"}, {"--to-bigint"},
	} {
		var stdout, stderr strings.Builder
		if code := run(t.Context(), append([]string{"repack", "demo"}, args...), &stdout, &stderr); code != exitUsage {
			t.Errorf("%v: exit code %d, want %d: %s", args, code, exitUsage, stderr.String())
		}
	}
}
