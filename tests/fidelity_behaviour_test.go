package tests

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// behaviourCases are tables that other objects refer to, or that do something
// when they are written to.
var behaviourCases = []fidelityCase{
	{name: "views", sql: `CREATE TABLE app.t (id int PRIMARY KEY, a text); INSERT INTO app.t VALUES (1, 'a');
		CREATE VIEW app.v WITH (security_barrier) AS SELECT * FROM app.t WHERE a <> ' ON ' WITH CHECK OPTION;
		CREATE VIEW app.on_v AS SELECT a, count(*) FROM app.v GROUP BY a; COMMENT ON VIEW app.v IS 'it''s';
		CREATE VIEW app.grouped AS SELECT id, a FROM app.t GROUP BY id; COMMENT ON COLUMN app.v.a IS 'a';
		GRANT SELECT (id), UPDATE ON app.v TO PUBLIC; ALTER VIEW app.v ALTER a SET DEFAULT 'x';
		CREATE RECURSIVE VIEW app.r (n) AS SELECT id FROM app.t UNION SELECT n + 1 FROM r WHERE n < 5;
		CREATE VIEW app.whole AS SELECT x.id, (SELECT max(y.id) FROM app.t y) AS m FROM app.t AS x TABLESAMPLE system (50)`},
	{name: "triggers", sql: `
		CREATE TABLE app.t (id int PRIMARY KEY, a text, b text);
		INSERT INTO app.t VALUES (1, 'a');
		CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TRIGGER "First; ON x" BEFORE INSERT OR UPDATE OF a, b ON app.t FOR EACH ROW WHEN (NEW.a <> ' ON app.t')
		    EXECUTE FUNCTION app.f('it''s', 'b');
		CREATE TRIGGER rows AFTER UPDATE ON app.t REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT
		    EXECUTE FUNCTION app.f();
		CREATE TRIGGER trunc BEFORE TRUNCATE ON app.t EXECUTE FUNCTION app.f();
		CREATE CONSTRAINT TRIGGER late AFTER DELETE ON app.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
		    EXECUTE FUNCTION app.f();
		CREATE TRIGGER always BEFORE DELETE ON app.t FOR EACH ROW EXECUTE FUNCTION app.f();
		ALTER TABLE app.t ENABLE ALWAYS TRIGGER always;
		CREATE TRIGGER replica BEFORE DELETE ON app.t FOR EACH ROW EXECUTE FUNCTION app.f();
		ALTER TABLE app.t ENABLE REPLICA TRIGGER replica;
		CREATE TRIGGER off BEFORE DELETE ON app.t FOR EACH ROW EXECUTE FUNCTION app.f();
		ALTER TABLE app.t DISABLE TRIGGER off;
		COMMENT ON TRIGGER off ON app.t IS 'it''s off'`},
	{name: "rules", sql: `
		CREATE TABLE app.t (id int PRIMARY KEY, a text);
		INSERT INTO app.t VALUES (1, 'a');
		CREATE TABLE app.log (id int);
		CREATE RULE r AS ON UPDATE TO app.t WHERE NEW.a = 'zz' DO ALSO INSERT INTO app.log VALUES (NEW.id);
		COMMENT ON RULE r ON app.t IS 'r';
		CREATE RULE off AS ON DELETE TO app.t DO INSTEAD NOTHING;
		ALTER TABLE app.t DISABLE RULE off;
		CREATE RULE elsewhere AS ON INSERT TO app.log WHERE NEW.id < (SELECT min(id) FROM app.t) DO INSTEAD NOTHING`},
	{name: "row-level security", sql: `
		CREATE TABLE app.t (id int PRIMARY KEY, a text);
		INSERT INTO app.t VALUES (1, 'a');
		ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
		ALTER TABLE app.t FORCE ROW LEVEL SECURITY;
		CREATE POLICY "P; 1" ON app.t AS RESTRICTIVE FOR UPDATE TO CURRENT_USER, pg_monitor USING (a <> '')
		    WITH CHECK (id > (SELECT 0));
		CREATE POLICY self ON app.t FOR SELECT USING (EXISTS (SELECT FROM app.t x WHERE x.id = id));
		COMMENT ON POLICY self ON app.t IS 'me';
		CREATE TABLE app.o (id int);
		CREATE POLICY other ON app.o USING (id IN (SELECT id FROM app.t))`},
	{name: "policies that are off", sql: `
		CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE POLICY p ON app.t FOR INSERT WITH CHECK (id > 0)`},
	{name: "publications", sql: `
		CREATE TABLE app.t (id int PRIMARY KEY, a text, b text);
		INSERT INTO app.t VALUES (1, 'a');
		CREATE PUBLICATION p FOR TABLE app.t;
		CREATE PUBLICATION q FOR TABLE ONLY app.t WITH (publish = 'insert')`},
	{name: "publications of columns, rows and schemas", since: 15, sql: `
		CREATE TABLE app.t (dead int, id int PRIMARY KEY, "A b" text, b text);
		ALTER TABLE app.t DROP dead;
		INSERT INTO app.t VALUES (1, 'a');
		CREATE PUBLICATION p FOR TABLE app.t (id, "A b") WHERE (id > 5 AND "A b" <> ' WHERE ');
		CREATE PUBLICATION s FOR TABLES IN SCHEMA app`},
	{name: "extended statistics", sql: `
		CREATE TABLE app.t (id int PRIMARY KEY, a int, b text);
		INSERT INTO app.t SELECT g, g, g FROM generate_series(1, 99) g;
		CREATE SCHEMA other;
		CREATE STATISTICS app."S 1" (ndistinct, mcv) ON a, b FROM app.t;
		ALTER STATISTICS app."S 1" SET STATISTICS 55;
		COMMENT ON STATISTICS app."S 1" IS 's';
		CREATE STATISTICS other.s ON (a + 1), (lower(b)), id FROM app.t`},
	{name: "function with a SQL body", sql: `
		CREATE TABLE app.t (id int PRIMARY KEY, a text);
		INSERT INTO app.t VALUES (1, 'a');
		CREATE FUNCTION app.f(x int) RETURNS text LANGUAGE sql STABLE STRICT RETURN (SELECT a FROM app.t WHERE id = x);
		CREATE PROCEDURE app.p(n int DEFAULT 5) LANGUAGE sql BEGIN ATOMIC INSERT INTO app.t VALUES (n, 'p'); SELECT *
		    FROM app.t; END;
		COMMENT ON FUNCTION app.f IS 'f';
		REVOKE EXECUTE ON FUNCTION app.f FROM PUBLIC;
		CREATE VIEW app.v AS SELECT app.f(id) FROM app.t`},
	{name: "everything joined to views", sql: `
		CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE VIEW app.v AS TABLE app.t;
		INSERT INTO app.t VALUES (1);
		CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TRIGGER tr INSTEAD OF INSERT ON app.v FOR EACH ROW EXECUTE FUNCTION app.f();
		CREATE RULE ru AS ON DELETE TO app.v DO INSTEAD NOTHING;
		CREATE FUNCTION app.g(app.v) RETURNS int LANGUAGE sql AS 'SELECT 1';
		CREATE MATERIALIZED VIEW app.m AS TABLE app.v`},
}

// grantCases are written with the roles {owner}, {a} and {z}, in which {a}
// comes first by name and {z} last.
var grantCases = []fidelityCase{
	{name: "owner other than the runner", sql: `
		CREATE TABLE app.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n serial);
		ALTER TABLE app.t OWNER TO {owner};
		INSERT INTO app.t DEFAULT VALUES`},
	{name: "grants", sql: `
		CREATE TABLE app.t (id int PRIMARY KEY, a text, b text);
		ALTER TABLE app.t OWNER TO {owner};
		INSERT INTO app.t VALUES (1);
		GRANT SELECT, INSERT ON app.t TO {a} WITH GRANT OPTION;
		GRANT DELETE ON app.t TO {a};
		GRANT ALL ON app.t TO PUBLIC;
		REVOKE TRUNCATE ON app.t FROM PUBLIC;
		GRANT UPDATE (a), SELECT (b) ON app.t TO {z};
		GRANT REFERENCES (a) ON app.t TO {z} WITH GRANT OPTION`},
	{name: "grants in an order that is not the alphabet's", sql: `
		CREATE TABLE app.t (id int PRIMARY KEY, a text);
		INSERT INTO app.t VALUES (1);
		GRANT UPDATE ON app.t TO {z};
		GRANT SELECT ON app.t TO {a};
		GRANT DELETE ON app.t TO {owner};
		GRANT INSERT (a) ON app.t TO {z};
		GRANT SELECT (a) ON app.t TO {a}`},
	{name: "grants by others", sql: `
		CREATE TABLE app.t (id int PRIMARY KEY);
		ALTER TABLE app.t OWNER TO {owner};
		GRANT USAGE ON SCHEMA app TO {a}, {z};
		GRANT SELECT ON app.t TO {a} WITH GRANT OPTION;
		SET ROLE {a};
		GRANT SELECT ON app.t TO {z};
		RESET ROLE`},
	{name: "owner's rights revoked", sql: `
		CREATE TABLE app.t (id int PRIMARY KEY, a text);
		ALTER TABLE app.t OWNER TO {owner};
		INSERT INTO app.t VALUES (1);
		REVOKE INSERT, TRUNCATE ON app.t FROM {owner};
		GRANT INSERT (a) ON app.t TO {owner}`},
	{name: "all rights revoked", sql: `
		CREATE TABLE app.t (id int PRIMARY KEY);
		ALTER TABLE app.t OWNER TO {owner};
		REVOKE ALL ON app.t FROM {owner};
		INSERT INTO app.t VALUES (1)`},
	{name: "default privileges", sql: `
		CREATE TABLE app.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n serial);
		INSERT INTO app.t DEFAULT VALUES;
		ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT ON TABLES TO {a};
		ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {z};
		ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO {a};
		ALTER DEFAULT PRIVILEGES IN SCHEMA app REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC`},
	{name: "view and policy owners", sql: `
		CREATE TABLE app.t (id int PRIMARY KEY);
		INSERT INTO app.t VALUES (1);
		CREATE VIEW app.v AS TABLE app.t;
		ALTER VIEW app.v OWNER TO {a};
		GRANT SELECT ON app.t TO {a};
		GRANT SELECT ON app.v TO {z};
		ALTER TABLE app.t ENABLE ROW LEVEL SECURITY;
		CREATE POLICY p ON app.t TO {z}, {a} USING (true)`},
}

// TestArrayTypeTakenDuringJob has a table appear whose name the array type of
// the shadow bears, before the swap and before the revert.
func TestArrayTypeTakenDuringJob(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY); INSERT INTO app.t VALUES (1)`)
	o := options(t, "app.t", repack.ChangeLog)
	runUntil(t, db, o, repack.PostSyncUpdate)
	db.Exec(t, `CREATE TABLE app._t (x int)`)
	runUntil(t, db, o, repack.Swap)
	db.Exec(t, `CREATE TABLE app._t_1 (x int)`)
	revert(t, db, o)
	run(t, db, o)
	noArtefacts(t, db)
}

func middle(roles []string) string {
	for _, r := range roles {
		if r != min(roles[0], roles[1], roles[2]) && r != max(roles[0], roles[1], roles[2]) {
			return r
		}
	}
	return ""
}

// TestFidelityOfTablespace has table and indexes in tablespaces, and a default
// tablespace for the role that must not move anything.
func TestFidelityOfTablespace(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, nil)
	for _, strategy := range strategies {
		db := pgtest.NewOn(t, server)
		for _, name := range []string{"first", "second"} {
			directory := serverDirectory(t, db)
			name += "_" + db.Name
			db.Exec(t, `CREATE TABLESPACE `+name+` LOCATION '`+directory+`'`)
		}
		db.Exec(t, `ALTER DATABASE `+db.Name+` SET default_tablespace = second_`+db.Name)
		fidelityCase{sql: strings.ReplaceAll(`
			CREATE TABLE app.t (
			    id int,
			    a  text,
			    b  int,
			    CONSTRAINT k PRIMARY KEY (id) USING INDEX TABLESPACE pg_default,
			    UNIQUE (a) USING INDEX TABLESPACE second{db},
			    EXCLUDE USING btree (b WITH =) USING INDEX TABLESPACE first{db}
			) TABLESPACE first{db};
			CREATE INDEX i ON app.t (b) TABLESPACE second{db};
			CREATE INDEX j ON app.t (b) TABLESPACE pg_default;
			INSERT INTO app.t SELECT g, repeat('x', 5000) || g, g FROM generate_series(1, 20) g`, "{db}", "_"+db.Name)}.run(t, db, strategy, strategy)
	}
}

// serverDirectory is a directory that the server can write to.
func serverDirectory(t *testing.T, db *pgtest.Database) string {
	t.Helper()
	directory := db.QueryString(t, `SHOW data_directory`)
	made, err := os.MkdirTemp(directory, "tablespace-")
	if err != nil {
		t.Skipf("no directory for a tablespace: %v", err)
	}
	out, err := exec.Command("chown", "--reference="+directory, made).CombinedOutput()
	if err != nil {
		t.Skipf("no directory for a tablespace: %s", out)
	}
	return made
}
