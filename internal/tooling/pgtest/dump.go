package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// registrySchema is where the tool remembers its jobs; no dump shows it.
const registrySchema = "repack_registry"

// Dump returns the database's schema as `pg_dump --schema-only` writes it,
// without the tool's registry. Where no pg_dump is new enough for the server it
// returns what CatalogDump does. Two dumps of one test are made the same way.
func (db *Database) Dump(t testing.TB) string {
	t.Helper()
	program, ok := dumperFor(db.server.BinDir(), db.Version())
	if !ok {
		return db.CatalogDump(t)
	}
	args := []string{
		"--schema-only", "--no-password", "--lock-wait-timeout=30000",
		"--exclude-schema=" + registrySchema, "--dbname=" + db.DSN,
	}
	if program.restrictKey {
		args = append(args, "--restrict-key=test")
	}
	out, err := run(t.Context(), program.path, args...)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return out
}

// dumper is an installed pg_dump.
type dumper struct {
	path  string
	major int
	// restrictKey: it writes a random key into each dump unless it is given one,
	// since the minor releases of August 2025.
	restrictKey bool
}

// dumperFor chooses the oldest pg_dump that can dump a server of version major:
// one that is older than the server refuses, and the same major comes first.
func dumperFor(bindir string, major int) (best dumper, ok bool) {
	dumpers.Lock()
	defer dumpers.Unlock()
	beside, known := dumpers.in[bindir]
	if !known {
		beside = probe(bindir)
		dumpers.in[bindir] = beside
	}
	for _, d := range slices.Concat(beside, installedDumpers()) {
		if d.major >= major && (!ok || d.major < best.major) {
			best, ok = d, true
		}
	}
	return best, ok
}

// dumpers remembers what is next to the servers: to ask costs two processes.
var dumpers = struct {
	sync.Mutex
	in map[string][]dumper // by directory
}{in: map[string][]dumper{}}

// installedDumpers are those of this machine, apart from any next to the server.
var installedDumpers = sync.OnceValue(func() []dumper {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return nil
	}
	var found []dumper
	for _, dir := range dirs {
		found = append(found, probe(dir)...)
	}
	// Last: on Debian it is a wrapper that chooses a version by itself.
	if path, err := exec.LookPath("pg_dump"); err == nil {
		found = append(found, probe(filepath.Dir(path))...)
	}
	return found
})

var dumperMajor = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// probe asks the pg_dump in dir what it is; the answer is empty without one.
func probe(dir string) []dumper {
	path := filepath.Join(dir, "pg_dump")
	version, err := run(context.Background(), path, "--version")
	match := dumperMajor.FindStringSubmatch(version)
	if err != nil || match == nil {
		return nil
	}
	major, err := strconv.Atoi(match[1])
	if err != nil {
		return nil
	}
	help, err := run(context.Background(), path, "--help")
	if err != nil {
		return nil
	}
	return []dumper{{path: path, major: major, restrictKey: strings.Contains(help, "--restrict-key")}}
}

// run returns what a program writes to its standard output.
func run(ctx context.Context, path string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("run %s: %w\n%s", filepath.Base(path), err, stderr.String())
	}
	return stdout.String(), nil
}
