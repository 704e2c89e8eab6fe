package tests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// partitionCases have app.t as a partition, or as one of a partition.
var partitionCases = []fidelityCase{
	{name: "range", sql: `
		CREATE TABLE app.p (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
		CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000);
		CREATE TABLE app.more PARTITION OF app.p FOR VALUES FROM (1000) TO (MAXVALUE);
		INSERT INTO app.p SELECT g, 'a' FROM generate_series(1, 1500) g`},
	{name: "list with null", sql: `
		CREATE TABLE app.p (id int NOT NULL, a text, UNIQUE (id, a)) PARTITION BY LIST (a);
		CREATE TABLE app.t PARTITION OF app.p FOR VALUES IN ('it''s', 'x', NULL);
		CREATE UNIQUE INDEX own ON app.t (id);
		INSERT INTO app.p VALUES (1, 'x'), (2, NULL)`},
	{name: "hash", sql: `
		CREATE TABLE app.p (id int, a uuid, PRIMARY KEY (id, a)) PARTITION BY HASH (id, a);
		CREATE TABLE app.t PARTITION OF app.p FOR VALUES WITH (MODULUS 3, REMAINDER 1);
		CREATE TABLE app.u PARTITION OF app.p FOR VALUES WITH (MODULUS 3, REMAINDER 0);
		CREATE TABLE app.v PARTITION OF app.p FOR VALUES WITH (MODULUS 3, REMAINDER 2);
		INSERT INTO app.p SELECT g, gen_random_uuid() FROM generate_series(1, 300) g`},
	{name: "indexes like attached ones", sql: fixture("partition_like_attached")},
	{name: "hash of text", sql: fixture("partition_hash_of_text")},
	{name: "hash of text and an expression", sql: `
		CREATE TABLE app.p (
		    id int NOT NULL,
		    a  text COLLATE "POSIX",
		    b  char(5),
		    at int
		) PARTITION BY HASH (id, lower(b), a COLLATE "C");
		CREATE TABLE app.t PARTITION OF app.p (PRIMARY KEY (id)) FOR VALUES WITH (MODULUS 2, REMAINDER 1);
		CREATE TABLE app.u PARTITION OF app.p FOR VALUES WITH (MODULUS 2, REMAINDER 0);
		INSERT INTO app.p SELECT g, 'a' || g, 'b' || g FROM generate_series(1, 400) g`},
	{name: "default", sql: `
		CREATE TABLE app.p (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
		CREATE TABLE app.t PARTITION OF app.p DEFAULT;
		CREATE TABLE app.u PARTITION OF app.p FOR VALUES FROM (10) TO (20);
		CREATE TABLE app.v PARTITION OF app.p FOR VALUES FROM (50) TO (60);
		INSERT INTO app.p SELECT g, 'a' FROM generate_series(1, 100) g`},
	{name: "default alone", sql: `
		CREATE TABLE app.p (id int PRIMARY KEY) PARTITION BY LIST (id);
		CREATE TABLE app.t PARTITION OF app.p DEFAULT;
		INSERT INTO app.p VALUES (1)`},
	{name: "beside a default", sql: `
		CREATE TABLE app.p (id int PRIMARY KEY) PARTITION BY RANGE (id);
		CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (50);
		CREATE TABLE app.rest PARTITION OF app.p DEFAULT;
		INSERT INTO app.p SELECT generate_series(1, 100)`},
	{name: "expression", sql: `
		CREATE FUNCTION app.f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 / 10';
		CREATE TABLE app.p (id int NOT NULL, b text COLLATE "C") PARTITION BY RANGE (app.f(id), b);
		CREATE TABLE app.t PARTITION OF app.p (PRIMARY KEY (id)) FOR VALUES FROM (0, MINVALUE) TO (50, 'x');
		INSERT INTO app.p SELECT g, 'b' || g FROM generate_series(1, 100) g`},
	{name: "levels, and columns in another order", sql: fixture("partition_levels")},
	{name: "checks of its own and of the parent", sql: `
		CREATE TABLE app.p (
		    id int PRIMARY KEY,
		    a  int CHECK (a > 0),
		    b  int NOT NULL,
		    CONSTRAINT "both" CHECK (a < 100)
		) PARTITION BY RANGE (id);
		CREATE TABLE app.t (
		    id int NOT NULL,
		    b  int NOT NULL CHECK (b > 0),
		    a  int,
		    CONSTRAINT "both" CHECK (a < 100),
		    CONSTRAINT p_a_check CHECK (a > 0),
		    CONSTRAINT own CHECK (id + a > 0) NO INHERIT,
		    PRIMARY KEY (id)
		);
		ALTER TABLE app.p ATTACH PARTITION app.t FOR VALUES FROM (1) TO (500);
		ALTER TABLE app.t ADD CONSTRAINT late CHECK (b < 1000) NOT VALID;
		ALTER TABLE app.p ADD CONSTRAINT late_too CHECK (b < 2000) NOT VALID;
		COMMENT ON CONSTRAINT "both" ON app.t IS 'both';
		INSERT INTO app.p SELECT g, 1 + g % 90, g FROM generate_series(1, 400) g`},
	{name: "triggers", sql: `
		CREATE TABLE app.p (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
		CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000);
		CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TRIGGER "Of; all" BEFORE INSERT OR UPDATE OF a ON app.p FOR EACH ROW WHEN (NEW.a <> ' ON app.t')
		    EXECUTE FUNCTION app.f('x');
		CREATE TRIGGER off AFTER DELETE ON app.p FOR EACH ROW EXECUTE FUNCTION app.f();
		ALTER TABLE app.t DISABLE TRIGGER off;
		COMMENT ON TRIGGER off ON app.t IS 'off';
		CREATE TRIGGER always AFTER DELETE ON app.p FOR EACH ROW EXECUTE FUNCTION app.f();
		ALTER TABLE app.p ENABLE ALWAYS TRIGGER always;
		CREATE CONSTRAINT TRIGGER late AFTER INSERT ON app.p DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
		    EXECUTE FUNCTION app.f();
		CREATE TRIGGER own AFTER INSERT ON app.t REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION app.f();
		CREATE TRIGGER own_row BEFORE DELETE ON app.t FOR EACH ROW EXECUTE FUNCTION app.f();
		COMMENT ON CONSTRAINT late ON app.t IS 'late, of t';
		ALTER TRIGGER off ON app.t DEPENDS ON EXTENSION plpgsql;
		ALTER INDEX app.t_pkey DEPENDS ON EXTENSION plpgsql;
		ALTER TABLE app.t ENABLE REPLICA TRIGGER own_row;
		CREATE TRIGGER st AFTER UPDATE ON app.p EXECUTE FUNCTION app.f();
		INSERT INTO app.p SELECT g, 'a' FROM generate_series(1, 500) g`},
	{name: "publications, statistics, replica identity, settings", sql: `
		CREATE TABLE app.p (id int PRIMARY KEY, a int, b int) PARTITION BY RANGE (id);
		CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000) WITH (fillfactor = 60);
		ALTER TABLE app.t REPLICA IDENTITY FULL;
		CREATE PUBLICATION root FOR TABLE app.p WITH (publish_via_partition_root);
		CREATE PUBLICATION leaf FOR TABLE app.t;
		CREATE STATISTICS app.up ON a, b FROM app.p;
		CREATE STATISTICS app.st ON a, b FROM app.t;
		ALTER TABLE app.t ALTER a SET STATISTICS 9;
		COMMENT ON TABLE app.t IS 't';
		GRANT SELECT ON app.t TO PUBLIC;
		ALTER TABLE app.t ALTER b SET DEFAULT 5;
		CREATE VIEW app.v AS SELECT * FROM app.t;
		CREATE VIEW app.w AS SELECT * FROM app.p;
		CREATE MATERIALIZED VIEW app.m AS SELECT * FROM app.p;
		ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
		CREATE POLICY y ON app.t USING (a > 0);
		INSERT INTO app.p SELECT g, g, g FROM generate_series(1, 500) g`},
	{name: "identity and serial of the parent", sql: `
		CREATE TABLE app.p (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n serial, m int) PARTITION BY RANGE (id);
		CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000);
		INSERT INTO app.p (m) SELECT g FROM generate_series(1, 500) g`},
	{name: "identity outside the key", sql: `
		CREATE TABLE app.p (
		    id int PRIMARY KEY,
		    n  int GENERATED ALWAYS AS IDENTITY,
		    g  int GENERATED ALWAYS AS (id * 2) STORED
		) PARTITION BY RANGE (id);
		CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000);
		INSERT INTO app.p SELECT g FROM generate_series(1, 500) g`},
	{name: "keys of its own", sql: `
		CREATE TABLE app.o (id int PRIMARY KEY);
		INSERT INTO app.o SELECT generate_series(1, 500);
		CREATE TABLE app.p (id int PRIMARY KEY, o int) PARTITION BY RANGE (id);
		CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000);
		ALTER TABLE app.t ADD FOREIGN KEY (o) REFERENCES app.o ON DELETE CASCADE;
		CREATE TABLE app.c (id int REFERENCES app.t ON DELETE CASCADE);
		INSERT INTO app.p SELECT g, g FROM generate_series(1, 500) g;
		INSERT INTO app.c VALUES (7)`},
	{name: "unique and exclusion constraints", sql: `
		CREATE TABLE app.p (
		    id int,
		    r  int,
		    x  int4range,
		    PRIMARY KEY (id, r) INCLUDE (x),
		    CONSTRAINT u UNIQUE (r, id) DEFERRABLE INITIALLY DEFERRED
		) PARTITION BY LIST (r);
		CREATE TABLE app.t PARTITION OF app.p FOR VALUES IN (1, 2);
		ALTER TABLE app.t ADD EXCLUDE USING gist (x WITH &&);
		CREATE UNIQUE INDEX part ON app.t (x) WHERE r = 1;
		INSERT INTO app.p SELECT g, 1 + g % 2, int4range(g, g + 1) FROM generate_series(1, 200) g`},
}

// TestPartitions repacks a partition of each kind, there and back and there.
func TestPartitions(t *testing.T) {
	t.Parallel()
	for n, c := range partitionCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			eachHalf(t, n, c.run)
		})
	}
}

var refusedPartitions = []struct {
	name, sql string
	says      []string
}{
	{
		"foreign key of a partitioned table to the partitioned table",
		`CREATE TABLE app.c (p int REFERENCES app.p) PARTITION BY LIST (p)`,
		[]string{"app.c", "partitioned table with a foreign key", "drop the key"},
	},
	{
		"foreign key of the partitioned table to itself",
		`ALTER TABLE app.p ADD FOREIGN KEY (a) REFERENCES app.p`,
		[]string{"app.p", "partitioned table with a foreign key", "drop the key"},
	},
	{
		"disabled trigger of a foreign key of the partitioned table",
		`
			CREATE TABLE app.o (id int PRIMARY KEY);
			ALTER TABLE app.p ADD FOREIGN KEY (a) REFERENCES app.o;
			ALTER TABLE app.t DISABLE TRIGGER ALL`,
		[]string{"RI_ConstraintTrigger", "app.t"},
	},
	{
		"disabled trigger of a foreign key to the partitioned table",
		`CREATE TABLE app.c (p int REFERENCES app.p); ALTER TABLE app.c DISABLE TRIGGER ALL`,
		[]string{"RI_ConstraintTrigger", "app.c"},
	},
	{
		"disabled trigger of another partition",
		`
			CREATE TABLE app.c (p int REFERENCES app.p);
			CREATE TABLE app.u PARTITION OF app.p DEFAULT;
			ALTER TABLE app.u DISABLE TRIGGER ALL`,
		[]string{"RI_ConstraintTrigger", "app.u"},
	},
	{
		"disabled trigger of a foreign key to the partition",
		`CREATE TABLE app.c (p int REFERENCES app.t); ALTER TABLE app.c DISABLE TRIGGER ALL`,
		[]string{"RI_ConstraintTrigger", "app.c"},
	},
	{
		"hash of text that is an expression",
		`
			CREATE TABLE app.h (id text) PARTITION BY HASH (lower(id));
			DROP TABLE app.p;
			CREATE TABLE app.t PARTITION OF app.h (PRIMARY KEY (id)) FOR VALUES WITH (MODULUS 1, REMAINDER 0)`,
		[]string{"app.h", "hash of text"},
	},
	{
		"name of the bound",
		`ALTER TABLE app.t ADD CONSTRAINT repack_bound CHECK (id < 5)`,
		[]string{"constraint repack_bound"},
	},
	{"materialized view", `CREATE MATERIALIZED VIEW app.m AS TABLE app.t`, []string{"app.m"}},
}

func TestRefusedPartitions(t *testing.T) {
	t.Parallel()
	for _, c := range refusedPartitions {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, `
				CREATE SCHEMA app;
				CREATE TABLE app.p (id int PRIMARY KEY, a int) PARTITION BY RANGE (id);
				CREATE INDEX ON app.p (a);
				CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000);`+c.sql)
			refused(t, db, "app.t", c.says...)
		})
	}
}

// TestAttachScansNothing carries the planned exchange out by hand and reads what
// the server says of it at DEBUG1.
func TestAttachScansNothing(t *testing.T) {
	t.Parallel()
	for _, c := range partitionCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			db.Exec(t, `CREATE SCHEMA app;`+c.sql)
			o := options(t, "app.t", repack.ChangeLog)
			runUntil(t, db, o, repack.PostSyncUpdate)
			var said []string
			config := db.Config(t)
			config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { said = append(said, n.Message) }
			conn, err := pgx.ConnectConfig(testContext(t), config)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			mustExec(t, conn, `SET client_min_messages = debug1; SET search_path = pg_catalog`)
			tx := begin(t, conn, pgx.ReadCommitted)
			defer tx.Rollback(context.Background())
			steps := planOf(t, db, o).Stages[0].Steps
			i := slices.IndexFunc(steps, func(s repack.PlannedStep) bool { return strings.HasPrefix(s.Does, "exchange the tables") })
			for _, sql := range steps[i].SQL {
				mustExec(t, tx, sql)
			}
			implied := c.name == "default alone"
			for _, message := range said {
				implied = implied || strings.Contains(message, `partition constraint for table "t" is implied`)
				if strings.Contains(message, `verifying table "t"`) || strings.Contains(message, `building index`) {
					t.Errorf("the server says: %s", message)
				}
			}
			if !implied {
				t.Errorf("the server does not say that the bound is implied, but %q", said)
			}
		})
	}
}

// partitionWrites are what the application does: through the partitioned table
// and directly, from one partition to another, and set-wise.
var partitionWrites = []string{
	`
		INSERT INTO @p (id, email, n)
		SELECT 400 + %[1]d * 10 + g, 'new %[1]d ' || g, g
		FROM   generate_series(0, 4) g
		ON CONFLICT (id) DO NOTHING`,
	`INSERT INTO @t (id, email, n) VALUES (405 + %[1]d * 10, 'direct %[1]d', %[1]d) ON CONFLICT (id) DO NOTHING`,
	`UPDATE @p SET n = n + 1 WHERE id %% 7 = %[1]d %% 7`,
	`UPDATE @t SET email = email || '!' WHERE id %% 13 = %[1]d %% 13`,
	`
		UPDATE @p
		SET    id = id + 1000
		WHERE  id BETWEEN 100 + %[1]d * 5 AND 102 + %[1]d * 5 AND NOT EXISTS (SELECT FROM @p x WHERE x.id = p.id + 1000)`,
	`
		UPDATE @p
		SET    id = id - 1000
		WHERE  id BETWEEN 1800 + %[1]d * 2 AND 1801 + %[1]d * 2
		       AND NOT EXISTS (SELECT FROM @p x WHERE x.id = p.id - 1000)`,
	`
		UPDATE @p
		SET    id = id + 2000
		WHERE  id BETWEEN 300 + %[1]d AND 301 + %[1]d AND NOT EXISTS (SELECT FROM @p x WHERE x.id = p.id + 2000)`,
	`DELETE FROM @p WHERE id %% 29 = %[1]d %% 29`,
	`
		INSERT INTO @p (id, email, n)
		SELECT g, 'upsert %[1]d ' || g, 0
		FROM   generate_series(1, 1990, 97) g
		ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n - 5`,
	`UPDATE @p SET email = (SELECT max(x.email) FROM @p x WHERE x.id IN (2, 3) AND x.id <> p.id) WHERE id IN (2, 3)`,
	`WITH gone AS (DELETE FROM @t WHERE id = 50 + %[1]d RETURNING *) INSERT INTO @p SELECT id, email || '+', n FROM gone`,
}

// TestPartitionWrites writes at every stage and step, on the way there and back.
func TestPartitionWrites(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		twins(t, db, `
			CREATE TABLE @p (id int PRIMARY KEY, email text, n int) PARTITION BY RANGE (id);
			CREATE TABLE @t (n int, dead int, email text, id int NOT NULL);
			ALTER TABLE @t DROP dead;
			ALTER TABLE @p ATTACH PARTITION @t FOR VALUES FROM (1) TO (1000);
			CREATE TABLE @u PARTITION OF @p FOR VALUES FROM (1000) TO (2000);
			CREATE TABLE @rest PARTITION OF @p DEFAULT;
			ALTER TABLE @t ADD CONSTRAINT t_email UNIQUE (email) DEFERRABLE INITIALLY DEFERRED;
			INSERT INTO @p SELECT g, 'e' || g, g FROM generate_series(1, 1999, 2) g;
			INSERT INTO @p VALUES (2, 'two', 2)`)
		dump := db.Dump(t)
		round := 0
		var mu sync.Mutex // indexes are built at the same time
		write := func() {
			mu.Lock()
			defer mu.Unlock()
			round++
			isolation := []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.RepeatableRead, pgx.Serializable}[round%3]
			var statements []string
			for _, sql := range partitionWrites {
				statements = append(statements, fmt.Sprintf(sql+" /* %[1]d */", round))
			}
			bothIn(t, db, isolation, statements...)
			if round%4 == 0 {
				both(t, db.Pool, []string{`TRUNCATE @p`, `TRUNCATE @t`}[round/4%2], `
					INSERT INTO @p
					SELECT g, 'again' || g, g
					FROM   generate_series(1, 1999, 3) g
					ON CONFLICT (id) DO NOTHING`)
			}
		}
		o := options(t, "app.t", strategy)
		o.BatchSize = 100
		o.Hooks = repack.Hooks{
			AfterStage: func(context.Context, repack.Stage) error { write(); return nil },
			AfterStep: func(_ context.Context, step string) error {
				if step != repack.StepDrained {
					write()
				}
				return nil
			},
		}
		alikeAll := func() { t.Helper(); alike(t, db, "p", "t", "u") }
		runUntil(t, db, o, repack.Swap)
		alikeAll()
		write()
		revert(t, db, o)
		alikeAll()
		sameDump(t, db, dump)
		run(t, db, o)
		alikeAll()
		sameDump(t, db, dump)
		noArtefacts(t, db)
	})
}

// TestPartitionWriters has two sessions write through the partitioned table all
// the while.
func TestPartitionWriters(t *testing.T) {
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		twins(t, db, `
			CREATE TABLE @p (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
			CREATE TABLE @t PARTITION OF @p FOR VALUES FROM (0) TO (10000);
			CREATE TABLE @u PARTITION OF @p FOR VALUES FROM (10000) TO (20000);
			INSERT INTO @p SELECT g, g FROM generate_series(0, 19999, 2) g`)
		ctx, stop := context.WithCancel(testContext(t))
		done := make(chan error, 2)
		for w := range 2 {
			conn := db.Connect(t)
			go func() { done <- writePartitions(ctx, conn, w) }()
		}
		o := options(t, "app.t", strategy)
		o.LockRetries = 30
		runUntil(t, db, o, repack.Swap)
		revert(t, db, o)
		run(t, db, o)
		stop()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("writer: %v", err)
			}
		}
		alike(t, db, "p", "t", "u")
	})
}

// writePartitions writes the same to app and control in one transaction each,
// to keys that no other writer has.
func writePartitions(ctx context.Context, conn *pgx.Conn, w int) error {
	for ctx.Err() == nil {
		id := rand.IntN(9999)/2*2 + w
		sql := []string{
			`INSERT INTO @p VALUES (%[1]d, 1) ON CONFLICT (id) DO UPDATE SET n = p.n + 1`,
			`UPDATE @p SET n = n + 1 WHERE id BETWEEN %[1]d AND %[1]d + 20 AND id %% 2 = %[2]d`,
			`DELETE FROM @p WHERE id = %[1]d`,
			`UPDATE @p SET id = id + 10000 WHERE id = %[1]d AND NOT EXISTS (SELECT FROM @p x WHERE x.id = %[1]d + 10000)`,
			`UPDATE @p SET id = id - 10000 WHERE id = %[1]d + 10000 AND NOT EXISTS (SELECT FROM @p x WHERE x.id = %[1]d)`,
			`INSERT INTO @t VALUES (%[1]d, 5) ON CONFLICT DO NOTHING`,
		}[rand.IntN(6)]
		sql = fmt.Sprintf(sql+" /* %[2]d */", id, w)
		err := pgx.BeginFunc(context.WithoutCancel(ctx), conn, func(tx pgx.Tx) error {
			for _, sql := range twinned(sql) {
				if _, err := tx.Exec(context.WithoutCancel(ctx), sql); err != nil {
					return fmt.Errorf("%s: %w", sql, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// planIsSentFor runs planIsSent on the table of a case. It returns what planIsCarriedOut
// needs.
func planIsSentFor(t *testing.T, c fidelityCase) (db *pgtest.Database, o repack.Options, dump string) {
	t.Helper()
	db = pgtest.New(t)
	if db.Version() < c.since || c.needs != "" {
		t.Skipf("needs PostgreSQL %d %s", c.since, c.needs)
	}
	db.Exec(t, `CREATE SCHEMA app;`+c.sql)
	dump = db.Dump(t)
	o = options(t, "app.t", repack.ChangeLog)
	o.Transfer = repack.TransferServer // COPY cannot be carried out by hand
	planIsSent(t, db, o)
	return db, o, dump
}

// planIsCarriedOut carries the plan out by hand, in a database that has seen a run.
func planIsCarriedOut(t *testing.T, db *pgtest.Database, o repack.Options, dump string) {
	t.Helper()
	db.Exec(t, `DROP SCHEMA repack_registry CASCADE`)
	plan, conn := planOf(t, db, o), db.Connect(t)
	mustExec(t, conn, `SET search_path = pg_catalog`)
	for _, stage := range plan.Stages {
		for _, step := range stage.Steps {
			carryOut(t, conn, step)
		}
	}
	sameDump(t, db, dump)
}

// TestPlanOfPartitions: what the plan shows is what a run sends, and the locks
// are those that are then held.
func TestPlanOfPartitions(t *testing.T) {
	t.Parallel()
	for n, c := range partitionCases {
		if c.name != "beside a default" && c.name != "triggers" && c.name != "hash of text" && !strings.HasPrefix(c.name, "levels") {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				db.Exec(t, `CREATE SCHEMA app;`+c.sql)
				dump := db.Dump(t)
				o := options(t, "app.t", strategy)
				o.Transfer = repack.TransferServer // COPY cannot be carried out by hand
				planIsSent(t, db, o)
				planIsCarriedOut(t, db, o, dump)
			})
		})
	}
}

// TestRevertOfPartitionScansNothing: the bound of the old one is valid before
// the exchange back asks for a lock.
func TestRevertOfPartitionScansNothing(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `CREATE SCHEMA app;`+partitionCases[0].sql)
	o := options(t, "app.t", repack.ChangeLog)
	runUntil(t, db, o, repack.Swap)
	valid := false
	revert(t, db, atStep(o, repack.StepDrained, func() {
		valid = pgtest.Query[bool](t, db.Pool, `SELECT convalidated FROM pg_constraint WHERE conname = 'repack_bound'`)
	}))
	if !valid {
		t.Error("the bound of the old partition is not valid")
	}
}

// TestOlderIndexLikeAttached: ATTACH would take another index than the one that is
// attached, unless that has been made the older one.
func TestOlderIndexLikeAttached(t *testing.T) {
	t.Parallel()
	inTurnIn(t, 1, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `
			CREATE SCHEMA app;
			CREATE TABLE app.p (id int PRIMARY KEY, a int) PARTITION BY RANGE (id);
			CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000);
			CREATE INDEX "Two" ON app.t (a DESC);
			CREATE INDEX one ON app.t (a);
			CREATE INDEX up ON ONLY app.p (a);
			ALTER INDEX app.up ATTACH PARTITION app.one;
			INSERT INTO app.p SELECT g, g FROM generate_series(1, 400) g`)
		dump := db.Dump(t)
		refused(t, db, "app.t", `index app."Two"`, "REINDEX INDEX CONCURRENTLY")
		db.Exec(t, `REINDEX INDEX CONCURRENTLY app."Two"`)
		o := options(t, "app.t", strategy)
		runUntil(t, db, o, repack.Swap)
		revert(t, db, o)
		sameDump(t, db, dump)
		run(t, db, o)
		sameDump(t, db, dump)
	})
}

// TestHashOfTextLeavesNothing: the domain that the bound of such a partition needs goes
// with the job, in each way that a job can end.
func TestHashOfTextLeavesNothing(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `
			CREATE SCHEMA app;
			CREATE TABLE app.p (a text PRIMARY KEY, b int) PARTITION BY HASH (a);
			CREATE TABLE app.t PARTITION OF app.p FOR VALUES WITH (MODULUS 2, REMAINDER 1);
			CREATE TABLE app.u PARTITION OF app.p FOR VALUES WITH (MODULUS 2, REMAINDER 0);
			INSERT INTO app.p SELECT 'a' || g, g FROM generate_series(1, 400) g`)
		dump := db.Dump(t)
		o := options(t, "app.t", strategy)
		runUntil(t, db, o, repack.SyncSchema)
		reset(t, db, o)
		noArtefacts(t, db)

		runUntil(t, db, o, repack.Swap)
		revert(t, db, o)
		noArtefacts(t, db)

		runUntil(t, db, o, repack.Swap) // and then lose the registry
		db.Exec(t, `DROP SCHEMA repack_registry CASCADE`)
		reset(t, db, o)
		noArtefacts(t, db)

		prepared := o
		prepared.ShadowSchema = "mine"
		db.Exec(t, `CREATE SCHEMA mine; CREATE SCHEMA mine_old`)
		run(t, db, prepared)
		noArtefacts(t, db)
		db.Exec(t, `DROP SCHEMA mine; DROP SCHEMA mine_old`)

		kept := o
		kept.KeepOld = true
		run(t, db, kept)
		db.Exec(t, `
			DROP TABLE repack_job_2_old.t;
			DROP SCHEMA repack_job_2_old;
			DROP SCHEMA repack_registry CASCADE`)
		noArtefacts(t, db)
		sameDump(t, db, dump)
	})
}

const partitionedSQL = `
CREATE TABLE @p (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
CREATE TABLE @a PARTITION OF @p FOR VALUES FROM (0) TO (100);
CREATE TABLE @b PARTITION OF @p FOR VALUES FROM (100) TO (300) PARTITION BY RANGE (id);
CREATE TABLE @b1 PARTITION OF @b FOR VALUES FROM (100) TO (200);
CREATE TABLE @"B; 2" PARTITION OF @b FOR VALUES FROM (200) TO (300);
CREATE TABLE @rest PARTITION OF @p DEFAULT;
CREATE INDEX ON @p (a);
INSERT INTO @p SELECT g, 'a' || g FROM generate_series(0, 399) g`

// partitionOIDs are the partitions' OIDs, by name.
func partitionOIDs(t *testing.T, db *pgtest.Database) map[string]string {
	t.Helper()
	oids := map[string]string{}
	for _, line := range pgtest.Column[string](t, db.Pool, `
		SELECT relid::text || '=' || relid::oid FROM pg_partition_tree('app.p') WHERE isleaf`) {
		name, oid, _ := strings.Cut(line, "=")
		oids[name] = oid
	}
	return oids
}

// TestPartitionedTable repacks every partition; a run that is ended goes on with
// those that are left, and the next one begins anew.
func TestPartitionedTable(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		twins(t, db, partitionedSQL)
		dump := db.Dump(t)
		o := options(t, "app.p", strategy)
		before := partitionOIDs(t, db)
		place := nthStage(repack.Backfill, 2)
		cancelled(t, db, o, place, func(r *repack.Repack, ctx context.Context) error { return r.Run(ctx) })
		middle := partitionOIDs(t, db)
		var done []string
		for name := range before {
			if middle[name] != before[name] {
				done = append(done, name)
			}
		}
		if len(done) != 2 {
			t.Fatalf("%q are done, want two", done)
		}
		both(t, db.Pool, `UPDATE @p SET a = a || '!' WHERE id % 3 = 0`)
		if list := statusList(t, db, "app.p"); len(list) != 3 {
			t.Errorf("status has %d jobs, want three", len(list))
		}
		run(t, db, o)
		after := partitionOIDs(t, db)
		for name := range before {
			if slices.Contains(done, name) != (after[name] == middle[name]) {
				t.Errorf("%s has OID %s, %s and %s", name, before[name], middle[name], after[name])
			}
		}
		sameDump(t, db, dump)
		noArtefacts(t, db)
		alike(t, db, "p")
		run(t, db, o)
		for name, oid := range partitionOIDs(t, db) {
			if oid == after[name] {
				t.Errorf("%s was not repacked again", name)
			}
		}

		runUntil(t, db, o, repack.Swap)
		both(t, db.Pool, `DELETE FROM @p WHERE id % 5 = 0`)
		revert(t, db, o)
		sameDump(t, db, dump)
		noArtefacts(t, db)
		alike(t, db, "p")
		if err := newRepack(t, db, o).Revert(testContext(t)); !errors.Is(err, repack.ErrNoJob) {
			t.Errorf("second revert: %v, want ErrNoJob", err)
		}

		runUntil(t, db, o, repack.SyncSchema)
		reset(t, db, o)
		sameDump(t, db, dump)
		noArtefacts(t, db)
		alike(t, db, "p")
	})
}

func nthStage(stage repack.Stage, skip int) stopAt {
	return stopAt{name: string(stage), hooks: func(stop func()) repack.Hooks {
		return repack.Hooks{BeforeStage: onStage(stage, func() {
			if skip--; skip < 0 {
				stop()
			}
		})}
	}}
}

func statusList(t *testing.T, db *pgtest.Database, table string) []repack.Status {
	t.Helper()
	list, err := newRepack(t, db, repack.Options{Table: table}).Status(testContext(t))
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	return list
}

// TestPartitionedTableRefused: one partition that cannot be repacked keeps all
// from being touched.
func TestPartitionedTableRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	twins(t, db, partitionedSQL)
	db.Exec(t, `
		CREATE MATERIALIZED VIEW app.m AS TABLE app.b1;
		CREATE DOMAIN app.f AS app.rest CHECK (VALUE IS NOT NULL)`)
	refused(t, db, "app.p", "app.m", `"app"."b1"`, "app.f", `"app"."rest"`)
	var usage *repack.UsageError
	_, err := newRepack(t, db, options(t, "app.p", repack.ChangeLog)).Plan(testContext(t))
	if !errors.As(err, &usage) || !strings.Contains(err.Error(), `"app"."B; 2"`) {
		t.Errorf("plan: %v, want a usage error that names the partitions", err)
	}
}

// TestPartitionAndMatviewAsOwner: plain SQL rights do, those of the owners.
func TestPartitionAndMatviewAsOwner(t *testing.T) {
	t.Parallel()
	inTurnIn(t, 0, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
		owner, other := db.Role(t), db.Role(t)
		db.Exec(t, fmt.Sprintf(`
			CREATE SCHEMA app AUTHORIZATION %[1]s;
			GRANT CREATE ON DATABASE %[3]s TO %[1]s;
			GRANT USAGE ON SCHEMA app TO %[2]s;
			SET ROLE %[1]s;
			CREATE TABLE app.p (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);
			CREATE TABLE app.t PARTITION OF app.p FOR VALUES FROM (1) TO (1000);
			INSERT INTO app.p SELECT g, 'a' FROM generate_series(1, 500) g;
			CREATE MATERIALIZED VIEW app.m AS SELECT * FROM app.t;
			CREATE MATERIALIZED VIEW app.on_m AS SELECT count(*) FROM app.m;
			CREATE INDEX ON app.m (a);
			GRANT SELECT ON app.m, app.t TO %[2]s;
			RESET ROLE;
			GRANT CREATE ON SCHEMA app TO %[2]s;
			ALTER MATERIALIZED VIEW app.on_m OWNER TO %[2]s`, owner, other, db.Name))
		schema := schemaOf(t, db)
		config := db.Config(t)
		config.User = owner
		o := rebuilding(t, strategy)
		as, err := repack.New(config, o)
		if err != nil {
			t.Fatal(err)
		}
		var refusal *repack.RefusedError
		if err := as.Run(testContext(t)); !errors.As(err, &refusal) || !strings.Contains(err.Error(), fmt.Sprintf("GRANT %s TO %s;", other, owner)) {
			t.Fatalf("run: %v, want the missing membership named", err)
		}
		db.Exec(t, fmt.Sprintf("GRANT %s TO %s", other, owner))
		if err := as.Run(testContext(t)); err != nil {
			t.Fatalf("run: %v", err)
		}
		db.Exec(t, `DROP SCHEMA repack_registry CASCADE`)
		sameSchema(t, db, "after the run", schema)
		noArtefacts(t, db)
	})
}

// TestCutPartition drops the connections of a run over a partitioned table with
// foreign keys, and a materialized view on one of its partitions, at messages here
// and there.
func TestCutPartition(t *testing.T) {
	t.Parallel()
	const setup = `
		CREATE MATERIALIZED VIEW app.m AS TABLE app.b1;
		CREATE MATERIALIZED VIEW app.on_m AS SELECT count(*) FROM app.m;
		CREATE TABLE app.o (id int PRIMARY KEY);
		INSERT INTO app.o SELECT generate_series(0, 3000);
		ALTER TABLE app.p ADD FOREIGN KEY (id) REFERENCES app.o;
		CREATE TABLE app.c (p int REFERENCES app.p ON UPDATE CASCADE ON DELETE CASCADE);
		INSERT INTO app.c SELECT generate_series(0, 399, 10)`
	cut := func(t *testing.T, strategy string, c *cutter) {
		db := pgtest.New(t)
		twins(t, db, partitionedSQL)
		db.Exec(t, setup)
		dump := db.Dump(t)
		o := options(t, "app.p", strategy)
		o.Jobs, o.Logger, o.RebuildMatviews, o.RetryFor = 1, nil, true, -1
		r, err := repack.New(c.config(db.Config(t)), o)
		if err != nil {
			t.Fatal(err)
		}
		err = r.Run(testContext(t))
		both(t, db.Pool, cutPartitionWrites)
		if err != nil {
			run(t, db, o)
		} else if c.at > 0 && c.at <= c.messages.Load() && !c.after {
			t.Errorf("cut at %d of %d messages, and yet the run went through", c.at, c.messages.Load())
		}
		alike(t, db, "p")
		sameDump(t, db, dump)
		noArtefacts(t, db)
	}
	for _, strategy := range strategies {
		t.Run(strategy, func(t *testing.T) {
			t.Parallel()
			whole := &cutter{}
			cut(t, strategy, whole)
			total := whole.messages.Load()
			cuts := int64(3)
			if thorough() {
				cuts = 20
			}
			step := total/cuts + 1
			for at := 1 + int64(randomSeed(t)%uint64(step)); at <= total; at += step {
				cut(t, strategy, &cutter{at: at, after: at%2 == 0})
			}
			t.Logf("%s: %d messages", strategy, total)
		})
	}
}

const cutPartitionWrites = `
UPDATE @p SET a = a || '!' WHERE id % 7 = 0;
DELETE FROM @p WHERE id % 31 = 0;
UPDATE @p SET id = id + 1000 WHERE id % 11 = 0`

// TestPartitionsGoneDuringRun: those that are dropped or detached while others are
// being repacked are none of the run's business.
func TestPartitionsGoneDuringRun(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	twins(t, db, partitionedSQL)
	detached := pgtest.Query[uint32](t, db.Pool, `SELECT 'app.b1'::regclass::oid`)
	o := options(t, "app.p", repack.ChangeLog)
	run(t, db, atStage(o, repack.CleanUp, func() {
		db.Exec(t, `ALTER TABLE app.b DETACH PARTITION app.b1; DROP TABLE app.rest; ALTER TABLE app.b RENAME TO other`)
	}))
	if oid := pgtest.Query[uint32](t, db.Pool, `SELECT 'app.b1'::regclass::oid`); oid != detached {
		t.Error("a table that has been detached was repacked")
	}
	db.Exec(t, `DELETE FROM control.p WHERE id >= 300 OR id BETWEEN 100 AND 199`)
	alike(t, db, "p")
	noArtefacts(t, db)
}

// TestTriggerDisabledBeforeExchange: the key that the exchange would drop and add,
// with its triggers enabled, is looked at first.
func TestTriggerDisabledBeforeExchange(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `
		CREATE SCHEMA app;
		CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE TABLE app.c (t int REFERENCES app.t);
		INSERT INTO app.t SELECT generate_series(1, 100)`)
	disable := func() { db.Exec(t, `ALTER TABLE app.c DISABLE TRIGGER ALL`) }
	o := options(t, "app.t", repack.ChangeLog)
	var drift *repack.DriftError
	if err := newRepack(t, db, atStep(o, repack.StepDrained, disable)).Run(testContext(t)); !errors.As(err, &drift) || len(drift.Reasons) == 0 {
		t.Errorf("run: %v, want the disabled triggers named", err)
	}
	db.Exec(t, `ALTER TABLE app.c ENABLE TRIGGER ALL`)
	runUntil(t, db, o, repack.Swap)
	if err := newRepack(t, db, atStep(o, repack.StepDrained, disable)).Revert(testContext(t)); !errors.As(err, &drift) || len(drift.Reasons) == 0 {
		t.Errorf("revert: %v, want the disabled triggers named", err)
	}
	db.Exec(t, `ALTER TABLE app.c ENABLE TRIGGER ALL`)
	revert(t, db, o)
	noArtefacts(t, db)
}
