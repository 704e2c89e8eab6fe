package tests

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const (
	keyedTablesSQL = `
CREATE SCHEMA app;
CREATE TABLE app.parent (id int PRIMARY KEY);
INSERT INTO app.parent VALUES (1);
CREATE TABLE app.t (
    id   int PRIMARY KEY,
    gone int CONSTRAINT t_gone REFERENCES app.parent,
    kept int CONSTRAINT t_kept REFERENCES app.parent
);
INSERT INTO app.t VALUES (1, 1, 1);
CREATE TABLE app.dropped (t int REFERENCES app.t);
CREATE TABLE app.altered (t int CONSTRAINT altered_gone REFERENCES app.t);
CREATE TABLE app.kept (t int REFERENCES app.t);
CREATE TABLE app.later (t int)`

	changedKeysSQL = `
DROP TABLE app.dropped;
ALTER TABLE app.altered DROP CONSTRAINT altered_gone;
ALTER TABLE app.t DROP CONSTRAINT t_gone;
ALTER TABLE app.later ADD CONSTRAINT later_t FOREIGN KEY (t) REFERENCES app.t ON DELETE CASCADE;
ALTER TABLE app.t ADD CONSTRAINT t_added FOREIGN KEY (gone) REFERENCES app.parent ON UPDATE CASCADE`
)

// Keys that come and go while others are being moved are there, or not, afterwards.
func TestKeysChangedWhileMovedOneByOne(t *testing.T) {
	t.Parallel()
	for i, step := range []string{repack.StepRowByRow, repack.StepKeyValidated, repack.StepExchanged, repack.StepKeyHandedOver} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			control := controlDatabase(t, keyedTablesSQL, changedKeysSQL)
			db.Exec(t, keyedTablesSQL)
			run(t, db, atStep(oneByOne(t, "app.t", strategies[i%2]), step, func() { db.Exec(t, changedKeysSQL) }))
			sameDump(t, db, control.Dump(t))
			noArtefacts(t, db)
		})
	}
}

// TestPlanAfterKeysAreDropped plans the rest of a job after the exchange. The application
// has dropped keys, whose second keys are still there.
func TestPlanAfterKeysAreDropped(t *testing.T) {
	t.Parallel()
	for i, place := range atEachPlace(nil, []string{repack.StepExchanged, repack.StepKeyHandedOver}) {
		t.Run(place.name, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			db.Exec(t, keyedTablesSQL)
			o := oneByOne(t, "app.t", strategies[i%2])
			cancelled(t, db, o, place, (*repack.Repack).Run)
			db.Exec(t, `ALTER TABLE app.altered DROP CONSTRAINT altered_gone; ALTER TABLE app.t DROP CONSTRAINT t_gone`)
			planIsSent(t, db, o)
			noArtefacts(t, db)
		})
	}
}

// TestPlanWhileKeysAreJoined: the plan of a job that was stopped while it joined keys is what
// is left to do.
func TestPlanWhileKeysAreJoined(t *testing.T) {
	t.Parallel()
	for i, place := range atEachPlace(nil, []string{repack.StepRowByRow, repack.StepKeyAdded, repack.StepKeyValidated}) {
		for _, sql := range []string{keyedTablesSQL, `CREATE SCHEMA app;` + refersCases[0].sql} {
			t.Run(place.name, func(t *testing.T) {
				t.Parallel()
				db := pgtest.New(t)
				db.Exec(t, sql)
				o := oneByOne(t, "app.t", strategies[i%2])
				dump := db.Dump(t)
				cancelled(t, db, o, place, (*repack.Repack).Run)
				planIsSent(t, db, o)
				sameDump(t, db, dump)
			})
		}
	}
}

// The owner of the tables, who is no superuser, moves their keys, and who may only write
// to them writes in every step.
func TestKeysOneByOneOfRoles(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	owner, runner, writer := db.Role(t), db.Role(t), db.Role(t)
	db.Exec(t, fmt.Sprintf(`
		GRANT %[1]s TO %[2]s;
		GRANT CREATE ON DATABASE %[4]s TO %[2]s;
		CREATE SCHEMA app AUTHORIZATION %[1]s;
		GRANT USAGE ON SCHEMA app TO %[3]s;
		CREATE TABLE app.parent (id int PRIMARY KEY);
		INSERT INTO app.parent SELECT generate_series(1, 100);
		CREATE TABLE app.t (id int PRIMARY KEY, parent int REFERENCES app.parent ON DELETE CASCADE);
		INSERT INTO app.t SELECT g, 1 + g %% 100 FROM generate_series(1, 1000) g;
		CREATE TABLE app.child (id serial, t int REFERENCES app.t ON DELETE CASCADE ON UPDATE CASCADE);
		ALTER TABLE app.parent OWNER TO %[1]s;
		ALTER TABLE app.t OWNER TO %[1]s;
		ALTER TABLE app.child OWNER TO %[1]s;
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO %[3]s;
		GRANT USAGE ON SEQUENCE app.child_id_seq TO %[3]s`,
		owner, runner, writer, pgx.Identifier{db.Name}.Sanitize()))
	before, round := db.Dump(t), 0
	write := func() {
		round++
		tx := begin(t, db.Connect(t), pgx.ReadCommitted)
		mustExec(t, tx, "SET LOCAL ROLE "+writer)
		mustExec(t, tx, fmt.Sprintf(`INSERT INTO app.t VALUES (%d, 50)`, 2000+round))
		mustExec(t, tx, fmt.Sprintf(`INSERT INTO app.child (t) VALUES (%d), (%d)`, 2000+round, 500+round))
		mustExec(t, tx, fmt.Sprintf(`UPDATE app.t SET id = id + 10000 WHERE id = %d`, 500+round))
		mustExec(t, tx, fmt.Sprintf(`DELETE FROM app.parent WHERE id = %d`, round))
		commit(t, tx)
	}
	o := oneByOne(t, "app.t", repack.ChangeLog)
	seen := map[string]bool{}
	o.Hooks.AfterStep = oneAtATime(func(_ context.Context, step string) error {
		if step != repack.StepDrained && !seen[step] {
			seen[step] = true
			write()
		}
		return nil
	})
	config := db.Config(t)
	config.User = runner
	r, err := repack.New(config, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Run(testContext(t)); err != nil {
		t.Fatalf("run: %v", err)
	}
	write()
	const found = `SELECT count(*) FROM app.child JOIN app.t ON t.id = child.t`
	if n := pgtest.Query[int](t, db.Pool, found); n == 0 || n != pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM app.child`) {
		t.Errorf("%d children of a parent that is there, of %d", n, 2*round)
	}
	sameDump(t, db, before)
	noArtefacts(t, db)
}
