package tests

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// verifiedSQL has columns whose values can differ in their bytes and yet be
// equal to every operator.
const verifiedSQL = `
CREATE SCHEMA app;
CREATE FUNCTION app.shout(t text) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT upper(t) $$;
CREATE TABLE app.docs (
    id     bigint PRIMARY KEY,
    gone   int,
    note   text,
    amount numeric,
    ratio  float8,
    doc    json,
    list   int[],
    fixed  char(6),
    long   text,
    loud   text GENERATED ALWAYS AS (app.shout(note)) STORED
);
ALTER TABLE app.docs DROP COLUMN gone;
ALTER TABLE app.docs ALTER COLUMN long SET STORAGE EXTERNAL;
INSERT INTO app.docs
SELECT i, 'note ' || i, 1.0, 0, '{"a": 1}', '{1,2}', 'ab', CASE WHEN i % 50 = 0 THEN repeat(md5(i::text), 400) END
FROM   generate_series(1, 1000) AS i;
UPDATE app.docs SET note = 'NOTE' WHERE id % 3 = 0`

const shadowDocs = "repack_job_1.docs"

// givenDocs repacks app.docs and compares everything.
func givenDocs(t *testing.T, db *pgtest.Database, strategy string) repack.Options {
	t.Helper()
	db.Exec(t, verifiedSQL)
	o := options(t, "app.docs", strategy)
	o.Verify = repack.VerifyFull
	return o
}

// corrupted does to the shadow what no bug should, right before it is compared.
func corrupted(t *testing.T, db *pgtest.Database, o repack.Options, sql string) repack.Options {
	t.Helper()
	return atStep(o, repack.StepCaughtUp, func() { db.Exec(t, sql) })
}

// mismatches returns what a *VerifyError names, one string a row.
func mismatches(t *testing.T, err error) []string {
	t.Helper()
	var differs *repack.VerifyError
	if !errors.As(err, &differs) {
		t.Fatalf("want *VerifyError, got: %v", err)
	}
	var found []string
	for _, m := range differs.Mismatches {
		found = append(found, fmt.Sprint(m.Kind, m.Key, m.Columns))
	}
	return found
}

func wantMismatches(t *testing.T, err error, want ...string) {
	t.Helper()
	if got := mismatches(t, err); !slices.Equal(got, want) {
		t.Errorf("named %q, want %q", got, want)
	}
}

var corruptions = []struct {
	name, sql string
	want      []string
}{
	{"deleted", `DELETE FROM {shadow} WHERE id = 42`, []string{"missing[42] []"}},
	{"added", `INSERT INTO {shadow} (id) VALUES (-1)`, []string{"extra[-1] []"}},
	{"key", `UPDATE {shadow} SET id = 5000 WHERE id = 42`, []string{"extra[5000] []", "missing[42] []"}},
	{"value", `UPDATE {shadow} SET note = 'wrong' WHERE id = 1000`, []string{"different[1000] [note loud]"}},
	{
		"exchanged",
		`UPDATE {shadow} SET note = 'note ' || 41 - id % 2 WHERE id IN (40, 41)`,
		[]string{"different[40] [note loud]", "different[41] [note loud]"},
	},
	{"null", `UPDATE {shadow} SET note = NULL WHERE id = 7`, []string{"different[7] [note loud]"}},
	{"scale", `UPDATE {shadow} SET amount = 1.00 WHERE id = 7`, []string{"different[7] [amount]"}},
	{"minus zero", `UPDATE {shadow} SET ratio = '-0' WHERE id = 7`, []string{"different[7] [ratio]"}},
	{"not a number", `UPDATE {shadow} SET ratio = 'NaN' WHERE id = 7`, []string{"different[7] [ratio]"}},
	{"json blank", `UPDATE {shadow} SET doc = '{"a":  1}' WHERE id = 7`, []string{"different[7] [doc]"}},
	{"array bounds", `UPDATE {shadow} SET list = '[0:1]={1,2}' WHERE id = 7`, []string{"different[7] [list]"}},
	{
		"toasted",
		`UPDATE {shadow} SET long = overlay(long PLACING 'x' FROM 12000) WHERE id = 50`,
		[]string{"different[50] [long]"},
	},
	{"twelve", `DELETE FROM {shadow} WHERE id < 13`, []string{
		"missing[1] []", "missing[10] []", "missing[11] []", "missing[2] []", "missing[3] []",
		"missing[4] []", "missing[5] []", "missing[6] []", "missing[7] []", "missing[8] []", // as they lie
	}},
}

// TestVerifyStopsTheSwap: whatever is wrong with the shadow is found and named,
// the source stays as it is, and running again does not help.
func TestVerifyStopsTheSwap(t *testing.T) {
	t.Parallel()
	for n, c := range corruptions {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			o := givenDocs(t, db, strategies[n%len(strategies)])
			before, rows := db.Dump(t), db.Checksum(t, "app.docs")
			sql := strings.ReplaceAll(c.sql, "{shadow}", shadowDocs)
			wantMismatches(t, newRepack(t, db, corrupted(t, db, o, sql)).Run(testContext(t)), c.want...)
			if n%2 == 0 || thorough() {
				wantMismatches(t, newRepack(t, db, o).Run(testContext(t)), c.want...)
			}
			o.Verify = repack.VerifyOff
			wantMismatches(t, newRepack(t, db, o).Run(testContext(t)), c.want...)
			if now := db.Checksum(t, "app.docs"); now != rows {
				t.Errorf("the table is now %s, was %s", now, rows)
			}
			if n%3 != 0 && !thorough() { // the rest is the same for all
				return
			}
			reset(t, db, o)
			if after := db.Dump(t); after != before {
				t.Errorf("schema changed:\n%s\nwas:\n%s", after, before)
			}
			o.Verify = repack.VerifyFull
			run(t, db, o)
			if now := db.Checksum(t, "app.docs"); now != rows {
				t.Errorf("after a clean run the table is %s, was %s", now, rows)
			}
		})
	}
}

// TestVerifyComparesGeneratedColumns: the function behind one has been replaced
// since the rows were written, so that the copy's values are new ones.
func TestVerifyComparesGeneratedColumns(t *testing.T) {
	t.Parallel()
	db := withRegistry.New(t)
	o := givenDocs(t, db, repack.ChangeLog)
	runUntil(t, db, o, repack.Setup) // before that it would be refused
	db.Exec(t, `CREATE OR REPLACE FUNCTION app.shout(t text) RETURNS text IMMUTABLE LANGUAGE sql
		AS $$ SELECT upper(t) || CASE WHEN t = 'note 500' THEN '!' ELSE '' END $$`)
	wantMismatches(t, newRepack(t, db, o).Run(testContext(t)), "different[500] [loud]")
}

// typesSQL are values whose stored form depends on how they came to be stored:
// compressed, moved out of line, packed, expanded, or never stored at all.
var typesSQL = fixture("stored_types")

// TestVerifyKnowsEqualImages: no value is different for having been stored
// another way in the copy, from backfill, replay and the way back alike.
func TestVerifyKnowsEqualImages(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, typesSQL)
		o := options(t, "app.types", strategy)
		o.Verify = repack.VerifyFull
		rewrite := func() {
			db.Exec(t, `UPDATE app.types SET t = t || 'y', v = v WHERE id % 7 = 0`)
			db.Exec(t, `UPDATE app.types SET texts = array_append(texts, t), pair = ROW(t, n)::app.pair WHERE id % 11 = 0`)
		}
		runUntil(t, db, beforeStage(o, repack.SyncSchema, rewrite), repack.Backfill)
		rewrite()
		runUntil(t, db, o, repack.PostSyncUpdate)
		wantEqual(t, verify(t, db, o), 400)
		runUntil(t, db, o, repack.Swap)
		wantEqual(t, verify(t, db, o), 400)
	})
}

func verify(t *testing.T, db *pgtest.Database, o repack.Options) repack.Verification {
	t.Helper()
	v, err := newRepack(t, db, o).Verify(testContext(t))
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	return v
}

func wantEqual(t *testing.T, v repack.Verification, rows int64) {
	t.Helper()
	if !v.Equal() || v.Rows != rows || v.CopyRows != rows || v.Pending != 0 {
		t.Errorf("want %d equal rows, got %+v", rows, v)
	}
}

// TestVerifyExplainsPendingChanges: what has changed since the last replay, or
// is about to, is no mismatch; what is wrong besides is.
func TestVerifyExplainsPendingChanges(t *testing.T) {
	t.Parallel()
	changes := []struct{ name, sql string }{
		{"update", `UPDATE app.docs SET note = 'changed' WHERE id % 2 = 0`},
		{"insert", `INSERT INTO app.docs SELECT i, 'new' FROM generate_series(2001, 2200) AS i`},
		{"delete", `DELETE FROM app.docs WHERE id % 3 = 0`},
		{"key", `UPDATE app.docs SET id = id + 10000 WHERE id % 5 = 0`},
		{"truncate", `TRUNCATE app.docs; INSERT INTO app.docs SELECT i, 'new' FROM generate_series(1, 20) AS i`},
	}
	for n, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := withRegistry.New(t)
			o := givenDocs(t, db, strategies[n%len(strategies)])
			o.BatchSize = 50
			o = atStep(o, repack.StepCaughtUp, func() { db.Exec(t, c.sql) })
			runUntil(t, db, o, repack.PostSyncUpdate)
			db.EqualTables(t, "app.docs", shadowDocs) // the comparison replays to look again
			db.Exec(t, `UPDATE app.docs SET amount = 2.0 WHERE id % 2 = 0`)
			v := verify(t, db, o)
			if v.Pending == 0 {
				t.Errorf("want differences that are pending, got %+v", v)
			}
			db.Exec(t, `INSERT INTO `+shadowDocs+` (id) VALUES (-1)`)
			_, err := newRepack(t, db, o).Verify(testContext(t))
			wantMismatches(t, err, "extra[-1] []")
		})
	}
}

// TestVerifyLooksAgain: a row that was pending is compared when it has been
// replayed, here by something that gets it wrong.
func TestVerifyLooksAgain(t *testing.T) {
	t.Parallel()
	inTurn(t, 1, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenDocs(t, db, strategy)
		err := newRepack(t, db, corrupted(t, db, o, `
			CREATE FUNCTION app.spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.amount := 3; RETURN NEW; END $$;
			CREATE TRIGGER spoil BEFORE INSERT ON `+shadowDocs+` FOR EACH ROW EXECUTE FUNCTION app.spoil();
			UPDATE app.docs SET note = 'pending' WHERE id = 77`)).Run(testContext(t))
		wantMismatches(t, err, "different[77] [amount]")
	})
}
