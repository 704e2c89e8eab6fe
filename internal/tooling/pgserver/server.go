package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// port only names the socket's file, and fixing it keeps PGPORT from choosing.
const port = "5432"

// dirPattern is how the names of servers' directories begin.
const dirPattern = "repack-pg-"

// Superuser is the one role of a fresh server. Every local connection is
// trusted, so it has no password.
const Superuser = "postgres"

// Options say how to run a server. The zero value runs the one Find finds, with
// the default settings.
type Options struct {
	// BinDir holds initdb and postgres. Default: Find().
	BinDir string
	// Settings go into postgresql.conf, over the defaults (see DefaultSettings).
	Settings map[string]string
	// ParentDir is where the server's directory is made. Default: os.TempDir().
	// It has to be reachable by an unprivileged user when we run as root, and
	// short: a socket's path ends at about 100 bytes.
	ParentDir string
	// Cache is a directory that keeps what initdb makes, so that the next server of
	// the same programs is a copy of it. Default: none, each has an initdb of its own.
	Cache string
	// Log receives the server's log as well; LogFile always has it.
	Log io.Writer
}

// Server is one throwaway server. Its methods may be called from several
// goroutines.
type Server struct {
	opts    Options
	account *account
	dir     string
	version int

	owner *os.File // locked while we live; nil where that cannot be

	mu   sync.Mutex
	proc *process // nil while stopped
}

// Start makes a data directory, starts a server on it and returns when that
// accepts connections. On an error nothing is left behind; the error carries the
// end of the server's log. The caller has to Close the server; on Linux it also
// ends when our process dies without doing so (its directory then stays until a
// Sweep).
//
// The server and initdb refuse to run as root, so both run as the user
// postgres, or else nobody, when we are root.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.BinDir == "" {
		dir, err := Find() //nolint:contextcheck // it has a time-out of its own
		if err != nil {
			return nil, fmt.Errorf("start server: %w", err)
		}
		opts.BinDir = dir
	}
	s, err := create(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("create server: %w", err)
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start server: %w", err), s.Close())
	}
	return s, nil
}

// create makes the directory and the data in it, without starting anything.
func create(ctx context.Context, opts Options) (_ *Server, err error) {
	account, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(opts.ParentDir, dirPattern)
	if err != nil {
		return nil, err
	}
	s := &Server{opts: opts, account: account, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := account.own(dir); err != nil {
		return nil, err
	}
	if err := s.claim(); err != nil {
		return nil, err
	}
	if err := s.initdb(ctx); err != nil {
		return nil, err
	}
	if s.version, err = readVersion(s.dataDir()); err != nil {
		return nil, err
	}
	return s, nil
}

// readVersion reads the major version a data directory was made by.
func readVersion(dataDir string) (int, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	if err != nil {
		return 0, fmt.Errorf("read major version: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read major version: %w", err)
	}
	return major, nil
}

// ConnString returns a URL that connects to database as the superuser. pgx and
// the client programs (pg_dump, psql) take it alike.
func (s *Server) ConnString(database string) string {
	return s.ConnStringAs(database, Superuser)
}

// ConnStringAs does what ConnString does for another role; no role needs a
// password.
func (s *Server) ConnStringAs(database, role string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User(role),
		Path:     "/" + database,
		RawQuery: url.Values{"host": {s.dir}, "port": {port}, "sslmode": {"disable"}}.Encode(),
	}
	return u.String()
}

// Version returns the server's major version, such as 16.
func (s *Server) Version() int { return s.version }

// BinDir returns the directory of the server's programs. It need not hold any
// client program.
func (s *Server) BinDir() string { return s.opts.BinDir }

// Dir returns the directory that holds the socket and the data.
func (s *Server) Dir() string { return s.dir }

// LogFile returns the path of the server's log, which spans restarts.
func (s *Server) LogFile() string { return filepath.Join(s.dir, "server.log") }

func (s *Server) dataDir() string { return filepath.Join(s.dir, "data") }

// Close stops the server at once and removes its directory. It may be called
// again.
func (s *Server) Close() error {
	stopErr := s.Stop(Immediate)
	defer s.owner.Close() // it may be nil, or closed
	if err := os.RemoveAll(s.dir); err != nil {
		return errors.Join(stopErr, fmt.Errorf("remove server's directory: %w", err))
	}
	return stopErr
}
