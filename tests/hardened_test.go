package tests

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/pgtest"
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

// TestExecuteByDefault: writers fire our triggers where no function may be
// executed by default.
func TestExecuteByDefault(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
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
	for _, limit := range []int{2, 3, 4, 6, 7, 8} {
		for _, of := range []string{"ROLE %[1]s", "DATABASE %[2]s"} {
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
