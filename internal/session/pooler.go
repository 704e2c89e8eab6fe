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

// Pooler says what may stand between us and the server.
type Pooler string

// The ways of Pooler.
const (
	// NoPooler refuses every connection pooler that can be seen.
	NoPooler Pooler = ""
	// SessionPooler accepts one that keeps a server's session for a client as
	// long as the client is connected, as PgBouncer's pool_mode = session does.
	SessionPooler Pooler = "session"
)

// ParsePooler returns the Pooler of that name.
func ParsePooler(name string) (Pooler, error) {
	switch p := Pooler(name); p {
	case NoPooler, SessionPooler:
		return p, nil
	default:
		return "", fmt.Errorf("unknown pooler %q: want %s, or none for a connection to the server itself", name, SessionPooler)
	}
}

// Target is a server to connect to, and what may stand in between. It is safe
// for use by several goroutines.
type Target struct {
	*pgx.ConnConfig
	Pooler Pooler

	mu      sync.Mutex
	checked bool // SessionPooler has been found to pool sessions
}

// NewTarget does not connect.
func NewTarget(config *pgx.ConnConfig, pooler Pooler) *Target {
	return &Target{ConnConfig: config, Pooler: pooler}
}

// PoolerError reports a connection pooler that must not be used. Nothing has
// been set on any of its sessions.
type PoolerError struct {
	// Client is the process id that the other side names, Server the one of the
	// server's process that answered.
	Client, Server uint32
	// Transactions is set of a pooler that was accepted as one of sessions and
	// gave one session to two clients, or two to one.
	Transactions bool
	// Crowded is the reason why a pooler had no second session for us.
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

// Unwrap returns why there was no second session, if that is the matter.
func (e *PoolerError) Unwrap() error { return e.Crowded }

const backendSQL = `SELECT pg_catalog.pg_backend_pid()`

// backend asks which process of the server answers. It uses the simple
// protocol: a prepared statement would stay on a session that is not ours.
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

// pooledKey marks connections through a pooler, with the server's process.
const pooledKey = "repack pooled"

// Direct returns *PoolerError unless conn ends at the server's own process. A
// pooler makes up the process id and the key that let its client cancel a
// statement: they belong to it, and not to one server's session.
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

// admit lets conn be set up: where it ends at the server, or at a pooler that is
// accepted and that does what it is accepted for.
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

// secondSessionTimeout is how long a pooler may take to give us another session.
const secondSessionTimeout = 10 * time.Second

// keepsSessions makes sure, once, as far as a client can: while first has the
// server's process pid, a second client must get another one, and first must
// find its own when the second is in a transaction. A pooler of transactions
// gives the second client the session it has just got back, or first another
// one. One that serves many clients at the same time may pass all the same.
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

// checkApart makes second hold a session, by a transaction, while first is asked for
// its own again.
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

// checkSession reports whether a connection through a pooler still has the session it
// was set up on.
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

// closeTimeout bounds what is done to a session before it is left.
const closeTimeout = 5 * time.Second

// DISCARD ALL is what a pooler of sessions is to do between clients: settings,
// prepared statements and advisory locks go. Some are told to do nothing.
//
// https://www.postgresql.org/docs/current/sql-discard.html
const discardSQL = `DISCARD ALL`

// Close ends conn, also when ctx has ended. A session that a pooler would hand on
// is left as it was found.
func Close(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	discard(ctx, conn)
	_ = conn.Close(ctx) // nothing is left to be lost
}

// discard discards what was set. A session where that fails is in the midst of
// something, and no pooler hands on one of those.
func discard(ctx context.Context, conn *pgx.Conn) {
	if _, pooled := conn.PgConn().CustomData()[pooledKey]; pooled && !conn.IsClosed() {
		_, _ = conn.PgConn().Exec(ctx, discardSQL).ReadAll()
	}
}
