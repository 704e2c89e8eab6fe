package signals

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/stages/checks"
)

// askFor is how long a query of a signal may take on the server. The connection may take as long
// as connectFor to be opened.
const (
	askFor     = 2 * time.Second
	connectFor = 10 * time.Second
)

// server is a connection of the signals' own. It is opened when it is needed, and again after a
// failure. One signal at a time uses it.
type server struct {
	target *session.Target
	mu     sync.Mutex
	conn   *pgx.Conn
	closed bool
}

var errClosed = errors.New("the limit has been replaced by another")

// ask runs work on the connection.
func (s *server) ask(ctx context.Context, work func(context.Context, *pgx.Conn) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.connect(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*askFor) // the server answers before, if it can
	defer cancel()
	return work(ctx, s.conn)
}

// readOnlySQL makes the server end a query that takes too long: a client that only goes away would
// leave it running.
var readOnlySQL = fmt.Sprintf("SET default_transaction_read_only = on; SET statement_timeout = %d", askFor.Milliseconds())

func (s *server) connect(ctx context.Context) error {
	if s.closed {
		return errClosed
	}
	if s.conn != nil && !s.conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectFor)
	defer cancel()
	conn, err := session.Connect(ctx, s.target)
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, readOnlySQL); err != nil {
		session.Close(ctx, conn)
		return fmt.Errorf("make a session read-only: %w", err)
	}
	s.conn = conn
	return nil
}

func (s *server) close(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.conn != nil {
		session.Close(ctx, s.conn)
	}
}

// one reads a single value.
func one[T any](ctx context.Context, s *server, sql string) (value T, err error) {
	err = s.ask(ctx, func(ctx context.Context, conn *pgx.Conn) error { return conn.QueryRow(ctx, sql).Scan(&value) })
	return value, err
}

// insertedSQL is where the write-ahead log ends. What commits without waiting for the disk may not
// have been written yet.
const insertedSQL = `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint`

// inserted returns where the write-ahead log ends.
func (s *server) inserted(ctx context.Context) (int64, error) { return one[int64](ctx, s, insertedSQL) }

// refused is the error for a signal that can never be read.
func refused(flag, why, remedy string) error {
	return &checks.RefusedError{Reasons: []checks.Reason{{Object: flag, Why: why, Remedy: remedy}}}
}

// memberSQL tells whether the role has the rights of role $1, and how it gets them.
const memberSQL = `
SELECT pg_has_role(current_user, $1, 'USAGE'),
       format('GRANT %I TO %I;', $1::text, current_user)`

// mayRead makes sure that the role has the rights of a role.
func mayRead(ctx context.Context, s *server, flag, role, why, instead string) error {
	var may bool
	var grant string
	err := s.ask(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, memberSQL, role).Scan(&may, &grant)
	})
	if err != nil {
		return fmt.Errorf("check the rights for %s: %w", flag, err)
	}
	if !may {
		return refused(flag, why, grant+instead)
	}
	return nil
}
