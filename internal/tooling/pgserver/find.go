package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// BinDirEnv names the environment variable that overrides every other way of
// finding the server programs; the tests use it to choose a major version.
const BinDirEnv = "REPACK_PG_BINDIR"

// ErrNotFound reports that no directory with initdb and postgres was found. It
// is wrapped with what was looked at.
var ErrNotFound = errors.New("no PostgreSQL server programs found: " +
	"install the package postgresql (Debian, Ubuntu) or postgresql-server (Fedora), " +
	"or set " + BinDirEnv + " to the directory that holds initdb and postgres")

// debianPattern is where Debian's and Ubuntu's packages put their programs, one
// directory per major version and none of them on PATH.
const debianPattern = "/usr/lib/postgresql/*/bin"

// Find returns the directory that holds initdb and postgres: REPACK_PG_BINDIR
// where that is set, else where initdb on PATH really lives, else
// `pg_config --bindir`, else the highest version below /usr/lib/postgresql.
// Without any of them the error is ErrNotFound.
func Find() (bindir string, err error) {
	if dir := os.Getenv(BinDirEnv); dir != "" {
		if !hasServer(dir) {
			return "", fmt.Errorf("look for initdb in %s=%s: %w", BinDirEnv, dir, ErrNotFound)
		}
		return dir, nil
	}
	for _, dir := range slices.Concat(onPath(), fromPgConfig(), debianDirs()) {
		if hasServer(dir) {
			return dir, nil
		}
	}
	return "", fmt.Errorf("look on PATH, through pg_config and in %s: %w", debianPattern, ErrNotFound)
}

func hasServer(dir string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// onPath follows symbolic links: an initdb linked into /usr/local/bin has its
// sister programs where it points to.
func onPath() []string {
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		return nil
	}
	if real, err := filepath.EvalSymlinks(initdb); err == nil {
		return []string{filepath.Dir(real), filepath.Dir(initdb)}
	}
	return []string{filepath.Dir(initdb)}
}

func fromPgConfig() []string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output()
	if err != nil {
		return nil
	}
	return []string{strings.TrimSpace(string(out))}
}

// debianDirs lists the directories of Debian's packages, highest major first.
func debianDirs() []string {
	dirs, err := filepath.Glob(debianPattern)
	if err != nil {
		return nil
	}
	slices.SortFunc(dirs, func(a, b string) int { return majorOfDir(b) - majorOfDir(a) })
	return dirs
}

func majorOfDir(bindir string) int {
	major, err := strconv.Atoi(filepath.Base(filepath.Dir(bindir)))
	if err != nil {
		return 0
	}
	return major
}
