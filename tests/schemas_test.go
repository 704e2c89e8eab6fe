package tests

import (
	"bufio"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// wholeSchema is an application's schema from testdata. Its work procedure
// writes to most of its tables, and does the same in two databases that hold
// the same.
type wholeSchema struct {
	name, work string
	// refused maps each table that is refused to a word of the reason.
	refused map[string]string
}

var wholeSchemas = []wholeSchema{
	{"shop", "shop.work", map[string]string{
		"shop.suppliers": "materialized view",
		"shop.no_key":    "no key",
	}},
	{"forum", "forum.work", map[string]string{
		"forum.base":     "inheritance",
		"forum.derived":  "inheritance",
		"forum.settings": "forum.setting",
		"forum.journal":  "no key",
	}},
	{"mapserver", "map.work", map[string]string{
		"map.regions":     "materialized view",
		"history.deleted": "map.logged_edits",
	}},
}

// allTablesSQL lists what an application thinks of as tables.
const allTablesSQL = `
SELECT   format('%I.%I', n.nspname, c.relname)
FROM     pg_class c
JOIN     pg_namespace n ON n.oid = c.relnamespace
WHERE    c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|information_schema|repack_)'
ORDER BY 1`

// application is a schema in a database, a second one that the tool never
// sees, and one session of the application in each.
type application struct {
	wholeSchema
	db, control     *pgtest.Database
	conn, elsewhere *pgx.Conn
	schema          schemaText
	tables          []string
	rounds          int
	apart           bool            // a round has failed in one of the two
	reported        map[string]bool // tables whose rows differ
}

func givenApplication(t *testing.T, s wholeSchema) *application {
	t.Helper()
	a := &application{wholeSchema: s, db: pgtest.New(t), control: controlDatabase(t), reported: map[string]bool{}}
	r := givenRoles(t, a.db)
	sql := r.in(forVersion(t, fixture(s.name), a.db.Version()))
	a.conn, a.elsewhere = a.db.Connect(t), a.control.Connect(t)
	load(t, a.conn, sql)
	load(t, a.elsewhere, sql)
	a.schema = schemaOf(t, a.db)
	a.tables = pgtest.Column[string](t, a.db.Pool, allTablesSQL)
	a.same(t, "before")
	return a
}

// load runs a script; an error shows the part of it that is meant.
func load(t *testing.T, conn *pgx.Conn, script string) {
	t.Helper()
	_, err := conn.Exec(testContext(t), script)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		at := []rune(script)[max(int(pgErr.Position)-1, 0):]
		t.Fatalf("%v (%s) at: %s", err, pgErr.Where, string(at[:min(len(at), 200)]))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// forVersion leaves out the lines between "--N+" and "--end" for servers
// before N.
func forVersion(t *testing.T, sql string, version int) string {
	t.Helper()
	var kept strings.Builder
	since := 0
	for lines := bufio.NewScanner(strings.NewReader(sql)); lines.Scan(); {
		line := lines.Text()
		if n, ok := strings.CutSuffix(line, "+"); ok && strings.HasPrefix(n, "--") {
			var err error
			if since, err = strconv.Atoi(n[2:]); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
		} else if line == "--end" {
			since = 0
		} else if version >= since {
			kept.WriteString(line + "\n")
		}
	}
	return kept.String()
}

// write is a round of the application's work in both databases.
func (a *application) write(t *testing.T) {
	t.Helper()
	a.rounds++
	sql := fmt.Sprintf("CALL %s(%d)", a.work, a.rounds)
	a.apart = true
	mustExec(t, a.conn, sql)
	mustExec(t, a.elsewhere, sql)
	a.apart = false
}

// same compares every table with the one that was never repacked, and the
// schema with what it was. Each loss is reported once.
func (a *application) same(t *testing.T, when string) {
	t.Helper()
	want := checksums(t, a.control)
	for table, got := range checksums(t, a.db) {
		if got != want[table] && !a.reported[table] {
			rows := fmt.Sprintf(`SELECT ROW(r.*)::text FROM %s AS r ORDER BY 1`, table)
			t.Errorf("%s: %s has %s, want %s:\n%s", when, table, got, want[table], firstDifference(
				strings.Join(pgtest.Column[string](t, a.control.Pool, rows), "\n"), strings.Join(pgtest.Column[string](t, a.db.Pool, rows), "\n")))
			a.reported[table] = true
		}
	}
	sameSchema(t, a.db, when, a.schema)
	if t.Failed() {
		a.schema = schemaOf(t, a.db)
	}
}

// eachTable runs test for the tables of each schema in turn, but for those that
// must be refused, with one strategy and the other by turns.
func eachTable(t *testing.T, test func(t *testing.T, a *application, o repack.Options)) {
	for n, s := range wholeSchemas {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			a := givenApplication(t, s)
			for i, table := range a.tables {
				if a.apart {
					t.Fatal("a round of work failed: the databases cannot be compared any more")
				}
				t.Run(table, func(t *testing.T) {
					o := options(t, table, strategies[(i+n)%len(strategies)])
					if word, ok := a.refused[table]; ok {
						a.refuses(t, o, word)
					} else {
						test(t, a, o)
					}
				})
			}
		})
	}
}

func (a *application) refuses(t *testing.T, o repack.Options, word string) {
	t.Helper()
	o.Until = repack.PreValidate
	err := newRepack(t, a.db, o).Run(testContext(t))
	var refused *repack.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), word) {
		t.Errorf("run of %s: %v, want a *RefusedError that says %q", o.Table, err, word)
	}
	a.same(t, "after a refusal")
}

// TestSchemas swaps every table of each schema and puts it back, and then
// repacks it, while the application works.
func TestSchemas(t *testing.T) {
	t.Parallel()
	eachTable(t, func(t *testing.T, a *application, o repack.Options) {
		write := func() { a.write(t) }
		runUntil(t, a.db, o, repack.Swap)
		a.write(t)
		revert(t, a.db, atStep(o, repack.StepWritingThrough, write))
		a.same(t, "after the revert")
		run(t, a.db, atStep(atStage(o, repack.Backfill, write), repack.StepWritingThrough, write))
		a.same(t, "after the run")
	})
}
