package tests

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const eventTable = `
CREATE SCHEMA app;
CREATE TABLE app.audit (what text);
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE app.t (
    id int  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    a  text DEFAULT 'x',
    b  serial,
    up int  REFERENCES app.t
);
CREATE INDEX ON app.t (a);
CREATE STATISTICS app.s ON a, id FROM app.t;
COMMENT ON TABLE app.t IS 'mine';
CREATE TRIGGER touch BEFORE UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION app.touch();
CREATE POLICY p ON app.t USING (a <> 'secret');
CREATE VIEW app.v AS SELECT id, a FROM app.t;
CREATE PUBLICATION all_new;
INSERT INTO app.t (a) SELECT g::text FROM generate_series(1, 100) g`

// onEvent makes an event trigger that does something for each table of a command.
func onEvent(name, event, tags, do string) string {
	return fmt.Sprintf(`CREATE FUNCTION app.%[1]s() RETURNS event_trigger LANGUAGE plpgsql AS $f$
		DECLARE o record;
		BEGIN
			FOR o IN SELECT * FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table' AND command_tag = tg_tag LOOP
				%[4]s;
			END LOOP;
		END $f$;
		CREATE EVENT TRIGGER %[1]s ON %[2]s %[3]s EXECUTE FUNCTION app.%[1]s()`, name, event, tags, do)
}

const newTables = `WHEN TAG IN ('CREATE TABLE')`

// undoneCases are event triggers that change every new table: what they do to ours
// is undone, and the table is as it was.
var undoneCases = []struct{ name, do string }{
	{"owner", `EXECUTE format('ALTER TABLE %s OWNER TO {alice}', o.object_identity)`},
	{
		"row-level security",
		`EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', o.object_identity)`,
	},
	{"publication", `EXECUTE format('ALTER PUBLICATION all_new ADD TABLE %s', o.object_identity)`},
	{"comment", `EXECUTE format('COMMENT ON TABLE %s IS %L', o.object_identity, 'made by ' || session_user)`},
	{"privileges", `EXECUTE format('GRANT SELECT ON %s TO {bob} WITH GRANT OPTION', o.object_identity)`},
	{"replica identity", `EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', o.object_identity)`},
	{
		"trigger",
		`EXECUTE format('CREATE TRIGGER audit BEFORE INSERT OR UPDATE ON %s FOR EACH ROW
		                 EXECUTE FUNCTION app.touch()', o.object_identity)`,
	},
	{"policy", `EXECUTE format('CREATE POLICY everybody ON %s USING (true)', o.object_identity)`},
	{"audit", `INSERT INTO app.audit VALUES (o.object_identity)`},
}

func TestEventTriggersUndone(t *testing.T) {
	t.Parallel()
	for i, c := range undoneCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			roles := givenRoles(t, db)
			db.Exec(t, eventTable)
			db.Exec(t, roles.in(onEvent("meddle", "ddl_command_end", newTables, c.do)))
			before := db.Dump(t)
			o := options(t, "app.t", strategies[i%2])
			runUntil(t, db, o, repack.Backfill)
			db.Exec(t, `INSERT INTO app.t (a) VALUES ('late')`)
			run(t, db, o)
			sameDump(t, db, before)
			noArtefacts(t, db)
			if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM app.t`); n != 101 {
				t.Errorf("%d rows, want 101", n)
			}
		})
	}
}

// keptCases are event triggers of which the effect cannot be undone, or that do not
// let something be done: the refusal names them.
var keptCases = []struct {
	name, sql string
	says      []string
}{
	{
		"rename",
		onEvent("meddle", "ddl_command_end", newTables,
			`EXECUTE format('ALTER TABLE %s RENAME TO renamed_%s', o.object_identity, o.objid)`),
		[]string{"meddle"},
	},
	{
		"column",
		onEvent("meddle", "ddl_command_end", newTables,
			`EXECUTE format('ALTER TABLE %s ADD COLUMN made_at timestamptz', o.object_identity)`),
		[]string{"made_at", "meddle"},
	},
	{
		"index",
		onEvent("meddle", "ddl_command_end", newTables, `EXECUTE format('CREATE INDEX ON %s ((1))', o.object_identity)`),
		[]string{"meddle"},
	},
	{
		"comment on every change",
		onEvent("meddle", "ddl_command_end", `WHEN TAG IN ('ALTER TABLE')`,
			`EXECUTE format('COMMENT ON TABLE %s IS %L', o.object_identity, 'altered')`),
		[]string{"altered", "meddle"},
	},
	{
		"drops audited in a table without its schema",
		`
			CREATE FUNCTION app.meddle() RETURNS event_trigger LANGUAGE plpgsql AS $f$
			    BEGIN INSERT INTO audit SELECT object_identity FROM pg_event_trigger_dropped_objects(); END $f$;
			CREATE EVENT TRIGGER meddle ON sql_drop EXECUTE FUNCTION app.meddle()`,
		[]string{"event trigger \"meddle\"", "audit", "search_path"},
	},
	{
		"table dropped, audited so",
		`
			CREATE FUNCTION app.meddle() RETURNS event_trigger LANGUAGE plpgsql AS $f$
			    BEGIN INSERT INTO audit SELECT object_identity FROM pg_event_trigger_dropped_objects(); END $f$;
			CREATE EVENT TRIGGER meddle ON sql_drop WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION app.meddle()`,
		[]string{"event trigger \"meddle\"", "audit"},
	},
	{
		"drops forbidden",
		onEvent("meddle", "ddl_command_start", `WHEN TAG IN ('DROP SCHEMA')`, `NULL`) + `;
			CREATE OR REPLACE FUNCTION app.meddle() RETURNS event_trigger LANGUAGE plpgsql AS $f$
			    BEGIN RAISE 'no % here', tg_tag USING ERRCODE = 'Q0001'; END $f$`,
		[]string{"event trigger \"meddle\"", "no DROP SCHEMA here"},
	},
	{
		"registry alone",
		`
			CREATE FUNCTION app.meddle() RETURNS event_trigger LANGUAGE plpgsql AS $f$
			BEGIN
			    IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE schema_name = 'repack_registry') THEN
			        RAISE 'no registry';
			    END IF;
			END $f$;
			CREATE EVENT TRIGGER meddle ON ddl_command_end EXECUTE FUNCTION app.meddle()`,
		[]string{"event trigger \"meddle\"", "no registry"},
	},
	{
		"changes forbidden in a schema",
		onEvent("meddle", "ddl_command_end", `WHEN TAG IN ('ALTER TABLE')`,
			`IF o.schema_name = 'app' THEN RAISE 'not %', o.object_identity; END IF`),
		[]string{"event trigger \"meddle\"", "not app."},
	},
	{
		"drops forbidden in a schema",
		`
			CREATE FUNCTION app.meddle() RETURNS event_trigger LANGUAGE plpgsql AS $f$
			BEGIN
			    IF EXISTS (SELECT FROM pg_event_trigger_dropped_objects() WHERE schema_name = 'app') THEN
			        RAISE 'nothing is dropped here';
			    END IF;
			END $f$;
			CREATE EVENT TRIGGER meddle ON sql_drop EXECUTE FUNCTION app.meddle()`,
		[]string{"event trigger \"meddle\"", "nothing is dropped here"},
	},
	{
		"comment on every change in a schema",
		onEvent("meddle", "ddl_command_end", `WHEN TAG IN ('ALTER TABLE')`,
			`IF o.schema_name = 'app' THEN EXECUTE format('COMMENT ON TABLE %s IS %L', o.object_identity, 'altered'); END IF`),
		[]string{"altered", "meddle"},
	},
	{
		"owner of functions",
		`
			CREATE FUNCTION app.meddle() RETURNS event_trigger LANGUAGE plpgsql AS $f$
			DECLARE o record;
			BEGIN
			    FOR o IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP
			        EXECUTE format('ALTER FUNCTION %s OWNER TO {alice}', o.object_identity);
			    END LOOP;
			END $f$;
			CREATE EVENT TRIGGER meddle ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION') EXECUTE FUNCTION app.meddle()`,
		[]string{"meddle", "OWNER TO CURRENT_USER"},
	},
}

// forbidden are commands that a run needs, each with an event trigger that lets
// nobody give it.
var forbidden = []string{
	"CREATE SCHEMA", "CREATE TABLE", "CREATE FUNCTION", "CREATE INDEX", "CREATE TRIGGER", "CREATE POLICY",
	"CREATE STATISTICS", "ALTER TABLE", "ALTER SEQUENCE", "ALTER STATISTICS", "CREATE VIEW", "COMMENT", "DROP TABLE", "DROP FUNCTION", "DROP TRIGGER",
}

func TestEventTriggersRefused(t *testing.T) {
	t.Parallel()
	cases := keptCases
	for _, tag := range forbidden {
		cases = append(cases, struct {
			name, sql string
			says      []string
		}{
			"no " + tag, fmt.Sprintf(`
			CREATE FUNCTION app.meddle() RETURNS event_trigger LANGUAGE plpgsql
			    AS $f$ BEGIN RAISE 'never %%', tg_tag; END $f$;
			CREATE EVENT TRIGGER meddle ON ddl_command_start WHEN TAG IN ('%s') EXECUTE FUNCTION app.meddle()`, tag),
			[]string{`event trigger "meddle"`, "never " + tag},
		})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, eventTable)
			db.Exec(t, givenRoles(t, db).in(c.sql))
			refused(t, db, "app.t", c.says...)
		})
	}
}

// TestEventTriggerGivesAway has an owner run who may not take back what an event
// trigger gives to another role.
func TestEventTriggerGivesAway(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	roles := givenRoles(t, db)
	db.Exec(t, roles.in(`
		CREATE SCHEMA app AUTHORIZATION {bob};
		GRANT CREATE ON DATABASE {database} TO {bob};
		SET ROLE {bob};
		CREATE TABLE app.t (id int PRIMARY KEY);
		RESET ROLE`))
	db.Exec(t, roles.in(onEvent("meddle", "ddl_command_end", newTables,
		`EXECUTE format('ALTER TABLE %s OWNER TO {alice}', o.object_identity)`)))
	db.Exec(t, `ALTER FUNCTION app.meddle SECURITY DEFINER`)
	before := db.Dump(t)
	var refusal *repack.RefusedError
	if err := runAs(t, db, roles["bob"], options(t, "app.t", repack.ChangeLog)); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "meddle") {
		t.Errorf("run: %v, want it refused for the event trigger", err)
	}
	sameDump(t, db, before)
	noArtefacts(t, db)
}

// TestEventTriggersOnMatviews forbids what only the rebuild of materialized views does.
func TestEventTriggersOnMatviews(t *testing.T) {
	t.Parallel()
	for _, tag := range []string{"CREATE MATERIALIZED VIEW", "ALTER MATERIALIZED VIEW", "DROP MATERIALIZED VIEW"} {
		t.Run(tag, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, eventTable+`;
				CREATE MATERIALIZED VIEW app.m AS SELECT id, a FROM app.t;
				CREATE UNIQUE INDEX ON app.m (id)`)
			db.Exec(t, fmt.Sprintf(`
				CREATE FUNCTION app.meddle() RETURNS event_trigger LANGUAGE plpgsql
				    AS $f$ BEGIN RAISE 'never %%', tg_tag; END $f$;
				CREATE EVENT TRIGGER meddle ON ddl_command_start WHEN TAG IN ('%s') EXECUTE FUNCTION app.meddle()`, tag))
			before := db.Dump(t)
			o := options(t, "app.t", repack.ChangeLog)
			o.RebuildMatviews = true
			var refusal *repack.RefusedError
			err := newRepack(t, db, o).Run(testContext(t))
			if !errors.As(err, &refusal) || !strings.Contains(err.Error(), "never "+tag) || !strings.Contains(err.Error(), `materialized view "app"."m"`) {
				t.Errorf("run: %v, want it refused for the materialized view", err)
			}
			sameDump(t, db, before)
			noArtefacts(t, db)
		})
	}
}
