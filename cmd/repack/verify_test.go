package main

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// secondsPattern matches what depends on the machine.
var secondsPattern = regexp.MustCompile(`in \d+\.\ds`)

// verifyOutput runs the command and returns its exit code, its result and its messages.
func verifyOutput(t *testing.T, db *pgtest.Database, args ...string) (code int, result, said string) {
	t.Helper()
	var stdout, stderr strings.Builder
	code = run(t.Context(), append([]string{"repack", args[0], "--dsn", db.DSN, "--table", "app.t", "-q"}, args[1:]...), &stdout, &stderr)
	return code, secondsPattern.ReplaceAllString(stdout.String(), "in Ns"), stderr.String()
}

func TestVerifyCommand(t *testing.T) {
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, "a b" text);
		INSERT INTO app.t SELECT i, 'x' FROM generate_series(1, 100) AS i`)
	steps := []struct {
		before     string
		args       []string
		code       int
		want, said string
	}{
		{"", []string{"verify"}, exitRefused, "", "no such job"},
		{"", []string{"verify", "--mode", "off"}, exitUsage, "", "want sample or full"},
		{"", []string{"verify", "--mode", "most"}, exitUsage, "", "unknown verification"},
		{"", []string{"verify", "--format", "xml"}, exitUsage, "", "--format"},
		{"", []string{"run", "--verify", "most"}, exitUsage, "", "unknown verification"},
		{"", []string{"run", "--until", "sync_schema"}, exitDone, "", ""},
		{"", []string{"verify"}, exitRefused, "", "nothing to verify"},
		{"", []string{"run", "--until", "post_sync_update"}, exitDone, "", ""},
		{
			`DELETE FROM app.t WHERE id = 1`,
			[]string{"verify"},
			exitDone,
			`equal: "app"."t" and "repack_job_1"."t" (full): 99 rows looked for, 100 of the copy compared, 1 pending, in Ns` + "\n", "",
		},
		{
			`UPDATE repack_job_1.t SET "a b" = 'y' WHERE id = 2`,
			[]string{"verify", "--mode", "sample"},
			exitFailed,
			`different: "app"."t" and "repack_job_1"."t" (sample): 99 rows looked for, 100 of the copy compared, 1 pending, in Ns` +
				"\n  different: id = \"2\" in a b\n", "differ in 1 row without a pending change",
		},
		{"", []string{"run", "--verify", "off"}, exitFailed, "", `different: id = "2" in a b`},
		{`UPDATE repack_job_1.t SET "a b" = 'x' WHERE id = 2`, []string{"run", "--until", "swap", "--verify", "off"}, exitDone, "", ""},
		{
			"",
			[]string{"verify"},
			exitDone,
			`equal: "app"."t" and "repack_job_1_old"."t" (full): 99 rows looked for, 99 of the copy compared, 0 pending, in Ns` + "\n", "",
		},
	}
	for _, s := range steps {
		if s.before != "" {
			db.Exec(t, s.before)
		}
		code, result, said := verifyOutput(t, db, s.args...)
		if code != s.code || result != s.want || !strings.Contains(said, s.said) {
			t.Fatalf("%v: exit code %d, want %d\nresult %q,\nwant   %q\nsaid %q, want %q in it", s.args, code, s.code, result, s.want, said, s.said)
		}
	}
}

func TestVerifyJSON(t *testing.T) {
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, n int); INSERT INTO app.t SELECT i, i FROM generate_series(1, 100) AS i`)
	if code, _, said := verifyOutput(t, db, "run", "--until", "swap"); code != exitDone {
		t.Fatalf("run: %s", said)
	}
	db.Exec(t, `UPDATE repack_job_1_old.t SET n = 0 WHERE id = 7; UPDATE app.t SET n = 0 WHERE id = 8`)
	code, result, _ := verifyOutput(t, db, "verify", "--format", "json")
	var got struct {
		Equal bool `json:"equal"`
		repack.Verification
	}
	if err := json.Unmarshal([]byte(result), &got); err != nil {
		t.Fatalf("%v: %s", err, result)
	}
	if code != exitFailed || got.Equal || !got.Swapped || got.Rows != 100 || got.Pending != 1 || len(got.Mismatches) != 1 {
		t.Fatalf("exit code %d: %s", code, result)
	}
	if m := got.Mismatches[0]; m.Kind != "different" || m.Key["id"] != "7" || len(m.Columns) != 1 || m.Columns[0] != "n" {
		t.Errorf("named %+v", m)
	}
}
