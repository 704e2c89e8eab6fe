package pgtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/wire"
)

// applicationName tells the tests' own sessions from those of the tool.
const applicationName = "pgtest"

// Config returns a new configuration for a connection as the superuser, for the
// caller to change.
func (db *Database) Config(t testing.TB) *pgx.ConnConfig {
	t.Helper()
	config, err := pgx.ParseConfig(db.DSN)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	config.RuntimeParams["application_name"] = applicationName
	return config
}

// Through is Config by way of a proxy that counts what is said, and delays it by
// latency in each direction.
func (db *Database) Through(t testing.TB, latency time.Duration) (*pgx.ConnConfig, *wire.Proxy) {
	t.Helper()
	config := db.Config(t)
	proxy, err := wire.Listen(t.Context(), "unix", fmt.Sprintf("%s/.s.PGSQL.%d", config.Host, config.Port), latency)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	config.Host, config.Port, config.TLSConfig, config.Fallbacks = "127.0.0.1", proxy.Port(), nil, nil
	return config, proxy
}

// DSNAs returns the DSN of the database for role.
func (db *Database) DSNAs(role string) string {
	return db.server.ConnStringAs(db.Name, role)
}

// Connect opens a connection of its own as the superuser, for a test that has
// to know which session holds what. It is closed at the end of the test.
func (db *Database) Connect(t testing.TB) *pgx.Conn {
	t.Helper()
	return connect(t, db.Config(t))
}

// ConnectAs does what Connect does as role, without a password.
func (db *Database) ConnectAs(t testing.TB, role string) *pgx.Conn {
	t.Helper()
	config := db.Config(t)
	config.User = role
	return connect(t, config)
}

func connect(t testing.TB, config *pgx.ConnConfig) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		// The test may have closed or killed it: nothing to report.
		_ = conn.Close(ctx)
	})
	return conn
}
