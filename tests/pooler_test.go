package tests

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// poolerClients are more than a pool has sessions: each is looked at.
const poolerClients = 20

// ownSettingsSQL is what an application notices of its session. The plans of
// prepared statements and what each transaction sets for itself are left out.
const ownSettingsSQL = `
SELECT pg_catalog.concat_ws(' | ', pg_catalog.current_setting('search_path'),
       pg_catalog.current_setting('statement_timeout'), pg_catalog.current_setting('row_security'),
       pg_catalog.current_setting('application_name'),
       (SELECT pg_catalog.string_agg(name || '=' || setting, ',' ORDER BY name) FROM pg_catalog.pg_settings
       WHERE source = 'session' AND name NOT IN ('application_name', 'client_encoding')
       AND name NOT LIKE 'transaction%'), (SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_statements))`

// clientsFind makes sure that clients of the pooler find their own settings, when
// all are in a transaction at the same time, and so each session is looked at.
func clientsFind(t *testing.T, config *pgx.ConnConfig, want string) {
	t.Helper()
	config = config.Copy()
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	config.RuntimeParams["application_name"] = "the application"
	for range poolerClients {
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		mustExec(t, conn, `BEGIN`)
		var got string
		if err := conn.QueryRow(testContext(t), ownSettingsSQL).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("a client of the pooler finds %q, want %q", got, want)
		}
	}
}

const poolerTableSQL = `
CREATE SCHEMA app;
CREATE TABLE app.t (id int PRIMARY KEY, n int);
INSERT INTO app.t SELECT g, g FROM generate_series(1, 5000) g`

// commands are everything that connects.
func commands(r *repack.Repack) map[string]func(t *testing.T) error {
	return map[string]func(t *testing.T) error{
		"run":    func(t *testing.T) error { return r.Run(testContext(t)) },
		"status": func(t *testing.T) error { _, err := r.Status(testContext(t)); return err },
		"plan":   func(t *testing.T) error { _, err := r.Plan(testContext(t)); return err },
		"verify": func(t *testing.T) error { _, err := r.Verify(testContext(t)); return err },
		"revert": func(t *testing.T) error { return r.Revert(testContext(t)) },
		"reset":  func(t *testing.T) error { return r.Reset(testContext(t)) },
	}
}

func givenPooler(t *testing.T, db *pgtest.Database, settings map[string]string) (config *pgx.ConnConfig, own string) {
	t.Helper()
	db.Exec(t, poolerTableSQL)
	db.Exec(t, fmt.Sprintf(`
		ALTER DATABASE %s SET search_path = app, public;
		ALTER DATABASE %[1]s SET statement_timeout = '30s'`, db.Name))
	settings["default_pool_size"] = fmt.Sprint(poolerClients)
	settings["max_client_conn"] = "100"
	return db.Pooled(t, settings), "app, public | 30s | on | the application | 0"
}

// noAdvisoryLock also waits for the pooler to notice that its client has gone.
func noAdvisoryLock(t *testing.T, db *pgtest.Database) {
	t.Helper()
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, db.Pool, `
			SELECT NOT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
			WHERE locktype = 'advisory' AND datname = current_database())`)
	}, "advisory locks to be given back")
}

// TestPoolerRefused has every command refuse a pooler in every mode, whether it is
// taken for one of sessions or not, and leave its sessions as they are.
func TestPoolerRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ mode, accepted, said string }{
		{"session", "", "--pooler=session"},
		{"transaction", "", "this is a connection pooler"},
		{"transaction", repack.PoolerSession, "does not keep a session"},
		{"statement", "", "this is a connection pooler"},
	} {
		t.Run(c.mode+" "+c.accepted, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			config, own := givenPooler(t, db, map[string]string{"pool_mode": c.mode, "server_reset_query": ""})
			o := options(t, "app.t", repack.ChangeLog)
			o.Pooler = c.accepted
			r, err := repack.New(config, o)
			if err != nil {
				t.Fatal(err)
			}
			for name, command := range commands(r) {
				var pooler *repack.PoolerError
				if err := command(t); !errors.As(err, &pooler) || !strings.Contains(err.Error(), c.said) {
					t.Errorf("%s: %v, want a refusal that says %q", name, err, c.said)
				}
			}
			if c.mode != "statement" { // which knows no transactions
				clientsFind(t, config, own)
			}
			noAdvisoryLock(t, db)
			noArtefacts(t, db)
		})
	}
}

// TestPoolerOfSessions repacks through a pooler that cleans no session.
func TestPoolerOfSessions(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		config, own := givenPooler(t, db, map[string]string{"pool_mode": "session", "server_reset_query": ""})
		o := options(t, "app.t", strategy)
		o.Pooler = repack.PoolerSession
		r, err := repack.New(config, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Run(testContext(t)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"status", "plan"} {
			if err := commands(r)[name](t); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		noAdvisoryLock(t, db)
		clientsFind(t, config, own)
		if n := pgtest.Query[int](t, db.Pool, `SELECT sum(n) FROM app.t`); n != 5000*5001/2 {
			t.Errorf("the table's sum is %d", n)
		}
	})
}
