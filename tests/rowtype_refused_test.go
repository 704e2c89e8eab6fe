package tests

import (
	"errors"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// refusedRowTypeCases use functions of the row type in ways that are not carried over.
var refusedRowTypeCases = []struct {
	name, sql string
	says      []string
	since     int
}{
	{name: "function of an extension", sql: `CREATE FUNCTION app.f(app.t) RETURNS int LANGUAGE sql AS 'SELECT 1';
		ALTER EXTENSION plpgsql ADD FUNCTION app.f`, says: []string{"function app.f(app.t)", "ALTER EXTENSION"}},
	{name: "function that depends on an extension", sql: `CREATE FUNCTION app.f() RETURNS app.t LANGUAGE sql AS 'TABLE app.t';
		ALTER FUNCTION app.f DEPENDS ON EXTENSION plpgsql`, says: []string{"function app.f()", "NO DEPENDS ON EXTENSION"}},
	{
		name: "caller that depends on an extension", sql: `CREATE FUNCTION app.f(app.t) RETURNS int LANGUAGE sql AS 'SELECT 1';
			CREATE FUNCTION app.g() RETURNS int LANGUAGE sql RETURN app.f(NULL);
		ALTER FUNCTION app.g DEPENDS ON EXTENSION plpgsql`, says: []string{"function app.g()", "NO DEPENDS ON EXTENSION"},
	},
	{name: "functions of the same name", sql: `CREATE SCHEMA b;
		CREATE FUNCTION app.f(app.t) RETURNS int LANGUAGE sql AS 'SELECT 1';
		CREATE FUNCTION b.f(app.t) RETURNS int LANGUAGE sql AS 'SELECT 1'`, says: []string{"function app.f(app.t)", "function b.f(app.t)", "rename"}},
	{
		name: "operators of the same name", sql: `CREATE SCHEMA b; CREATE FUNCTION app.f(app.t, app.t) RETURNS bool LANGUAGE sql AS 'SELECT true';
		CREATE OPERATOR app.== (FUNCTION = app.f, LEFTARG = app.t, RIGHTARG = app.t); CREATE OPERATOR b.== (FUNCTION = app.f, LEFTARG = app.t, RIGHTARG = app.t)`,
		says: []string{"operator app.==(app.t,app.t)", "operator b.==(app.t,app.t)"},
	},
	{
		name: "operator class", sql: `CREATE FUNCTION app.c(app.t, app.t) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1.id - $2.id';
			CREATE FUNCTION app.l(app.t, app.t) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1.id < $2.id';
		CREATE OPERATOR app.<< (FUNCTION = app.l, LEFTARG = app.t, RIGHTARG = app.t);
			CREATE OPERATOR CLASS app.oc FOR TYPE app.t USING btree AS OPERATOR 1 app.<<, FUNCTION 1 app.c(app.t, app.t)`,
		says: []string{"operator class app.oc"},
	},
	{name: "check elsewhere", sql: `CREATE FUNCTION app.f(int) RETURNS app.t LANGUAGE sql AS 'SELECT $1, $1';
		CREATE TABLE app.o (x int CHECK ((app.f(x)).id > 0))`, says: []string{"o_x_check"}},
	{name: "index elsewhere", sql: `CREATE FUNCTION app.f(app.t) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1.id';
		CREATE TABLE app.o (x int);
		CREATE INDEX odd ON app.o (app.f(ROW(x, x)))`, says: []string{"odd"}},
	{name: "generated column elsewhere", sql: `CREATE FUNCTION app.f(app.t) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1.id';
		CREATE TABLE app.o (x int, y int GENERATED ALWAYS AS (app.f(ROW(x, x))) STORED)`, says: []string{"column y of table app.o"}},
	{name: "statistics elsewhere", sql: `CREATE FUNCTION app.f(app.t) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1.id';
		CREATE TABLE app.o (x int, z int);
		CREATE STATISTICS app.s ON z, app.f(ROW(x, x)) FROM app.o`, says: []string{"statistics object app.s"}},
	{name: "domain default", sql: `CREATE FUNCTION app.f(app.t) RETURNS int LANGUAGE sql AS 'SELECT 1';
		CREATE DOMAIN app.d AS int DEFAULT app.f(NULL)`, says: []string{"type app.d"}},
	{name: "domain check", sql: `CREATE FUNCTION app.f(app.t) RETURNS int LANGUAGE sql AS 'SELECT 1';
		CREATE DOMAIN app.d AS int CHECK (VALUE > app.f(NULL))`, says: []string{"d_check"}},
	{name: "domain over an array of rows", sql: `CREATE DOMAIN app.d AS app.t[]`, says: []string{"type app.d"}},
	{name: "constraint trigger elsewhere", sql: `CREATE FUNCTION app.f(app.t) RETURNS int LANGUAGE sql AS 'SELECT 1';
		CREATE FUNCTION app.n() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TABLE app.o (x int);
		CREATE CONSTRAINT TRIGGER tr AFTER INSERT ON app.o FOR EACH ROW WHEN (app.f(ROW(new.x, 1)) > 0) EXECUTE FUNCTION app.n()`, says: []string{"trigger tr on table app.o"}},
	{name: "trigger of a partitioned table", sql: `CREATE FUNCTION app.f(app.t) RETURNS int LANGUAGE sql AS 'SELECT 1';
		CREATE FUNCTION app.n() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TABLE app.o (x int) PARTITION BY RANGE (x);
		CREATE TABLE app.o1 PARTITION OF app.o DEFAULT;
		CREATE TRIGGER tr AFTER INSERT ON app.o FOR EACH ROW WHEN (app.f(ROW(new.x, 1)) > 0) EXECUTE FUNCTION app.n()`, says: []string{"trigger tr on table app.o"}},
	{name: "own check", sql: `CREATE FUNCTION app.f(app.t) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1.id';
		ALTER TABLE app.t ADD CONSTRAINT own CHECK (app.f(t) > 0)`, says: []string{"constraint own"}},
	{name: "own index", sql: `CREATE FUNCTION app.f(int) RETURNS app.t LANGUAGE sql IMMUTABLE AS 'SELECT $1, $1';
		CREATE INDEX own ON app.t (((app.f(id)).id))`, says: []string{"index", "own"}},
	{name: "own generated column", sql: `CREATE FUNCTION app.f(app.t) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1.id';
		ALTER TABLE app.t ADD g int GENERATED ALWAYS AS (app.f(ROW(id, a, NULL))) STORED`, says: []string{"column g", "calls a function of its row type"}, since: 15},
	{name: "own statistics", sql: `CREATE FUNCTION app.f(int) RETURNS app.t LANGUAGE sql IMMUTABLE AS 'SELECT $1, $1';
		CREATE STATISTICS app.own ON id, ((app.f(a)).id) FROM app.t`, says: []string{"statistics object app.own"}},
	{name: "materialized view that calls", sql: `CREATE FUNCTION app.f(int) RETURNS app.t LANGUAGE sql AS 'SELECT $1, $1';
		CREATE MATERIALIZED VIEW app.mv AS SELECT count(*) FROM app.f(1)`, says: []string{"materialized view app.mv"}},
	{name: "view with a column of rows", sql: `CREATE FUNCTION app.f(int) RETURNS app.t LANGUAGE sql AS 'SELECT $1, $1';
		CREATE VIEW app.v AS SELECT app.f(1)`, says: []string{"view app.v"}},
	{name: "function that calls itself", sql: `CREATE FUNCTION app.f(app.t) RETURNS int LANGUAGE sql RETURN 1;
		CREATE OR REPLACE FUNCTION app.f(app.t) RETURNS int LANGUAGE sql RETURN app.f($1)`, says: []string{"function app.f(app.t)", "does not exist"}},
}

func TestRefusedRowType(t *testing.T) {
	t.Parallel()
	for _, c := range refusedRowTypeCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			if db.Version() < c.since {
				t.Skip("the server refuses it")
			}
			db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, a int); `+c.sql)
			refused(t, db, "app.t", c.says...)
			err := newRepack(t, db, options(t, "app.t", repack.ChangeLog)).Run(testContext(t))
			if strings.Contains(err.Error(), "--rebuild-matviews") {
				t.Errorf("refusal names a flag that does not help:\n%v", err)
			}
		})
	}
}

// TestRefusedFunctionGrantor has a privilege that nobody can grant again as it was.
func TestRefusedFunctionGrantor(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	grantor, grantee := db.Role(t), db.Role(t)
	db.Exec(t, `CREATE SCHEMA app;
		CREATE SCHEMA fn;
		CREATE TABLE app.t (id int PRIMARY KEY);
		CREATE FUNCTION fn.f() RETURNS app.t LANGUAGE sql AS 'TABLE app.t';
		GRANT USAGE ON SCHEMA fn TO `+grantor+`; GRANT EXECUTE ON FUNCTION fn.f TO `+grantor+` WITH GRANT OPTION; SET ROLE `+grantor+`; GRANT EXECUTE ON FUNCTION fn.f TO `+grantee+`; RESET ROLE`)
	refused(t, db, "app.t", "role "+grantor, "GRANT USAGE ON SCHEMA")
}

// TestRefusedTemporaryFunction: a temporary function belongs to another session.
func TestRefusedTemporaryFunction(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY)`)
	mustExec(t, db.Connect(t), `CREATE FUNCTION pg_temp.f(app.t) RETURNS int LANGUAGE sql AS 'SELECT 1'`)
	refused(t, db, "app.t", "f(app.t)", "temporary")
}

// TestRowTypePrivileges: a role that is no superuser needs the right to create the
// functions again and to give them to their owners. Each missing GRANT is named.
func TestRowTypePrivileges(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role, o := givenOwner(t, db)
	other := db.Role(t)
	db.Exec(t, strings.NewReplacer("{r}", role, "{o}", other).Replace(`
		CREATE SCHEMA fn; GRANT USAGE ON SCHEMA fn TO {r}, {o};
		CREATE FUNCTION fn.label(app.t) RETURNS text LANGUAGE sql AS 'SELECT $1.id::text'; ALTER FUNCTION fn.label OWNER TO {o};
		CREATE FUNCTION fn.next() RETURNS SETOF app.t LANGUAGE plpgsql AS 'BEGIN RETURN QUERY TABLE app.t; END'; ALTER FUNCTION fn.next OWNER TO {r};
		REVOKE USAGE ON LANGUAGE plpgsql, sql FROM PUBLIC; GRANT USAGE ON LANGUAGE plpgsql TO {r}`))
	before := db.Dump(t)
	missing := []string{"GRANT CREATE ON SCHEMA fn TO " + role, "GRANT CREATE ON SCHEMA fn TO " + other, "GRANT USAGE ON LANGUAGE sql TO " + role, "GRANT " + other + " TO " + role}
	err := runAs(t, db, role, o)
	var refusal *repack.RefusedError
	if !errors.As(err, &refusal) {
		t.Fatalf("run without privileges: %v", err)
	}
	for _, grant := range missing {
		if !strings.Contains(err.Error(), grant) {
			t.Errorf("refusal does not say %q:\n%v", grant, err)
		}
	}
	for _, r := range refusal.Reasons {
		if r.Object == "missing privilege" {
			db.Exec(t, r.Remedy)
		}
	}
	granted := db.Dump(t)
	if granted == before {
		t.Error("the grants changed nothing")
	}
	if err := runAs(t, db, role, o); err != nil {
		t.Fatalf("run with privileges: %v", err)
	}
	sameDump(t, db, granted)
	noArtefacts(t, db)

	// A leakproof function can only be created by a superuser.
	db.Exec(t, `ALTER FUNCTION fn.label LEAKPROOF`)
	if err := runAs(t, db, role, o); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "leakproof") || !strings.Contains(err.Error(), "fn.label") {
		t.Errorf("run with a leakproof function: %v, want it refused", err)
	}
	noArtefacts(t, db)
}
