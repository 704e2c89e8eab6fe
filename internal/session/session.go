// Package session opens connections whose settings do not depend on what a
// role, a database or an environment variable has set as a default.
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

// common are set on every session: what it is called, UTF-8, as our strings are (a
// role may have another client_encoding), and no limit that a role, a database or
// the connection string may have set.
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

// settings are forced on every session of ours. Those a server does not know are
// skipped; lock_timeout is a safety net under the explicit ones of package lock.
var settings = map[string]string{
	"search_path":                    "pg_catalog",
	"wal_compression":                "lz4",
	"row_security":                   "off", // an error, never a smaller copy
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
	// Planning a query of the catalogs takes several times as long as running it.
	// What reads and writes rows asks for plans of its own: see CustomPlansSQL.
	"plan_cache_mode":         "force_generic_plan",
	"tcp_keepalives_idle":     "30",
	"tcp_keepalives_interval": "10",
	"tcp_keepalives_count":    "3",
}

// CustomPlansSQL has the statements of a transaction planned for their arguments,
// such as a range of blocks.
const CustomPlansSQL = `SET LOCAL plan_cache_mode = force_custom_plan`

// Begin are the options of a transaction that begins with settings, sent together.
func Begin(settings ...string) pgx.TxOptions {
	return pgx.TxOptions{BeginQuery: strings.Join(append([]string{"begin"}, settings...), ";\n")}
}

// current_setting is null of a name that the server does not know: set_config
// itself would create an unknown two-part name and fail on an unknown plain one.
// (pg_settings would say so, too, but takes a millisecond to be read.)
//
// session_replication_role, which not every role may set, is left alone where it is
// as it should be.
const settingsSQL = `
SELECT pg_catalog.set_config(v.key, v.value, false)
FROM   pg_catalog.jsonb_each_text($1::pg_catalog.jsonb) v
WHERE  pg_catalog.current_setting(v.key, true) IS NOT NULL
AND   (v.key OPERATOR(pg_catalog.<>) 'session_replication_role' OR pg_catalog.current_setting(v.key, true) OPERATOR(pg_catalog.<>) v.value)`

// A backend that is running a statement notices only through this setting that
// its client is gone; without it a killed run would hold its locks until the
// statement ends. Servers on some platforms refuse it.
const connectionCheckSQL = `SET client_connection_check_interval = '500ms'`

// Index builds write whole pages to the WAL, which lz4 makes a third smaller for
// next to no time. Only some roles may set this, and servers before 15 have
// nothing that is cheap enough; a server's own choice is left alone. Where one of
// the first two conditions is false pg_settings is not read.
const walCompressionSQL = `
AND   (v.key OPERATOR(pg_catalog.<>) 'wal_compression'
       OR pg_catalog.current_setting(v.key) OPERATOR(pg_catalog.=) 'off'
          AND pg_catalog.has_parameter_privilege(v.key, 'SET')
          AND EXISTS (SELECT FROM pg_catalog.pg_settings s
                      WHERE  s.name OPERATOR(pg_catalog.=) v.key AND 'lz4' OPERATOR(pg_catalog.=) ANY (s.enumvals)))`

const firstVersionWithParameterPrivileges = "15"

// ApplicationName is what pg_stat_activity shows of our sessions.
func ApplicationName() string {
	host, _ := os.Hostname() // without a name the process id has to do
	name := fmt.Sprintf("repack %d@%s", os.Getpid(), host)
	return name[:min(len(name), 63)]
}

// withoutSettings is a copy of the configuration that says nothing of ours. A pooler would
// remember what is said at the start of a session, or refuse it.
func (t *Target) withoutSettings() *pgx.ConnConfig {
	c := t.ConnConfig.Copy()
	delete(c.RuntimeParams, "search_path")
	delete(c.RuntimeParams, "options")
	return c
}

// Connect opens one configured connection, to be closed by Close. It returns
// *PoolerError.
func Connect(ctx context.Context, target *Target) (*pgx.Conn, error) {
	return open(ctx, target, target.withoutSettings(), Configure)
}

// ConnectAsIs opens a connection that keeps the settings of the role and of the
// connection string, its search_path among them, except time-outs; to be closed
// by Close. It returns *PoolerError.
func ConnectAsIs(ctx context.Context, target *Target) (*pgx.Conn, error) {
	return open(ctx, target, target.ConnConfig, NoTimeouts)
}

// connectRetryTime is how long a session of ours that has been closed may take to end.
const connectRetryTime = 2 * time.Second

// connectRetrying connects, again for a moment where the limit of connections says no:
// a session that we have just left counts until it has ended.
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

func open(ctx context.Context, target *Target, config *pgx.ConnConfig, configure func(context.Context, *pgx.Conn) error) (*pgx.Conn, error) {
	conn, err := connectRetrying(ctx, config)
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
	conn, err := connectRetrying(ctx, target.withoutSettings())
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

// request is a statement that sets something up, and how to say that it failed.
type request struct {
	sql    string
	values [][]byte
	failed func(error) error
}

// set is a request for settings.
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

// settingsError is why settings could not be set: of ours only one is not everybody's to set.
func settingsError(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InsufficientPrivilege && strings.Contains(pgErr.Message, "session_replication_role") {
		return fmt.Errorf("session_replication_role is not origin and cannot be reset (ALTER ROLE … RESET session_replication_role): %w", err)
	}
	return fmt.Errorf("set session defaults: %w", err)
}

// send sends requests in one round trip. That one fails is not the end of those
// behind it; the first failure is returned.
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

// readResult reads what has come of one request.
func readResult(pipeline *pgconn.Pipeline) (failed error) {
	for {
		results, err := pipeline.GetResults()
		var pgErr *pgconn.PgError
		if err != nil && !errors.As(err, &pgErr) {
			return err // the connection's, after which there is nothing to read
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

// NoTimeouts gives the session our name, and lifts the limits that a role, a
// database or the connection string may have set, before anything is done that
// takes time.
func NoTimeouts(ctx context.Context, conn *pgx.Conn) error {
	limits, err := set(conn, common())
	if err != nil {
		return err
	}
	return send(ctx, conn, limits)
}

// Configure forces the settings every session of ours has, in one round trip. It
// fails where the role has session_replication_role set and may not reset it.
func Configure(ctx context.Context, conn *pgx.Conn) error {
	all := common()
	maps.Copy(all, settings)
	forced, err := set(conn, all)
	if err != nil {
		return err
	}
	// The second is best effort: see there.
	return send(ctx, conn, forced, request{connectionCheckSQL, nil, func(error) error { return nil }})
}
