package tests

import (
	"testing"

	"github.com/repack-go/repack/repack"
)

// actionsSQL has two foreign keys each on the way from a message and from a
// task to a person, of which the first created must act first, or the second
// forbids the delete: referential triggers are called RI_ConstraintTrigger_a_
// and an OID, and fire in the order of their names.
const actionsSQL = `
CREATE SCHEMA app;
CREATE TABLE app.person (id int PRIMARY KEY);
CREATE TABLE app.message (id int PRIMARY KEY, recipient int REFERENCES app.person ON DELETE CASCADE, author int REFERENCES app.person);
CREATE TABLE app.project (id int PRIMARY KEY, person int REFERENCES app.person ON DELETE CASCADE);
CREATE TABLE app.job (id int PRIMARY KEY, person int REFERENCES app.person, project int REFERENCES app.project);
CREATE FUNCTION app.end_jobs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM app.job WHERE project = OLD.id; RETURN OLD; END $$;
CREATE TRIGGER end_jobs BEFORE DELETE ON app.project FOR EACH ROW EXECUTE FUNCTION app.end_jobs();
INSERT INTO app.person SELECT generate_series(1, 9);
INSERT INTO app.message SELECT g, g, g FROM generate_series(1, 4) g;
INSERT INTO app.project SELECT g, g FROM generate_series(5, 9) g;
INSERT INTO app.job SELECT g, g, g FROM generate_series(5, 9) g;`

// TestReferentialActionsKeepTheirOrder: a delete that worked goes on working,
// whichever of the tables is repacked.
func TestReferentialActionsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	for i, table := range []string{"app.person", "app.message", "app.job"} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			db.Exec(t, actionsSQL)
			deletes := func(when string) {
				t.Helper()
				for _, id := range []string{"3", "7"} {
					if got := result(t, db, `DELETE FROM app.person WHERE id = `+id+` RETURNING id`); got != id {
						t.Errorf("%s: deleting person %s gives %q", when, id, got)
					}
				}
			}
			deletes("before")
			o := options(t, table, strategies[i%2])
			runUntil(t, db, o, repack.Swap)
			deletes("after swap")
			revert(t, db, o)
			deletes("after revert")
			run(t, db, o)
			deletes("after the end")
		})
	}
}
