package signals

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"
	filesystem "github.com/shirou/gopsutil/v4/disk"

	"github.com/repack-go/repack/internal/size"
	"github.com/repack-go/repack/stages/throttle"
)

// disk stops work while too little is free on the server's disks. This process must be on the
// server's machine.
type disk struct {
	server  *server
	limit   int64
	percent float64
	where   clock[[]string]
	clock   clock[[]space]
}

// space is what is free in a directory of the server.
type space struct {
	path       string
	free, size int64
}

// directoriesSQL returns the data directory, and the directories of tablespaces.
const directoriesSQL = `
SELECT inet_client_addr() IS NULL OR inet_client_addr() = inet_server_addr(),
       (SELECT system_identifier FROM pg_control_system()),
       current_setting('data_directory'),
       ARRAY(SELECT   pg_tablespace_location(oid)
             FROM     pg_tablespace
             WHERE    pg_tablespace_location(oid) <> ''
             ORDER BY oid)`

const insteadOfDisk = "use --free-disk-command or --disk-limit"

// Flag implements Signal.
func (d *disk) Flag() string { return "--min-free-disk" }

// Ready implements Signal.
func (d *disk) Ready(ctx context.Context) error {
	if err := mayRead(ctx, d.server, d.Flag(), "pg_read_all_settings", "the role may not know the server's directories", " or "+insteadOfDisk); err != nil {
		return err
	}
	if _, err := d.read(ctx); err != nil {
		return refused(d.Flag(), err.Error(), insteadOfDisk)
	}
	return nil
}

// directories returns the directories in which the server writes.
func (d *disk) directories(ctx context.Context) (list []string, err error) {
	var here bool
	var identifier int64
	var data string
	var tablespaces []string
	err = d.server.ask(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, directoriesSQL).Scan(&here, &identifier, &data, &tablespaces)
	})
	if err != nil {
		return nil, err
	}
	if !here {
		return nil, fmt.Errorf("this process is not on the server's machine")
	}
	if err := belongs(data, identifier); err != nil {
		return nil, err
	}
	return append([]string{data, filepath.Join(data, "pg_wal")}, tablespaces...), nil
}

// belongs makes sure that a directory is the server's. A directory of that name may also be there
// for another server, in a container for example. The control file begins with the identifier.
func belongs(data string, identifier int64) error {
	file, err := os.Open(filepath.Join(data, "global", "pg_control"))
	if err != nil {
		return fmt.Errorf("this process may not look into the server's data directory: %w", err)
	}
	defer func() { _ = file.Close() }() // it is only read
	var found int64
	if err := binary.Read(file, binary.NativeEndian, &found); err != nil {
		return fmt.Errorf("read %s: %w", file.Name(), err)
	}
	if found != identifier {
		return fmt.Errorf("%s belongs to another server", data)
	}
	return nil
}

func (d *disk) read(ctx context.Context) ([]space, error) {
	paths, err := d.where.read(ctx, rarely, d.directories)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Flag(), err)
	}
	list := make([]space, len(paths))
	for i, path := range paths {
		usage, err := filesystem.UsageWithContext(ctx, path)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", d.Flag(), path, err)
		}
		list[i] = space{path, int64(usage.Free), int64(usage.Total)} //nolint:gosec // no disk has 8 EB
	}
	return list, nil
}

// keep is how much must stay free.
func (d *disk) keep(s space) int64 { return max(d.limit, int64(d.percent/100*float64(s.size))) }

// Check implements throttle.Throttler.
func (d *disk) Check(ctx context.Context, work throttle.Work) (throttle.Verdict, error) {
	if work == throttle.Comparing {
		return throttle.Verdict{}, nil
	}
	list, err := d.clock.read(ctx, lsnEvery, d.read)
	if err != nil {
		return throttle.Verdict{}, err
	}
	return d.verdict(list), nil
}

func (d *disk) verdict(list []space) (v throttle.Verdict) {
	for _, s := range list {
		keep := d.keep(s)
		v.Utilisation = max(v.Utilisation, float64(keep)/float64(max(s.free, 1)))
		if s.free < keep && !v.Stop {
			v.Stop, v.Reason = true, fmt.Sprintf("%s are free in %s, limit %s", size.Text(s.free), s.path, size.Text(keep))
		}
	}
	return v
}

// Now implements Signal.
func (d *disk) Now(ctx context.Context) (string, error) {
	if err := d.Ready(ctx); err != nil {
		return "", err
	}
	list, err := d.clock.read(ctx, readEvery, d.read)
	if err != nil {
		return "", err
	}
	least := list[0]
	for _, s := range list {
		if s.free < least.free {
			least = s
		}
	}
	return fmt.Sprintf("%s of %s are free in %s", size.Text(least.free), size.Text(least.size), least.path), nil
}
