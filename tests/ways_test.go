package tests

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// stranding is something that makes what follows the exchange fail.
type stranding struct {
	name string
	// setup and swapped are run before the job and when the tables have been
	// exchanged; cure removes the cause.
	setup, swapped, cure string
	stop                 repack.Stage // swapped is run after it; empty: behind the exchange
	said                 string       // what the failure names
	// finishing: clean_up has begun by then, and there is no way back.
	// broken: revert meets the same cause, except in the exchange.
	finishing, broken bool
}

var strandings = []stranding{
	{
		name: "foreign key that does not hold",
		setup: `
			CREATE TABLE app.child (t int CONSTRAINT child_fk REFERENCES app.t);
			INSERT INTO app.child SELECT id FROM app.t;
			SET session_replication_role = replica;
			INSERT INTO app.child VALUES (-7);
			RESET session_replication_role`,
		cure:   `DELETE FROM app.child WHERE t = -7`,
		said:   "child_fk",
		broken: true,
	},
	{
		name: "materialized view that fails",
		setup: `CREATE TABLE app.mode (fails bool); INSERT INTO app.mode VALUES (false);
			CREATE FUNCTION app.checked(int) RETURNS int LANGUAGE plpgsql AS $$
			BEGIN IF (SELECT fails FROM app.mode) THEN RAISE 'no rows today'; END IF; RETURN $1; END $$;
			CREATE MATERIALIZED VIEW app.mv AS SELECT app.checked(id) AS id FROM app.t;
			CREATE MATERIALIZED VIEW app.mv2 AS SELECT count(*) FROM app.mv`,
		swapped: `UPDATE app.mode SET fails = true`,
		cure:    `UPDATE app.mode SET fails = false`,
		said:    "no rows today",
	},
	{
		name: "view on the old table",
		swapped: `
			DO $$ BEGIN
			    EXECUTE format('CREATE VIEW app.stray AS SELECT * FROM %s', (
			        SELECT oid::regclass
			        FROM   pg_class
			        WHERE  relname = 't' AND relnamespace::regnamespace::text LIKE '%old'));
			END $$`,
		stop:   repack.Swap,
		cure:   `DROP VIEW app.stray`,
		said:   "stray",
		broken: true,
	},
	{
		name: "event trigger that forbids to drop tables",
		swapped: `
			CREATE FUNCTION app.forbid() RETURNS event_trigger LANGUAGE plpgsql
			    AS $$ BEGIN RAISE 'no table is dropped here'; END $$;
			CREATE EVENT TRIGGER forbid ON sql_drop WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION app.forbid()`,
		stop:   repack.Swap,
		cure:   `DROP EVENT TRIGGER forbid; DROP FUNCTION app.forbid()`,
		said:   "no table is dropped here",
		broken: true,
	},
	{
		name: "event trigger that forbids to drop schemas",
		swapped: `
			CREATE FUNCTION app.forbid() RETURNS event_trigger LANGUAGE plpgsql
			    AS $$ BEGIN RAISE 'no schema is dropped here'; END $$;
			CREATE EVENT TRIGGER forbid ON sql_drop WHEN TAG IN ('DROP SCHEMA') EXECUTE FUNCTION app.forbid()`,
		stop:      repack.Swap,
		cure:      `DROP EVENT TRIGGER forbid; DROP FUNCTION app.forbid()`,
		said:      "no schema is dropped here",
		finishing: true,
	},
}

func (c stranding) given(t *testing.T, db *pgtest.Database, strategy string) (o repack.Options, before string, err error) {
	t.Helper()
	r := givenRoles(t, db)
	db.Exec(t, r.in(carriedTableSQL)+c.setup)
	before = db.Dump(t)
	o = rebuilding(t, strategy)
	o.Jobs = 1
	swapped := func() { db.Exec(t, c.swapped) }
	running := atStep(o, repack.StepExchanged, swapped)
	if c.stop != "" {
		running = atStage(o, c.stop, swapped)
	}
	err = newRepack(t, db, running).Run(testContext(t))
	if err == nil || !strings.Contains(err.Error(), c.said) {
		t.Fatalf("run: %v, want it to fail because of %q", err, c.said)
	}
	return o, before, err
}

// says fails the test unless err names the commands, and no other that would
// not do, and does not say that there was no swap.
func says(t *testing.T, err error, run, revert bool) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for words, want := range map[string]bool{
		"repack run --table": run, "repack revert --table": revert, "repack reset": false, "not made": false,
	} {
		if strings.Contains(err.Error(), words) != want {
			t.Errorf("%q in the message is %t, want %t:\n%v", words, !want, want, err)
		}
	}
}

// TestWayOn makes what follows the exchange fail. The message says what leads on
// and back, and run ends the job once the cause is gone.
func TestWayOn(t *testing.T) {
	t.Parallel()
	for n, c := range strandings {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n+1, func(t *testing.T, db *pgtest.Database, strategy string) {
				o, before, err := c.given(t, db, strategy)
				says(t, err, true, !c.finishing)
				says(t, newRepack(t, db, o).Run(testContext(t)), true, !c.finishing)
				err = newRepack(t, db, o).Reset(testContext(t))
				if want := map[bool]error{false: repack.ErrSwapped, true: repack.ErrFinishing}[c.finishing]; !errors.Is(err, want) {
					t.Errorf("reset: %v, want %v", err, want)
				}
				db.Exec(t, `UPDATE app.t SET a = 77 WHERE id = 7`)
				db.Exec(t, c.cure)
				run(t, db, o)
				sameDump(t, db, before)
				noArtefacts(t, db)
				if a := db.QueryString(t, `SELECT a FROM app.t WHERE id = 7`); a != "77" {
					t.Errorf("a is %s, want 77", a)
				}
			})
		})
	}
}

// TestWayBack reverts instead, with the cause still there where that does not
// concern the old table, else when it is gone.
func TestWayBack(t *testing.T) {
	t.Parallel()
	for n, c := range strandings {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			eachHalf(t, n, func(t *testing.T, db *pgtest.Database, strategy, _ string) {
				o, before, _ := c.given(t, db, strategy)
				oid := func() string { return db.QueryString(t, `SELECT 'app.t'::regclass::oid`) }
				swapped := oid()
				db.Exec(t, `UPDATE app.t SET a = 77 WHERE id = 7`)
				err := newRepack(t, db, o).Revert(testContext(t))
				switch {
				case c.finishing:
					if !errors.Is(err, repack.ErrFinishing) {
						t.Fatalf("revert: %v, want ErrFinishing", err)
					}
					db.Exec(t, c.cure)
					run(t, db, o)
				case c.broken:
					if err == nil {
						t.Fatal("revert: no error")
					}
					db.Exec(t, c.cure)
					revert(t, db, o)
				case err != nil:
					t.Fatalf("revert: %v", err)
				default:
					db.Exec(t, c.cure)
				}
				if back := oid() != swapped; back == c.finishing {
					t.Errorf("app.t is the old table: %t", back)
				}
				sameDump(t, db, before)
				noArtefacts(t, db)
				if a := db.QueryString(t, `SELECT a FROM app.t WHERE id = 7`); a != "77" {
					t.Errorf("a is %s, want 77", a)
				}
				if c.name == "materialized view that fails" {
					db.Exec(t, `REFRESH MATERIALIZED VIEW app.mv; REFRESH MATERIALIZED VIEW app.mv2`)
				}
				run(t, db, o)
				sameDump(t, db, before)
			})
		})
	}
}

// TestRevertThatIsStopped says that the old table is back, wherever revert fails
// behind its exchange.
func TestRevertThatIsStopped(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		c := strandings[0]
		o, before, _ := c.given(t, db, strategy)
		says(t, newRepack(t, db, o).Revert(testContext(t)), false, true)
		if err := newRepack(t, db, o).Run(testContext(t)); err == nil || !strings.Contains(err.Error(), "revert") {
			t.Errorf("run: %v, want it to send to revert", err)
		}
		if err := newRepack(t, db, o).Reset(context.WithoutCancel(testContext(t))); err == nil || !strings.Contains(err.Error(), "revert") {
			t.Errorf("reset: %v, want it to send to revert", err)
		}
		db.Exec(t, c.cure)
		revert(t, db, o)
		sameDump(t, db, before)
		noArtefacts(t, db)
	})
}
