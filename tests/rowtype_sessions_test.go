package tests

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// rowCalls are what a session of the application has called before the swap, and calls
// again after it and after the end.
var rowCalls = []struct{ name, prepare, sql, want, also string }{
	{name: "call", sql: `SELECT app.label(t) FROM app.t WHERE id = 2`, want: "2:b2"},
	{name: "attribute", sql: `SELECT t.label FROM app.t WHERE id = 2`, want: "2:b2"},
	{name: "prepared call", prepare: `PREPARE c1 AS SELECT app.label(t), t.label FROM app.t WHERE id = $1`, sql: `EXECUTE c1(2)`, want: "2:b2"},
	{name: "prepared without the table", prepare: `PREPARE c2 AS SELECT b FROM app.next($1)`, sql: `EXECUTE c2(1)`, want: "b1"},
	{name: "prepared composite", prepare: `PREPARE c3 AS SELECT (app.one($1)).b`, sql: `EXECUTE c3(3)`, want: "b3"},
	{name: "set in plpgsql", sql: `SELECT b FROM app.next(1)`, want: "b1"},
	{name: "set in sql", sql: `SELECT b FROM app.next_sql(1)`, want: "b1"},
	{name: "variables of the row type", sql: `SELECT app.vars(2)`, want: "2:b2"},
	{name: "variables, bare names", sql: `SELECT app.bare(2)`, want: "2:b2"},
	{name: "loop with RETURN NEXT", sql: `SELECT b FROM app.loop(1)`, want: "b1"},
	{name: "aggregate", sql: `SELECT app.total(t) FROM app.t WHERE id < 3`, want: "3"},
	{name: "row constructor", sql: `SELECT app.label(ROW(1, 2, 'x'))`, want: "1:x"},
	{name: "procedure", sql: `CALL app.give(NULL)`, want: "(2,2,b2)"},
	{name: "prepared procedure", prepare: `PREPARE c4 AS SELECT (app.outs(2)).n`, sql: `EXECUTE c4`, want: "2"},
	{name: "set as one column", sql: `SELECT app.next(1)`, want: "(1,1,b1)"},
	{name: "prepared set as one column", prepare: `PREPARE c5 AS SELECT app.next(1)`, sql: `EXECUTE c5`, want: "(1,1,b1)", also: "0A000"},
}

const rowCallsSQL = `
CREATE FUNCTION app.label(r app.t) RETURNS text LANGUAGE sql STABLE AS $$ SELECT r.id || ':' || coalesce(r.b, '') $$;
CREATE FUNCTION app.next(n int) RETURNS SETOF app.t LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT * FROM app.t ORDER BY id LIMIT n; END $$;
CREATE FUNCTION app.next_sql(n int) RETURNS SETOF app.t LANGUAGE sql AS $$ SELECT * FROM app.t ORDER BY id LIMIT n $$;
CREATE FUNCTION app.one(bigint) RETURNS app.t LANGUAGE sql STABLE AS 'SELECT * FROM app.t WHERE id = $1';
CREATE FUNCTION app.vars(n int) RETURNS text LANGUAGE plpgsql AS $$ DECLARE u app.t; v app.t%ROWTYPE; BEGIN SELECT * INTO u FROM app.t WHERE id = n; v := u; RETURN app.label(v); END $$;
CREATE FUNCTION app.bare(n int) RETURNS text LANGUAGE plpgsql SET search_path = app AS $$ DECLARE u t; v t[]; BEGIN SELECT * INTO u FROM t WHERE id = n; v := ARRAY[u]; RETURN label(v[1]); END $$;
CREATE FUNCTION app.loop(n int) RETURNS SETOF app.t LANGUAGE plpgsql AS $$ DECLARE u app.t; BEGIN FOR u IN SELECT * FROM app.t ORDER BY id LIMIT n LOOP RETURN NEXT u; END LOOP; END $$;
CREATE FUNCTION app.add(int, app.t) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 + $2.id; END';
CREATE AGGREGATE app.total(app.t) (SFUNC = app.add, STYPE = int, INITCOND = '0');
CREATE PROCEDURE app.give(INOUT r app.t) LANGUAGE plpgsql AS 'BEGIN SELECT * INTO r FROM app.t WHERE id = 2; END';
CREATE FUNCTION app.outs(x int, OUT r app.t, OUT n int) LANGUAGE plpgsql AS 'BEGIN SELECT * INTO r FROM app.t WHERE id = x; n := r.id; END';`

// TestRowTypeInOpenSessions: a session goes on calling functions of the row type, after
// the swap, after the end, and after a revert.
func TestRowTypeInOpenSessions(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		r := givenRoles(t, db)
		db.Exec(t, r.in(carriedTableSQL)+rowCallsSQL)
		// One session goes through everything; others are opened before the swap and call
		// for the first time again after the end, or after a revert.
		sessions := map[string]*pgx.Conn{}
		for _, name := range []string{"all", "end", "revert"} {
			sessions[name] = db.Connect(t)
			mustExec(t, sessions[name], `SET search_path = app`)
			for _, c := range rowCalls {
				if c.prepare != "" {
					mustExec(t, sessions[name], c.prepare)
				}
			}
		}
		calls := func(name, when string) {
			t.Helper()
			for _, c := range rowCalls {
				for range 2 {
					got := called(t, sessions[name], c.sql)
					if got != c.want && (when == "before" || c.also == "" || got != c.also) {
						t.Errorf("session %q, %s, %s: %q, want %q", name, when, c.name, got, c.want)
					}
				}
			}
		}
		for name := range sessions {
			for range 4 { // until plans are generic
				calls(name, "before")
			}
		}
		o := options(t, "app.t", strategy)
		o.LockTimeout = queuing
		runUntil(t, db, o, repack.Swap)
		calls("all", "after swap")
		revert(t, db, o)
		calls("all", "after revert")
		calls("revert", "after revert")
		run(t, db, o)
		calls("all", "after the end")
		calls("end", "after the end")
	})
}

// heldInExchangeSQL lets the exchange wait for an advisory lock as soon as it alters a
// function while it has locked the table.
const heldInExchangeSQL = `
CREATE FUNCTION public.wait() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_locks
               WHERE pid = pg_catalog.pg_backend_pid() AND mode = 'AccessExclusiveLock' AND relation = pg_catalog.to_regclass('app.t')) THEN
        PERFORM pg_catalog.pg_advisory_xact_lock_shared(77);
    END IF;
END $$;
CREATE EVENT TRIGGER wait ON ddl_command_end WHEN TAG IN ('ALTER ROUTINE') EXECUTE FUNCTION public.wait()`

// TestRowTypeCallsAcrossExchange: a call that waits for the table while the exchange has
// it ends as it would have without it, whether it began with the old function or not.
func TestRowTypeCallsAcrossExchange(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		r := givenRoles(t, db)
		db.Exec(t, r.in(carriedTableSQL)+rowCallsSQL+heldInExchangeSQL)
		o := options(t, "app.t", strategy)
		o.LockTimeout = queuing
		holder := db.Connect(t)
		known := map[string]*pgx.Conn{}
		calls := []string{`SELECT b FROM app.next(1)`, `SELECT b FROM app.next_sql(1)`, `SELECT b FROM app.loop(1)`, `SELECT (app.one(1)).b`, `SELECT substr(app.vars(1), 3)`, `SELECT b FROM app.t, app.label(t) WHERE id = 1`}
		for _, sql := range calls {
			known[sql] = db.Connect(t)
			called(t, known[sql], sql)
		}
		o = atStep(o, repack.StepDrained, func() { mustExec(t, holder, `SELECT pg_advisory_lock(77)`) })
		done := startRun(t, db, o)
		runner := pgtest.WaitBlockedBy(t, db.Pool, holder.PgConn().PID())
		results := make(chan string)
		waiting := 0
		for _, sql := range calls {
			for _, conn := range []*pgx.Conn{known[sql], db.Connect(t)} {

				go func() { results <- called(t, conn, sql) + " of " + sql }()
				waiting++
			}
		}
		pgtest.WaitFor(t, func() bool {
			return pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))`, int32(runner)) == waiting
		}, "the calls to wait for the exchange")
		mustExec(t, holder, `SELECT pg_advisory_unlock(77)`)
		for range waiting {
			if got := <-results; got[:2] != "b1" {
				t.Errorf("%s", got)
			}
		}
		mustEnd(t, done)
	})
}

// TestRowTypeCallOutlivesExchange: clean_up does not drop a function that a statement from
// before the exchange is in the middle of, and a revert does not either.
func TestRowTypeCallOutlivesExchange(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		r := givenRoles(t, db)
		db.Exec(t, r.in(carriedTableSQL)+`
			CREATE FUNCTION app.late(n int) RETURNS SETOF app.t LANGUAGE plpgsql AS $$
			BEGIN PERFORM pg_advisory_xact_lock_shared(n); RETURN QUERY SELECT * FROM app.t WHERE id = 1; RETURN QUERY SELECT * FROM app.late_sql(n); END $$;
			CREATE FUNCTION app.late_sql(n int) RETURNS SETOF app.t LANGUAGE sql AS 'SELECT pg_advisory_xact_lock_shared(n); SELECT * FROM app.t WHERE id = 2'`)
		across := func(o repack.Options, start func(repack.Options) <-chan error) {
			t.Helper()
			holder := db.Connect(t)
			calls := []string{`SELECT b FROM app.late(77)`, `SELECT (app.late(77)).b`}
			results := make(chan string, len(calls))
			mustExec(t, holder, `SELECT pg_advisory_lock(77)`)
			o = atStep(o, repack.StepDrained, func() {
				for _, sql := range calls {
					conn := db.Connect(t)
					go func() { results <- called(t, conn, sql) }()
				}
				pgtest.WaitFor(t, func() bool {
					return pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))`, int32(holder.PgConn().PID())) == len(calls)
				}, "the calls to wait")
			})
			waiting := watch(&o, "waiting for statements that may call functions of the replaced table")
			done := start(o)
			awaitLog(t, waiting, done)
			mustExec(t, holder, `SELECT pg_advisory_unlock(77)`)
			for range calls {
				if got := <-results; got != "b2" {
					t.Errorf("a call gave %q", got)
				}
			}
			mustEnd(t, done)
		}
		o := options(t, "app.t", strategy)
		o.LockTimeout = queuing
		across(o, func(o repack.Options) <-chan error { return startRun(t, db, o) })
		runUntil(t, db, o, repack.Swap)
		across(o, func(o repack.Options) <-chan error {
			done, r, ctx := make(chan error, 1), newRepack(t, db, o), testContext(t)
			go func() { done <- r.Revert(ctx) }()
			return done
		})
	})
}

// called returns the first column of the last row, or the SQLSTATE.
func called(t *testing.T, conn *pgx.Conn, sql string) (got string) {
	t.Helper()
	results, err := conn.PgConn().Exec(testContext(t), sql).ReadAll()
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	rows := results[len(results)-1].Rows
	if len(rows) == 0 {
		return ""
	}
	return string(rows[len(rows)-1][0])
}
