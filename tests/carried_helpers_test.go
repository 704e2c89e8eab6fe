package tests

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// roles stand in SQL as {alice}, {bob} and {carol}, and {database} for the
// database: roles are shared by all databases of the server, so each test has
// its own.
type roles map[string]string

func givenRoles(t *testing.T, db *pgtest.Database) roles {
	t.Helper()
	r := roles{"database": db.Name}
	for _, name := range []string{"alice", "bob", "carol"} {
		r[name] = db.Role(t)
	}
	return r
}

func (r roles) in(sql string) string {
	for name, role := range r {
		sql = strings.ReplaceAll(sql, "{"+name+"}", role)
	}
	return sql
}

// probe is something the application does, and what it gets: the rows of the
// last statement, columns separated by "|", rows by newlines, or "ERROR" and
// the SQLSTATE. It runs in a transaction that is rolled back.
type probe struct{ sql, want string }

// result runs sql as the application would and takes it back again.
func result(t *testing.T, db *pgtest.Database, sql string) string {
	t.Helper()
	conn, err := db.Pool.Acquire(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	results, err := conn.Conn().PgConn().Exec(testContext(t), "BEGIN;"+sql).ReadAll()
	if _, rollbackErr := conn.Exec(testContext(t), "ROLLBACK; RESET ALL; RESET SESSION AUTHORIZATION"); rollbackErr != nil {
		t.Fatal(rollbackErr)
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return "ERROR " + pgErr.Code
	}
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	var lines []string
	for _, row := range results[len(results)-1].Rows {
		lines = append(lines, string(slices.Concat(joined(row)...)))
	}
	return strings.Join(lines, "\n")
}

func joined(row [][]byte) [][]byte {
	var parts [][]byte
	for i, value := range row {
		if i > 0 {
			parts = append(parts, []byte("|"))
		}
		parts = append(parts, value)
	}
	return parts
}

// userTablesSQL lists the tables whose rows the tool must not change.
const userTablesSQL = `
SELECT   format('%I.%I', n.nspname, c.relname)
FROM     pg_class c
JOIN     pg_namespace n ON n.oid = c.relnamespace
WHERE    c.relkind IN ('r', 'm') AND n.nspname !~ '^(pg_|information_schema|repack_)'
ORDER BY 1`

// checksumsSQL writes one query for all of them; see pgtest's Checksum for the
// digest, which does not depend on the order of the rows.
const checksumsSQL = `
SELECT   string_agg(format(
           'SELECT %L, format(''%%s rows, md5 %%s'', count(*), md5(coalesce(
                string_agg(md5(ROW(r.*)::text), '''' ORDER BY md5(ROW(r.*)::text) COLLATE "C"), '''')))
            FROM   %s AS r', t, t), ' UNION ALL ')
FROM     unnest($1::text[]) t`

// checksums are those of all the application's tables.
func checksums(t *testing.T, db *pgtest.Database) map[string]string {
	t.Helper()
	tables := pgtest.Column[string](t, db.Pool, userTablesSQL)
	rows, err := db.Pool.Query(testContext(t), pgtest.Query[string](t, db.Pool, checksumsSQL, tables))
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	var table, sum string
	if _, err := pgx.ForEachRow(rows, []any{&table, &sum}, func() error { sums[table] = sum; return nil }); err != nil {
		t.Fatal(err)
	}
	return sums
}

func sameChecksums(t *testing.T, db *pgtest.Database, when string, want map[string]string) {
	t.Helper()
	got := checksums(t, db)
	for _, table := range slices.Sorted(maps.Keys(want)) {
		if got[table] != want[table] {
			t.Errorf("%s: %s has %s, want %s", when, table, got[table], want[table])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: tables %q, want %q", when, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

// schemaText is what a database's schema is judged by: pg_dump and the catalogs.
type schemaText struct{ dump, catalog string }

func schemaOf(t *testing.T, db *pgtest.Database) schemaText {
	t.Helper()
	return schemaText{db.Dump(t), db.CatalogDump(t)}
}

func sameSchema(t *testing.T, db *pgtest.Database, when string, want schemaText) {
	t.Helper()
	got := schemaOf(t, db)
	if got.dump != want.dump {
		t.Errorf("%s: dump changed:\n%s", when, firstDifference(want.dump, got.dump))
	}
	if got.catalog != want.catalog {
		t.Errorf("%s: catalog changed:\n%s", when, firstDifference(want.catalog, got.catalog))
	}
}

// shownLines is how much of a text is shown from its first difference on.
const shownLines = 12

// firstDifference shows two texts from the line on in which they differ, and
// all lines that only one of them has.
func firstDifference(was, is string) string {
	a, b := strings.Split(was, "\n"), strings.Split(is, "\n")
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	part := func(lines []string) string {
		return strings.Join(lines[min(n, len(lines)):min(n+shownLines, len(lines))], "\n")
	}
	text := "was:\n" + part(a) + "\nis:\n" + part(b)
	slices.Sort(a)
	slices.Sort(b)
	if slices.Equal(a, b) {
		return text + "\n(the same lines in another order)"
	}
	return text + "\nall:\n" + textDiff(was, is)
}

// atStage calls do once, after the stage.
func atStage(o repack.Options, stage repack.Stage, do func()) repack.Options {
	before := o.Hooks.AfterStage
	called := false
	o.Hooks.AfterStage = func(ctx context.Context, name repack.Stage) error {
		if before != nil {
			if err := before(ctx, name); err != nil {
				return err
			}
		}
		if name == stage && !called {
			called = true
			do()
		}
		return nil
	}
	return o
}

// carriedCase is a table app.t, with 100 rows (id, a), and what is joined to
// it. setup makes it; probes show that it works; write is committed by the
// application at several moments, so it must be repeatable.
type carriedCase struct {
	name   string
	since  int
	setup  string
	write  string
	probes []probe
}

const carriedTableSQL = `
CREATE SCHEMA app;
CREATE TABLE app.t (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, a int, b text DEFAULT 'new');
INSERT INTO app.t (a, b) SELECT g % 10, 'b' || g FROM generate_series(1, 100) g;
CREATE TABLE app.log (n bigint GENERATED ALWAYS AS IDENTITY, what text);
CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app.log (what) VALUES (concat_ws(' ', TG_NAME, TG_WHEN, TG_OP, TG_LEVEL, TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME));
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
GRANT USAGE ON SCHEMA app TO {alice}, {bob}, {carol};`

const carriedWriteSQL = `
INSERT INTO app.t (a, b) VALUES (1, 'written');
UPDATE app.t SET a = a + 1 WHERE id = 3;
DELETE FROM app.t WHERE id = (SELECT max(id) FROM app.t WHERE b <> 'written')`

// runCarried tries each case.
func runCarried(t *testing.T, cases []carriedCase) {
	t.Parallel()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, withRegistry.New(t))
		})
	}
}

// runTogether tries cases that leave each other alone on one table, with
// REPACK_THOROUGH on one each, which tells which of them fails.
func runTogether(t *testing.T, groups ...[]carriedCase) {
	if thorough() {
		runCarried(t, slices.Concat(groups...))
		return
	}
	t.Parallel()
	for _, group := range groups {
		t.Run(group[0].name, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			together := carriedCase{}
			for _, c := range group {
				if db.Version() < c.since {
					continue
				}
				together.setup += c.setup + ";\n"
				together.probes = append(together.probes, c.probes...)
				if c.write != "" {
					together.write += c.write + ";\n"
				}
			}
			if together.setup == "" {
				t.Skip("needs a newer PostgreSQL")
			}
			together.run(t, db)
		})
	}
}

// run goes to the swap with one strategy and back again, and then all the way
// with the other. While it goes the application writes; what its triggers and
// rules have written must be there once, and the tool must add nothing.
func (c carriedCase) run(t *testing.T, db *pgtest.Database) {
	if db.Version() < c.since {
		t.Skipf("needs PostgreSQL %d", c.since)
	}
	r := givenRoles(t, db)
	db.Exec(t, r.in(carriedTableSQL))
	db.Exec(t, r.in(c.setup))
	schema := schemaOf(t, db)
	c.probe(t, db, r, "before")

	var sums map[string]string
	write := func() {
		db.Exec(t, r.in(carriedWriteSQL))
		if c.write != "" {
			db.Exec(t, r.in(c.write))
		}
		sums = checksums(t, db)
	}
	o := options(t, "app.t", repack.ChangeLog)
	o.LockTimeout = queuing // the exchange with much that is joined to the table takes its time
	writing := atStep(atStage(o, repack.Backfill, write), repack.StepWritingThrough, write)
	runUntil(t, db, writing, repack.Swap)
	sameChecksums(t, db, "after swap", sums)
	c.probe(t, db, r, "after swap")

	write()
	revert(t, db, atStep(o, repack.StepWritingThrough, write))
	sameChecksums(t, db, "after revert", sums)
	sameSchema(t, db, "after revert", schema)
	c.probe(t, db, r, "after revert")

	o.Strategy = repack.DirectTrigger
	writing = atStep(atStage(o, repack.Backfill, write), repack.StepWritingThrough, write)
	run(t, db, writing)
	sameChecksums(t, db, "after the end", sums)
	sameSchema(t, db, "after the end", schema)
	c.probe(t, db, r, "after the end")
}

func (c carriedCase) probe(t *testing.T, db *pgtest.Database, r roles, when string) {
	t.Helper()
	for _, p := range c.probes {
		if got := result(t, db, r.in(p.sql)); got != r.in(p.want) {
			t.Errorf("%s:\n%s\ngave %q, want %q", when, p.sql, got, r.in(p.want))
		}
	}
}
