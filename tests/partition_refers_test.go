package tests

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// refersSQL is a table to which partitioned tables refer: by keys of the uppermost one, of
// a level below and of a partition, each with actions of its own. Two keys are alike but
// for their names, and the table refers to the partitioned one too. Partitions have other
// names for the keys' parts, other column numbers, and keys of their own that are like
// those of the partitioned table.
const refersSQL = `
CREATE TABLE @t (id int PRIMARY KEY, code text UNIQUE, a int, b int, n int DEFAULT 0, p int, r int, UNIQUE (a, b));
INSERT INTO @t SELECT g, 'c' || g, g % 10, g / 10 FROM generate_series(0, 399) g;
CREATE TABLE @p (
    id   int,
    r    int,
    t    int CONSTRAINT p_t REFERENCES @t ON UPDATE CASCADE ON DELETE CASCADE,
    code text CONSTRAINT "p; code" REFERENCES @t (code) ON UPDATE CASCADE ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
    a    int DEFAULT 1,
    b    int DEFAULT 0,
    m    int,
    CONSTRAINT p_pair FOREIGN KEY (a, b) REFERENCES @t (a, b) MATCH FULL ON DELETE SET DEFAULT DEFERRABLE,
    PRIMARY KEY (id, r)
) PARTITION BY RANGE (id);
CREATE TABLE @p1 PARTITION OF @p FOR VALUES FROM (0) TO (1000);
CREATE TABLE @p2 PARTITION OF @p FOR VALUES FROM (1000) TO (2000) PARTITION BY LIST (r);
CREATE TABLE @p2a (m int, code text, gone int, b int DEFAULT 0, a int DEFAULT 1, t int CONSTRAINT "it's t" REFERENCES @t ON UPDATE CASCADE ON DELETE CASCADE, id int NOT NULL, r int NOT NULL);
ALTER TABLE @p2a DROP gone;
ALTER TABLE @p2 ATTACH PARTITION @p2a FOR VALUES IN (0);
CREATE TABLE @p2b PARTITION OF @p2 DEFAULT;
CREATE TABLE @rest PARTITION OF @p DEFAULT PARTITION BY RANGE (id);
ALTER TABLE @p ADD CONSTRAINT a_p_t FOREIGN KEY (t) REFERENCES @t ON UPDATE CASCADE ON DELETE CASCADE;
ALTER TABLE @p2 ADD CONSTRAINT p2_m FOREIGN KEY (m) REFERENCES @t ON UPDATE RESTRICT;
ALTER TABLE @p2 ADD CONSTRAINT p2_t FOREIGN KEY (t) REFERENCES @t ON UPDATE CASCADE ON DELETE CASCADE;
ALTER TABLE @p1 ADD CONSTRAINT "a p1" FOREIGN KEY (t) REFERENCES @t ON UPDATE CASCADE ON DELETE CASCADE;
ALTER TABLE @p1 ADD CONSTRAINT p1_loose FOREIGN KEY (m) REFERENCES @t ON DELETE SET NULL NOT VALID;
ALTER TABLE @t ADD CONSTRAINT t_p FOREIGN KEY (p, r) REFERENCES @p ON DELETE SET NULL;
CREATE TABLE @plain (id int PRIMARY KEY, t int REFERENCES @t ON DELETE CASCADE);
COMMENT ON CONSTRAINT p_t ON @p IS 'of p';
COMMENT ON CONSTRAINT "it's t" ON @p2a IS 'of; p2a''s';
COMMENT ON CONSTRAINT p_t ON @p2 IS 'of p2';
INSERT INTO @p SELECT g, g % 3, g % 400, 'c' || g % 399, g % 10, g % 400 / 10, NULL FROM generate_series(0, 1999, 7) g;
UPDATE @p SET m = 5 WHERE id % 50 = 0 AND id >= 1000;
UPDATE @t SET p = id * 7, r = id * 7 % 3 WHERE id < 250 AND id % 5 = 0;
INSERT INTO @plain SELECT g, g FROM generate_series(0, 90) g`

var refersTables = []string{"t", "p", "p1", "p2a", "p2b", "plain"}

// refersCases have partitioned tables that refer to app.t.
var refersCases = []fidelityCase{
	{name: "every kind of key, with levels", sql: strings.ReplaceAll(refersSQL, "@", "app.")},
	{name: "set null of some columns", since: 15, sql: `CREATE TABLE app.t (a int, b int, PRIMARY KEY (a, b));
		INSERT INTO app.t VALUES (1, 2), (3, 4);
		CREATE TABLE app.p (id int, a int, b int, CONSTRAINT one FOREIGN KEY (a, b) REFERENCES app.t ON DELETE SET NULL (b), CONSTRAINT two FOREIGN KEY (a, b) REFERENCES app.t ON DELETE SET NULL) PARTITION BY HASH (id);
		CREATE TABLE app.p0 (b int, id int, a int);
		ALTER TABLE app.p ATTACH PARTITION app.p0 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
		CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES WITH (MODULUS 2, REMAINDER 1);
		INSERT INTO app.p SELECT g, 1, 2 FROM generate_series(1, 50) g`},
	{name: "not valid, or for some partitions", since: 18, sql: `CREATE TABLE app.t (id int PRIMARY KEY);
		INSERT INTO app.t SELECT generate_series(1, 100);
		CREATE TABLE app.p (id int, t int) PARTITION BY RANGE (id);
		CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (100);
		CREATE TABLE app.p2 PARTITION OF app.p FOR VALUES FROM (100) TO (200) PARTITION BY RANGE (id);
		CREATE TABLE app.p2a PARTITION OF app.p2 FOR VALUES FROM (100) TO (150);
		CREATE TABLE app.p2b PARTITION OF app.p2 DEFAULT;
		CREATE TABLE app.p3 PARTITION OF app.p DEFAULT;
		INSERT INTO app.p SELECT g, CASE WHEN g < 100 THEN 100000 ELSE 1 END FROM generate_series(0, 250) g;
		ALTER TABLE app.p ADD CONSTRAINT k FOREIGN KEY (t) REFERENCES app.t NOT VALID;
		ALTER TABLE app.p2 VALIDATE CONSTRAINT k;
		ALTER TABLE app.p ADD CONSTRAINT l FOREIGN KEY (t) REFERENCES app.t ON DELETE CASCADE NOT VALID;
		ALTER TABLE app.p2b VALIDATE CONSTRAINT l`},
	{name: "not enforced", since: 18, sql: `CREATE TABLE app.t (id int PRIMARY KEY);
		INSERT INTO app.t VALUES (1);
		CREATE TABLE app.p (id int, t int CONSTRAINT k REFERENCES app.t NOT ENFORCED, CONSTRAINT l FOREIGN KEY (t) REFERENCES app.t ON DELETE CASCADE NOT ENFORCED) PARTITION BY RANGE (id);
		CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (100);
		CREATE TABLE app.p2 PARTITION OF app.p DEFAULT PARTITION BY RANGE (id);
		CREATE TABLE app.p2a PARTITION OF app.p2 DEFAULT;
		INSERT INTO app.p SELECT g, 7 FROM generate_series(0, 200) g`},
	{name: "period", since: 18, needs: "btree_gist", sql: `CREATE TABLE app.t (id int, at daterange, n int NOT NULL UNIQUE, PRIMARY KEY (id, at WITHOUT OVERLAPS));
		INSERT INTO app.t (n, id, at) SELECT g, g, '[2020-01-01,2030-01-01)' FROM generate_series(1, 50) g;
		CREATE TABLE app.p (id int, at daterange, t int, CONSTRAINT k FOREIGN KEY (t, PERIOD at) REFERENCES app.t (id, PERIOD at)) PARTITION BY RANGE (id);
		CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (100);
		CREATE TABLE app.p2 PARTITION OF app.p DEFAULT;
		INSERT INTO app.p SELECT g, '[2021-01-01,2022-01-01)', 1 + g % 50 FROM generate_series(0, 200) g`},
}

// TestPartitionedRefers repacks what partitioned tables refer to, there and back and there.
func TestPartitionedRefers(t *testing.T) {
	t.Parallel()
	for n, c := range refersCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			eachHalf(t, n, c.run)
		})
	}
}

// TestPlanOfPartitionedRefers: the locks are those that are held, and the statements those
// that are sent.
func TestPlanOfPartitionedRefers(t *testing.T) {
	t.Parallel()
	for _, c := range refersCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db, o, dump := planIsSentFor(t, c)
			planIsCarriedOut(t, db, o, dump)
		})
	}
}

// refersRound is what the application does in every phase: what it may, and what a key
// forbids, in the partitioned table and in the partitions themselves.
func refersRound(t *testing.T, db *pgtest.Database, n int, refused func(*testing.T, execer, string)) {
	t.Helper()
	bothIn(t, db, isolationLevels[n%len(isolationLevels)],
		fmt.Sprintf(`INSERT INTO @t SELECT 1000 * %[1]d + g, 'new %[1]d/' || g, 100 + %[1]d, g FROM generate_series(1, 6) g`, n),
		fmt.Sprintf(`INSERT INTO @p SELECT 100 * s + %[1]d, 9 + g, 1000 * %[1]d + g, 'new %[1]d/' || g, 100 + %[1]d, g FROM generate_series(1, 6) g, generate_series(0, 19, 19) s`, n),
		fmt.Sprintf(`INSERT INTO @p2a (id, r, t, m) VALUES (1501 + 7 * %[1]d, 0, 1000 * %[1]d + 5, 1000 * %[1]d + 6)`, n),
		fmt.Sprintf(`UPDATE @t SET id = id + 500 WHERE id = 1000 * %d + 1`, n),
		fmt.Sprintf(`UPDATE @t SET code = code || '!' WHERE code = 'new %d/2'`, n),
		fmt.Sprintf(`DELETE FROM @t WHERE id = 1000 * %d + 3`, n),
		fmt.Sprintf(`UPDATE @p SET t = %[1]d, id = 1000 + id %% 1000 WHERE id = 100 + %[1]d AND r > 9`, n),
		fmt.Sprintf(`DELETE FROM @t WHERE id = 300 + %d`, n))
	bothIn(t, db, pgx.ReadCommitted,
		fmt.Sprintf(`INSERT INTO @p (id, r, code) VALUES (900, 100 + %[1]d, 'late %[1]d')`, n),
		fmt.Sprintf(`INSERT INTO @t (id, code) VALUES (1000 * %[1]d + 900, 'late %[1]d')`, n))
	for _, sql := range []string{
		`INSERT INTO @p (id, r, t) VALUES (50, 77, -1)`,
		`INSERT INTO @p1 (id, r, t) VALUES (51, 77, -1)`,
		`INSERT INTO @p2a (id, r, t) VALUES (1051, 0, -1)`,
		`INSERT INTO @p2 (id, r, code) VALUES (1052, 77, 'none')`,
		`UPDATE @p SET b = NULL WHERE id = 7`,
		`DELETE FROM @t WHERE id = 5`,
		fmt.Sprintf(`UPDATE @t SET a = -1 WHERE id = 1000 * %d + 4`, n),
	} {
		refused(t, db.Pool, sql)
	}
}

// refusedLoosely is refusedAlike where the order of keys may have changed, so that another one
// of those that are violated is named.
func refusedLoosely(t *testing.T, conn execer, sql string) {
	t.Helper()
	for _, sql := range twinned(sql) {
		var pgErr *pgconn.PgError
		if _, err := conn.Exec(testContext(t), sql); !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.ForeignKeyViolation {
			t.Errorf("%s: %v, want a violation", sql, err)
		}
	}
}

// TestPartitionedRefersInEveryPhase: every action happens in every phase, and nothing that
// a key forbids.
func TestPartitionedRefersInEveryPhase(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		twins(t, db, refersSQL)
		before, round := db.Dump(t), 0
		write := func() {
			round++
			refersRound(t, db, round, refusedAlike)
			alike(t, db, refersTables...)
			valid(t, db)
		}
		o := everyStep(options(t, "app.t", strategy), write)
		runUntil(t, db, o, repack.Swap)
		revert(t, db, o)
		sameDump(t, db, before)
		run(t, db, everyStep(options(t, "app.t", strategy), write))
		write()
		sameDump(t, db, before)
		noneLoose(t, db)
	})
}

// noneLoose is noArtefacts, after the key that is not valid has been validated.
func noneLoose(t *testing.T, db *pgtest.Database) {
	t.Helper()
	both(t, db.Pool, `ALTER TABLE @p1 VALIDATE CONSTRAINT p1_loose`)
	noArtefacts(t, db)
}

// valid makes sure that each key of the application is valid and enforced, and that each
// partition has its part.
func valid(t *testing.T, db *pgtest.Database) {
	t.Helper()
	for _, bad := range pgtest.Column[string](t, db.Pool, `
		SELECT format('%s of %s', a.conname, a.conrelid::regclass)
		FROM   pg_constraint a
		JOIN   pg_class c ON c.oid = a.conrelid
		WHERE  a.contype = 'f' AND a.connamespace = 'app'::regnamespace AND c.relkind = 'p' AND a.conname !~ '^repack_' AND a.conparentid = 0
		AND   (NOT a.convalidated OR EXISTS (
		           SELECT FROM pg_partition_tree(a.conrelid) t
		           WHERE  t.level = 1 AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = t.relid AND k.conparentid = a.oid AND k.convalidated)))
		UNION ALL
		SELECT format('%s of control, which app has not', b.conname)
		FROM   pg_constraint b
		WHERE  b.contype = 'f' AND b.connamespace = 'control'::regnamespace AND b.conparentid = 0
		AND    NOT EXISTS (SELECT FROM pg_constraint a WHERE a.connamespace = 'app'::regnamespace AND a.contype = 'f' AND a.conname = b.conname)`) {
		t.Errorf("not valid, or not on each partition: %s", bad)
	}
}

// partitionChanges are what happens to partitions: the nth of each kind.
func partitionChanges(n int) string {
	return fmt.Sprintf(`CREATE TABLE @new%[1]d PARTITION OF @p FOR VALUES FROM (%[1]d0000) TO (%[1]d1000);
		INSERT INTO @p (id, r, t) VALUES (%[1]d0001, 1, 1);
		CREATE TABLE @attached%[1]d (id int NOT NULL, r int NOT NULL, code text, m int, a int DEFAULT 1, b int DEFAULT 0, t int);
		INSERT INTO @attached%[1]d (id, r, t) VALUES (%[1]d5001, 1, 2);
		ALTER TABLE @p ATTACH PARTITION @attached%[1]d FOR VALUES FROM (%[1]d5000) TO (%[1]d6000);
		CREATE TABLE @same%[1]d (id int NOT NULL, r int NOT NULL, code text, m int, a int DEFAULT 1, b int DEFAULT 0, t int CONSTRAINT p_t REFERENCES @t ON UPDATE CASCADE ON DELETE CASCADE);
		INSERT INTO @same%[1]d (id, r, t) VALUES (%[1]d7001, 1, 2);
		ALTER TABLE @p ATTACH PARTITION @same%[1]d FOR VALUES FROM (%[1]d7000) TO (%[1]d8000);
		CREATE TABLE @below%[1]d PARTITION OF @p2 FOR VALUES IN (90%[1]d)`, n)
}

// TestPartitionsThatComeAndGo while the keys of their partitioned table are moved: each has
// all keys at every moment, and no row is written that is not checked.
func TestPartitionsThatComeAndGo(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		twins(t, db, refersSQL)
		n, seen := 0, map[string]int{}
		change := func(step string) {
			if seen[step]++; seen[step] != 1 && step != repack.StepKeyAdded || seen[step] > 2 {
				return
			}
			n++
			both(t, db.Pool, `ALTER TABLE @p DETACH PARTITION @rest`) // it would have to be looked at
			both(t, db.Pool, strings.Split(partitionChanges(n), ";\n")...)
			for _, table := range []string{"new", "attached", "same"} {
				at := fmt.Sprintf("%d%d", n, map[string]int{"new": 0, "attached": 5, "same": 7}[table])
				refusedLoosely(t, db.Pool, fmt.Sprintf(`INSERT INTO @%s%d (id, r, t) VALUES (%s002, 1, -1)`, table, n, at))
				refusedLoosely(t, db.Pool, fmt.Sprintf(`INSERT INTO @p (id, r, code) VALUES (%s003, 1, 'none')`, at))
			}
			refusedLoosely(t, db.Pool, fmt.Sprintf(`INSERT INTO @below%[1]d (id, r, m) VALUES (1100, 90%[1]d, -1)`, n))
			// What violates a key cannot be attached.
			both(t, db.Pool, fmt.Sprintf(`CREATE TABLE @bad%[1]d (LIKE @p); INSERT INTO @bad%[1]d (id, r, t) VALUES (%[1]d9001, 1, -1)`, n))
			var pgErr *pgconn.PgError
			if _, err := db.Pool.Exec(testContext(t), fmt.Sprintf(`ALTER TABLE app.p ATTACH PARTITION app.bad%[1]d FOR VALUES FROM (%[1]d9000) TO (%[1]d9999)`, n)); !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.ForeignKeyViolation {
				t.Errorf("%s: ATTACH of a row that violates a key: %v", step, err)
			}
			both(t, db.Pool, fmt.Sprintf(`DROP TABLE @bad%d`, n))
			if n > 1 {
				both(t, db.Pool, fmt.Sprintf(`ALTER TABLE @p DETACH PARTITION @same%d`, n-1), fmt.Sprintf(`ALTER TABLE @p DETACH PARTITION @new%d`, n-1),
					fmt.Sprintf(`ALTER TABLE @p2 DETACH PARTITION @below%d`, n-1), fmt.Sprintf(`ALTER TABLE @p DETACH PARTITION @attached%d`, n-1), fmt.Sprintf(`DROP TABLE @attached%d`, n-1))
				refusedLoosely(t, db.Pool, fmt.Sprintf(`INSERT INTO @same%d (id, r, t) VALUES (1, 1, -1)`, n-1))
				refusedLoosely(t, db.Pool, fmt.Sprintf(`INSERT INTO @new%d (id, r, code) VALUES (1, 1, 'none')`, n-1))
			}
			if n > 2 { // what has been detached longer ago, with both keys
				both(t, db.Pool, fmt.Sprintf(`DROP TABLE @same%[1]d, @new%[1]d, @below%[1]d`, n-2))
			}
			both(t, db.Pool, `ALTER TABLE @p ATTACH PARTITION @rest DEFAULT`)
			refersRound(t, db, n, refusedLoosely)
			alike(t, db, refersTables...)
			valid(t, db)
		}
		o := options(t, "app.t", strategy)
		o.LockTimeout = queuing // there are many keys
		o.Hooks.AfterStep = oneAtATime(func(_ context.Context, step string) error {
			change(step)
			return nil
		})
		o.Hooks.BeforeStage = func(_ context.Context, stage repack.Stage) error {
			if stage == repack.SyncSchema {
				change(string(repack.Backfill))
			}
			return nil
		}
		run(t, db, o)
		t.Logf("changed %d times: %v", n, seen)
		alike(t, db, refersTables...)
		app, control := keysIn(t, db, "app"), keysIn(t, db, "control")
		if app != control {
			t.Errorf("keys differ from those of control:\n%s", textDiff(control, app))
		}
		noneLoose(t, db)
	})
}

// keysIn lists the foreign keys of a schema, with their parts on the referring side and their
// triggers.
func keysIn(t *testing.T, db *pgtest.Database, schema string) string {
	t.Helper()
	lines := pgtest.Column[string](t, db.Pool, fmt.Sprintf(`
		SELECT concat_ws(' ', c.relname, k.conname, replace(pg_get_constraintdef(k.oid), '%[1]s.', ''), k.convalidated, k.conislocal, k.coninhcount, up.relname, u.conname,
		                 obj_description(k.oid, 'pg_constraint'), (SELECT count(*) FROM pg_trigger t WHERE t.tgconstraint = k.oid AND t.tgenabled = 'O'))
		FROM   pg_constraint k
		JOIN   pg_class c ON c.oid = k.conrelid
		LEFT   JOIN pg_constraint u ON u.oid = k.conparentid
		LEFT   JOIN pg_class up ON up.oid = u.conrelid
		WHERE  k.contype = 'f' AND k.connamespace = '%[1]s'::regnamespace AND u.conrelid IS DISTINCT FROM k.conrelid
		ORDER  BY 1`, schema))
	return strings.Join(lines, "\n") + "\n"
}

// TestPartitionedRefersReset ends a job at several places. Reset or revert leaves nothing.
func TestPartitionedRefersReset(t *testing.T) {
	t.Parallel()
	for i, step := range []string{repack.StepKeyAdded, repack.StepKeyValidated, repack.StepExchanged, repack.StepKeyHandedOver} {
		for _, nth := range []int{1, 9} {
			t.Run(fmt.Sprintf("%s %d", step, nth), func(t *testing.T) {
				t.Parallel()
				if nth > 1 && step == repack.StepExchanged {
					t.Skip("it is exchanged once")
				}
				db := withRegistry.New(t)
				twins(t, db, refersSQL)
				catalog, dump := db.CatalogDump(t), db.Dump(t)
				o := options(t, "app.t", strategies[i%2])
				place := stopAt{name: step, hooks: func(stop func()) repack.Hooks {
					n := 0
					return repack.Hooks{AfterStep: oneAtATime(func(_ context.Context, name string) error {
						if name == step {
							if n++; n == nth {
								stop()
							}
						}
						return nil
					})}
				}}
				cancelled(t, db, o, place, (*repack.Repack).Run)
				refersRound(t, db, 1, refusedLoosely)
				undo := (*repack.Repack).Reset
				if statusOf(t, db, "app.t").Swapped {
					undo = (*repack.Repack).Revert
				}
				if err := undo(newRepack(t, db, o), testContext(t)); err != nil {
					t.Fatalf("back: %v", err)
				}
				refersRound(t, db, 2, refusedLoosely)
				alike(t, db, refersTables...)
				sameDump(t, db, dump)
				if after := db.CatalogDump(t); after != catalog {
					t.Errorf("catalog changed:\n%s", textDiff(catalog, after))
				}
				cancelled(t, db, o, place, (*repack.Repack).Run)
				refersRound(t, db, 3, refusedLoosely)
				run(t, db, o)
				refersRound(t, db, 4, refusedLoosely)
				alike(t, db, refersTables...)
				sameDump(t, db, dump)
				noneLoose(t, db)
			})
		}
	}
}

// TestPartitionedRefersWithoutScan: the key of the partitioned table adopts those of its
// partitions. No other session's statement waits while rows are looked at.
func TestPartitionedRefersWithoutScan(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA app;
		CREATE TABLE app.t (id int PRIMARY KEY);
		INSERT INTO app.t VALUES (1);
		CREATE TABLE app.p (id int, t int REFERENCES app.t) PARTITION BY RANGE (id);
		CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (100000);
		CREATE TABLE app.p2 PARTITION OF app.p DEFAULT;
		INSERT INTO app.p SELECT g, 1 FROM generate_series(1, 100) g`)
	scans := func() int {
		db.Exec(t, `SELECT pg_stat_force_next_flush()`)
		return pgtest.Query[int](t, db.Pool, `SELECT sum(pg_stat_get_numscans(c.oid)) FROM pg_class c WHERE c.relname IN ('p1', 'p2')`)
	}
	if db.Version() < 15 {
		t.Skip("statistics are sent late")
	}
	before, validated := scans(), 0
	o := options(t, "app.t", repack.ChangeLog)
	o.Hooks.AfterStep = oneAtATime(func(_ context.Context, step string) error {
		if step == repack.StepKeyValidated {
			validated++
			pgtest.WaitFor(t, func() bool { return scans() == before+validated }, "the scan to be counted")
		}
		return nil
	})
	run(t, db, o)
	if n := scans() - before; validated != 2 || n != 2 {
		t.Errorf("%d scans of two partitions, and %d to validate; want one each, to validate", n, validated)
	}
}

// TestPartitionedRefersManyPartitions are refused with figures, by name, once.
func TestPartitionedRefersManyPartitions(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `CREATE SCHEMA app;
		CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE TABLE app.p (id int, t int CONSTRAINT "the key" REFERENCES app.t, CONSTRAINT other FOREIGN KEY (t) REFERENCES app.t) PARTITION BY LIST (id);
		DO $$ BEGIN FOR i IN 1..20 LOOP EXECUTE format('CREATE TABLE app.p%s PARTITION OF app.p FOR VALUES IN (%s)', i, i); END LOOP; END $$`)
	before := db.Dump(t)
	o := options(t, "app.t", repack.ChangeLog)
	o.LockTimeout = 10 * time.Millisecond
	err := newRepack(t, db, o).Run(testContext(t))
	var refusal *repack.RefusedError
	if !errors.As(err, &refusal) {
		t.Fatalf("run: %v, want it refused", err)
	}
	for _, word := range []string{`foreign key "the key" of "app"."p", with 20 partitions`, "takes about 10ms, more than half of the lock timeout of 10ms", "--lock-timeout"} {
		if strings.Count(err.Error(), word) == 0 {
			t.Errorf("refusal does not say %q:\n%v", word, err)
		}
	}
	if len(refusal.Reasons) != 2 {
		t.Errorf("%d reasons, want one a key:\n%v", len(refusal.Reasons), err)
	}
	sameDump(t, db, before)
}

// TestPartitionedRefersOfRoles: who repacks needs the rights of the partitions' owners.
func TestPartitionedRefersOfRoles(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	owner, other := db.Role(t), db.Role(t)
	db.Exec(t, fmt.Sprintf(`CREATE SCHEMA app AUTHORIZATION %[1]s;
		CREATE SCHEMA far;
		GRANT CREATE ON DATABASE %[3]s TO %[1]s;
		CREATE TABLE app.t (id int PRIMARY KEY);
		INSERT INTO app.t SELECT generate_series(1, 100);
		CREATE TABLE app.p (id int, t int REFERENCES app.t ON DELETE CASCADE) PARTITION BY RANGE (id);
		CREATE TABLE far.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (1000);
		INSERT INTO app.p SELECT g, g FROM generate_series(1, 100) g;
		ALTER TABLE app.t OWNER TO %[1]s;
		ALTER TABLE app.p OWNER TO %[1]s;
		ALTER TABLE far.p1 OWNER TO %[2]s`, owner, other, pgx.Identifier{db.Name}.Sanitize()))
	config := db.Config(t)
	config.User = owner
	as, err := repack.New(config, options(t, "app.t", repack.ChangeLog))
	if err != nil {
		t.Fatal(err)
	}
	var refusal *repack.RefusedError
	if err := as.Run(testContext(t)); !errors.As(err, &refusal) {
		t.Fatalf("run: %v, want it refused", err)
	}
	for _, grant := range []string{fmt.Sprintf(`GRANT %s TO %s;`, other, owner), fmt.Sprintf(`GRANT USAGE ON SCHEMA far TO %s;`, owner)} {
		if !strings.Contains(refusal.Error(), grant) {
			t.Errorf("refusal does not say %q:\n%v", grant, refusal)
		}
		db.Exec(t, grant)
	}
	db.Exec(t, fmt.Sprintf(`GRANT USAGE ON SCHEMA app TO %s`, other))
	before := db.Dump(t)
	if err := as.Run(testContext(t)); err != nil {
		t.Fatalf("run: %v", err)
	}
	sameDump(t, db, before)
	noArtefacts(t, db)
}

// TestPartitionedRefersLater: a partitioned table may come to refer to the table during the
// job, and its key may be replaced by another one of the same name.
func TestPartitionedRefersLater(t *testing.T) {
	t.Parallel()
	for i, step := range []string{repack.StepCaughtUp, repack.StepDrained, repack.StepKeyAdded, repack.StepKeyValidated, repack.StepExchanged} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			schema := `CREATE SCHEMA app;
				CREATE TABLE app.t (id int PRIMARY KEY);
				INSERT INTO app.t SELECT generate_series(1, 100);
				CREATE TABLE app.p (id int, t int) PARTITION BY RANGE (id);
				CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (1000);
				INSERT INTO app.p SELECT g, g FROM generate_series(1, 100) g;
				CREATE TABLE app.q (id int, t int CONSTRAINT k REFERENCES app.t) PARTITION BY RANGE (id);
				CREATE TABLE app.q1 PARTITION OF app.q FOR VALUES FROM (0) TO (1000);
				INSERT INTO app.q SELECT g, g FROM generate_series(1, 100) g`
			changes := `ALTER TABLE app.p ADD CONSTRAINT k FOREIGN KEY (t) REFERENCES app.t ON DELETE CASCADE;
				ALTER TABLE app.q DROP CONSTRAINT k; ALTER TABLE app.q ADD CONSTRAINT k FOREIGN KEY (t) REFERENCES app.t ON DELETE SET NULL`
			if i == 0 || i == 1 { // there are no other keys at the beginning
				schema = strings.ReplaceAll(schema, "CONSTRAINT k REFERENCES app.t", "")
				changes = strings.ReplaceAll(changes, "ALTER TABLE app.q DROP CONSTRAINT k;", "")
			}
			db.Exec(t, schema)
			db.Exec(t, changes)
			want := db.Dump(t)
			db.Exec(t, `DROP SCHEMA app CASCADE`)
			db.Exec(t, schema)
			run(t, db, atStep(options(t, "app.t", strategies[i%2]), step, func() { db.Exec(t, changes) }))
			sameDump(t, db, want)
			noArtefacts(t, db)
		})
	}
}

// TestPartitionIsReadForLong: what refers to the table is handed over when its reader ends,
// and nobody waits behind us until then.
func TestPartitionIsReadForLong(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	twins(t, db, refersSQL)
	before := db.Dump(t)
	o := options(t, "app.t", repack.ChangeLog)
	o.LockTimeout = repack.DefaultLockTimeout
	reader := begin(t, db.Connect(t), pgx.ReadCommitted)
	seen, stop := watchWaits(t, db)
	warned := watch(&o, "keys of neighbours have still to be moved")
	o = atStep(o, repack.StepExchanged, func() {
		mustExec(t, reader, `SELECT FROM app.p2b`)
		grownOld(t, db, reader, o)
	})
	done := startRun(t, db, o)
	awaitLog(t, warned, done)
	both(t, db.Pool, `INSERT INTO @p (id, r, t) VALUES (1600, 5, 1), (600, 5, 1)`, `DELETE FROM @t WHERE id = 200`)
	if left := pgtest.Column[string](t, db.Pool, `SELECT conname::text FROM pg_constraint WHERE conname ~ '^repack_' AND conrelid = 'app.plain'::regclass`); len(left) > 0 {
		t.Logf("not handed over yet: %q", left)
	}
	commit(t, reader)
	mustEnd(t, done)
	stop()
	seen.within(t, o.LockTimeout+waitMargin)
	alike(t, db, refersTables...)
	sameDump(t, db, before)
	noneLoose(t, db)
}

// referredSQL is a table to which a partitioned one refers, by a key that is checked at once
// and by one that is checked at COMMIT.
const referredSQL = `
CREATE TABLE @t (id int PRIMARY KEY, n int DEFAULT 0);
INSERT INTO @t SELECT generate_series(0, 99);
CREATE TABLE @p (id int, t int REFERENCES @t ON DELETE CASCADE, o int CONSTRAINT p_o REFERENCES @t DEFERRABLE INITIALLY DEFERRED) PARTITION BY RANGE (id);
CREATE TABLE @p1 PARTITION OF @p FOR VALUES FROM (0) TO (1000);
CREATE TABLE @p2 PARTITION OF @p DEFAULT PARTITION BY RANGE (id);
CREATE TABLE @p2a PARTITION OF @p2 DEFAULT;
CREATE INDEX ON @p (t); CREATE INDEX ON @p (o);
INSERT INTO @p SELECT g, g % 100, g % 50 FROM generate_series(1, 1999) g`

// TestPartitionedRefersWriters has sessions write to tables at both ends of the keys all
// the while, in both orders; none may fail or wait for long.
func TestPartitionedRefersWriters(t *testing.T) {
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		twins(t, db, referredSQL)
		before := db.Dump(t)
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		done := make(chan error, 2)
		for w := range 2 {
			conn := db.Connect(t)
			go func() { done <- writeReferring(ctx, conn, w) }()
		}
		seen, stop := watchWaits(t, db)
		o := options(t, "app.t", strategy)
		o.LockRetries, o.LockTimeout = 50, repack.DefaultLockTimeout
		runUntil(t, db, o, repack.Swap)
		revert(t, db, o)
		run(t, db, o)
		stop()
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("writer: %v", err)
			}
		}
		seen.within(t, o.LockTimeout+waitMargin)
		if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM app.p WHERE t NOT IN (SELECT id FROM app.t) OR o NOT IN (SELECT id FROM app.t)`); n > 0 {
			t.Errorf("%d rows refer to no row", n)
		}
		sameDump(t, db, before)
		noArtefacts(t, db)
	})
}

// writeReferring inserts, changes and deletes rows of its own: in statements by themselves,
// and in transactions that begin with either table.
func writeReferring(ctx context.Context, conn *pgx.Conn, w int) error {
	whole := context.WithoutCancel(ctx)
	for n := 0; ctx.Err() == nil; n++ {
		id := 100000*(w+1) + n
		statements := []string{
			fmt.Sprintf(`INSERT INTO app.t VALUES (%[1]d)`, id),
			fmt.Sprintf(`INSERT INTO app.p VALUES (%[2]d, %[1]d, %[1]d), (%[2]d + 1000, %[1]d, NULL)`, id, n%1000),
			fmt.Sprintf(`UPDATE app.p2a SET o = %[1]d WHERE t = %[1]d`, id),
			fmt.Sprintf(`UPDATE app.t SET n = n + 1 WHERE id = %d`, id),
			fmt.Sprintf(`DELETE FROM app.p WHERE t = %[1]d OR o = %[1]d`, id-3),
			fmt.Sprintf(`DELETE FROM app.t WHERE id = %d`, id-3),
		}
		switch n % 3 {
		case 0: // with the partitioned table first
			statements = []string{
				fmt.Sprintf(`INSERT INTO app.p VALUES (%[2]d, NULL, %[1]d)`, id, n%1000), statements[0], statements[1], statements[4], statements[5],
			}
			fallthrough
		case 1:
			statements = []string{"BEGIN;" + strings.Join(statements, ";") + ";COMMIT"}
		}
		for _, sql := range statements {
			if _, err := conn.Exec(whole, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
	}
	return nil
}

// TestPartitionAddedBeforeHandOver: the part of a partition that comes after the keys have
// been read gets its name, too.
func TestPartitionAddedBeforeHandOver(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `CREATE SCHEMA app;
		CREATE TABLE app.o (id int PRIMARY KEY);
		CREATE TABLE app.t (id int PRIMARY KEY, o int REFERENCES app.o);
		INSERT INTO app.t VALUES (1);
		CREATE TABLE app.p (id int, t int CONSTRAINT k REFERENCES app.t) PARTITION BY RANGE (id);
		CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (100)`)
	// The key of the table comes first, in the same round.
	run(t, db, atStep(options(t, "app.t", repack.ChangeLog), repack.StepKeyHandedOver, func() { db.Exec(t, `CREATE TABLE app.p2 PARTITION OF app.p DEFAULT`) }))
	if names := pgtest.Column[string](t, db.Pool, `SELECT conname::text FROM pg_constraint WHERE conrelid = 'app.p2'::regclass`); !slices.Equal(names, []string{"k"}) {
		t.Errorf("the new partition has the keys %q, want k", names)
	}
	noArtefacts(t, db)
}
