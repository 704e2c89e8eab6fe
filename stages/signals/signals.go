// Package signals has the throttlers that look at the server and around it: replicas, slots, the
// write-ahead log, other sessions, disks, and what the user asks for.
package signals

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/throttle"
)

// Limits say when work stops. The zero value of a field means that it does not.
type Limits struct {
	// MaxReplicaLag is how far a standby may be behind. Those of IgnoreReplicas
	// (application_name) do not count. ExpectReplicas is how many must be there.
	MaxReplicaLag  time.Duration
	IgnoreReplicas []string
	ExpectReplicas int
	// MaxSlotRetained is how much write-ahead log a replication slot may retain, in bytes.
	MaxSlotRetained int64
	// MaxWALRate is how much write-ahead log the server may write in a second, in bytes.
	MaxWALRate int64
	// MaxActive is how many other sessions may be at work.
	MaxActive int
	// Query is a query whose first column stops the work if it is true, above zero or NULL.
	// The second column, if there is one, is the reason.
	Query string
	// MinFreeDisk is how much must be free in the data directory, that of the write-ahead log
	// and those of tablespaces, in bytes; MinFreePercent is the same as a part of the disk.
	// FreeDiskCommand is a command of the shell, the first line of whose output is compared
	// instead.
	MinFreeDisk     int64
	MinFreePercent  float64
	FreeDiskCommand string
	// DiskLimit is how much the database and the directory of the write-ahead log may take
	// together, in bytes.
	DiskLimit int64
}

// Functions are the functions of pg_catalog that are called because of the limits.
func (l Limits) Functions() []string {
	var list []string
	if l.MaxReplicaLag > 0 || l.ExpectReplicas > 0 || l.MaxSlotRetained > 0 || l.MaxWALRate > 0 {
		list = append(list, "pg_current_wal_insert_lsn", "pg_current_wal_lsn", "pg_wal_lsn_diff")
	}
	if l.FreeDiskCommand != "" || l.MinFreeDisk > 0 || l.MinFreePercent > 0 {
		list = append(list, "pg_control_system", "pg_tablespace_location")
	}
	if l.DiskLimit > 0 {
		list = append(list, "pg_database_size")
	}
	return list
}

// Any reports whether there is a limit that is read on a connection of its own.
func (l Limits) Any() bool { return len(New(nil, l).list) > 0 }

// Signal is a throttler that can be asked beforehand.
type Signal interface {
	throttle.Throttler
	// Flag is the name of the flag that sets the limit.
	Flag() string
	// Ready makes sure that the signal can be read. It returns *checks.RefusedError if it never
	// could be.
	Ready(ctx context.Context) error
	// Now says what the signal is now, such as "replica sb1 is 0.4 s behind".
	Now(ctx context.Context) (string, error)
}

// Reading is what a signal is now.
type Reading struct {
	Flag string `json:"flag"` // that sets the limit of it
	Now  string `json:"now"`  // what it is, or why it cannot be read
}

// Set are the signals of a run.
type Set struct {
	list   []Signal
	server *server
}

// New returns the signals that have a limit. They connect to target when they are asked.
func New(target *session.Target, l Limits) *Set {
	s := &Set{server: &server{target: target}}
	if l.MaxReplicaLag > 0 || l.ExpectReplicas > 0 {
		s.list = append(s.list, &lag{server: s.server, limit: l.MaxReplicaLag, ignore: l.IgnoreReplicas, expect: l.ExpectReplicas})
	}
	if l.MaxSlotRetained > 0 {
		s.list = append(s.list, &slots{server: s.server, limit: l.MaxSlotRetained})
	}
	if l.MaxWALRate > 0 {
		s.list = append(s.list, &walRate{current: s.server.inserted, limit: l.MaxWALRate})
	}
	if l.MaxActive > 0 {
		s.list = append(s.list, &active{server: s.server, limit: l.MaxActive})
	}
	if l.Query != "" {
		s.list = append(s.list, &query{server: s.server, sql: l.Query})
	}
	switch {
	case l.FreeDiskCommand != "":
		s.list = append(s.list, &command{text: l.FreeDiskCommand, limit: l.MinFreeDisk})
	case l.MinFreeDisk > 0 || l.MinFreePercent > 0:
		s.list = append(s.list, &disk{server: s.server, limit: l.MinFreeDisk, percent: l.MinFreePercent})
	}
	if l.DiskLimit > 0 {
		s.list = append(s.list, &diskLimit{server: s.server, limit: l.DiskLimit})
	}
	return s
}

// Throttlers returns the signals as throttlers.
func (s *Set) Throttlers() []throttle.Throttler {
	list := make([]throttle.Throttler, len(s.list))
	for i, signal := range s.list {
		list[i] = signal
	}
	return list
}

// Ready makes sure that all signals can be read. It returns *checks.RefusedError with what is
// missing.
func (s *Set) Ready(ctx context.Context) error {
	for _, signal := range s.list {
		if err := signal.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Readings says what each signal is now.
func (s *Set) Readings(ctx context.Context) []Reading {
	list := []Reading{}
	for _, signal := range s.list {
		now, err := signal.Now(ctx)
		if err != nil {
			now = "cannot be read: " + why(err)
		}
		list = append(list, Reading{signal.Flag(), now})
	}
	return list
}

// why says why a signal cannot be read, on one line.
func why(err error) string {
	var refused *checks.RefusedError
	if !errors.As(err, &refused) {
		return err.Error()
	}
	var reasons []string
	for _, r := range refused.Reasons {
		reasons = append(reasons, r.Why+"; "+r.Remedy)
	}
	return strings.Join(reasons, "; ")
}

// Close ends the connection.
func (s *Set) Close(ctx context.Context) { s.server.close(ctx) }
