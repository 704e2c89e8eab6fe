package tests

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// refusedBefore wants a refusal that says what is missing, and no trace.
func refusedBefore(t *testing.T, db *pgtest.Database, err error, said string) {
	t.Helper()
	var refused *repack.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), said) {
		t.Errorf("%v, want a refusal that says %q", err, said)
	}
	if pgtest.Query[bool](t, db.Pool, `SELECT to_regnamespace('repack_registry') IS NOT NULL`) {
		t.Error("the registry was created")
	}
	noArtefacts(t, db)
}

// TestRightsTakenFromPublic names each grant that a hardened server lacks.
func TestRightsTakenFromPublic(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ object, grant string }{
		{"USAGE ON LANGUAGE plpgsql", "GRANT USAGE ON LANGUAGE plpgsql TO"},
		{"EXECUTE ON FUNCTION pg_try_advisory_lock(int, int)", "GRANT EXECUTE ON FUNCTION pg_catalog.pg_try_advisory_lock(integer,integer) TO"},
		{"EXECUTE ON FUNCTION pg_get_constraintdef(oid)", "GRANT EXECUTE ON FUNCTION pg_catalog.pg_get_constraintdef(oid) TO"},
		{"EXECUTE ON FUNCTION pg_relation_filenode(regclass)", "GRANT EXECUTE ON FUNCTION pg_catalog.pg_relation_filenode(regclass) TO"},
		{"EXECUTE ON FUNCTION pg_visible_in_snapshot(xid8, pg_snapshot)", "GRANT EXECUTE ON FUNCTION pg_catalog.pg_visible_in_snapshot("},
	} {
		t.Run(c.object, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			role, o := givenOwner(t, db)
			db.Exec(t, "REVOKE "+c.object+" FROM PUBLIC")
			refusedBefore(t, db, runAs(t, db, role, o), c.grant)
		})
	}
}

// takeFunctionsSQL takes from PUBLIC the functions of pg_catalog, but for those that
// stand for an operator or a cast, or are an index's or a type's own: nobody calls
// these by name.
const takeFunctionsSQL = `
DO $$
DECLARE f regprocedure;
BEGIN
    FOR f IN SELECT p.oid FROM pg_proc p
             WHERE  p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind <> 'p'
             AND    has_function_privilege('public', p.oid, 'EXECUTE')
             AND    NOT EXISTS (SELECT FROM pg_operator o WHERE o.oprcode = p.oid)
             AND    NOT EXISTS (SELECT FROM pg_cast c WHERE c.castfunc = p.oid)
             AND    NOT EXISTS (SELECT FROM pg_amproc a WHERE a.amproc = p.oid)
             AND    NOT EXISTS (SELECT FROM pg_type t WHERE p.oid IN (t.typinput, t.typoutput))
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END $$`

// givenTakenFunctions has an owner run with what the refusals have asked for, and no
// more, until nothing more is asked for.
func givenTakenFunctions(t *testing.T, db *pgtest.Database, strategy string) (role string, o repack.Options, grants []string) {
	t.Helper()
	role, o = givenOwner(t, db)
	o.Strategy, o.KillBlockers = strategy, time.Minute
	db.Exec(t, takeFunctionsSQL)
	for {
		err := runAs(t, db, role, o)
		if err == nil {
			return role, o, grants
		}
		var refused *repack.RefusedError
		asked := grantStatement.FindAllString(err.Error(), -1)
		if !errors.As(err, &refused) || len(asked) == 0 || slices.Contains(grants, asked[0]) {
			t.Fatalf("run with %d grants: %v, want a refusal that asks for more", len(grants), err)
		}
		grants = append(grants, asked...)
		for _, sql := range asked {
			db.Exec(t, sql)
		}
	}
}

// TestFunctionsAskedForSuffice takes every function of the server away: those that
// are asked for at the beginning are all that a job needs, to its end and back.
func TestFunctionsAskedForSuffice(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		role, o, _ := givenTakenFunctions(t, db, strategy)
		config := db.Config(t)
		config.User = role
		for _, way := range [][]repack.Stage{stagesOfJob[:len(stagesOfJob)-1], stagesOfJob} {
			for _, stage := range way {
				o.Until = stage
				r, err := repack.New(config, o)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := r.Plan(testContext(t)); err != nil {
					t.Errorf("plan until %s: %v", stage, err)
				}
				if err := r.Run(testContext(t)); err != nil {
					t.Fatalf("run until %s: %v", stage, err)
				}
				if _, err := r.Status(testContext(t)); err != nil {
					t.Errorf("status after %s: %v", stage, err)
				}
				db.Exec(t, `UPDATE app.t SET p = p WHERE id < 10`)
			}
			if o.Until == repack.CleanUp {
				continue
			}
			r, err := repack.New(config, o)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Revert(testContext(t)); err != nil {
				t.Fatalf("revert: %v", err)
			}
		}
		noArtefacts(t, db)
	})
}

// early are functions that are called before privileges are looked at, or to do that.
var early = []string{
	"cardinality", "current_schema", "current_setting", "has_function_privilege", "has_language_privilege",
	"has_parameter_privilege", "jsonb_each_text", "parse_ident", "pg_backend_pid", "pg_try_advisory_lock",
	"set_config", "to_regclass", "to_regnamespace",
}

// TestFunctionTaken takes one function after the other away, all of one name at a
// time: that one is named, with the grant, by each command for those that are called
// early, and by one or the other for the rest.
func TestFunctionTaken(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role, o, grants := givenTakenFunctions(t, db, repack.ChangeLog)
	db.Exec(t, fmt.Sprintf(`
		CREATE TABLE app.parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
		ALTER TABLE app.parts OWNER TO %[1]s;
		CREATE TABLE app.part PARTITION OF app.parts FOR VALUES FROM (0) TO (9);
		ALTER TABLE app.part OWNER TO %[1]s`, role))
	byName := map[string]string{}
	for _, grant := range grants {
		name, _, _ := strings.Cut(strings.TrimPrefix(grant, "GRANT EXECUTE ON FUNCTION pg_catalog."), "(")
		byName[name] += grant
	}
	config := db.Config(t)
	config.User = role
	on := func(table string) *repack.Repack {
		o := o
		o.Table = table
		r, err := repack.New(config, o)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	commands := []struct {
		name string
		run  func(context.Context) error
	}{
		{"plan", func(ctx context.Context) error { _, err := on("app.t").Plan(ctx); return err }},
		{"run", on("app.t").Run},
		{"run over partitions", on("app.parts").Run},
		{"status", func(ctx context.Context) error { _, err := on("").Status(ctx); return err }},
	}
	for i, name := range slices.Sorted(maps.Keys(byName)) {
		db.Exec(t, strings.NewReplacer("GRANT", "REVOKE", " TO ", " FROM ").Replace(byName[name]))
		grant := "GRANT EXECUTE ON FUNCTION pg_catalog." + name + "("
		for j, command := range commands {
			if i%len(commands) != j && !slices.Contains(early, name) && !thorough() {
				continue
			}
			err := command.run(testContext(t))
			var refused *repack.RefusedError
			var rights *repack.PrivilegesError
			if err == nil && command.name == "status" { // which needs few
				continue
			}
			if !errors.As(err, &refused) && !errors.As(err, &rights) || !strings.Contains(err.Error(), grant) {
				t.Errorf("%s without %s: %v, want a refusal that says %q", command.name, name, err, grant)
			}
		}
		db.Exec(t, byName[name])
	}
	if len(byName) < 100 {
		t.Errorf("%d functions are asked for", len(byName))
	}
}

// TestExecuteByDefault: writers fire our triggers where no function may be
// executed by default.
func TestExecuteByDefault(t *testing.T) {
	t.Parallel()
	eachStrategyIn(t, pgtest.New, func(t *testing.T, db *pgtest.Database, strategy string) {
		role, o := givenOwner(t, db)
		o.Strategy = strategy
		writer := db.Role(t)
		db.Exec(t, fmt.Sprintf(`ALTER DEFAULT PRIVILEGES FOR ROLE %s REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
			GRANT USAGE ON SCHEMA app, other TO %[2]s; GRANT SELECT, UPDATE ON app.t TO %[2]s`, role, writer))
		write := db.ConnectAs(t, writer)
		for _, stage := range stagesOfJob {
			o.Until = stage
			if err := runAs(t, db, role, o); err != nil {
				t.Fatalf("%s: %v", stage, err)
			}
			mustExec(t, write, `UPDATE app.t SET p = p WHERE id < 10`)
		}
	})
}

// TestFewConnections: what there is decides how many work, or that none does.
func TestFewConnections(t *testing.T) {
	t.Parallel()
	for n, limit := range []int{2, 3, 4, 6, 7, 8} {
		for m, of := range []string{"ROLE %[1]s", "DATABASE %[2]s"} {
			if (n+m)%2 != 0 && !thorough() {
				continue
			}
			t.Run(fmt.Sprintf(of+" %[3]d", "role", "database", limit), func(t *testing.T) {
				t.Parallel()
				db := pgtest.New(t)
				role, o := givenOwner(t, db)
				o.Jobs = 4
				others := 0
				if strings.HasPrefix(of, "DATABASE") { // the test's own sessions count there
					others = pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()`)
				}
				db.Exec(t, fmt.Sprintf("ALTER "+of+" CONNECTION LIMIT %[3]d", role, db.Name, limit+others))
				err := runAs(t, db, role, o)
				if limit < 6 {
					refusedBefore(t, db, err, fmt.Sprintf("has %d left, and 6 are needed", limit))
				} else if err != nil {
					t.Errorf("with %d connections: %v", limit, err)
				}
			})
		}
	}
}
