package pgtest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/tooling/pgserver"
)

// cleanupTimeout bounds what is done for a test after its context has ended.
const cleanupTimeout = time.Minute

// poolSize keeps the pools of parallel tests within the server's
// max_connections.
const poolSize = 8

// poolTimeout bounds the wait for the pool's last connection to be released.
const poolTimeout = 10 * time.Second

// serial makes the names of databases and roles unique within the process, and
// so on its server.
var serial atomic.Int64

// Database is one test's own database.
type Database struct {
	// Name is the database's name; it needs no quotes.
	Name string
	// DSN connects to it as the superuser; pgx and pg_dump take it alike.
	DSN string
	// Pool connects to it as the superuser.
	Pool *pgxpool.Pool

	server *pgserver.Server

	mu    sync.Mutex
	roles []string // to be dropped after the database
}

// New creates a database on the shared server, empty but for what every new
// database has. Sessions that still use it are ended at the end of the test, and
// it is dropped some time after that.
func New(t testing.TB) *Database {
	t.Helper()
	return NewOn(t, sharedServer(t))
}

// NewOn does what New does on a server of the test's own (see NewServer).
func NewOn(t testing.TB, server *pgserver.Server) *Database {
	t.Helper()
	return newFrom(t, server, pristine)
}

func newFrom(t testing.TB, server *pgserver.Server, template string) *Database {
	t.Helper()
	name := fmt.Sprintf("test_%d", serial.Add(1))
	db := &Database{Name: name, DSN: server.ConnString(name), server: server}
	if err := createDatabase(t.Context(), server, name, template); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := db.retire(ctx); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	db.Pool = openPool(t, db.DSN)
	return db
}

func openPool(t testing.TB, dsn string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	config.MaxConns = poolSize
	config.ConnConfig.RuntimeParams["application_name"] = applicationName
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(t.Context()), config)
	if err != nil {
		t.Fatalf("pgtest: open pool: %v", err)
	}
	t.Cleanup(func() { closePool(t, pool) })
	return pool
}

// closePool reports a connection that was acquired and not released, rather
// than wait for it without end as Close would.
func closePool(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	closed := make(chan struct{})
	go func() {
		pool.Close()
		close(closed)
	}()
	timeout := time.NewTimer(poolTimeout)
	defer timeout.Stop()
	select {
	case <-closed:
	case <-timeout.C:
		t.Errorf("pgtest: %d connections of the pool were not released", pool.Stat().AcquiredConns())
	}
}

// Server returns the server the database is on.
func (db *Database) Server() *pgserver.Server { return db.server }

// Version returns the server's major version, such as 16.
func (db *Database) Version() int { return db.server.Version() }

// Exec runs sql as the superuser, and fails the test if it fails. Without args
// it may be several statements.
func (db *Database) Exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	if _, err := db.Pool.Exec(ctx, sql, args...); err != nil {
		t.Fatalf("pgtest: %v\n%s", err, sql)
	}
}

// Role creates a login role without any privilege and returns its name, which
// needs no quotes. It is dropped after the database, with all it was granted.
func (db *Database) Role(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("role_%d", serial.Add(1))
	db.Exec(t, "CREATE ROLE "+pgx.Identifier{name}.Sanitize()+" LOGIN")
	db.mu.Lock()
	defer db.mu.Unlock()
	db.roles = append(db.roles, name)
	return name
}
