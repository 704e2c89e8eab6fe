package tests

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// scenarioSQL is a table with keys to others, from others and to itself.
var scenarioSQL = fixture("scenario")

// roundSQL is what the application does between two commands of the tool;
// every number is taken from the sequences, so that a copy that lost their
// value cannot end up equal.
var roundSQL = []string{
	`INSERT INTO @t (email, parent) SELECT 'round {n}/' || g, 21 + g FROM generate_series(1, 10) g`,
	`UPDATE @t SET note = 'changed in {n}' WHERE id % 17 = {n}`,
	`UPDATE @t SET up = NULL WHERE up IN (SELECT id FROM @t WHERE id % 31 = {n})`,
	`DELETE FROM @t WHERE id % 31 = {n}`,
	`UPDATE @t SET id = id + 1000000 WHERE id % 41 = {n} AND id < 1000000`,
	`UPDATE @t SET email = NULL WHERE email = 'E' || {n} * 7`,
	`UPDATE @t SET email = 'E' || {n} * 7 WHERE email = 'E' || {n} * 7 + 1`,
	`DELETE FROM @parent WHERE id = {n}`,
	`INSERT INTO @child SELECT 100000 + {n} * 100 + id % 100, id FROM @t WHERE id BETWEEN 1500 AND 1550`,
}

// scenario is a database with table app.t, its twin, and the dump of both.
type scenario struct {
	db     *pgtest.Database
	before string
	rounds int
}

func newScenario(t *testing.T, db *pgtest.Database) *scenario {
	t.Helper()
	twins(t, db, scenarioSQL)
	return &scenario{db: db, before: db.Dump(t)}
}

// write is one round of the application's writes.
func (s *scenario) write(t *testing.T) {
	t.Helper()
	s.rounds++
	for _, sql := range roundSQL {
		both(t, s.db.Pool, strings.ReplaceAll(sql, "{n}", fmt.Sprint(s.rounds)))
	}
}

// same fails the test unless the tables hold what their twins do.
func (s *scenario) same(t *testing.T) {
	t.Helper()
	alike(t, s.db, "t", "child", "parent")
	if n := pgtest.Query[int](t, s.db.Pool, `SELECT count(*) FROM control.t`); n < 500 {
		t.Fatalf("only %d rows: the scenario compares nothing", n)
	}
}

// restored fails the test unless the tables hold what their twins do, the
// schema is the one it was, and the sequences go on where they were.
func (s *scenario) restored(t *testing.T) {
	t.Helper()
	s.same(t)
	sameDump(t, s.db, s.before)
	noArtefacts(t, s.db)
	s.write(t)
	s.same(t)
}

func sameDump(t *testing.T, db *pgtest.Database, before string) {
	t.Helper()
	if after := db.Dump(t); after != before {
		t.Errorf("schema changed:\n%s", textDiff(before, after))
	}
}

// noArtefacts looks for whatever of ours pg_dump would not show. A session is
// there for a moment after its client has left.
func noArtefacts(t *testing.T, db *pgtest.Database) {
	t.Helper()
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[bool](t, db.Pool, `SELECT NOT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND application_name LIKE 'repack %')`)
	}, "the tool's sessions to end")
	left := pgtest.Column[string](t, db.Pool, `
		SELECT 'schema ' || nspname
		FROM   pg_namespace
		WHERE  nspname LIKE 'repack\_job%'
		UNION ALL
		SELECT 'trigger ' || tgname
		FROM   pg_trigger
		WHERE  tgname LIKE '%repack%'
		UNION ALL
		SELECT 'function ' || proname
		FROM   pg_proc
		WHERE  proname LIKE 'repack%'
		UNION ALL
		SELECT 'domain ' || typname
		FROM   pg_type
		WHERE  typname LIKE 'repack%' AND typtype = 'd'
		UNION ALL
		SELECT 'not valid: ' || conname
		FROM   pg_constraint
		WHERE  NOT convalidated AND contype = 'f' AND conparentid = 0
		UNION ALL
		SELECT 'advisory lock'
		FROM   pg_locks l
		JOIN   pg_database d ON d.oid = l.database
		WHERE  locktype = 'advisory' AND datname = current_database()
		ORDER BY 1`)
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// textDiff shows the lines that only one of two texts has.
func textDiff(was, is string) string {
	var b strings.Builder
	show := func(sign, a, b2 string, out *strings.Builder) {
		count := map[string]int{}
		for line := range strings.Lines(b2) {
			count[line]++
		}
		for line := range strings.Lines(a) {
			if count[line]--; count[line] < 0 {
				fmt.Fprintf(out, "%s %s", sign, line)
			}
		}
	}
	show("-", was, is, &b)
	show("+", is, was, &b)
	if b.Len() == 0 {
		before, after := strings.Split(was, "\n"), strings.Split(is, "\n")
		for i := range before {
			if before[i] != after[i] {
				return fmt.Sprintf("the same lines in another order: line %d was %q, is %q", i+1, before[i], after[i])
			}
		}
	}
	return b.String()
}

// statusOf is the job of a table, which must be there.
func statusOf(t *testing.T, db *pgtest.Database, table string) repack.Status {
	t.Helper()
	list, err := newRepack(t, db, repack.Options{Table: table}).Status(testContext(t))
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	if len(list) != 1 {
		t.Fatalf("status of %s: %d jobs, want one", table, len(list))
	}
	return list[0]
}

// stopAt names a place at which a run is cancelled.
type stopAt struct {
	name  string
	hooks func(stop func()) repack.Hooks
}

func atEachPlace(stages []repack.Stage, steps []string) []stopAt {
	var places []stopAt
	for _, stage := range stages {
		places = append(places,
			stopAt{name: "before " + string(stage), hooks: func(stop func()) repack.Hooks {
				return repack.Hooks{BeforeStage: onStage(stage, stop)}
			}},
			stopAt{name: "after " + string(stage), hooks: func(stop func()) repack.Hooks {
				return repack.Hooks{AfterStage: onStage(stage, stop)}
			}})
	}
	for _, step := range steps {
		places = append(places, stopAt{name: "at " + step, hooks: func(stop func()) repack.Hooks {
			return repack.Hooks{AfterStep: func(_ context.Context, name string) error {
				if name == step {
					stop()
				}
				return nil
			}}
		}})
	}
	return places
}

func onStage(want repack.Stage, stop func()) func(context.Context, repack.Stage) error {
	return func(_ context.Context, stage repack.Stage) error {
		if stage == want {
			stop()
		}
		return nil
	}
}

// cancelled runs work with a context that is cancelled at a place, and reports
// whether the place was reached.
func cancelled(t *testing.T, db *pgtest.Database, o repack.Options, place stopAt, work func(*repack.Repack, context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	o.Hooks = place.hooks(cancel)
	err := work(newRepack(t, db, o), ctx)
	if ctx.Err() == nil {
		t.Fatalf("the run never came to %q (%v)", place.name, err)
	}
	if err != nil && !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Fatalf("cancelled at %q: %v", place.name, err)
	}
}

// stagesOfJob are the stages in which a job can be stopped.
var stagesOfJob = []repack.Stage{
	repack.Setup, repack.Backfill, repack.SyncSchema, repack.PostSyncUpdate, repack.Swap, repack.CleanUp,
}

func stageBefore(a, b repack.Stage) bool {
	return slices.Index(stagesOfJob, a) < slices.Index(stagesOfJob, b)
}

// refused runs, wants *RefusedError with each of the words in its message, and the
// database untouched. The checks do not ask for the strategy: the name of the test
// says whose turn it is.
func refused(t *testing.T, db *pgtest.Database, table string, words ...string) {
	t.Helper()
	before := db.Dump(t)
	for _, strategy := range turn(len(t.Name())) {
		err := newRepack(t, db, options(t, table, strategy)).Run(testContext(t))
		var refusal *repack.RefusedError
		if !errors.As(err, &refusal) {
			t.Errorf("run on %s: %v, want it refused", table, err)
			continue
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("refusal does not say %q:\n%v", word, err)
			}
		}
	}
	sameDump(t, db, before)
	if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'repack%'`); n != 0 {
		t.Error("a refused run created schemas")
	}
}

func givenExtension(t *testing.T, db *pgtest.Database, name string) {
	t.Helper()
	if !hasExtension(t, db, name) {
		t.Skipf("extension %s is not installed", name)
	}
}

// hasExtension creates an extension in schema ext where the server has it.
func hasExtension(t *testing.T, db *pgtest.Database, name string) bool {
	t.Helper()
	if pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM pg_available_extensions WHERE name = $1`, name) == 0 {
		return false
	}
	db.Exec(t, `CREATE SCHEMA IF NOT EXISTS ext; CREATE EXTENSION IF NOT EXISTS `+name+` SCHEMA ext`)
	return true
}
