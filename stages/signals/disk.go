package signals

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	filesystem "github.com/shirou/gopsutil/v4/disk"

	"github.com/repack-go/repack/stages/throttle"
)

// disk stops work while too little is free on the server's disks. This process must be on the
// server's machine.
type disk struct {
	server  *server
	limit   int64
	percent float64
	clock   clock[[]space]
}

// space is what is free in a directory of the server.
type space struct {
	path       string
	free, size int64
}

const directoriesSQL = `
SELECT inet_client_addr() IS NULL OR inet_client_addr() = inet_server_addr(),
       current_setting('data_directory'),
       ARRAY(SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> '')`

const insteadOfDisk = "; or use --free-disk-command or --disk-limit"

func (d *disk) Ready(ctx context.Context) error {
	if err := mayRead(ctx, d.server, "--min-free-disk", "pg_read_all_settings", "the role may not know the server's directories", insteadOfDisk); err != nil {
		return err
	}
	if _, err := d.read(ctx); err != nil {
		return refused("--min-free-disk", err.Error(), "use --free-disk-command or --disk-limit")
	}
	return nil
}

func (d *disk) read(ctx context.Context) (list []space, err error) {
	var here bool
	var data string
	var tablespaces []string
	err = d.server.ask(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, directoriesSQL).Scan(&here, &data, &tablespaces)
	})
	if err != nil {
		return nil, fmt.Errorf("--min-free-disk cannot be read: %w", err)
	}
	if !here {
		return nil, fmt.Errorf("this process is not on the server's machine")
	}
	for _, path := range append([]string{data, filepath.Join(data, "pg_wal")}, tablespaces...) {
		usage, err := filesystem.UsageWithContext(ctx, path)
		if err != nil {
			return nil, fmt.Errorf("--min-free-disk cannot be read: %s: %w", path, err)
		}
		list = append(list, space{path, int64(usage.Free), int64(usage.Total)}) //nolint:gosec // no disk has 8 EB
	}
	return list, nil
}

func (d *disk) Check(ctx context.Context, work throttle.Work) (throttle.Verdict, error) {
	if work == throttle.Comparing {
		return throttle.Verdict{}, nil
	}
	list, err := d.clock.read(ctx, readEvery, d.read)
	if err != nil {
		return throttle.Verdict{}, err
	}
	verdict := throttle.Verdict{}
	for _, s := range list {
		need := max(d.limit, int64(d.percent/100*float64(s.size)))
		if s.free > 0 {
			verdict.Utilisation = max(verdict.Utilisation, float64(need)/float64(s.free))
		}
		if s.free < need {
			return throttle.Verdict{Stop: true, Reason: fmt.Sprintf("%d bytes are free in %s, limit %d", s.free, s.path, need), Utilisation: verdict.Utilisation}, nil
		}
	}
	return verdict, nil
}

func (d *disk) Reading(ctx context.Context) (string, error) {
	list, err := d.clock.read(ctx, readEvery, d.read)
	if err != nil || len(list) == 0 {
		return "", err
	}
	least := list[0]
	for _, s := range list {
		if s.free < least.free {
			least = s
		}
	}
	return fmt.Sprintf("%d bytes are free in %s", least.free, least.path), nil
}

// command stops work while a command says that too little is free.
type command struct {
	text  string
	limit int64
	clock clock[int64]
}

const (
	commandEvery = 10 * time.Second
	commandFor   = 10 * time.Second
)

func (c *command) Ready(ctx context.Context) error {
	if c.limit <= 0 {
		return refused("--free-disk-command", "it needs --min-free-disk, a size that its output is compared with", "give both")
	}
	if _, err := c.read(ctx); err != nil {
		return refused("--free-disk-command", err.Error(), "its first line must be a number of bytes")
	}
	return nil
}

func (c *command) read(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, commandFor)
	defer cancel()
	out, err := exec.CommandContext(ctx, "sh", "-c", c.text).Output()
	if err != nil {
		return 0, fmt.Errorf("--free-disk-command: %w", err)
	}
	first, _, _ := bytes.Cut(out, []byte("\n"))
	free, err := strconv.ParseInt(strings.TrimSpace(string(first)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("--free-disk-command: the first line is no number of bytes: %q", first)
	}
	return free, nil
}

func (c *command) Check(ctx context.Context, work throttle.Work) (throttle.Verdict, error) {
	if work == throttle.Comparing {
		return throttle.Verdict{}, nil
	}
	free, err := c.clock.read(ctx, commandEvery, c.read)
	if err != nil {
		return throttle.Verdict{}, err
	}
	return throttle.Verdict{Stop: free < c.limit, Reason: fmt.Sprintf("%d bytes are free, limit %d", free, c.limit), Utilisation: float64(c.limit) / float64(max(free, 1))}, nil
}

func (c *command) Reading(ctx context.Context) (string, error) {
	free, err := c.read(ctx)
	return fmt.Sprintf("%d bytes are free", free), err
}

// diskLimit stops work while the database and the write-ahead log take too much together.
type diskLimit struct {
	server *server
	limit  int64
	clock  clock[int64]
}

const takenSQL = `SELECT pg_database_size(current_database()) + coalesce((SELECT sum(size) FROM pg_ls_waldir()), 0)::bigint`

func (d *diskLimit) Ready(ctx context.Context) error {
	return mayRead(ctx, d.server, "--disk-limit", "pg_monitor", "the role may not read the size of the write-ahead log", "")
}

func (d *diskLimit) read(ctx context.Context) (taken int64, err error) {
	err = d.server.ask(ctx, func(ctx context.Context, conn *pgx.Conn) error { return conn.QueryRow(ctx, takenSQL).Scan(&taken) })
	if err != nil {
		return 0, fmt.Errorf("--disk-limit cannot be read: %w", err)
	}
	return taken, nil
}

func (d *diskLimit) Check(ctx context.Context, work throttle.Work) (throttle.Verdict, error) {
	if work == throttle.Comparing {
		return throttle.Verdict{}, nil
	}
	taken, err := d.clock.read(ctx, readEvery, d.read)
	if err != nil {
		return throttle.Verdict{}, err
	}
	return throttle.Verdict{Stop: taken > d.limit, Reason: fmt.Sprintf("database and WAL take %d bytes, limit %d", taken, d.limit), Utilisation: float64(taken) / float64(d.limit)}, nil
}

func (d *diskLimit) Reading(ctx context.Context) (string, error) {
	taken, err := d.clock.read(ctx, readEvery, d.read)
	return fmt.Sprintf("database and WAL take %d bytes", taken), err
}
