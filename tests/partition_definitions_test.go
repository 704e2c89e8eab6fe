package tests

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// A partition has definitions from the partitioned table, which ATTACH PARTITION
// compares by their text.
func TestPartitionsThatReadOtherwise(t *testing.T) {
	t.Parallel()
	for n, name := range slices.Sorted(maps.Keys(conditions)) {
		condition := conditions[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				db.Exec(t, strings.ReplaceAll(`
					CREATE SCHEMA app;
					CREATE FUNCTION app.noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
					CREATE TABLE app.p (id int, a int, b int, s varchar(20), g boolean GENERATED ALWAYS AS ({c}) STORED,
					    CONSTRAINT checked CHECK ({c} OR id > 0), PRIMARY KEY (id, s)) PARTITION BY LIST (s);
					CREATE TABLE app.p1 PARTITION OF app.p (
					    CONSTRAINT own CHECK ({c} OR id > 0)
					) FOR VALUES IN ('a', 'z');
					CREATE TABLE app.p2 PARTITION OF app.p DEFAULT;
					CREATE INDEX partial ON app.p (id) WHERE {c};
					CREATE INDEX expression ON app.p (({c}));
					CREATE TRIGGER "when" BEFORE INSERT ON app.p FOR EACH ROW
					    WHEN (NEW.a BETWEEN 1 AND 5 AND NEW.b > 0 AND NEW.s IN ('a', 'b')) EXECUTE FUNCTION app.noted();
					INSERT INTO app.p
					SELECT g, g % 7, 1, CASE WHEN g % 2 = 0 THEN 'a' ELSE 'z' END
					FROM   generate_series(1, 100) g`, "{c}", condition))
				o := options(t, "app.p1", strategy)
				runUntil(t, db, o, repack.Swap)
				revert(t, db, o)
				o.Table = "app.p"
				run(t, db, o)
				again := db.Dump(t)
				run(t, db, o)
				sameDump(t, db, again)
				noArtefacts(t, db)
			})
		})
	}
}

// The copy of a partition is made from the partition itself, and is like it in all
// that is not the same as in a table made by its columns' text alone.
func TestPartitionsWithInheritedDefinitions(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, fixture("partition_inherits"))
		want := db.Dump(t)
		o := options(t, "app.p1", strategy)
		runUntil(t, db, o, repack.Swap)
		revert(t, db, o)
		run(t, db, o)
		sameDump(t, db, want)
		noArtefacts(t, db)
	})
}

// The copy of a check that is not valid cannot be made but from its text.
func TestPartitionsThatWouldNotBeAttached(t *testing.T) {
	t.Parallel()
	for name, check := range map[string]string{
		"not valid": `ALTER TABLE app.p ADD CONSTRAINT checked CHECK (s IN ('a', 'b')) NOT VALID`,
		"whole row": `
			ALTER TABLE app.p ADD CONSTRAINT checked CHECK (s IN ('a', 'b'));
			ALTER TABLE app.p1 ADD CHECK (p1 IS NOT NULL)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			db.Exec(t, `CREATE SCHEMA app;
				CREATE TABLE app.p (id int PRIMARY KEY, s varchar(20)) PARTITION BY RANGE (id);
				CREATE TABLE app.p1 PARTITION OF app.p FOR VALUES FROM (0) TO (1000);
				INSERT INTO app.p SELECT g, 'a' FROM generate_series(1, 100) g;
				ALTER TABLE app.p1 ADD CONSTRAINT own CHECK (s IN ('a', 'b')) NOT VALID;`+check)
			o := options(t, "app.p1", "change-log")
			var refused *repack.RefusedError
			if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &refused) ||
				len(refused.Reasons) != 1 || refused.Reasons[0].Object != "constraint checked" {
				t.Fatalf("run: %v, want a refusal for the check", err)
			}
			noArtefacts(t, db)
			db.Exec(t, `
				ALTER TABLE app.p
				    DROP CONSTRAINT checked,
				    ADD CONSTRAINT checked
				        CHECK
				        (((s)::text = ANY (ARRAY[('a'::character varying)::text, ('b'::character varying)::text]))) NOT
				        VALID`)
			run(t, db, o)
			noArtefacts(t, db)
		})
	}
}
