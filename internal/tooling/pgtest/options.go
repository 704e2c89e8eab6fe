package pgtest

import (
	"maps"
	"os"
	"path/filepath"

	"github.com/repack-go/repack/internal/tooling/pgserver"
)

// serverOptions are for servers that live as long as a few tests: in memory where
// there is room, since most of what a file system does for a new database is lost
// on them, and from one initdb, whose result is kept beside the compiler's.
func serverOptions(settings map[string]string) pgserver.Options {
	o := pgserver.Options{Settings: map[string]string{"max_wal_size": "256MB"}, ParentDir: roomInMemory()}
	maps.Copy(o.Settings, settings)
	if dir, err := os.UserCacheDir(); err == nil {
		o.Cache = filepath.Join(dir, "repack-test")
	}
	return o
}
