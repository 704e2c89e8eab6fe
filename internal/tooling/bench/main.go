// Command bench measures repack side by side with VACUUM FULL, CLUSTER and
// pg_repack (where it is installed) on a throwaway server, each on its own copy
// of the same files. It prints ratios: figures of different machines, or of
// different moments on one, do not compare.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/repack-go/repack/internal/tooling/pgserver"
)

// settings are those of a server that is not the bottleneck itself: no
// checkpoint falls into one contender's time and not into another's, and no
// autovacuum.
var settings = map[string]string{
	"max_locks_per_transaction": "512", // for many foreign keys
	"shared_buffers":            "2GB", "max_wal_size": "20GB", "min_wal_size": "2GB", "checkpoint_timeout": "1h",
	"maintenance_work_mem": "256MB", "autovacuum": "off", "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
}

// bench is one invocation.
type bench struct {
	server  *pgserver.Server
	binary  string // repack itself, as users run it
	rows    int
	runs    int
	seconds time.Duration // of each spell of load
}

// scenarios by name, in the order in which they run.
var scenarios = []struct {
	name string
	run  func(context.Context, *bench) error
}{
	{"idle", idle},
	{"memory", memory},
	{"wide", wide},
	{"alter", altered},
	{"load", underLoad},
	{"capture", capture},
	{"replay", replay},
	{"growth", growth},
	{"changes", changes},
	{"trips", trips},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	b := &bench{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&b.rows, "rows", 5_000_000, "rows of the table before a fifth is deleted")
	flags.IntVar(&b.runs, "runs", 3, "runs of each contender; the median is shown")
	flags.StringVar(&b.binary, "repack", "", "a repack to measure instead of this one, such as an older version")
	flags.DurationVar(&b.seconds, "load", 10*time.Second, "length of a spell of load")
	chosen := flags.String("scenarios", strings.Join(names, ","), "which to run")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("flags: %w", err)
	}
	dir, err := os.MkdirTemp("", "repack-bench-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if b.binary == "" {
		b.binary = filepath.Join(dir, "repack")
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", b.binary, "github.com/repack-go/repack/cmd/repack").CombinedOutput(); err != nil {
			return fmt.Errorf("build repack: %w\n%s", err, out)
		}
	}
	if b.server, err = pgserver.Start(ctx, pgserver.Options{Settings: settings}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.Close()) }()
	fmt.Printf("PostgreSQL %d, %d processors, %s\n", b.server.Version(), runtime.NumCPU(), time.Now().Format(time.DateOnly))
	for _, s := range scenarios {
		if slices.Contains(strings.Split(*chosen, ","), s.name) {
			if err := s.run(ctx, b); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return nil
}
