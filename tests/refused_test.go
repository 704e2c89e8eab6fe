package tests

import (
	"errors"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// refusedCases are what no repack can carry over; the message must name object.
var refusedCases = []struct {
	name, sql, table string
	says             []string
	since            int // major version
}{
	{name: "missing table", table: "app.absent", says: []string{`"app"."absent"`, "no such table"}},
	{name: "missing schema", table: "absent.t", says: []string{`"absent"."t"`, "no such table"}},
	{name: "bare name outside the search_path", sql: `CREATE TABLE app.t (id int PRIMARY KEY)`, table: "t", says: []string{"no such table", "search_path"}},
	{name: "materialized view", sql: `CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE MATERIALIZED VIEW app.mv AS TABLE app.t`, says: []string{"materialized view", "app.mv"}},
	{name: "column of its row type", sql: `CREATE TABLE app.t (id int PRIMARY KEY); CREATE TABLE app.o (x int, "the row" app.t)`, says: []string{"app.o"}},
	{name: "column of an array of its rows", sql: `CREATE TABLE app.t (id int PRIMARY KEY); CREATE TABLE app.o (x app.t[])`, says: []string{"app.o"}},
	{name: "domain over its row type", sql: `CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE DOMAIN app.d AS app.t CHECK (VALUE IS NOT NULL)`, says: []string{"app.d"}},
	{name: "composite type with its row type", sql: `CREATE TABLE app.t (id int PRIMARY KEY); CREATE TYPE app.c AS (r app.t)`, says: []string{"app.c"}},
	{name: "view with a whole row of it", sql: `CREATE TABLE app.t (id int PRIMARY KEY); CREATE VIEW app.v AS SELECT x FROM app.t x`, says: []string{"app.v"}},
	{name: "check elsewhere that uses its row type", sql: `CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE TABLE app.o (x int CHECK ((ROW(x)::app.t).id > 0))`, says: []string{"app.o"}},
	{name: "publication of all tables", sql: `CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE PUBLICATION "every table" FOR ALL TABLES`, says: []string{"every table", "--published-ok"}},
	{name: "inheritance parent", sql: `CREATE TABLE app.t (id int PRIMARY KEY); CREATE TABLE app.heir () INHERITS (app.t)`, says: []string{"app.heir"}},
	{name: "inheritance child", sql: `CREATE TABLE app.p (id int); CREATE TABLE app.t (PRIMARY KEY (id)) INHERITS (app.p)`, says: []string{"app.p"}},
	{name: "typed table", sql: `CREATE TYPE app.ty AS (id int); CREATE TABLE app.t OF app.ty (PRIMARY KEY (id))`, says: []string{"app.ty"}},
	{name: "view as the table", sql: `CREATE VIEW app.t AS SELECT 1 AS id`, says: []string{"ordinary table"}},
	{name: "materialized view as the table", sql: `CREATE MATERIALIZED VIEW app.t AS SELECT 1 AS id`, says: []string{"ordinary table"}},
	{name: "sequence as the table", sql: `CREATE SEQUENCE app.t`, says: []string{"ordinary table"}},
	{name: "index as the table", sql: `CREATE TABLE app.x (id int CONSTRAINT t PRIMARY KEY)`, says: []string{"ordinary table"}},
	{name: "composite type as the table", sql: `CREATE TYPE app.t AS (id int)`, says: []string{"ordinary table"}},
	{name: "foreign table", sql: `CREATE FOREIGN DATA WRAPPER w;
		CREATE SERVER s FOREIGN DATA WRAPPER w;
		CREATE FOREIGN TABLE app.t (id int) SERVER s`, says: []string{"ordinary table"}},
	{name: "catalog", table: "pg_catalog.pg_class", says: []string{"pg_catalog"}},
	{name: "information schema", table: "information_schema.sql_features", says: []string{"information_schema"}},
	{name: "invalid index", sql: `CREATE TABLE app.t (id int PRIMARY KEY, a int);
		CREATE INDEX broken ON app.t (a);
		UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'app.broken'::regclass`, says: []string{"broken", "REINDEX INDEX CONCURRENTLY"}},
	{name: "disabled foreign key", sql: `CREATE TABLE app.p (id int PRIMARY KEY);
		CREATE TABLE app.t (id int PRIMARY KEY REFERENCES app.p);
		ALTER TABLE app.t DISABLE TRIGGER ALL`, says: []string{"RI_ConstraintTrigger"}},
	{name: "disabled foreign key of another table", sql: `CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE TABLE app.c (t int REFERENCES app.t);
		ALTER TABLE app.c DISABLE TRIGGER ALL`, says: []string{"RI_ConstraintTrigger", "app.c"}},
	{name: "disabled foreign key at the referenced table", sql: `CREATE TABLE app.p (id int PRIMARY KEY);
		CREATE TABLE app.t (id int PRIMARY KEY REFERENCES app.p);
		ALTER TABLE app.p DISABLE TRIGGER ALL`, says: []string{"RI_ConstraintTrigger", "app.p"}},
	{
		name: "trigger named like the capture's", sql: `CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE TRIGGER "00_repack_insert" BEFORE INSERT ON app.t FOR EACH ROW EXECUTE FUNCTION app.f();
			CREATE TRIGGER "00_repack_audit" BEFORE DELETE ON app.t FOR EACH ROW EXECUTE FUNCTION app.f()`,
		says: []string{`"00_repack_insert"`, `"00_repack_audit"`},
	},
	{name: "replica identity whose index has been dropped", sql: `CREATE TABLE app.t (id int PRIMARY KEY, a int NOT NULL);
		CREATE UNIQUE INDEX i ON app.t (a);
		ALTER TABLE app.t REPLICA IDENTITY USING INDEX i;
		DROP INDEX app.i`, says: []string{"replica identity"}},
	{name: "comment on its row type", sql: `CREATE TABLE app.t (id int PRIMARY KEY); COMMENT ON TYPE app.t IS 'row'`, says: []string{"type app.t", "row type"}},
	{name: "privileges on its row type", sql: `CREATE TABLE app.t (id int PRIMARY KEY);
		REVOKE USAGE ON TYPE app.t FROM PUBLIC`, says: []string{"type app.t", "row type"}},
	{name: "check that names the table", sql: `CREATE TABLE app.t (id int PRIMARY KEY);
		ALTER TABLE app.t ADD CHECK ('app.t'::regclass IS NOT NULL)`, says: []string{"t_check"}},
	{name: "check that uses its row type", sql: `CREATE TABLE app.t (id int PRIMARY KEY);
		ALTER TABLE app.t ADD CHECK ((ROW(id)::app.t).id > 0)`, says: []string{"t_id_check"}},
	{name: "index that uses its row type", sql: `CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE INDEX odd ON app.t (((ROW(id)::app.t).id))`, says: []string{"odd"}},
	{name: "index on a function that needs a search_path", sql: `CREATE FUNCTION app.g(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1';
		SET search_path = app;
		CREATE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE plpgsql SET search_path = app AS 'BEGIN RETURN g($1); END';
		CREATE TABLE app.t (id int PRIMARY KEY, a text);
		CREATE INDEX ON app.t (f(a));
		INSERT INTO app.t VALUES (1, 'a');
		ALTER FUNCTION f RESET search_path;
		RESET search_path`, says: []string{"g(text)", "app.f(text)", "SET search_path"}},
	{
		name: "generated column of a function that needs a search_path", sql: `SET search_path = app;
			CREATE FUNCTION g(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1';
		CREATE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN g($1); END';
			CREATE TABLE t (id int PRIMARY KEY, a text, b text GENERATED ALWAYS AS (f(a)) STORED);
			INSERT INTO t VALUES (1, 'a');
			RESET search_path`,
		says: []string{"g(text)", "app.f(text)", "SET search_path"},
	},
	{name: "key whose NOT NULL is not valid", since: 18, sql: `CREATE TABLE app.t (a int UNIQUE, b text);
		INSERT INTO app.t VALUES (NULL, 'x'), (NULL, 'y');
		ALTER TABLE app.t ADD CONSTRAINT there NOT NULL a NOT VALID`, says: []string{"no key"}},
	{name: "partition with a key WITHOUT OVERLAPS from above", since: 18, sql: `CREATE TABLE app.p (id int, r int4range, v int4range, UNIQUE (r, v WITHOUT OVERLAPS)) PARTITION BY LIST (r);
		CREATE TABLE app.t PARTITION OF app.p (UNIQUE (r, v)) FOR VALUES IN ('[1,2)');
		ALTER TABLE app.t ALTER r SET NOT NULL, ALTER v SET NOT NULL`, says: []string{"constraint t_", "under lock"}},
	{name: "partition with an exclusion constraint from above", since: 17, sql: `CREATE TABLE app.p (id int, r int4range, v int4range, EXCLUDE USING gist (r WITH =, v WITH &&)) PARTITION BY LIST (r);
		CREATE TABLE app.t PARTITION OF app.p (UNIQUE (r, v)) FOR VALUES IN ('[1,2)');
		ALTER TABLE app.t ALTER r SET NOT NULL, ALTER v SET NOT NULL`, says: []string{"constraint t_", "under lock"}},
	{name: "excepted from a publication of all tables", since: 19, sql: `CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE PUBLICATION "all but" FOR ALL TABLES EXCEPT (TABLE app.t)`, says: []string{`publication "all but": excepts the table`}},
	{name: "partition excepted from a publication of all tables", since: 19, sql: `CREATE TABLE app.p (id int PRIMARY KEY) PARTITION BY RANGE (id);
		CREATE TABLE app.t PARTITION OF app.p DEFAULT;
		CREATE PUBLICATION "all but" FOR ALL TABLES EXCEPT (TABLE app.p)`, says: []string{`publication "all but": excepts the table`}},
	{name: "property graph", since: 19, sql: `CREATE TABLE app.t (id int PRIMARY KEY, a int);
		CREATE TABLE app.e (id int PRIMARY KEY, f int REFERENCES app.t, g int REFERENCES app.t);
		CREATE PROPERTY GRAPH app.graph VERTEX TABLES (app.t KEY (id) LABEL person PROPERTIES (id, a) LABEL thing PROPERTIES (a AS b)) EDGE TABLES (app.e SOURCE KEY (f) REFERENCES t (id) DESTINATION KEY (g) REFERENCES t (id))`, says: []string{"property graph app.graph: has it", "DROP PROPERTY GRAPH"}},
	{name: "identity sequence used elsewhere", sql: `CREATE TABLE app.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
		CREATE VIEW app.seq AS SELECT last_value FROM app.t_id_seq`, says: []string{"app.seq"}},
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range refusedCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			if db.Version() < c.since {
				t.Skipf("needs PostgreSQL %d", c.since)
			}
			db.Exec(t, "CREATE SCHEMA app")
			if c.sql != "" {
				db.Exec(t, c.sql)
			}
			table := c.table
			if table == "" {
				table = "app.t"
			}
			refused(t, db, table, c.says...)
		})
	}
}

// TestRefusedTemporary needs the session that the table belongs to.
func TestRefusedTemporary(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Connect(t)
	mustExec(t, conn, `CREATE TEMPORARY TABLE t (id int PRIMARY KEY)`)
	schema := pgtest.Query[string](t, conn, `SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 't'::regclass`)
	refused(t, db, schema+".t", "temporary")
	refused(t, db, "t", "no such table")

	mustExec(t, conn, `CREATE TABLE public.base (id int PRIMARY KEY); CREATE TEMPORARY VIEW fleeting AS TABLE public.base`)
	refused(t, db, "public.base", "fleeting")
}

// TestRefusedGrantor has a privilege that nobody can grant again as it was.
func TestRefusedGrantor(t *testing.T) {
	t.Parallel()
	for _, on := range []string{"app.t", "app.t_id_seq"} {
		t.Run(on, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			grantor, grantee := db.Role(t), db.Role(t)
			db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
				GRANT USAGE ON SCHEMA app TO `+grantor+`; GRANT SELECT ON `+on+` TO `+grantor+` WITH GRANT OPTION;
				SET ROLE `+grantor+`; GRANT SELECT ON `+on+` TO `+grantee+`; RESET ROLE; REVOKE USAGE ON SCHEMA app FROM `+grantor)
			refused(t, db, "app.t", "role "+grantor, "GRANT USAGE ON SCHEMA")
			db.Exec(t, `GRANT USAGE ON SCHEMA app TO `+grantor)
			before := db.Dump(t)
			run(t, db, options(t, "app.t", repack.ChangeLog))
			sameDump(t, db, before)
		})
	}
}

// TestRefusedSubscription has a table that an apply worker writes to, or would.
func TestRefusedSubscription(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); CREATE TABLE app.i (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, s serial)`)
	db.Exec(t, `CREATE SUBSCRIPTION feed CONNECTION 'dbname=absent' PUBLICATION p WITH (connect = false)`)
	feed := func(relation string) {
		db.Exec(t, `SET allow_system_table_mods = on;
			INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) SELECT oid, '`+relation+`'::regclass, 'r' FROM pg_subscription WHERE subname = 'feed'`)
	}
	feed("app.t")
	refused(t, db, "app.t", "subscription")
	feed("app.i_id_seq") // PostgreSQL 19 does so for a publication FOR ALL SEQUENCES
	refused(t, db, "app.i", "sequence app.i_id_seq", "subscription", "REFRESH PUBLICATION")
	// Or the database could not be dropped.
	db.Exec(t, `SET allow_system_table_mods = on; DELETE FROM pg_subscription_rel; ALTER SUBSCRIPTION feed SET (slot_name = NONE)`)
	db.Exec(t, `DROP SUBSCRIPTION feed`)
}

// TestRefusedListsEverything has several obstacles, all named at once.
func TestRefusedListsEverything(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int); CREATE MATERIALIZED VIEW app.mv AS TABLE app.t;
		CREATE TABLE app.heir () INHERITS (app.t); CREATE PUBLICATION p FOR ALL TABLES`)
	refused(t, db, "app.t", `"app"."t"`, "no key", "app.mv", "app.heir", "publication p", "nothing has been changed")
}

// TestRegistryMadeAnew: what the jobs of a registry that was dropped have left, a
// shadow and an old table, is in nobody's way.
func TestRegistryMadeAnew(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL+`; CREATE TABLE app.u (id int PRIMARY KEY)`)
	kept := options(t, "app.t", repack.ChangeLog)
	kept.KeepOld = true
	run(t, db, kept)
	runUntil(t, db, options(t, "app.u", repack.ChangeLog), repack.Backfill)
	db.Exec(t, `DROP SCHEMA repack_registry CASCADE`)
	run(t, db, kept)
	if got := statusOf(t, db, "app.t").Job; got != 3 {
		t.Errorf("the job has number %d, want the first that is free, 3", got)
	}
	if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM repack_job_1_old.t`); n != 1000 {
		t.Errorf("the old table that was kept has %d rows", n)
	}
}

// TestRefusedTwoRegistries has a second job, of which the first's registry knows
// nothing, come for the same table, and what it would have done done by hand.
func TestRefusedTwoRegistries(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY)`)
	o := options(t, "app.t", repack.ChangeLog)
	runUntil(t, db, o, repack.PostSyncUpdate)
	other := o
	other.RegistrySchema = "another_registry"
	var refusal *repack.RefusedError
	if err := newRepack(t, db, other).Run(testContext(t)); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "repack_job_1.repack_capture_1") {
		t.Errorf("run with another registry: %v, want it refused for the first's triggers", err)
	}

	db.Exec(t, `CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE OR REPLACE TRIGGER "00_repack_insert" AFTER INSERT ON app.t REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION app.f();
		ALTER TABLE app.t ENABLE ALWAYS TRIGGER "00_repack_insert"; INSERT INTO app.t VALUES (1)`)
	o.Until = repack.CleanUp
	if err := newRepack(t, db, o).Run(testContext(t)); err == nil {
		t.Errorf("the swap was made without capture; rows: %s", db.QueryString(t, `SELECT count(*) FROM app.t`))
	}
}
