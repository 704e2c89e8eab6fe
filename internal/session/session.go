package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// common returns the settings of every session: its name, UTF-8 as the encoding of our
// strings (a role may have another client_encoding), and no limit that a role, a
// database or the connection string may have set. "0" means no limit.
func common() map[string]string {
	return map[string]string{
		"application_name":                    ApplicationName(),
		"client_encoding":                     "UTF8",
		"statement_timeout":                   "0",
		"transaction_timeout":                 "0",
		"idle_in_transaction_session_timeout": "0",
		"idle_session_timeout":                "0",
	}
}

// settings are forced on sessions that Configure sets up. Settings that the server does
// not know are skipped. lock_timeout is a safety net: package lock sets its own.
var settings = map[string]string{
	"search_path":                    "pg_catalog",
	"wal_compression":                "lz4",
	"row_security":                   "off", // an error instead of a copy that lacks rows
	"session_replication_role":       "origin",
	"lock_timeout":                   "10s",
	"default_transaction_isolation":  "read committed",
	"default_transaction_read_only":  "off",
	"default_transaction_deferrable": "off",
	"default_tablespace":             "",
	"default_table_access_method":    "heap",
	"check_function_bodies":          "on",
	"quote_all_identifiers":          "off",
	"standard_conforming_strings":    "on",
	"transform_null_equals":          "off",
	"client_min_messages":            "warning",
	"DateStyle":                      "ISO, YMD",
	"IntervalStyle":                  "postgres",
	"TimeZone":                       "UTC",
	"bytea_output":                   "hex",
	"extra_float_digits":             "1",
	"jit":                            "off",
	// Planning a catalog query takes several times as long as running it. Statements
	// that read and write rows use custom plans: see CustomPlansSQL.
	"plan_cache_mode":         "force_generic_plan",
	"tcp_keepalives_idle":     "30",
	"tcp_keepalives_interval": "10",
	"tcp_keepalives_count":    "3",
}

// CustomPlansSQL makes the server plan the statements of a transaction for their
// parameters, such as a range of blocks.
//
// https://www.postgresql.org/docs/current/runtime-config-query.html, "plan_cache_mode"
const CustomPlansSQL = `SET LOCAL plan_cache_mode = force_custom_plan`

// Begin returns the options of a transaction that begins with statements. They are sent
// together with BEGIN, in one round trip.
func Begin(settings ...string) pgx.TxOptions {
	return pgx.TxOptions{BeginQuery: strings.Join(append([]string{"begin"}, settings...), ";\n")}
}

// settingsSQL skips settings that the server does not know, for which current_setting
// returns null. set_config would create an unknown name that contains a dot, and fail
// on any other unknown name. (pg_settings would tell too, but reading it takes a
// millisecond.)
//
// session_replication_role is not changed if its value is right already, because not
// every role may set it.
const settingsSQL = `
SELECT pg_catalog.set_config(v.key, v.value, false)
FROM   pg_catalog.jsonb_each_text($1::pg_catalog.jsonb) v
WHERE  pg_catalog.current_setting(v.key, true) IS NOT NULL
AND   (v.key OPERATOR(pg_catalog.<>) 'session_replication_role' OR pg_catalog.current_setting(v.key, true) OPERATOR(pg_catalog.<>) v.value)`

// connectionCheckSQL makes a backend notice while it runs a statement that its client
// is gone. Without it, a killed run would hold its locks until the statement ends.
// Servers on some platforms refuse this setting.
//
// https://www.postgresql.org/docs/current/runtime-config-connection.html, "client_connection_check_interval"
const connectionCheckSQL = `SET client_connection_check_interval = '500ms'`

// walCompressionSQL sets wal_compression only if it is off. Index builds write whole
// pages to the WAL; lz4 makes them a third smaller for almost no time. Only some roles
// may set it, and servers before 15 have no method that is cheap enough. Any other
// choice of the server is kept. If one of the first two conditions is false,
// pg_settings is not read.
const walCompressionSQL = `
AND   (v.key OPERATOR(pg_catalog.<>) 'wal_compression'
       OR pg_catalog.current_setting(v.key) OPERATOR(pg_catalog.=) 'off'
          AND pg_catalog.has_parameter_privilege(v.key, 'SET')
          AND EXISTS (SELECT FROM pg_catalog.pg_settings s
                      WHERE  s.name OPERATOR(pg_catalog.=) v.key AND 'lz4' OPERATOR(pg_catalog.=) ANY (s.enumvals)))`

// firstVersionWithParameterPrivileges is the first version with
// has_parameter_privilege.
const firstVersionWithParameterPrivileges = "15"

// ApplicationName returns the application_name of our sessions, as pg_stat_activity
// shows it. Package registry parses it. It has at most 63 bytes.
func ApplicationName() string {
	host, _ := os.Hostname() // without a host name the process id must be enough
	name := fmt.Sprintf("repack %d@%s", os.Getpid(), host)
	return name[:min(len(name), 63)]
}

// withoutSettings is a copy of the configuration without settings for the start of a
// session: a pooler would keep or refuse them.
func (t *Target) withoutSettings() *pgx.ConnConfig {
	c := t.ConnConfig.Copy()
	delete(c.RuntimeParams, "search_path")
	delete(c.RuntimeParams, "options")
	return c
}

// Connect opens one connection and calls Configure. Close it with Close. It returns
// *PoolerError if a pooler must not be used.
func Connect(ctx context.Context, target *Target) (*pgx.Conn, error) {
	return open(ctx, target, target.withoutSettings(), Configure)
}

// ConnectAsIs opens a connection that keeps the settings of the role and of the
// connection string, such as search_path, but has no time-outs. Close it with Close. It
// returns *PoolerError if a pooler must not be used.
func ConnectAsIs(ctx context.Context, target *Target) (*pgx.Conn, error) {
	return open(ctx, target, target.ConnConfig, NoTimeouts)
}

// connectRetryTime is how long one of our own sessions may take to end after it was
// closed.
const connectRetryTime = 2 * time.Second

// connectRetrying connects. If the server has too many connections, it tries again for
// 2 s: a session that we have just closed counts until it has ended.
func connectRetrying(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	for deadline := time.Now().Add(connectRetryTime); ; {
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

// open connects, checks for a pooler, and sets the session up.
func open(ctx context.Context, target *Target, config *pgx.ConnConfig, configure func(context.Context, *pgx.Conn) error) (*pgx.Conn, error) {
	conn, err := connectRetrying(ctx, config)
	if err != nil {
		return nil, Failed(err)
	}
	if err = target.admit(ctx, conn); err == nil {
		err = configure(ctx, conn)
	}
	if err != nil {
		Close(ctx, conn) // return the first error
		return nil, err
	}
	return conn, nil
}

// Unset opens a connection on which nothing is set. Nothing may be set on it, because
// it is not known whether a pooler is at the other end. Use it to find out why no other
// connection can be opened. Close it with Close.
func Unset(ctx context.Context, target *Target) (*pgx.Conn, error) {
	conn, err := connectRetrying(ctx, target.withoutSettings())
	if err != nil {
		return nil, Failed(err)
	}
	return conn, nil
}

// Pool opens a pool of at most size connections that Configure has set up. The pool
// connects when a connection is needed; then it may return *PoolerError.
func Pool(ctx context.Context, target *Target, size int) (*pgxpool.Pool, error) {
	poolConfig, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, fmt.Errorf("configure connection pool: %w", err)
	}
	poolConfig.ConnConfig = target.withoutSettings()
	poolConfig.MaxConns = int32(size)
	poolConfig.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if err := target.admit(ctx, conn); err != nil {
			return err
		}
		return Configure(ctx, conn)
	}
	poolConfig.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
		err := checkSession(ctx, conn)
		return err == nil, err
	}
	poolConfig.BeforeClose = func(conn *pgx.Conn) {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		discard(ctx, conn)
	}
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, fmt.Errorf("open connection pool: %w", err)
	}
	return pool, nil
}

// request is a statement that sets something up, and the error message if it fails.
type request struct {
	sql    string
	values [][]byte
	failed func(error) error
}

// set returns a request for settings.
func set(conn *pgx.Conn, values map[string]string) (request, error) {
	sql := settingsSQL
	if conn.PgConn().ParameterStatus("server_version") >= firstVersionWithParameterPrivileges {
		sql += walCompressionSQL
	} else {
		delete(values, "wal_compression")
	}
	text, err := json.Marshal(values)
	return request{sql, [][]byte{text}, settingsError}, err
}

// settingsError explains why settings could not be set. session_replication_role is the
// only one that not every role may set.
func settingsError(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InsufficientPrivilege && strings.Contains(pgErr.Message, "session_replication_role") {
		return fmt.Errorf("session_replication_role is not origin and cannot be reset (ALTER ROLE … RESET session_replication_role): %w", err)
	}
	return fmt.Errorf("set session defaults: %w", err)
}

// send sends requests in one round trip. If one fails, the others still run. It returns
// the first error.
func send(ctx context.Context, conn *pgx.Conn, requests ...request) error {
	pipeline := conn.PgConn().StartPipeline(ctx)
	for _, r := range requests {
		pipeline.SendQueryParams(r.sql, r.values, nil, nil, nil)
		if err := pipeline.Sync(); err != nil {
			return errors.Join(err, pipeline.Close())
		}
	}
	var first error
	for _, r := range requests {
		if err := readResult(pipeline); err != nil && first == nil {
			first = r.failed(err)
		}
	}
	return errors.Join(first, pipeline.Close())
}

// readResult reads the result of one request.
func readResult(pipeline *pgconn.Pipeline) (failed error) {
	for {
		results, err := pipeline.GetResults()
		var pgErr *pgconn.PgError
		if err != nil && !errors.As(err, &pgErr) {
			return err // a connection error: there is nothing more to read
		}
		switch r := results.(type) {
		case *pgconn.ResultReader:
			_, err = r.Close()
		case *pgconn.PipelineSync:
			return failed
		}
		if failed == nil {
			failed = err
		}
	}
}

// NoTimeouts sets the name of the session, and removes the limits that a role, a
// database or the connection string may have set. Call it before statements that take
// time.
func NoTimeouts(ctx context.Context, conn *pgx.Conn) error {
	limits, err := set(conn, common())
	if err != nil {
		return err
	}
	return send(ctx, conn, limits)
}

// Configure forces the settings of our sessions, in one round trip. It returns an error
// if session_replication_role is not origin and the role may not set it. Calling it
// again is safe.
func Configure(ctx context.Context, conn *pgx.Conn) error {
	all := common()
	maps.Copy(all, settings)
	forced, err := set(conn, all)
	if err != nil {
		return err
	}
	// The second request may fail: see connectionCheckSQL.
	return send(ctx, conn, forced, request{connectionCheckSQL, nil, func(error) error { return nil }})
}
