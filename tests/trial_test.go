package tests

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// trialCases are refused before anything is touched, since what the swap would
// make could not be made, or would be another: the refusal names it.
var trialCases = []struct {
	name, sql string
	says      []string
	since     int // major version
}{
	{
		name: "index that a partition lacks",
		sql: `
			CREATE TABLE app.t (a int PRIMARY KEY, b int) PARTITION BY RANGE (a);
			CREATE TABLE app.t_1 PARTITION OF app.t FOR VALUES FROM (1) TO (1000);
			CREATE INDEX t_b ON ONLY app.t (b)`,
		says: []string{"index app.t_b", "ATTACH PARTITION"},
	},
	{
		name: "index that a partition has unattached",
		sql: `
			CREATE TABLE app.t (a int PRIMARY KEY, b int) PARTITION BY RANGE (a);
			CREATE TABLE app.t_1 PARTITION OF app.t FOR VALUES FROM (1) TO (1000);
			CREATE INDEX t_b ON ONLY app.t (b);
			CREATE INDEX ON app.t_1 (b)`,
		says: []string{"index app.t_b", "ATTACH PARTITION"},
	},
	{
		name: "unique constraint that one of two partitions lacks",
		sql: `
			CREATE TABLE app.t (a int, b int) PARTITION BY RANGE (a);
			CREATE TABLE app.t_1 PARTITION OF app.t (PRIMARY KEY (a)) FOR VALUES FROM (1) TO (1000);
			CREATE TABLE app.t_2 PARTITION OF app.t (UNIQUE (a), PRIMARY KEY (b)) FOR VALUES FROM (1000) TO (2000);
			ALTER TABLE ONLY app.t ADD CONSTRAINT once UNIQUE (a);
			ALTER INDEX app.once ATTACH PARTITION app.t_2_a_key`,
		says: []string{`"app"."t_1"`, "index app.once", "ATTACH PARTITION"},
	},
	{
		name: "trigger whose condition reads a generated column",
		sql: `
			CREATE TABLE app.t (id int PRIMARY KEY, name text, version int DEFAULT 0);
			CREATE FUNCTION app.bump() RETURNS trigger LANGUAGE plpgsql
			    AS 'BEGIN NEW.version := OLD.version + 1; RETURN NEW; END';
			CREATE TRIGGER "Bump" BEFORE UPDATE ON app.t FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW)
			    EXECUTE FUNCTION app.bump();
			ALTER TABLE app.t ADD COLUMN lower_name text GENERATED ALWAYS AS (lower(name)) STORED`,
		says: []string{`trigger "Bump"`, "generated columns"},
	},
	{
		name: "two things at once",
		sql: `
			CREATE TABLE app.t (id int PRIMARY KEY, name text);
			CREATE TABLE app.log (a int, b text);
			CREATE FUNCTION app.bump() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TRIGGER bump BEFORE UPDATE ON app.t FOR EACH ROW WHEN (OLD IS DISTINCT FROM NEW)
			    EXECUTE FUNCTION app.bump();
			CREATE RULE gone AS ON DELETE TO app.t DO INSTEAD INSERT INTO app.log VALUES (OLD.id, OLD.name)
			    RETURNING a, b;
			ALTER TABLE app.t ADD COLUMN lower_name text GENERATED ALWAYS AS (lower(name)) STORED`,
		says: []string{`trigger "bump"`, `rule "gone"`},
	},
	{
		name: "rule that lacks a column",
		sql: `
			CREATE TABLE app.t (a int PRIMARY KEY, b int);
			CREATE TABLE app.log (a int, b int);
			CREATE RULE r AS ON DELETE TO app.t DO INSTEAD INSERT INTO app.log VALUES (OLD.a, OLD.b) RETURNING a, b;
			ALTER TABLE app.t ADD COLUMN c int`,
		says: []string{`rule "r"`},
	},
	{
		name: "rule elsewhere that lacks a column",
		sql: `
			CREATE SCHEMA other;
			CREATE TABLE app.t (a int PRIMARY KEY, b int);
			CREATE TABLE other.u (a int, b int);
			CREATE RULE r AS ON DELETE TO other.u DO INSTEAD INSERT INTO app.t VALUES (OLD.a, OLD.b) RETURNING a, b;
			ALTER TABLE other.u ADD COLUMN c int`,
		says: []string{`rule "r" on "other"."u"`},
	},
	{
		name: "generated column that tells the table",
		sql: `
			CREATE TABLE app.t (a int PRIMARY KEY, "b c" oid GENERATED ALWAYS AS (tableoid) STORED);
			INSERT INTO app.t SELECT generate_series(1, 3)`,
		says: []string{`column "b c"`, "generated"},
	},
	{
		name:  "virtual column that tells the table",
		since: 18,
		sql: `
			CREATE TABLE app.t (a int PRIMARY KEY, b oid GENERATED ALWAYS AS (tableoid) VIRTUAL);
			INSERT INTO app.t SELECT generate_series(1, 3)`,
		says: []string{`column "b"`, "generated"},
	},
	{
		name: "generated column whose function has changed",
		sql: `
			CREATE FUNCTION app.f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1';
			CREATE TABLE app.t (a int PRIMARY KEY, b int GENERATED ALWAYS AS (app.f(a)) STORED);
			INSERT INTO app.t VALUES (1);
			CREATE OR REPLACE FUNCTION app.f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 2'`,
		says: []string{`column "b"`, "generated"},
	},
	{
		name: "check that tells the table",
		sql: `
			CREATE TABLE app.t (a int PRIMARY KEY, CONSTRAINT here CHECK (tableoid = (tableoid::int8)::oid));
			INSERT INTO app.t VALUES (1);
			ALTER TABLE app.t ADD CONSTRAINT me CHECK (tableoid::int8 < 1) NOT VALID;
			UPDATE pg_constraint SET convalidated = true WHERE conname = 'me'`,
		says: []string{`check "me"`},
	},
}

func TestTrialRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range trialCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			if db.Version() < c.since {
				return // the server does not know it
			}
			db.Exec(t, "CREATE SCHEMA app")
			db.Exec(t, c.sql)
			refused(t, db, "app.t", c.says...)
		})
	}
}

// TestTrialLocksNothing runs pre_validate while others read and write all that it
// tries, and alter it in ways that let others do so. It must not wait for them.
func TestTrialLocksNothing(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `
			CREATE SCHEMA app;
			CREATE TABLE app.up (id int PRIMARY KEY);
			CREATE TABLE app.log (id int, a text);
			CREATE TABLE app.t (
			    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
			    a  text,
			    n  serial,
			    up int REFERENCES app.up,
			    me int REFERENCES app.t
			);
			CREATE TABLE app.other (id int PRIMARY KEY, t int REFERENCES app.t);
			INSERT INTO app.t (a) SELECT 'x' FROM generate_series(1, 10);
			CREATE FUNCTION app.f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM app.t; END;
			CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TRIGGER touch BEFORE UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION app.touch();
			CREATE RULE r AS ON DELETE TO app.t DO ALSO INSERT INTO app.log VALUES (OLD.id, OLD.a);
			CREATE RULE r AS ON DELETE TO app.other DO ALSO DELETE FROM app.t WHERE a = OLD.id::text;
			CREATE POLICY p ON app.t USING (a IN (SELECT a FROM app.log));
			CREATE POLICY p ON app.other USING (id IN (SELECT id FROM app.t));
			CREATE VIEW app.v AS SELECT id, a FROM app.t;
			CREATE MATERIALIZED VIEW app.m AS SELECT id, a FROM app.v;
			CREATE UNIQUE INDEX ON app.m (id);
			CREATE VIEW app.vm AS SELECT * FROM app.m;
			CREATE STATISTICS app.s ON id, a FROM app.t;
			CREATE PUBLICATION p FOR TABLE app.t`)
		tx := begin(t, db.Connect(t), pgx.ReadCommitted)
		mustExec(t, tx, `LOCK TABLE app.t, app.up, app.log, app.other, app.v, app.vm IN ROW EXCLUSIVE MODE;
			LOCK TABLE app.t, app.up, app.log, app.other IN SHARE UPDATE EXCLUSIVE MODE;
			SELECT nextval('app.t_id_seq'), nextval('app.t_n_seq'); TABLE app.m; UPDATE app.t SET a = 'y'; SELECT app.f()`)
		o := options(t, "app.t", strategy)
		o.RebuildMatviews, o.LockTimeout = true, 50*time.Millisecond
		began := time.Now()
		runUntil(t, db, o, repack.PreValidate)
		if took := time.Since(began); took > 9*time.Second { // the session's own bound is 10 s
			t.Errorf("pre_validate has waited: it took %s", took)
		}
		commit(t, tx)
		before := db.Dump(t)
		o.LockTimeout = queuing
		run(t, db, o)
		sameDump(t, db, before)
	})
}

// TestTrialOfHiddenName has a table that is called like one of the server's, so that
// its name alone never means it.
func TestTrialOfHiddenName(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.pg_class (id int PRIMARY KEY, a text); CREATE TABLE app.log (id int);
			CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TRIGGER touch BEFORE UPDATE ON app.pg_class FOR EACH ROW EXECUTE FUNCTION app.touch();
			CREATE RULE r AS ON DELETE TO app.pg_class DO ALSO INSERT INTO app.log VALUES (OLD.id);
			CREATE POLICY p ON app.pg_class USING (id IN (SELECT id FROM app.log)); CREATE VIEW app.v AS TABLE app.pg_class`)
		before := db.Dump(t)
		run(t, db, options(t, "app.pg_class", strategy))
		sameDump(t, db, before)
		noArtefacts(t, db)
	})
}
