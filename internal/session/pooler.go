package session

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Pooler says which connection pooler may be between us and the server.
type Pooler string

// Values of Pooler.
const (
	// NoPooler refuses every connection pooler that can be detected.
	NoPooler Pooler = ""
	// SessionPooler accepts a pooler that keeps a server session for a client as long
	// as the client is connected, such as PgBouncer with pool_mode = session.
	SessionPooler Pooler = "session"
)

// ParsePooler returns the Pooler with that name, or an error if there is none.
func ParsePooler(name string) (Pooler, error) {
	switch p := Pooler(name); p {
	case NoPooler, SessionPooler:
		return p, nil
	default:
		return "", fmt.Errorf("unknown pooler %q: want %s, or none for a connection to the server itself", name, SessionPooler)
	}
}

// Target is a server to connect to, and the pooler that may be in between. Several
// goroutines may use it at the same time.
type Target struct {
	*pgx.ConnConfig
	Pooler Pooler

	mu      sync.Mutex
	checked bool // the pooler was found to keep sessions
}

// NewTarget returns a Target. It does not connect.
func NewTarget(config *pgx.ConnConfig, pooler Pooler) *Target {
	return &Target{ConnConfig: config, Pooler: pooler}
}

// PoolerError reports a connection pooler that must not be used. Nothing has been set
// on any of its sessions.
type PoolerError struct {
	// Client is the process id that the other side reported at the start of the
	// session. Server is the id of the server process that answers queries.
	Client, Server uint32
	// Transactions is set if the pooler was accepted as a pooler of sessions, but gave
	// one session to two clients or two sessions to one client.
	Transactions bool
	// Crowded is the reason why the pooler had no second session for us.
	Crowded error
}

func (e *PoolerError) Error() string {
	switch {
	case e.Transactions:
		return "this connection pooler does not keep a session for each client (PgBouncer's pool_mode is transaction or statement), " +
			"and so cannot be used; nothing has been changed. Connect to the server itself: its own host and port, often 5432"
	case e.Crowded != nil:
		return fmt.Sprintf("the connection pooler had no second session for us within %s; nothing has been changed. "+
			"Give it more (PgBouncer's pool_size), or connect to the server itself: %v", secondSessionTimeout, e.Crowded)
	default:
		return fmt.Sprintf("this is a connection pooler: it names process %d and process %d answers. It would give sessions that repack has set up "+
			"to the application; nothing has been changed. Connect to the server itself: its own host and port, often 5432 (PgBouncer often has 6432); "+
			"if the pooler keeps a session for each client (PgBouncer's pool_mode = session), add --pooler=session", e.Client, e.Server)
	}
}

// Unwrap returns Crowded.
func (e *PoolerError) Unwrap() error { return e.Crowded }

// backendSQL asks for the process id of the backend that answers.
const backendSQL = `SELECT pg_catalog.pg_backend_pid()`

// backend returns the id of the server process that answers. It uses the simple query
// protocol: a prepared statement would stay on a session that may belong to others.
//
// https://www.postgresql.org/docs/current/protocol-flow.html, "Simple Query"
func backend(ctx context.Context, conn *pgx.Conn) (uint32, error) {
	results, err := conn.PgConn().Exec(ctx, backendSQL).ReadAll()
	if err != nil {
		return 0, fmt.Errorf("ask for the server's process: %w", err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return 0, errors.New("ask for the server's process: no answer")
	}
	pid, err := strconv.ParseUint(string(results[0].Rows[0][0]), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("ask for the server's process: %w", err)
	}
	return uint32(pid), nil
}

// pooledKey marks a connection through a pooler. Its value is the process id of the
// server session on which the connection was set up.
const pooledKey = "repack pooled"

// Direct returns *PoolerError unless conn ends at the server's own process. A pooler
// reports a process id and a cancel key of its own to its client, because they belong
// to the pooler and not to one server session.
//
// https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-START-UP, "BackendKeyData"
func Direct(ctx context.Context, conn *pgx.Conn) error {
	pid, err := backend(ctx, conn)
	if err != nil {
		return err
	}
	if named := conn.PgConn().PID(); named != pid {
		return &PoolerError{Client: named, Server: pid}
	}
	return nil
}

// admit returns nil if conn may be set up: it ends at the server, or at an accepted
// pooler that keeps sessions.
func (t *Target) admit(ctx context.Context, conn *pgx.Conn) error {
	err := Direct(ctx, conn)
	var pooler *PoolerError
	if t.Pooler != SessionPooler || !errors.As(err, &pooler) {
		return err
	}
	if err := t.keepsSessions(ctx, conn, pooler.Server); err != nil {
		return err
	}
	conn.PgConn().CustomData()[pooledKey] = pooler.Server
	return nil
}

// secondSessionTimeout is how long a pooler may take to give us a second session.
const secondSessionTimeout = 10 * time.Second

// keepsSessions checks once, as far as a client can, that the pooler keeps sessions.
// first has server process pid. A second client must get another process. first must
// still have its own process while the second client is in a transaction.
//
// A pooler of transactions gives the second client the session that first has just
// returned, or gives first another session. A pooler that serves many clients at the
// same time may pass the check by chance.
func (t *Target) keepsSessions(ctx context.Context, first *pgx.Conn, pid uint32) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.checked {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, secondSessionTimeout)
	defer cancel()
	second, err := pgx.ConnectConfig(ctx, t.withoutSettings())
	if err != nil {
		return &PoolerError{Crowded: err}
	}
	defer second.Close(context.WithoutCancel(ctx))
	for range 3 {
		if err := checkApart(ctx, first, second, pid); err != nil {
			return err
		}
	}
	t.checked = true
	return nil
}

// checkApart lets second hold a session by a transaction, and checks that first then
// still has its own session.
func checkApart(ctx context.Context, first, second *pgx.Conn, pid uint32) error {
	if _, err := second.PgConn().Exec(ctx, "BEGIN").ReadAll(); err != nil {
		return &PoolerError{Crowded: err}
	}
	other, err := backend(ctx, second)
	if err != nil {
		return &PoolerError{Crowded: err}
	}
	if other == pid {
		return &PoolerError{Transactions: true}
	}
	again, err := backend(ctx, first)
	if err != nil {
		return &PoolerError{Crowded: err}
	}
	if _, err := second.PgConn().Exec(ctx, "COMMIT").ReadAll(); err != nil {
		return &PoolerError{Crowded: err}
	}
	if again != pid {
		return &PoolerError{Transactions: true}
	}
	return nil
}

// checkSession returns *PoolerError if a connection through a pooler no longer has the
// session on which it was set up.
func checkSession(ctx context.Context, conn *pgx.Conn) error {
	pid, pooled := conn.PgConn().CustomData()[pooledKey].(uint32)
	if !pooled {
		return nil
	}
	now, err := backend(ctx, conn)
	if err != nil {
		return err
	}
	if now != pid {
		return &PoolerError{Transactions: true}
	}
	return nil
}

// closeTimeout bounds the statements that run before a session is closed.
const closeTimeout = 5 * time.Second

// discardSQL is what a pooler of sessions should run between clients. It removes
// settings, prepared statements and advisory locks. Some poolers are configured not to
// run it.
//
// https://www.postgresql.org/docs/current/sql-discard.html
const discardSQL = `DISCARD ALL`

// Close closes conn, also if ctx has ended; it takes at most 5 s. A session that a
// pooler would give to another client is discarded first.
func Close(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	discard(ctx, conn)
	_ = conn.Close(ctx) // nothing can be lost any more
}

// discard removes all settings from a session behind a pooler. If that fails, the
// session is in the middle of something, and a pooler does not give such a session to
// another client.
func discard(ctx context.Context, conn *pgx.Conn) {
	if _, pooled := conn.PgConn().CustomData()[pooledKey]; pooled && !conn.IsClosed() {
		_, _ = conn.PgConn().Exec(ctx, discardSQL).ReadAll()
	}
}
