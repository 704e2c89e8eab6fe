package tests

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// runAs repacks as a role.
func runAs(t *testing.T, db *pgtest.Database, role string, o repack.Options) error {
	t.Helper()
	config := db.Config(t)
	config.User = role
	r, err := repack.New(config, o)
	if err != nil {
		t.Fatal(err)
	}
	return r.Run(testContext(t))
}

// privilegeSQL is a table whose owner {r} has no more than it takes.
const privilegeSQL = `
CREATE SCHEMA app;
GRANT USAGE, CREATE ON SCHEMA app TO {r};
CREATE SCHEMA other;
GRANT USAGE ON SCHEMA other TO {r};
CREATE TYPE other.size AS ENUM ('s', 'm');
CREATE FUNCTION other.twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1';
CREATE TABLE other.p (id int PRIMARY KEY);
INSERT INTO other.p SELECT generate_series(1, 50);
GRANT REFERENCES, SELECT ON other.p TO {r};
CREATE TABLE app.t (
    id   int        GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    p    int        REFERENCES other.p,
    n    serial,
    size other.size DEFAULT 's',
    two  int        GENERATED ALWAYS AS (other.twice(p)) STORED
);
ALTER TABLE app.t OWNER TO {r};
INSERT INTO app.t (p) SELECT generate_series(1, 50);
GRANT CREATE ON DATABASE {d} TO {r};`

func givenOwner(t *testing.T, db *pgtest.Database) (role string, o repack.Options) {
	t.Helper()
	role = db.Role(t)
	db.Exec(t, strings.NewReplacer("{r}", role, "{d}", db.Name).Replace(privilegeSQL))
	return role, options(t, "app.t", repack.ChangeLog)
}

// TestOwnerWithCreateOnDatabase is all it takes; writers need no more than they
// needed before.
func TestOwnerWithCreateOnDatabase(t *testing.T) {
	t.Parallel()
	inTurnIn(t, 1, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
		role, o := givenOwner(t, db)
		writer := db.Role(t)
		db.Exec(t, `
			GRANT USAGE ON SCHEMA app, other TO `+writer+`;
			GRANT SELECT, INSERT, DELETE ON app.t TO `+writer+`;
			GRANT USAGE ON app.t_n_seq TO `+writer)
		before := db.Dump(t)
		o.Strategy = strategy
		write := db.ConnectAs(t, writer)
		for i, stage := range stagesOfJob {
			o.Until = stage
			if err := runAs(t, db, role, o); err != nil {
				t.Fatalf("run as owner until %s: %v", stage, err)
			}
			mustExec(t, write, `INSERT INTO app.t (p) VALUES (7)`)
			mustExec(t, write, `DELETE FROM app.t WHERE id = $1`, i+1)
			if want := "50"; db.QueryString(t, `SELECT count(*) FROM app.t`) != want {
				t.Errorf("%s rows after %s, want %s", db.QueryString(t, `SELECT count(*) FROM app.t`), stage, want)
			}
		}
		sameDump(t, db, before)
		noArtefacts(t, db)
	})
}

var grantStatement = regexp.MustCompile(`(?m)((?:GRANT|CREATE SCHEMA|ALTER) [^\n]*;)`)

const triggerOther = `CREATE FUNCTION other.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
	CREATE TRIGGER touch BEFORE INSERT ON app.t FOR EACH ROW EXECUTE FUNCTION other.touch(); `

// TestMissingPrivileges takes one privilege away; the refusal has the statement
// that gives it back, and with that the run goes on.
func TestMissingPrivileges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, revoke, schema string }{
		{"CREATE on the database", `REVOKE CREATE ON DATABASE {d} FROM {r}`, ""},
		{"CREATE on the table's schema", `REVOKE CREATE ON SCHEMA app FROM {r}`, ""},
		{"USAGE of the table's schema", `REVOKE USAGE ON SCHEMA app FROM {r}`, ""},
		{"ownership", `ALTER TABLE app.t OWNER TO {o}`, ""},
		{"rights on the owner's own table", `REVOKE ALL ON app.t FROM {r}`, ""},
		{"REFERENCES", `REVOKE REFERENCES ON other.p FROM {r}`, ""},
		{
			"REFERENCES on another column only",
			`REVOKE REFERENCES ON other.p FROM {r}; ALTER TABLE other.p ADD x int; GRANT REFERENCES (x) ON other.p TO {r}`,
			"",
		},
		{"USAGE of a referenced schema", `REVOKE USAGE ON SCHEMA other FROM {r}`, ""},
		{"USAGE of a type", `REVOKE USAGE ON TYPE other.size FROM PUBLIC`, ""},
		{"EXECUTE of a function", `REVOKE EXECUTE ON FUNCTION other.twice FROM PUBLIC`, ""},
		{
			"ownership of a referencing table",
			`CREATE TABLE other.child (t int REFERENCES app.t); ALTER TABLE other.child OWNER TO {o}`,
			"",
		},
		{"EXECUTE of a trigger's function", triggerOther + `REVOKE EXECUTE ON FUNCTION other.touch FROM PUBLIC`, ""},
		{
			"USAGE of a trigger function's schema",
			`CREATE SCHEMA hidden; ` + triggerOther + `ALTER FUNCTION other.touch SET SCHEMA hidden`,
			"",
		},
		{
			"CREATE on the schema of a statistics object",
			`CREATE SCHEMA st; CREATE STATISTICS st.s ON p, n FROM app.t; ALTER STATISTICS st.s OWNER TO {r}`,
			"",
		},
		{
			"CREATE on the schema of another's statistics object",
			`CREATE SCHEMA st; CREATE STATISTICS st.s ON p, n FROM app.t; ALTER STATISTICS st.s OWNER TO {o}`,
			"",
		},
		{
			"CREATE on a view's schema",
			`CREATE SCHEMA v; CREATE VIEW v.v AS SELECT id FROM app.t; ALTER VIEW v.v OWNER TO {r}`,
			"",
		},
		{
			"USAGE of a schema that a view reads",
			`
				CREATE SCHEMA v;
				CREATE TABLE v.x (id int);
				CREATE VIEW app.v AS SELECT id FROM app.t JOIN v.x USING (id);
				ALTER VIEW app.v OWNER TO {r}`,
			"",
		},
		{
			"CREATE on a function's schema",
			`
				CREATE SCHEMA f;
				CREATE FUNCTION f.f() RETURNS bigint LANGUAGE sql RETURN (SELECT count(*) FROM app.t);
				ALTER FUNCTION f.f OWNER TO {r}`,
			"",
		},
		{"inheriting from the owner", `ALTER TABLE app.t OWNER TO {o}; ALTER ROLE {r} NOINHERIT; GRANT {o} TO {r}`, ""},
		{"inheriting from the owner, no member", `ALTER TABLE app.t OWNER TO {o}; ALTER ROLE {r} NOINHERIT`, ""},
		{
			"becoming the owner",
			`
				ALTER TABLE app.t OWNER TO {o};
				DO $$ BEGIN
				    IF current_setting('server_version_num')::int >= 160000 THEN
				        EXECUTE 'GRANT {o} TO {r} WITH SET FALSE';
				    END IF;
				END $$`,
			"",
		},
		{"registry of somebody else", `CREATE TABLE app.first (id int PRIMARY KEY)`, ""},
		{
			"prepared schemas",
			`REVOKE CREATE ON DATABASE {d} FROM {r}; CREATE SCHEMA repack_registry AUTHORIZATION {r}`,
			"shadow",
		},
		{
			"prepared schemas, rights on them",
			`
				REVOKE CREATE ON DATABASE {d} FROM {r};
				CREATE SCHEMA repack_registry AUTHORIZATION {r};
				CREATE SCHEMA shadow;
				CREATE SCHEMA shadow_old`,
			"shadow",
		},
		{
			"prepared registry",
			`
				REVOKE CREATE ON DATABASE {d} FROM {r};
				CREATE SCHEMA shadow AUTHORIZATION {r};
				CREATE SCHEMA shadow_old AUTHORIZATION {r}`,
			"shadow",
		},
		{
			"rights on a prepared registry",
			`
				REVOKE CREATE ON DATABASE {d} FROM {r};
				CREATE SCHEMA shadow AUTHORIZATION {r};
				CREATE SCHEMA shadow_old AUTHORIZATION {r};
				CREATE SCHEMA repack_registry`,
			"shadow",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			role, o := givenOwner(t, db)
			o.ShadowSchema = c.schema
			db.Exec(t, strings.NewReplacer("{r}", role, "{d}", db.Name, "{o}", db.Role(t)).Replace(c.revoke))
			if c.name == "registry of somebody else" {
				run(t, db, options(t, "app.first", repack.ChangeLog))
			}
			before, rows := db.CatalogDump(t), db.Checksum(t, "app.t")
			err := runAs(t, db, role, o)
			var refusal *repack.RefusedError
			if !errors.As(err, &refusal) {
				t.Fatalf("run: %v, want it refused", err)
			}
			if after := db.CatalogDump(t); after != before {
				t.Errorf("a refused run changed the database:\n%s", textDiff(before, after))
			}
			statements := grantStatement.FindAllString(err.Error(), -1)
			if len(statements) == 0 {
				t.Fatalf("no statement in %v", err)
			}
			for _, sql := range statements {
				db.Exec(t, sql)
			}
			before = db.Dump(t)
			if err := runAs(t, db, role, o); err != nil {
				t.Fatalf("run after %q: %v", statements, err)
			}
			sameDump(t, db, before)
			if after := db.Checksum(t, "app.t"); after != rows {
				t.Errorf("%s, was %s", after, rows)
			}
		})
	}
}

// TestPreparedSchemas runs without CREATE on the database, and leaves the
// schemas of the administrator, empty, for the next run.
func TestPreparedSchemas(t *testing.T) {
	t.Parallel()
	inTurnIn(t, 0, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
		role, o := givenOwner(t, db)
		db.Exec(t, fmt.Sprintf(`
			REVOKE CREATE ON DATABASE %[1]s FROM %[2]s;
			CREATE SCHEMA "Prepared";
			CREATE SCHEMA "Prepared_old";
			CREATE SCHEMA repack_registry;
			GRANT USAGE, CREATE ON SCHEMA "Prepared", "Prepared_old", repack_registry TO %[2]s`, db.Name, role))
		before, rows := db.Dump(t), db.Checksum(t, "app.t")
		o.Strategy, o.ShadowSchema = strategy, "Prepared"
		o.Until = repack.Backfill
		if err := runAs(t, db, role, o); err != nil {
			t.Fatalf("run: %v", err)
		}
		config := db.Config(t)
		config.User = role
		r, err := repack.New(config, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Reset(testContext(t)); err != nil {
			t.Fatalf("reset: %v", err)
		}
		sameDump(t, db, before)
		for range 2 {
			o.Until = repack.CleanUp
			if err := runAs(t, db, role, o); err != nil {
				t.Fatalf("run: %v", err)
			}
			sameDump(t, db, before)
		}
		if after := db.Checksum(t, "app.t"); after != rows {
			t.Errorf("%s, was %s", after, rows)
		}
	})
}

// TestOwnerThroughMembership runs as a member of the role that owns the table,
// and of those that own its neighbours.
func TestOwnerThroughMembership(t *testing.T) {
	t.Parallel()
	for n, schema := range []string{"", "prepared"} {
		t.Run("schema "+schema, func(t *testing.T) {
			inTurnIn(t, n, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
				owner, o := givenOwner(t, db)
				neighbour, runner := db.Role(t), db.Role(t)
				db.Exec(t, strings.NewReplacer("{o}", owner, "{n}", neighbour, "{r}", runner, "{d}", db.Name).Replace(`
					ALTER TABLE other.p OWNER TO {n};
					CREATE TABLE other.child (t int REFERENCES app.t ON DELETE CASCADE);
					INSERT INTO other.child VALUES (3);
					ALTER TABLE other.child OWNER TO {n};
					GRANT USAGE ON SCHEMA other TO {n};
					REVOKE CREATE ON DATABASE {d} FROM {o};
					GRANT {o}, {n} TO {r};
					GRANT CREATE ON DATABASE {d} TO {r}`))
				if schema != "" {
					db.Exec(t, fmt.Sprintf(`
						CREATE SCHEMA prepared AUTHORIZATION %[1]s;
						CREATE SCHEMA prepared_old AUTHORIZATION %[1]s`, runner))
				}
				before, rows := db.Dump(t), db.Checksum(t, "app.t")
				o.Strategy, o.ShadowSchema = strategy, schema
				o.Until = repack.Swap
				if err := runAs(t, db, runner, o); err != nil {
					t.Fatalf("run: %v", err)
				}
				config := db.Config(t)
				config.User = runner
				r, err := repack.New(config, o)
				if err != nil {
					t.Fatal(err)
				}
				if err := r.Revert(testContext(t)); err != nil {
					t.Fatalf("revert: %v", err)
				}
				sameDump(t, db, before)
				o.Until = repack.CleanUp
				if err := runAs(t, db, runner, o); err != nil {
					t.Fatalf("run: %v", err)
				}
				sameDump(t, db, before)
				if after := db.Checksum(t, "app.t"); after != rows {
					t.Errorf("%s, was %s", after, rows)
				}
			})
		})
	}
}
