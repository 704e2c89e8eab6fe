package tests

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// duringJobSQL makes a table with everything that may change during a job.
const duringJobSQL = `
CREATE TABLE app.parent (id int PRIMARY KEY);
INSERT INTO app.parent SELECT generate_series(0, 20);
CREATE TABLE app.other (id int PRIMARY KEY);
INSERT INTO app.other SELECT generate_series(0, 20);
ALTER TABLE app.t ADD s serial, ADD p int REFERENCES app.parent, ADD CONSTRAINT old_check CHECK (a < 100) NOT VALID;
CREATE TABLE app.child (t int CONSTRAINT child_fk REFERENCES app.t);
INSERT INTO app.child SELECT id FROM app.t;
CREATE INDEX t_a ON app.t (a);
COMMENT ON TABLE app.t IS 'before';
COMMENT ON COLUMN app.t.b IS 'before';
COMMENT ON INDEX app.t_a IS 'before';
GRANT SELECT, INSERT ON app.t TO {bob} WITH GRANT OPTION;
GRANT UPDATE (a) ON app.t TO {carol};
CREATE TRIGGER old_trigger BEFORE UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION app.note();
CREATE RULE old_rule AS ON DELETE TO app.t WHERE old.id < 0 DO INSTEAD NOTHING;
CREATE POLICY old_policy ON app.t FOR SELECT USING (a > 0);
CREATE PUBLICATION {database}_old FOR TABLE app.t;
CREATE VIEW app.old_view AS SELECT id, a FROM app.t;
CREATE TABLE app.elsewhere (id int);
CREATE POLICY mentions ON app.elsewhere USING (EXISTS (SELECT FROM app.t));
CREATE STATISTICS app.old_statistics ON a, p FROM app.t;`

// change is DDL by the application; what names it in a message, where the job
// cannot take it over.
type change struct{ what, sql string }

// mayChange are the properties that may change during a job: docs/fidelity.md.
// What is made, changed and dropped of one kind is three cases.
var mayChange = map[string][]change{
	"made": {
		{"grant ", `GRANT DELETE ON app.t TO {alice}; GRANT SELECT (b) ON app.t TO {carol}`},
		{"sequence ", `GRANT USAGE ON SEQUENCE app.t_id_seq TO {carol}`},
		{
			"column a",
			`
				COMMENT ON CONSTRAINT t_pkey ON app.t IS 'new';
				COMMENT ON CONSTRAINT old_check ON app.t IS 'new';
				COMMENT ON COLUMN app.t.a IS 'new';
				COMMENT ON SEQUENCE app.t_id_seq IS 'new';
				COMMENT ON SEQUENCE app.t_s_seq IS 'new';
				COMMENT ON INDEX app.t_pkey IS 'new';
				COMMENT ON CONSTRAINT child_fk ON app.child IS 'new'`,
		},
		{"trigger ", `CREATE TRIGGER new_trigger AFTER INSERT ON app.t FOR EACH STATEMENT EXECUTE FUNCTION app.note();
			COMMENT ON TRIGGER new_trigger ON app.t IS 'new'`},
		{
			"rule ",
			`
				CREATE RULE new_rule AS ON UPDATE TO app.t WHERE old.id < 0 DO INSTEAD NOTHING;
				COMMENT ON RULE new_rule ON app.t IS 'new'`,
		},
		{"policy ", `CREATE POLICY new_policy ON app.t AS RESTRICTIVE FOR UPDATE TO {carol} USING (a > 1) WITH CHECK (a > 2);
			COMMENT ON POLICY new_policy ON app.t IS 'new'`},
		{"row security", `ALTER TABLE app.t ENABLE ROW LEVEL SECURITY`},
		{"constraint ", `ALTER TABLE app.t ADD CONSTRAINT new_check CHECK (a < 1000) NOT VALID`},
		{"", `ALTER TABLE app.t ALTER a SET DEFAULT 7`},
		{"", `ALTER TABLE app.t ADD CONSTRAINT new_out FOREIGN KEY (a) REFERENCES app.other NOT VALID`},
		{"", `CREATE TABLE app.child2 (t int CONSTRAINT new_in REFERENCES app.t ON DELETE CASCADE)`},
		{"", `CREATE PUBLICATION {database}_new FOR TABLE app.t; ALTER PUBLICATION {database}_new SET (publish = 'insert')`},
		{"", `CREATE VIEW app.new_view AS SELECT id, b FROM app.t`},
		{"", `CREATE POLICY mentions_too ON app.elsewhere USING (EXISTS (SELECT FROM app.t WHERE t.a = elsewhere.id))`},
		{"", `CREATE RULE elsewhere AS ON INSERT TO app.elsewhere DO ALSO SELECT count(*) FROM app.t`},
		{"", `CREATE FUNCTION app.counts() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM app.t; END`},
	},
	"changed": {
		{"owner", `ALTER TABLE app.t OWNER TO {alice}`},
		{
			"grant ",
			`REVOKE GRANT OPTION FOR SELECT ON app.t FROM {bob}; SET ROLE {bob}; GRANT INSERT ON app.t TO {carol}; RESET ROLE`,
		},
		{
			"comment",
			`COMMENT ON TABLE app.t IS 'after'; COMMENT ON COLUMN app.t.b IS 'after'; COMMENT ON INDEX app.t_a IS 'after'`,
		},
		{"trigger ", `ALTER TABLE app.t ENABLE ALWAYS TRIGGER old_trigger`},
		{"rule ", `ALTER TABLE app.t DISABLE RULE old_rule`},
		{"policy ", `ALTER POLICY old_policy ON app.t TO {carol} USING (a > 5)`},
		{"force row security", `ALTER TABLE app.t FORCE ROW LEVEL SECURITY`},
		{
			"sequence ",
			`
				ALTER TABLE app.t ALTER id SET INCREMENT BY 3 SET MAXVALUE 1000000 SET CACHE 5;
				ALTER TABLE app.t ALTER id SET GENERATED ALWAYS`,
		},
		{"sequence ", `ALTER SEQUENCE app.t_s_seq INCREMENT BY 2 CYCLE`},
		{"", `ALTER TABLE app.t ALTER b SET DEFAULT 'changed'`},
		{"", `ALTER TABLE app.t ALTER CONSTRAINT t_p_fkey DEFERRABLE INITIALLY DEFERRED`},
		{"", `ALTER TABLE app.child ALTER CONSTRAINT child_fk DEFERRABLE`},
		{"", `ALTER PUBLICATION {database}_old SET (publish = 'delete')`},
		{"", `CREATE OR REPLACE VIEW app.old_view AS SELECT id, a, b FROM app.t; ALTER VIEW app.old_view OWNER TO {alice}`},
		{"", `ALTER POLICY mentions ON app.elsewhere USING (NOT EXISTS (SELECT FROM app.t WHERE a = 3))`},
	},
	"dropped": {
		{"grant ", `REVOKE ALL ON app.t FROM {bob} CASCADE; REVOKE UPDATE (a) ON app.t FROM {carol}`},
		{"comment", `COMMENT ON TABLE app.t IS NULL; COMMENT ON COLUMN app.t.b IS NULL; COMMENT ON INDEX app.t_a IS NULL`},
		{"trigger ", `DROP TRIGGER old_trigger ON app.t`},
		{"rule ", `DROP RULE old_rule ON app.t`},
		{"policy ", `DROP POLICY old_policy ON app.t`},
		{"constraint ", `ALTER TABLE app.t DROP CONSTRAINT old_check`},
		{"sequence ", `ALTER TABLE app.t ALTER id DROP IDENTITY`},
		{"", `ALTER TABLE app.t ALTER b DROP DEFAULT`},
		{"", `ALTER TABLE app.t DROP CONSTRAINT t_p_fkey`},
		{"", `ALTER TABLE app.child DROP CONSTRAINT child_fk`},
		{"", `DROP PUBLICATION {database}_old`},
		{"", `DROP VIEW app.old_view`},
		{"", `DROP POLICY mentions ON app.elsewhere`},
	},
}

// mayNotChange are those that end a job.
var mayNotChange = []change{
	{"column b", `ALTER TABLE app.t ALTER b SET STATISTICS 77`},
	{"column b", `ALTER TABLE app.t ALTER b SET STORAGE EXTERNAL`},
	{"column extra", `ALTER TABLE app.t ADD extra int`},
	{"index t_new", `CREATE INDEX t_new ON app.t (b)`},
	{"index t_a", `ALTER TABLE app.t CLUSTER ON t_a`},
	{"constraint valid", `ALTER TABLE app.t ADD CONSTRAINT valid CHECK (a < 10000)`},
	{"constraint old_check", `ALTER TABLE app.t VALIDATE CONSTRAINT old_check`},
	{"storage parameter fillfactor", `ALTER TABLE app.t SET (fillfactor = 70)`},
	{"storage parameter of TOAST", `ALTER TABLE app.t SET (toast.autovacuum_enabled = off)`},
	{"replica identity", `ALTER TABLE app.t REPLICA IDENTITY FULL`},
	{
		"persistence",
		`
			ALTER TABLE app.child DROP CONSTRAINT child_fk;
			ALTER PUBLICATION {database}_old DROP TABLE app.t;
			ALTER TABLE app.t SET UNLOGGED`,
	},
	{"statistics", `CREATE STATISTICS app.new_statistics ON a, b FROM app.t`},
	{"statistics", `ALTER STATISTICS app.old_statistics SET STATISTICS 50`},
	{"statistics", `ALTER STATISTICS app.old_statistics OWNER TO {alice}`},
	{"statistics", `COMMENT ON STATISTICS app.old_statistics IS 'new'`},
}

// givenDuringJob makes the table, also in a control database: apply changes both, so that
// the control shows how it ought to be.
func givenDuringJob(t *testing.T, db *pgtest.Database) (control *pgtest.Database, apply func(change)) {
	t.Helper()
	r := givenRoles(t, db)
	db.Exec(t, r.in(carriedTableSQL+duringJobSQL))
	control = controlDatabase(t, r.in(carriedTableSQL+duringJobSQL))
	return control, func(c change) {
		db.Exec(t, r.in(c.sql))
		control.Exec(t, r.in(c.sql))
	}
}

// TestChangedDuringJob changes everything that may be changed, at every moment
// before the swap, what is of the same kind at every other one, and wants it as it has
// been changed.
func TestChangedDuringJob(t *testing.T) {
	t.Parallel()
	for m, kind := range slices.Sorted(maps.Keys(mayChange)) {
		for n, moment := range moments {
			if (m+n)%2 != 0 && !thorough() {
				continue
			}
			t.Run(kind+" at "+moment, func(t *testing.T) {
				t.Parallel()
				inTurn(t, n/2, func(t *testing.T, db *pgtest.Database, strategy string) {
					control, apply := givenDuringJob(t, db)
					change := func() {
						for _, c := range mayChange[kind] {
							apply(c)
						}
					}
					o := options(t, "app.t", strategy)
					run(t, db, atMoment(o, moment, change))
					sameSchema(t, db, "after the end", schemaOf(t, control))
					noJob(t, db)
				})
			})
		}
	}
}

func noJob(t *testing.T, db *pgtest.Database) {
	t.Helper()
	left := pgtest.Column[string](t, db.Pool, `
		SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'repack\_job%'
		UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgname LIKE '%repack%'`)
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestChangedAfterSwap changes the same between the swap and clean_up, which
// keeps the old table: the change stays. The old table does not have it, so
// that revert refuses and names it, except what goes over to it.
func TestChangedAfterSwap(t *testing.T) {
	t.Parallel()
	for n, kind := range slices.Sorted(maps.Keys(mayChange)) {
		changes := mayChange[kind]
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			eachHalf(t, n, func(t *testing.T, db *pgtest.Database, strategy, _ string) {
				control, apply := givenDuringJob(t, db)
				o := options(t, "app.t", strategy)
				runUntil(t, db, o, repack.Swap)
				for _, c := range changes {
					apply(c)
					if c.what == "" {
						continue
					}
					var drift *repack.RevertDriftError
					if err := newRepack(t, db, o).Revert(testContext(t)); !errors.As(err, &drift) || !strings.Contains(err.Error(), c.what) {
						t.Errorf("revert after %s: %v, want it refused because of %s", c.sql, err, c.what)
					}
				}
				o.KeepOld = true
				run(t, db, o)
				old := pgtest.Query[string](t, db.Pool, `SELECT nspname FROM pg_namespace WHERE nspname LIKE 'repack\_job%'`)
				db.Exec(t, "DROP SCHEMA "+old+" CASCADE")
				sameSchema(t, db, "after the end", schemaOf(t, control))
			})
		})
	}
}

// TestChangedAfterSwapReverts changes after the swap what goes over to the old
// table, and reverts.
func TestChangedAfterSwapReverts(t *testing.T) {
	t.Parallel()
	for n, kind := range slices.Sorted(maps.Keys(mayChange)) {
		changes := mayChange[kind]
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			eachHalf(t, n, func(t *testing.T, db *pgtest.Database, strategy, _ string) {
				control, apply := givenDuringJob(t, db)
				o := options(t, "app.t", strategy)
				runUntil(t, db, o, repack.Swap)
				for _, c := range changes {
					if c.what == "" {
						apply(c)
					}
				}
				revert(t, db, o)
				sameSchema(t, db, "after revert", schemaOf(t, control))
				noJob(t, db)
			})
		})
	}
}

// TestDriftDuringJob makes each change that a job cannot take over: it ends
// before the swap, and says why.
func TestDriftDuringJob(t *testing.T) {
	t.Parallel()
	for n, place := range []repack.Stage{repack.Setup, repack.Backfill, repack.SyncSchema, repack.PostSyncUpdate} {
		t.Run(string(place), func(t *testing.T) {
			t.Parallel()
			eachHalf(t, n, func(t *testing.T, db *pgtest.Database, strategy, _ string) {
				control, apply := givenDuringJob(t, db)
				o := options(t, "app.t", strategy)
				runUntil(t, db, o, place)
				for _, c := range mayNotChange {
					apply(c)
					var drift *repack.DriftError
					if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &drift) || !strings.Contains(err.Error(), c.what) {
						t.Errorf("run after %s: %v, want drift of %s", c.sql, err, c.what)
					}
				}
				reset(t, db, o)
				sameSchema(t, db, "after reset", schemaOf(t, control))
				noJob(t, db)
			})
		})
	}
}

// TestOwnerThatWeAreNot gives the table to a role that the running one is no
// member of: the run names the GRANT, and goes on when it has it.
func TestOwnerThatWeAreNot(t *testing.T) {
	t.Parallel()
	inTurnIn(t, 0, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
		r := givenRoles(t, db)
		db.Exec(t, r.in(carriedTableSQL+`
			GRANT ALL ON SCHEMA app TO {alice}, {bob};
			GRANT CREATE ON DATABASE {database} TO {alice};
			ALTER TABLE app.t OWNER TO {alice}`))
		o := options(t, "app.t", strategy)
		as := func() *repack.Repack {
			config := db.Config(t)
			config.User = r["alice"]
			mine, err := repack.New(config, o)
			if err != nil {
				t.Fatal(err)
			}
			return mine
		}
		o.Until = repack.Backfill
		if err := as().Run(testContext(t)); err != nil {
			t.Fatalf("run: %v", err)
		}
		db.Exec(t, r.in(`ALTER TABLE app.t OWNER TO {bob}`))
		o.Until = ""
		var drift *repack.DriftError
		if err := as().Run(testContext(t)); !errors.As(err, &drift) || !strings.Contains(err.Error(), r.in(`GRANT {bob} TO {alice}`)) {
			t.Fatalf("run: %v, want the GRANT named", err)
		}
		db.Exec(t, r.in(`GRANT {bob} TO {alice}`))
		if err := as().Run(testContext(t)); err != nil {
			t.Fatalf("run with the grant: %v", err)
		}
		if owner := db.QueryString(t, `
			SELECT relowner::regrole FROM pg_class WHERE oid = 'app.t'::regclass`); owner != r["bob"] {
			t.Errorf("app.t belongs to %s, want %s", owner, r["bob"])
		}
		noJob(t, db)
	})
}

// Our trigger compares the key, and PostgreSQL changes the type of no column that a
// trigger's condition names: the application is told so, and after a reset it works.
func TestTypeOfKeyDuringJob(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, a int); INSERT INTO app.t VALUES (1, 1)`)
		o := options(t, "app.t", strategy)
		runUntil(t, db, o, repack.Setup)
		const widen = `ALTER TABLE app.t ALTER id TYPE bigint`
		_, err := db.Pool.Exec(testContext(t), widen)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.FeatureNotSupported {
			t.Fatalf("ALTER of the key during a job: %v, want SQLSTATE %s", err, pgerrcode.FeatureNotSupported)
		}
		if err := newRepack(t, db, o).Reset(testContext(t)); err != nil {
			t.Fatal(err)
		}
		db.Exec(t, widen)
	})
}
