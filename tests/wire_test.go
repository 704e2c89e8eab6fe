package tests

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/internal/tooling/wire"
	"github.com/repack-go/repack/repack"
)

// through runs a repack through a proxy that counts what is said.
func through(t *testing.T, db *pgtest.Database, latency time.Duration, o repack.Options) *wire.Proxy {
	t.Helper()
	config, proxy := db.Through(t, latency)
	r, err := repack.New(config, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(testContext(t)); err != nil {
		t.Fatal(err)
	}
	return proxy
}

// watching looks, while others work, at who waits for whom and at what the run is told, as often as
// that takes time: on a busy machine more often.
func watching(sql string) bool {
	return strings.Contains(sql, "pg_blocking_pids") || strings.Contains(sql, `"repack_registry"."control"`) || strings.Contains(sql, `"repack_registry"."heartbeat"`)
}

// underLock is how many round trips the exchange has taken, at its first attempt.
func underLock(t *testing.T, proxy *wire.Proxy, table string) int {
	t.Helper()
	for _, c := range proxy.Connections() {
		if trips, attempts := c.UnderLock(table); attempts > 0 {
			if attempts > 1 {
				t.Fatalf("the exchange of %s took %d attempts", table, attempts)
			}
			return trips
		}
	}
	t.Fatalf("no exchange of %s has been seen", table)
	return 0
}

// ordinarySQL is an ordinary table.
const ordinarySQL = `
CREATE SCHEMA app;
CREATE TABLE app.t (id int PRIMARY KEY, note text);
CREATE INDEX ON app.t (note);
INSERT INTO app.t SELECT g, 'note ' || g FROM generate_series(1, 1000) g`

// TestStatementsOfASmallTable counts what a run of a small table costs.
func TestStatementsOfASmallTable(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, ordinarySQL+`; CREATE TABLE app.before (id int PRIMARY KEY)`)
		run(t, db, options(t, "app.before", strategy)) // makes the registry
		proxy := through(t, db, 0, options(t, "app.t", strategy))
		statements := 0
		for _, c := range proxy.Connections() {
			for _, s := range c.Statements() {
				if !watching(s.SQL) {
					statements++
				}
			}
		}
		t.Logf("%d statements, %d connections, %d round trips under the lock", statements, len(proxy.Connections()), underLock(t, proxy, `"app"."t"`))
		if statements > 250 {
			t.Errorf("%d statements, at most 250 were expected", statements)
		}
		if n := len(proxy.Connections()); n > 4 {
			t.Errorf("%d connections, at most 4 were expected", n)
		}
	})
}

// TestRoundTripsUnderTheLock counts those of tables with little and with much: their
// number does not grow with it.
func TestRoundTripsUnderTheLock(t *testing.T) {
	t.Parallel()
	var much strings.Builder
	much.WriteString(`CREATE SCHEMA app; CREATE TABLE app.whole (id int, note text) PARTITION BY RANGE (id);
		CREATE TABLE app.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, number serial, note text`)
	for i := range 30 {
		fmt.Fprintf(&much, ", c%d int", i)
	}
	much.WriteString(`); INSERT INTO app.t (note) SELECT 'note ' || g FROM generate_series(1, 100) g;`)
	for i := range 20 {
		fmt.Fprintf(&much, `
			CREATE INDEX ON app.t (c%[1]d);
			CREATE TABLE app.refers%[1]d (t int REFERENCES app.t);
			CREATE TABLE app.referred%[1]d (id int PRIMARY KEY);
			ALTER TABLE app.t ADD FOREIGN KEY (c%[1]d) REFERENCES app.referred%[1]d;
			CREATE VIEW app.v%[1]d AS SELECT * FROM app.t;
			CREATE POLICY p%[1]d ON app.t USING (c%[1]d > 0);
			GRANT SELECT (c%[1]d) ON app.t TO pg_monitor;`, i)
	}
	read := ordinarySQL
	for i := range 10 {
		read += fmt.Sprintf("; CREATE MATERIALIZED VIEW app.m%[1]d AS SELECT * FROM app.t; CREATE INDEX ON app.m%[1]d (id)", i)
	}
	const most = 12
	setups := map[string]string{"little": ordinarySQL, "much": much.String(), "read": read}
	for n, name := range slices.Sorted(maps.Keys(setups)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				db.Exec(t, setups[name])
				o := options(t, "app.t", strategy)
				o.RebuildMatviews = true
				o.LockTimeout = 5 * time.Second // a busy machine has to do it at the first attempt
				if n := underLock(t, through(t, db, 0, o), `"app"."t"`); n > most {
					t.Errorf("%d round trips under the lock, at most %d were expected", n, most)
				} else {
					t.Logf("%d round trips under the lock", n)
				}
			})
		})
	}
}

// TestLatency adds five milliseconds to each direction: how long a SELECT of another
// session, which is near the server, waits. It asks for a machine that does nothing else.
func TestLatency(t *testing.T) {
	if !thorough() {
		t.Skip("is measured by make test-thorough")
	}
	db := pgtest.New(t)
	db.Exec(t, ordinarySQL)
	o := options(t, "app.t", repack.ChangeLog)
	o.LockTimeout = time.Second
	ctx, stop := context.WithCancel(t.Context())
	longest := make(chan time.Duration, 1)
	conn := db.Connect(t)
	go func() {
		var most time.Duration
		for ctx.Err() == nil {
			began := time.Now()
			if _, err := conn.Exec(context.WithoutCancel(ctx), `SELECT FROM app.t WHERE id = 7`); err != nil {
				t.Error(err)
				break
			}
			most = max(most, time.Since(began))
		}
		longest <- most
	}()
	proxy := through(t, db, 5*time.Millisecond, o)
	stop()
	took, trips := <-longest, underLock(t, proxy, `"app"."t"`)
	t.Logf("the longest SELECT took %s, the exchange %d round trips", took, trips)
	if took > 150*time.Millisecond {
		t.Errorf("the longest SELECT took %s, at most 150 ms were expected", took)
	}
}
