package tests

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// definitionsSQL has definitions of every kind that the server prints otherwise
// once it has parsed its own text of them: {c} is a condition on columns a, b and
// s of the relation it stands in.
const definitionsSQL = `
CREATE SCHEMA app;
CREATE FUNCTION app.noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TABLE app.other (id int PRIMARY KEY, a int, b int, s varchar(20));
ALTER TABLE app.other ENABLE ROW LEVEL SECURITY;
CREATE TABLE app.t (id int PRIMARY KEY, a int, b int, s varchar(20),
    g boolean GENERATED ALWAYS AS ({c}) STORED,
    d boolean DEFAULT ('x'::varchar IN ('a', 'b')),
    CONSTRAINT checked CHECK ({c} OR id > 0), EXCLUDE USING btree (id WITH =) WHERE ({c}));
INSERT INTO app.t SELECT g, g % 7, 1, CASE WHEN g % 2 = 0 THEN 'a' ELSE 'z' END FROM generate_series(1, 100) g;
ALTER TABLE app.t ADD CONSTRAINT unchecked CHECK ({c} OR id > 5) NOT VALID;
CREATE INDEX partial ON app.t (id) WHERE {c};
CREATE INDEX expression ON app.t (({c}), id);
CREATE UNIQUE INDEX partial_key ON app.t (id, b) WHERE {c};
CREATE STATISTICS app.st ON ({c}), id FROM app.t;
CREATE POLICY p ON app.t USING ({c})
    WITH CHECK ({c} AND id IN (SELECT o.id FROM app.other o WHERE o.s IN ('a', 'b') AND o.b = t.b));
CREATE POLICY inserts ON app.t FOR INSERT WITH CHECK ({c});
CREATE TRIGGER "when" BEFORE INSERT OR UPDATE OF a, s ON app.t FOR EACH ROW
    WHEN (NEW.a BETWEEN 1 AND 5 AND NEW.b > 0 OR NEW.s IN ('a', 'b')) EXECUTE FUNCTION app.noted('a', 'it''s');
CREATE TRIGGER emptied AFTER TRUNCATE ON app.t EXECUTE FUNCTION app.noted();
CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON app.t FROM app.other DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.s IN ('a', 'b')) EXECUTE FUNCTION app.noted();
CREATE RULE r AS ON UPDATE TO app.t WHERE OLD.s IN ('q', 'r') AND NEW.a BETWEEN 1 AND 5 AND NEW.b > 0
    DO INSTEAD NOTHING;
CREATE RULE own AS ON DELETE TO app.t WHERE OLD.id < 0 DO ALSO UPDATE app.t SET b = 1
    WHERE id = OLD.id AND s IN ('a', 'b');
CREATE VIEW app.v AS SELECT id, a, b, s, {c} AS c FROM app.t WHERE {c};
CREATE VIEW app.above AS SELECT * FROM app.v WHERE {c};
CREATE VIEW app.united AS
SELECT * FROM (SELECT id, a, 'a'::text AS kind FROM app.t UNION ALL SELECT id, NULL, 'b' FROM app.other) q;
CREATE VIEW app.joined AS
SELECT t.id, o.a FROM app.t LEFT JOIN app.other o ON TRUE CROSS JOIN LATERAL (SELECT 1 AS one) x;
ALTER VIEW app.v ALTER COLUMN a SET DEFAULT 7;
CREATE POLICY p ON app.other USING (id IN (SELECT t.id FROM app.t WHERE t.s IN ('a', 'b') AND t.b = other.b));
CREATE POLICY inserts ON app.other FOR INSERT WITH CHECK (id IN (SELECT t.id FROM app.t WHERE t.s IN ('a', 'b')));
CREATE RULE r AS ON INSERT TO app.other WHERE NEW.id IN (SELECT id FROM app.t WHERE {c}) DO INSTEAD NOTHING;
CREATE RULE through AS ON INSERT TO app.above DO INSTEAD INSERT INTO app.t (id) SELECT NEW.id WHERE NEW.s IN ('a', 'b');
CREATE FUNCTION app.f(id int) RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM app.t
    WHERE {c} AND t.id > f.id; END;
CREATE PROCEDURE app.pr(s varchar) LANGUAGE sql BEGIN ATOMIC DELETE FROM app.t
    WHERE a BETWEEN 1 AND 5 AND b > 0 AND t.s = pr.s AND t.id < 0; END;`

const definitionsSince15SQL = `
CREATE PUBLICATION filtered FOR TABLE app.t WHERE (a BETWEEN 1 AND 5 AND b > 0) WITH (publish = 'insert');`

var conditions = map[string]string{
	"varchar": `s IN ('a', 'b')`,
	"between": `a BETWEEN 1 AND 5 AND b > 0`,
	"both":    `(s IN ('a', 'b') OR NOT s NOT IN ('c', 'd')) AND (a BETWEEN 1 AND 5 AND b > 0 OR a = 1 OR b = 2)`,
}

func givenDefinitions(t *testing.T, db *pgtest.Database, condition string) {
	t.Helper()
	sql := definitionsSQL
	if db.Version() >= 15 {
		sql += definitionsSince15SQL
	}
	db.Exec(t, strings.ReplaceAll(sql, "{c}", condition))
}

// A definition that reads otherwise when it has been parsed once more is no reason
// to fail, there and back, and a second time.
func TestDefinitionsThatReadOtherwise(t *testing.T) {
	t.Parallel()
	for name, condition := range conditions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
				givenDefinitions(t, db, condition)
				o := options(t, "app.t", strategy)
				var log bytes.Buffer
				o.Logger = slog.New(slog.NewTextHandler(&log, nil))
				runUntil(t, db, o, repack.Swap)
				if !strings.Contains(log.String(), "read otherwise") || !strings.Contains(log.String(), `view \"app\".\"v\"`) {
					t.Errorf("the log does not name the view that reads otherwise:\n%s", log.String())
				}
				revert(t, db, o)
				run(t, db, o)
				again := db.Dump(t)
				run(t, db, o)
				sameDump(t, db, again)
				noArtefacts(t, db)
			})
		})
	}
}

// What has really become another definition is noticed: by drift where the shadow
// was built with it, and by revert, which would lose it.
func TestDefinitionsThatHaveChanged(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	givenDefinitions(t, db, conditions["varchar"])
	o := options(t, "app.t", "change-log")
	runUntil(t, db, o, repack.Backfill)
	const narrower = `DROP INDEX app.partial; CREATE INDEX partial ON app.t (id) WHERE s IN ('a')`
	db.Exec(t, narrower)
	var drift *repack.DriftError
	if err := newRepack(t, db, o).Run(testContext(t)); !errors.As(err, &drift) || len(drift.Changes) != 1 || drift.Changes[0].Property != "indexes.partial" {
		t.Fatalf("run: %v, want a DriftError for the index", err)
	}
	reset(t, db, o)
	runUntil(t, db, o, repack.Swap)
	db.Exec(t, `ALTER POLICY inserts ON app.t WITH CHECK (s IN ('a', 'b', 'c'))`)
	var changed *repack.RevertDriftError
	if err := newRepack(t, db, o).Revert(testContext(t)); !errors.As(err, &changed) || len(changed.Changes) != 1 || changed.Changes[0].Property != "policies.inserts" {
		t.Fatalf("revert: %v, want a RevertDriftError for the policy", err)
	}
	db.Exec(t, `ALTER POLICY inserts ON app.t WITH CHECK (s IN ('a', 'b'))`)
	revert(t, db, o)
	noArtefacts(t, db)
}

// What reads otherwise may come to be during a job, and is carried over as it is.
func TestDefinitionsMadeDuringAJob(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		givenDefinitions(t, db, conditions["varchar"])
		o := options(t, "app.t", strategy)
		runUntil(t, db, o, repack.PostSyncUpdate)
		db.Exec(t, `
			CREATE POLICY late ON app.t USING (s IN ('late', 'later'));
			CREATE VIEW app.late AS SELECT id FROM app.t WHERE s IN ('late', 'later')`)
		runUntil(t, db, o, repack.Swap)
		if got := pgtest.Query[string](t, db.Pool, `
			SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polname = 'late' AND polrelid = 'app.t'::regclass`); !strings.Contains(got, "'later'") {
			t.Errorf("the policy made during the job is %q", got)
		}
		revert(t, db, o)
		noArtefacts(t, db)
	})
}

// Materialized views, and what stands on them, like the rest.
func TestMatviewsThatReadOtherwise(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, `
			CREATE SCHEMA app;
			CREATE TABLE app.t (id int PRIMARY KEY, a int, b int, s varchar(20));
			INSERT INTO app.t SELECT g, g % 7, 1, 'a' FROM generate_series(1, 100) g;
			CREATE VIEW app.below AS SELECT * FROM app.t WHERE s IN ('a', 'b');
			CREATE MATERIALIZED VIEW app.m (id, s, united) AS
				SELECT id, s, a FROM app.t WHERE s IN ('a', 'b') AND a BETWEEN 1 AND 5 AND b > 0
				UNION ALL SELECT q.id, 'x', q.n FROM (SELECT id, a AS n FROM app.below UNION SELECT id, NULL FROM app.t) q;
			CREATE INDEX m_partial ON app.m (id) WHERE s IN ('a', 'b');
			CREATE INDEX m_expression ON app.m ((s IN ('a', 'b')));
			CREATE STATISTICS app.m_st ON (s IN ('a', 'b')), id FROM app.m;
			CREATE MATERIALIZED VIEW app.on_m AS SELECT * FROM app.m WHERE s IN ('a', 'b');
			CREATE MATERIALIZED VIEW app.on_below AS SELECT * FROM app.below WHERE s IN ('a', 'b');
			CREATE VIEW app.above AS SELECT * FROM app.m WHERE s IN ('a', 'b');`)
		o := options(t, "app.t", strategy)
		o.RebuildMatviews = true
		const rows = `
			SELECT (SELECT count(*) FROM app.m) || '|' || (SELECT count(*) FROM app.on_m) || '|' || (SELECT count(*)
			       FROM app.above)`
		want := db.QueryString(t, rows)
		runUntil(t, db, o, repack.Swap)
		revert(t, db, o)
		run(t, db, o)
		again := db.Dump(t)
		run(t, db, o)
		sameDump(t, db, again)
		noArtefacts(t, db)
		if got := db.QueryString(t, rows); got != want {
			t.Errorf("rows of materialized views: %s, want %s", got, want)
		}
	})
}
