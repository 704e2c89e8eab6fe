package pgserver_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgserver"
)

func TestFindPrefersTheEnvironment(t *testing.T) {
	dir := programs(t, "initdb", "postgres")
	t.Setenv(pgserver.BinDirEnv, dir)
	if got, err := pgserver.Find(); got != dir || err != nil {
		t.Errorf("Find() = %q, %v, want %q", got, err, dir)
	}
}

func TestFindRefusesADirectoryWithoutAServer(t *testing.T) {
	t.Setenv(pgserver.BinDirEnv, programs(t, "initdb"))
	if got, err := pgserver.Find(); !errors.Is(err, pgserver.ErrNotFound) {
		t.Errorf("Find() = %q, %v, want ErrNotFound", got, err)
	}
}

func TestFindFollowsALinkOnPath(t *testing.T) {
	dir, path := programs(t, "initdb", "postgres"), t.TempDir()
	if err := os.Symlink(filepath.Join(dir, "initdb"), filepath.Join(path, "initdb")); err != nil {
		t.Fatal(err)
	}
	t.Setenv(pgserver.BinDirEnv, "")
	t.Setenv("PATH", path)
	if got, err := pgserver.Find(); got != dir || err != nil {
		t.Errorf("Find() = %q, %v, want %q", got, err, dir)
	}
}

// programs makes a directory of executables that do nothing.
func programs(t *testing.T, names ...string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
