package tests

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// ddlSQL is the table that others change while it is repacked.
const ddlSQL = carriedTableSQL + `
CREATE TABLE app.parent (id int PRIMARY KEY); INSERT INTO app.parent SELECT generate_series(0, 9);
CREATE TABLE app.child (t int); INSERT INTO app.child VALUES (1), (2);
CREATE TABLE app.j (t int); INSERT INTO app.j VALUES (777);
ALTER TABLE app.t ADD CONSTRAINT later CHECK (a >= 0) NOT VALID, ADD CONSTRAINT old_check CHECK (a > -5), ADD e int;
CREATE UNIQUE INDEX t_b ON app.t (id, b); CREATE INDEX t_a ON app.t (a);
CREATE STATISTICS app.s ON a, b FROM app.t;
CREATE TRIGGER old_trigger AFTER UPDATE ON app.t EXECUTE FUNCTION app.note();
CREATE POLICY old_policy ON app.t USING (true);
CREATE VIEW app.old_view AS SELECT id, a, b FROM app.t;
CREATE PUBLICATION old_publication FOR TABLE app.t;
GRANT SELECT ON app.t TO {carol};
COMMENT ON COLUMN app.t.a IS 'old'; COMMENT ON INDEX app.t_a IS 'old';`

// additions are what a job takes along whenever it happens.
var additions = slices.Concat(linkedAdditions, otherAdditions)

// linkedAdditions are links to other objects, and defaults: revert takes them along, too.
var linkedAdditions = []string{
	`CREATE POLICY elsewhere ON app.parent USING (EXISTS (SELECT FROM app.t WHERE t.a = parent.id))`,
	`CREATE VIEW app.new_view WITH (security_barrier) AS SELECT id FROM app.t WHERE a > 3; GRANT SELECT ON app.new_view TO {bob}`,
	`CREATE OR REPLACE VIEW app.old_view AS SELECT id, a, b, e, 1 AS one FROM app.t JOIN app.parent USING (id)`,
	`CREATE RULE elsewhere AS ON DELETE TO app.child DO ALSO UPDATE app.t SET b = 'orphan' WHERE t.id = OLD.t`,
	`CREATE FUNCTION app.f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM app.t; END`,
	`ALTER TABLE app.t ADD CONSTRAINT out_key FOREIGN KEY (a) REFERENCES app.parent ON DELETE CASCADE; COMMENT ON CONSTRAINT out_key ON app.t IS 'out'`,
	`ALTER TABLE app.child ADD CONSTRAINT in_key FOREIGN KEY (t) REFERENCES app.t ON DELETE CASCADE`,
	`ALTER TABLE app.j ADD CONSTRAINT orphans FOREIGN KEY (t) REFERENCES app.t NOT VALID`,
	`ALTER TABLE app.t ADD CONSTRAINT self_key FOREIGN KEY (e) REFERENCES app.t DEFERRABLE`,
	`CREATE PUBLICATION new_publication FOR TABLE app.t; ALTER PUBLICATION old_publication DROP TABLE app.t`,
	`ALTER TABLE app.t ALTER a SET DEFAULT 5, ALTER b DROP DEFAULT`,
}

// otherAdditions are not on the old table, so that revert refuses.
var otherAdditions = []string{
	`GRANT SELECT, UPDATE ON app.t TO {alice} WITH GRANT OPTION`,
	`GRANT INSERT (a, b), REFERENCES (id) ON app.t TO {bob}`,
	`REVOKE SELECT ON app.t FROM {carol}`,
	`GRANT USAGE ON SEQUENCE app.t_id_seq TO {alice}`,
	`COMMENT ON TABLE app.t IS 'new'; COMMENT ON COLUMN app.t.a IS NULL; COMMENT ON COLUMN app.t.b IS 'new'`,
	`COMMENT ON INDEX app.t_a IS 'new'; COMMENT ON CONSTRAINT later ON app.t IS 'new'; COMMENT ON CONSTRAINT t_pkey ON app.t IS 'key'`,
	`COMMENT ON SEQUENCE app.t_id_seq IS 'sequence'; ALTER SEQUENCE app.t_id_seq INCREMENT 10 CACHE 5`,
	`CREATE TRIGGER new_trigger AFTER UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION app.note(); COMMENT ON TRIGGER new_trigger ON app.t IS 'new'`,
	`CREATE CONSTRAINT TRIGGER constraint_trigger AFTER INSERT ON app.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.note();
		COMMENT ON CONSTRAINT constraint_trigger ON app.t IS 'new'`,
	`ALTER TABLE app.t ENABLE ALWAYS TRIGGER old_trigger;
		ALTER TRIGGER old_trigger ON app.t DEPENDS ON EXTENSION plpgsql;
		ALTER INDEX app.t_a DEPENDS ON EXTENSION plpgsql`,
	`CREATE POLICY new_policy ON app.t FOR SELECT TO {alice} USING (a > 3); ALTER TABLE app.t ENABLE ROW LEVEL SECURITY; DROP POLICY old_policy ON app.t`,
	`CREATE RULE new_rule AS ON UPDATE TO app.t DO ALSO INSERT INTO app.log (what) VALUES ('rule')`,
	`ALTER TABLE app.t ADD CONSTRAINT new_check CHECK (a < 1000) NOT VALID`,
}

// moments are where a run can be made to wait.
var moments = []string{
	string(repack.Setup), string(repack.Backfill), string(repack.SyncSchema), string(repack.PostSyncUpdate),
	repack.StepWritingThrough, repack.StepDrained,
}

// atMoment calls do once, at one of moments.
func atMoment(o repack.Options, moment string, do func()) repack.Options {
	if strings.Contains(moment, ":") {
		return atStep(o, moment, do)
	}
	return atStage(o, repack.Stage(moment), do)
}

// TestAdditionsDuringJob makes each addition once at each moment, and compares
// with a database where all were made and nothing was repacked.
func TestAdditionsDuringJob(t *testing.T) {
	t.Parallel()
	for shift := range moments {
		t.Run(moments[shift], func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			r := givenRoles(t, db)
			db.Exec(t, r.in(ddlSQL))
			control := controlDatabase(t, r.in(ddlSQL))
			o := options(t, "app.t", strategies[shift%2])
			o.LockTimeout = queuing
			byMoment := map[string][]string{}
			for i, sql := range additions {
				moment := moments[(i+shift)%len(moments)]
				byMoment[moment] = append(byMoment[moment], r.in(sql))
				control.Exec(t, r.in(sql))
			}
			// Hooks of one kind are set once: one for all moments.
			done := map[string]bool{}
			add := func(moment string) {
				if !done[moment] {
					done[moment] = true
					for _, sql := range byMoment[moment] {
						db.Exec(t, sql)
					}
				}
			}
			o.Hooks.AfterStage = func(_ context.Context, stage repack.Stage) error { add(string(stage)); return nil }
			o.Hooks.AfterStep = oneAtATime(func(_ context.Context, step string) error { add(step); return nil })
			run(t, db, o)
			sameSchema(t, db, "after the end", schemaOf(t, control))
			sameChecksums(t, db, "after the end", checksums(t, control))
		})
	}
}

// TestAdditionsAfterSwap makes every addition between swap and clean_up.
func TestAdditionsAfterSwap(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	r := givenRoles(t, db)
	db.Exec(t, r.in(ddlSQL))
	control := controlDatabase(t, r.in(ddlSQL))
	o := options(t, "app.t", repack.DirectTrigger)
	o.LockTimeout = queuing
	runUntil(t, db, o, repack.Swap)
	for _, sql := range append(additions, `ALTER TABLE app.t ADD fresh int`, `CREATE INDEX t_fresh ON app.t (a, b)`) {
		db.Exec(t, r.in(sql))
		control.Exec(t, r.in(sql))
	}
	run(t, db, o)
	sameSchema(t, db, "after the end", schemaOf(t, control))
	sameChecksums(t, db, "after the end", checksums(t, control))
}

// TestRevertAfterAdditions: what was added since the swap is either on the table that
// comes back or named in the error. make test-thorough makes each addition alone.
func TestRevertAfterAdditions(t *testing.T) {
	t.Parallel()
	t.Run("linked", func(t *testing.T) {
		t.Parallel()
		db, control, o, add := givenSwappedForAdditions(t, repack.DirectTrigger)
		for _, sql := range linkedAdditions {
			add(sql)
		}
		revert(t, db, o)
		sameSchema(t, db, "after revert", schemaOf(t, control))
	})
	t.Run("others", func(t *testing.T) {
		t.Parallel()
		db, control, o, add := givenSwappedForAdditions(t, repack.ChangeLog)
		said := ""
		for _, sql := range otherAdditions {
			add(sql)
			err := newRepack(t, db, o).Revert(testContext(t))
			var drift *repack.RevertDriftError
			if !errors.As(err, &drift) || err.Error() == said {
				t.Fatalf("revert after %s: %v, want that named too", sql, err)
			}
			said = err.Error()
		}
		run(t, db, o)
		sameSchema(t, db, "after the end", schemaOf(t, control))
	})
	if !thorough() {
		return
	}
	for _, sql := range additions {
		t.Run(sql[:min(len(sql), 60)], func(t *testing.T) {
			t.Parallel()
			db, control, o, add := givenSwappedForAdditions(t, repack.ChangeLog)
			add(sql)
			err := newRepack(t, db, o).Revert(testContext(t))
			var drift *repack.RevertDriftError
			if err != nil && !errors.As(err, &drift) {
				t.Fatalf("revert: %v", err)
			}
			if err != nil {
				run(t, db, o)
			}
			sameSchema(t, db, "after the end", schemaOf(t, control))
		})
	}
}

// givenSwappedForAdditions has the tables exchanged; add makes an addition, and makes it
// in the control database.
func givenSwappedForAdditions(t *testing.T, strategy string) (db, control *pgtest.Database, o repack.Options, add func(sql string)) {
	t.Helper()
	db = withRegistry.New(t)
	r := givenRoles(t, db)
	db.Exec(t, r.in(ddlSQL))
	control = controlDatabase(t, r.in(ddlSQL))
	o = options(t, "app.t", strategy)
	o.LockTimeout = queuing
	runUntil(t, db, o, repack.Swap)
	return db, control, o, func(sql string) {
		db.Exec(t, r.in(sql))
		control.Exec(t, r.in(sql))
	}
}

// stoppingCases are changes that a shadow cannot follow: the run must stop
// before the swap and name what has changed.
var stoppingCases = []struct{ sql, names string }{
	{`ALTER TABLE app.t ADD extra int DEFAULT 3`, "extra"},
	{`ALTER TABLE app.t DROP e`, "column e"},
	{`ALTER TABLE app.t RENAME e TO renamed`, "renamed"},
	{`ALTER TABLE app.t ALTER e TYPE bigint`, "column e"},
	{`ALTER TABLE app.t ALTER b SET NOT NULL`, "column b"},
	{`ALTER TABLE app.t ALTER b SET STORAGE EXTERNAL`, "column b"},
	{`ALTER TABLE app.t ALTER b SET STATISTICS 5`, "column b"},
	{`CREATE INDEX new_index ON app.t (b)`, "new_index"},
	{`DROP INDEX app.t_a`, "t_a"},
	{`ALTER INDEX app.t_a RENAME TO t_other`, "t_other"},
	{`ALTER INDEX app.t_a SET (fillfactor = 50)`, "t_a"},
	{`ALTER TABLE app.t ADD CONSTRAINT new_check CHECK (a < 1000)`, "new_check"},
	{`ALTER TABLE app.t ADD CONSTRAINT new_unique UNIQUE (b, a)`, "new_unique"},
	{`ALTER TABLE app.t DROP CONSTRAINT old_check`, "old_check"},
	{`ALTER TABLE app.t VALIDATE CONSTRAINT later`, "later"},
	{`ALTER TABLE app.t SET (fillfactor = 50)`, "storage parameter"},
	{`DROP PUBLICATION old_publication; ALTER TABLE app.t SET UNLOGGED`, "persistence"},
	{`ALTER TABLE app.t REPLICA IDENTITY FULL`, "replica identity"},
	{`ALTER TABLE app.t CLUSTER ON t_a`, "t_a"},
	{`CREATE STATISTICS app.new_statistics ON id, a FROM app.t`, "new_statistics"},
	{`ALTER STATISTICS app.s SET STATISTICS 5`, "app"},
}

// TestStructureChangedDuringJob stops before the swap with an error that names
// the change, loses nothing, and, tried for some of them, works after a reset.
func TestStructureChangedDuringJob(t *testing.T) {
	t.Parallel()
	for i, c := range stoppingCases {
		t.Run(c.sql, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			r := givenRoles(t, db)
			db.Exec(t, r.in(ddlSQL))
			o := options(t, "app.t", strategies[i%2])
			o.LockTimeout = queuing
			o.LockRetries = -1
			var sums map[string]string
			err := newRepack(t, db, atMoment(o, moments[i%len(moments)], func() {
				db.Exec(t, c.sql)
				sums = checksums(t, db)
			})).Run(testContext(t))
			var drift *repack.DriftError
			if !errors.As(err, &drift) || !strings.Contains(err.Error(), c.names) {
				t.Fatalf("%s at %q: %v, want a *DriftError that names %q", c.sql, moments[i%len(moments)], err, c.names)
			}
			reset(t, db, o)
			schema := schemaOf(t, controlDatabase(t, r.in(ddlSQL), c.sql))
			sameChecksums(t, db, "after reset", sums)
			sameSchema(t, db, "after reset", schema)
			if i%5 != 0 && !thorough() {
				return
			}
			run(t, db, o)
			sameChecksums(t, db, "after the end", sums)
			sameSchema(t, db, "after the end", schema)
		})
	}
}

// refusableCases are what pre_validate would have refused.
var refusableCases = []struct{ name, sql, shows string }{
	{"materialized view", `CREATE MATERIALIZED VIEW app.m AS SELECT count(*) FROM app.t`, `REFRESH MATERIALIZED VIEW app.m; SELECT m.count - (SELECT count(*) FROM app.t) FROM app.m`},
	{"inheriting table", `CREATE TABLE app.heir () INHERITS (app.t);
		INSERT INTO app.heir (id, a) VALUES (7000, 1)`, `SELECT count(*) - 1 FROM app.t WHERE id = 7000`},
	{"table it inherits from", `CREATE TABLE app.base (a int);
		ALTER TABLE app.t INHERIT app.base`, `SELECT (SELECT count(*) FROM app.base) - (SELECT count(*) FROM app.t)`},
	{"function of its type", `CREATE FUNCTION app.of(x app.t) RETURNS int LANGUAGE sql RETURN 2 * x.a`, `SELECT app.of(t) - 2 * a FROM app.t WHERE id = 1`},
	{"column of its type", `CREATE TABLE app.holder (x app.t)`, `INSERT INTO app.holder SELECT t FROM app.t WHERE id = 1; SELECT count(*) - 1 FROM app.holder`},
	{"composite type it is made of", `CREATE TYPE app.made AS (id int, a int, b text, e int);
		ALTER TABLE app.t OF app.made`, `SELECT count(*) - 1 FROM pg_class WHERE oid = 'app.t'::regclass AND reloftype <> 0`},
	{"partitioned table with a key to it", `CREATE TABLE app.parts (t int REFERENCES app.t) PARTITION BY LIST (t);
		CREATE TABLE app.part1 PARTITION OF app.parts DEFAULT`, `SELECT count(*) - 2 FROM pg_constraint WHERE confrelid = 'app.t'::regclass`},
	{"trigger elsewhere that names it", `CREATE CONSTRAINT TRIGGER far AFTER INSERT ON app.child FROM app.t DEFERRABLE FOR EACH ROW EXECUTE FUNCTION app.note()`, `SELECT count(*) - 1 FROM pg_trigger WHERE tgconstrrelid = 'app.t'::regclass AND tgname = 'far'`},
	{"publication of all tables", `CREATE PUBLICATION everything FOR ALL TABLES`, `SELECT 0`},
	{"default that draws from its identity", `CREATE TABLE app.drawer (id int DEFAULT nextval('app.t_id_seq'))`, `SELECT count(*) - 1 FROM pg_attrdef d WHERE adrelid = 'app.drawer'::regclass AND pg_get_expr(adbin, adrelid) = 'nextval(''app.t_id_seq''::regclass)'`},
	{"extension", `ALTER EXTENSION plpgsql ADD TABLE app.t`, `SELECT count(*) - 1 FROM pg_depend WHERE objid = 'app.t'::regclass AND deptype = 'e'`},
}

// TestRefusableDuringJob makes during a job what would have had it refused: it
// is carried over, or the run stops before the swap and names it.
func TestRefusableDuringJob(t *testing.T) {
	t.Parallel()
	for i, c := range refusableCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			r := givenRoles(t, db)
			db.Exec(t, r.in(ddlSQL))
			o := options(t, "app.t", strategies[i%2])
			o.LockTimeout = queuing
			err := newRepack(t, db, atStage(o, repack.Backfill, func() { db.Exec(t, c.sql) })).Run(testContext(t))
			t.Logf("run: %v", err)
			if got := result(t, db, c.shows); got != "0" {
				t.Errorf("%s: got %s, want 0", c.shows, got)
			}
			if err != nil {
				if state := statusOf(t, db, "app.t"); state.Stage == repack.CleanUp || state.Swapped {
					t.Fatalf("the run went on to %s and failed there: %v", state.Stage, err)
				}
				reset(t, db, o)
			}
			control := controlDatabase(t, r.in(ddlSQL), c.sql)
			sameSchema(t, db, "after the end", schemaOf(t, control))
		})
	}
}
