// Package signals has the throttlers that look at the server and around it: replicas, slots, the
// write-ahead log, other sessions, disks, and what the user asks for.
package signals

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

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

// Signal is a throttler that can be asked beforehand.
type Signal interface {
	throttle.Throttler
	// Ready makes sure that the signal can be read. It returns *checks.RefusedError if it never
	// could be.
	Ready(ctx context.Context) error
	// Reading says what the signal is now, such as "replica sb1 is 0.4 s behind".
	Reading(ctx context.Context) (string, error)
}

// readEvery is how often a signal is read.
const readEvery = time.Second

// askFor is how long a query of a signal may take.
const askFor = 2 * time.Second

// server is a connection of the signals' own. It is opened when it is needed, and again after a
// failure. One signal at a time uses it.
type server struct {
	target *session.Target
	mu     sync.Mutex
	conn   *pgx.Conn
}

// ask runs work on the connection, within askFor.
func (s *server) ask(ctx context.Context, work func(context.Context, *pgx.Conn) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	if s.conn == nil || s.conn.IsClosed() {
		conn, err := session.Connect(ctx, s.target)
		if err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, "SET default_transaction_read_only = on"); err != nil {
			session.Close(ctx, conn)
			return fmt.Errorf("make a session read-only: %w", err)
		}
		s.conn = conn
	}
	return work(ctx, s.conn)
}

func (s *server) close(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		session.Close(ctx, s.conn)
	}
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
		s.list = append(s.list, &walRate{server: s.server, limit: l.MaxWALRate})
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
func (s *Set) Readings(ctx context.Context) []string {
	var list []string
	for _, signal := range s.list {
		reading, err := signal.Reading(ctx)
		if err != nil {
			reading = err.Error()
		}
		list = append(list, reading)
	}
	return list
}

// Close ends the connection.
func (s *Set) Close(ctx context.Context) { s.server.close(ctx) }

// clock keeps a reading until it is too old. A reading that fails is not kept.
type clock[T any] struct {
	mu    sync.Mutex
	at    time.Time
	value T
}

// read returns the kept reading, or a new one.
func (c *clock[T]) read(ctx context.Context, every time.Duration, read func(context.Context) (T, error)) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() && time.Since(c.at) < every {
		return c.value, nil
	}
	value, err := read(ctx)
	if err != nil {
		return value, err
	}
	c.at, c.value = time.Now(), value
	return value, nil
}

// refused is the error for a signal that can never be read.
func refused(flag, why, remedy string) error {
	return &checks.RefusedError{Reasons: []checks.Reason{{Object: flag, Why: why, Remedy: remedy}}}
}

// mayRead makes sure that the role is a member of a role, or a superuser.
func mayRead(ctx context.Context, s *server, flag, role, why, instead string) error {
	var may bool
	var grant string
	err := s.ask(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT pg_has_role(current_user, $1, 'USAGE'), format('GRANT %I TO %I;', $1::text, current_user)`, role).Scan(&may, &grant)
	})
	if err != nil {
		return fmt.Errorf("check the rights for %s: %w", flag, err)
	}
	if !may {
		return refused(flag, why, grant+instead)
	}
	return nil
}
