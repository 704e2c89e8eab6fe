package tests

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgserver"
	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// publishedTables are tables in databases with a publication FOR ALL TABLES.
var publishedTables = map[string]string{
	repack.ChangeLog: `CREATE TABLE app.t (id int PRIMARY KEY, a text, at timestamptz DEFAULT now())`,
	// A key that is the replica identity and not the primary key: the shadow of
	// direct-trigger, which the application's statements write to, must have one too.
	repack.DirectTrigger: `CREATE TABLE app.t (id int NOT NULL, a text, at timestamptz DEFAULT now()); CREATE UNIQUE INDEX t_id ON app.t (id);
		ALTER TABLE app.t REPLICA IDENTITY USING INDEX t_id`,
}

// subscription is a database that is subscribed to another one of the same server.
type subscription struct {
	*pgtest.Database
	from   *pgtest.Database
	server *pgserver.Server
	slot   string
}

// subscribe subscribes a new database to the publication.
func subscribe(t *testing.T, server *pgserver.Server, from *pgtest.Database, publication, ddl string) *subscription {
	t.Helper()
	s := &subscription{pgtest.NewOn(t, server), from, server, "slot_" + publication + "_" + from.Name}
	s.Exec(t, "CREATE SCHEMA app; "+ddl)
	from.Exec(t, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, s.slot)
	s.Exec(t, fmt.Sprintf(`CREATE SUBSCRIPTION %[1]s CONNECTION '%[2]s' PUBLICATION %[3]s WITH (create_slot = false, slot_name = '%[1]s')`,
		s.slot, strings.ReplaceAll(server.ConnString(from.Name), "'", "''"), publication))
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, s.Pool, `SELECT bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel`)
	}, "the first copy")
	return s
}

// end drops the subscription: without that neither database can be dropped.
func (s *subscription) end(t *testing.T) {
	t.Helper()
	s.Exec(t, "ALTER SUBSCRIPTION "+s.slot+" DISABLE")
	s.Exec(t, "ALTER SUBSCRIPTION "+s.slot+" SET (slot_name = NONE)")
	s.Exec(t, "DROP SUBSCRIPTION "+s.slot)
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, s.from.Pool, `SELECT bool_and(NOT active) FROM pg_replication_slots WHERE slot_name = $1`, s.slot)
	}, "the end of the apply worker")
	s.from.Exec(t, `SELECT pg_drop_replication_slot($1)`, s.slot)
}

// caughtUp waits until everything is applied that is committed now.
func (s *subscription) caughtUp(t *testing.T) {
	t.Helper()
	end := s.from.QueryString(t, `SELECT pg_current_wal_insert_lsn()`)
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, s.from.Pool, `SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $2`, end, s.slot)
	}, "the subscriber")
}

// same compares the table on both sides.
func (s *subscription) same(t *testing.T, when string) {
	t.Helper()
	s.caughtUp(t)
	const rows = `SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY id)) FROM app.t`
	if want, got := s.from.QueryString(t, rows), s.QueryString(t, rows); got != want {
		t.Errorf("%s: the subscriber has %s, the publisher %s", when, got, want)
	}
}

// lacks waits until an apply worker of the server has stopped for want of such a table.
func (s *subscription) lacks(t *testing.T, table string) {
	t.Helper()
	pgtest.WaitFor(t, func() bool {
		log, err := os.ReadFile(s.server.LogFile())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(log), fmt.Sprintf(`logical replication target relation "%s`, table))
	}, "a subscriber without "+table)
}

// preparingSQL is the query of the docs that prints what subscribers need.
func preparingSQL(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../docs/how-it-works.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)```sql\n(   SELECT format\\('CREATE SCHEMA.*?)```").FindSubmatch(text)
	if found == nil {
		t.Fatal("docs/how-it-works.md has no query for subscribers")
	}
	return string(found[1])
}

// TestPublishedToSubscriber has a PostgreSQL server subscribed to all tables. It stops
// at the first table of ours, and goes on when it is prepared as the docs say; then it
// has every write before, during and after the run, and after a revert. So has one that is
// subscribed to the table alone.
func TestPublishedToSubscriber(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, map[string]string{"max_logical_replication_workers": "8", "max_worker_processes": "16", "wal_retrieve_retry_interval": "100ms"})
	eachStrategyIn(t, func(t testing.TB) *pgtest.Database { return pgtest.NewOn(t, server) }, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, "CREATE SCHEMA app; "+publishedTables[strategy]+`; CREATE PUBLICATION every FOR ALL TABLES; CREATE PUBLICATION named FOR TABLE app.t`)
		db.Exec(t, `INSERT INTO app.t SELECT g, 'first' FROM generate_series(1, 3000) g`)
		dump := db.Dump(t)
		s := subscribe(t, server, db, "every", publishedTables[strategy])
		defer s.end(t)
		of := subscribe(t, server, db, "named", publishedTables[strategy]) // it never has a table of ours
		defer of.end(t)
		s.same(t, "before")
		writes := 0
		write := func() {
			writes++
			db.Exec(t, fmt.Sprintf(`UPDATE app.t SET a = 'write %[1]d' WHERE id %% 20 = %[1]d; DELETE FROM app.t WHERE id %% 97 = %[1]d;
				INSERT INTO app.t SELECT g, 'new' FROM generate_series(%[2]d, %[2]d + 20) g; UPDATE app.t SET id = -id WHERE id %% 101 = %[1]d`, writes, 10_000*writes))
		}
		refused(t, db, "app.t", "publication every", "--published-ok")

		o := options(t, "app.t", strategy)
		o.PublishedOK = true
		runUntil(t, db, o, repack.Setup)
		write()
		s.lacks(t, "repack_registry.")
		for _, statement := range pgtest.Column[string](t, db.Pool, preparingSQL(t)) {
			s.Exec(t, statement)
		}
		s.same(t, "prepared")

		o.PublishedOK = false // a job keeps it
		o = everyStep(o, write)
		runUntil(t, db, o, repack.Swap)
		write()
		s.same(t, "after the swap")
		of.same(t, "after the swap, of the table alone")
		for _, own := range []string{"repack_job_1.t", "repack_job_1_old.t", "repack_job_1.repack_change_log_1", "repack_registry.job"} {
			if n := pgtest.Query[int](t, s.Pool, "SELECT count(*) FROM "+own); n != 0 {
				t.Errorf("the subscriber has applied %d rows to %s", n, own)
			}
		}
		revert(t, db, o)
		write()
		s.same(t, "after the revert")
		of.same(t, "after the revert, of the table alone")

		o.PublishedOK = true
		runUntil(t, db, o, repack.Setup)
		for _, statement := range pgtest.Column[string](t, db.Pool, preparingSQL(t)) {
			s.Exec(t, statement)
		}
		run(t, db, o)
		write()
		s.same(t, "after the second run")
		of.same(t, "after the second run, of the table alone")
		noArtefacts(t, db)
		for _, each := range []*subscription{s, of} {
			each.Exec(t, "ALTER SUBSCRIPTION "+each.slot+" REFRESH PUBLICATION")
		}
		write()
		s.same(t, "after REFRESH PUBLICATION")
		of.same(t, "after REFRESH PUBLICATION, of the table alone")
		sameDump(t, db, dump)
	})
}

// TestPublishedDuringJob has the publication come when the job is under way: the
// application's statements must not fail for want of a replica identity.
func TestPublishedDuringJob(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, "CREATE SCHEMA app; "+publishedTables[strategy]+`; INSERT INTO app.t SELECT g, 'first' FROM generate_series(1, 3000) g; CREATE TABLE app.model AS TABLE app.t`)
		before := db.Dump(t)
		o := options(t, "app.t", strategy)
		runUntil(t, db, o, repack.Backfill)
		write := func() {
			for _, table := range []string{"app.t", "app.model"} {
				db.Exec(t, fmt.Sprintf(`UPDATE %[1]s SET a = a || '!' WHERE id %% 3 = 0;
					DELETE FROM %[1]s WHERE id = (SELECT max(id) FROM %[1]s);
					UPDATE %[1]s SET id = 5000 + id WHERE id = 7`, table))
			}
		}
		db.Exec(t, `ALTER TABLE app.model REPLICA IDENTITY FULL; CREATE PUBLICATION every FOR ALL TABLES`)
		write()
		o.Until = repack.CleanUp
		var drift *repack.DriftError
		if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &drift) || !strings.Contains(err.Error(), "--published-ok") {
			t.Fatalf("run: %v, want the publication named", err)
		}
		write()
		o.PublishedOK = true
		run(t, db, everyStep(o, write))
		write()
		db.EqualTables(t, "app.t", "app.model")
		db.Exec(t, `DROP PUBLICATION every; ALTER TABLE app.model REPLICA IDENTITY DEFAULT`)
		sameDump(t, db, before)
		noArtefacts(t, db)
	})
}

// TestPublishedRefused are tables that cannot be repacked while they are published.
func TestPublishedRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE PUBLICATION "the lot" FOR ALL TABLES;
		CREATE TABLE app.unique_only (id int NOT NULL UNIQUE); CREATE TABLE app.nothing (id int PRIMARY KEY); ALTER TABLE app.nothing REPLICA IDENTITY NOTHING;
		CREATE TABLE app.computed (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id + 1) STORED); INSERT INTO app.computed VALUES (1)`)
	for table, says := range map[string]string{"app.unique_only": "has no replica identity", "app.nothing": "has no replica identity", "app.computed": "--strategy direct-trigger"} {
		o := options(t, table, repack.ChangeLog)
		o.PublishedOK = true
		if table == "app.computed" && db.Version() < 18 {
			run(t, db, o)
			continue
		}
		var refusal *repack.RefusedError
		if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &refusal) || !strings.Contains(err.Error(), `publication "the lot"`) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want it refused: %s", table, err, says)
		}
	}
	if db.Version() >= 15 {
		db.Exec(t, `DROP PUBLICATION "the lot";
			CREATE SCHEMA mine;
			CREATE SCHEMA mine_old;
			CREATE PUBLICATION own FOR TABLES IN SCHEMA app, mine_old;
			CREATE TABLE app.t (id int PRIMARY KEY)`)
		o := options(t, "app.t", repack.ChangeLog)
		o.ShadowSchema = "mine"
		var refusal *repack.RefusedError
		if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "publication of schema mine_old in publication own") {
			t.Errorf("%v, want the publication of a prepared schema named", err)
		}
		run(t, db, options(t, "app.t", repack.ChangeLog)) // with schemas of its own
		o.PublishedOK = true
		run(t, db, o)
		db.Exec(t, `DROP PUBLICATION own; CREATE PUBLICATION "the lot" FOR ALL TABLES`)
	}
	o := options(t, "app.computed", repack.DirectTrigger)
	o.PublishedOK = true
	run(t, db, everyStep(o, func() { db.Exec(t, `UPDATE app.computed SET id = id + 1`) }))
	noArtefacts(t, db)
}
