// Package session opens connections whose settings do not depend on what a
// role, a database or an environment variable has set as a default.
package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// settings are forced on every session. Those a server does not know are
// skipped; lock_timeout is a safety net under the explicit ones of package lock.
var settings = map[string]string{
	"row_security":                        "off", // an error, never a smaller copy
	"lock_timeout":                        "10s",
	"statement_timeout":                   "0",
	"transaction_timeout":                 "0",
	"idle_in_transaction_session_timeout": "0",
	"idle_session_timeout":                "0",
	"default_transaction_isolation":       "read committed",
	"default_transaction_read_only":       "off",
	"default_transaction_deferrable":      "off",
	"default_tablespace":                  "",
	"default_table_access_method":         "heap",
	"check_function_bodies":               "on",
	"quote_all_identifiers":               "off",
	"standard_conforming_strings":         "on",
	"transform_null_equals":               "off",
	"client_min_messages":                 "warning",
	"DateStyle":                           "ISO, YMD",
	"IntervalStyle":                       "postgres",
	"TimeZone":                            "UTC",
	"bytea_output":                        "hex",
	"extra_float_digits":                  "1",
	"jit":                                 "off",
	"plan_cache_mode":                     "force_custom_plan",
	"tcp_keepalives_idle":                 "30",
	"tcp_keepalives_interval":             "10",
	"tcp_keepalives_count":                "3",
}

// current_setting is null of a name that the server does not know: set_config
// itself would create an unknown two-part name and fail on an unknown plain one.
// (pg_settings would say so, too, but takes a millisecond to be read.)
const settingsSQL = `
SELECT pg_catalog.set_config(v.key, v.value, false)
FROM   pg_catalog.jsonb_each_text($1::pg_catalog.jsonb) v
WHERE  pg_catalog.current_setting(v.key, true) IS NOT NULL`

const searchPathSQL = `SET search_path = pg_catalog`

// A backend that is running a statement notices only through this setting that
// its client is gone; without it a killed run would hold its locks until the
// statement ends. Servers on some platforms refuse it.
const connectionCheckSQL = `SET client_connection_check_interval = '500ms'`

// Index builds write whole pages to the WAL, which lz4 makes a third smaller for
// next to no time. Only some roles may set this, and servers before 15 have
// nothing that is cheap enough; a server's own choice is left alone. Where one of
// the first two conditions is false pg_settings is not read.
const walCompressionSQL = `
SELECT set_config('wal_compression', 'lz4', false)
FROM   pg_settings
WHERE  current_setting('wal_compression') = 'off'
AND    has_parameter_privilege('wal_compression', 'SET')
AND    name = 'wal_compression' AND 'lz4' = ANY (enumvals)`

const firstVersionWithParameterPrivileges = "15"

const replicationRoleSQL = `
SELECT CASE WHEN current_setting('session_replication_role') <> 'origin'
            THEN set_config('session_replication_role', 'origin', false) END`

// ApplicationName is what pg_stat_activity shows of our sessions.
func ApplicationName() string {
	host, _ := os.Hostname() // without a name the process id has to do
	name := fmt.Sprintf("repack %d@%s", os.Getpid(), host)
	return name[:min(len(name), 63)]
}

// bare is a copy of the configuration that says nothing of ours. A pooler would
// remember what is said at the start of a session, or refuse it.
func (t *Target) bare() *pgx.ConnConfig {
	c := t.ConnConfig.Copy()
	delete(c.RuntimeParams, "search_path")
	delete(c.RuntimeParams, "options")
	return c
}

// Connect opens one configured connection, to be closed by Close. It returns
// *PoolerError.
func Connect(ctx context.Context, target *Target) (*pgx.Conn, error) {
	return open(ctx, target, target.bare(), Configure)
}

// ConnectAsIs opens a connection that keeps the settings of the role and of the
// connection string, its search_path among them, except time-outs; to be closed
// by Close. It returns *PoolerError.
func ConnectAsIs(ctx context.Context, target *Target) (*pgx.Conn, error) {
	return open(ctx, target, target.ConnConfig, NoTimeouts)
}

// patience is how long a session of ours that has been closed may take to end.
const patience = 2 * time.Second

// patiently connects, again for a moment where the limit of connections says no:
// a session that we have just left counts until it has ended.
func patiently(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	for deadline := time.Now().Add(patience); ; {
		conn, err := pgx.ConnectConfig(ctx, config)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.TooManyConnections || time.Now().After(deadline) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func open(ctx context.Context, target *Target, config *pgx.ConnConfig, configure func(context.Context, *pgx.Conn) error) (*pgx.Conn, error) {
	conn, err := patiently(ctx, config)
	if err != nil {
		return nil, Failed(err)
	}
	if err = target.admit(ctx, conn); err == nil {
		err = configure(ctx, conn)
	}
	if err != nil {
		Close(ctx, conn) // the first error is the one to tell
		return nil, err
	}
	return conn, nil
}

// Unset opens a connection on which nothing is set, nor must be: what there is at the
// other end is not known. It is for asking why no other connection can be opened, and
// to be closed by Close.
func Unset(ctx context.Context, target *Target) (*pgx.Conn, error) {
	conn, err := patiently(ctx, target.bare())
	if err != nil {
		return nil, Failed(err)
	}
	return conn, nil
}

// Pool opens a pool of at most size configured connections.
func Pool(ctx context.Context, target *Target, size int) (*pgxpool.Pool, error) {
	poolConfig, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, fmt.Errorf("configure connection pool: %w", err)
	}
	poolConfig.ConnConfig = target.bare()
	poolConfig.MaxConns = int32(size)
	poolConfig.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if err := target.admit(ctx, conn); err != nil {
			return err
		}
		return Configure(ctx, conn)
	}
	poolConfig.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
		err := same(ctx, conn)
		return err == nil, err
	}
	poolConfig.BeforeClose = func(conn *pgx.Conn) {
		ctx, cancel := context.WithTimeout(context.Background(), leaving)
		defer cancel()
		leave(ctx, conn)
	}
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, fmt.Errorf("open connection pool: %w", err)
	}
	return pool, nil
}

// What each session of ours is called, and UTF-8, as our strings are: a role may
// have another client_encoding.
const introduceSQL = `
SELECT pg_catalog.set_config('application_name', $1, false), pg_catalog.set_config('client_encoding', 'UTF8', false)`

const noTimeoutsSQL = `
SET statement_timeout = 0;
SET idle_session_timeout = 0;
SET idle_in_transaction_session_timeout = 0;`

// NoTimeouts gives the session our name, and lifts the limits that a role, a
// database or the connection string may have set, before anything is done that
// takes time.
func NoTimeouts(ctx context.Context, conn *pgx.Conn) error {
	sql := noTimeoutsSQL
	var major int
	_, _ = fmt.Sscan(conn.PgConn().ParameterStatus("server_version"), &major) // 0 is none that has it
	if major >= 17 {
		sql += "\nSET transaction_timeout = 0"
	}
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("lift time-outs: %w", err)
	}
	if _, err := conn.Exec(ctx, introduceSQL, ApplicationName()); err != nil {
		return fmt.Errorf("set application_name: %w", err)
	}
	return nil
}

// Configure forces the settings every session of ours has. It fails where the
// role has session_replication_role set and may not reset it.
func Configure(ctx context.Context, conn *pgx.Conn) error {
	if err := NoTimeouts(ctx, conn); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, searchPathSQL); err != nil {
		return fmt.Errorf("set search_path: %w", err)
	}
	if _, err := conn.Exec(ctx, settingsSQL, settings); err != nil {
		return fmt.Errorf("set session defaults: %w", err)
	}
	_, _ = conn.Exec(ctx, connectionCheckSQL) // best effort: see above
	if conn.PgConn().ParameterStatus("server_version") >= firstVersionWithParameterPrivileges {
		if _, err := conn.Exec(ctx, walCompressionSQL); err != nil {
			return fmt.Errorf("set wal_compression: %w", err)
		}
	}
	if _, err := conn.Exec(ctx, replicationRoleSQL); err != nil {
		return fmt.Errorf("session_replication_role is not origin and cannot be reset "+
			"(ALTER ROLE … RESET session_replication_role): %w", err)
	}
	return nil
}
