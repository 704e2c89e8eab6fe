package tests

import (
	"bytes"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// definitionsSQL has definitions of every kind that the server prints otherwise
// once it has parsed its own text of them: {c} is a condition on columns a, b and
// s of the relation it stands in.
var definitionsSQL = fixture("definitions")

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
	for n, name := range slices.Sorted(maps.Keys(conditions)) {
		condition := conditions[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
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
	if err := newRepack(t, db, o).Revert(testContext(t)); !errors.As(err, &changed) ||
		len(changed.Changes) != 1 || changed.Changes[0].Property != "policies.inserts" {
		t.Fatalf("revert: %v, want a RevertDriftError for the policy", err)
	}
	db.Exec(t, `ALTER POLICY inserts ON app.t WITH CHECK (s IN ('a', 'b'))`)
	revert(t, db, o)
	noArtefacts(t, db)
}

// What reads otherwise may come to be during a job, and is carried over as it is.
func TestDefinitionsMadeDuringAJob(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
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
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
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
