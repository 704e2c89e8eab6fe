package main

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// signalsPattern is what signals are, which differs from moment to moment.
var signalsPattern = regexp.MustCompile(`(?s)(Now:\n).*?\n\n`)

var update = flag.Bool("update", false, "write golden files anew")

const plannedSQL = `
CREATE SCHEMA app;
CREATE TABLE app.customer (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE app.orders (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    number   serial UNIQUE,
    customer bigint NOT NULL REFERENCES app.customer ON DELETE CASCADE,
    note     text NOT NULL DEFAULT '',
    total    numeric(10, 2) CHECK (total >= 0),
    placed   timestamptz NOT NULL DEFAULT now(),
    paid     boolean
) WITH (fillfactor = 90);
CREATE INDEX orders_customer ON app.orders (customer);
CREATE INDEX orders_unpaid ON app.orders (placed) WHERE NOT paid;
CREATE TABLE app.line (id bigint PRIMARY KEY, orders bigint NOT NULL REFERENCES app.orders);
CREATE VIEW app.unpaid AS SELECT id, customer FROM app.orders WHERE NOT paid;
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touch BEFORE UPDATE ON app.orders FOR EACH ROW EXECUTE FUNCTION app.touch();
CREATE PUBLICATION shop FOR TABLE app.orders;
GRANT SELECT ON app.orders TO pg_read_all_data;
COMMENT ON TABLE app.orders IS 'what customers want';
INSERT INTO app.customer VALUES (1, 'one');
INSERT INTO app.orders (customer) SELECT 1 FROM generate_series(1, 5000);
ANALYZE app.orders`

// sizePattern matches what depends on the server's version.
var sizePattern = regexp.MustCompile(`\d+ (bytes|kB|MB)|About \d+%`)

// serverRepackText is part of a plan on PostgreSQL 19.
const serverRepackText = `
If all you want is the space back, the server's own command would do, too: REPACK (CONCURRENTLY) "app"."orders"
How the two differ: docs/repack-or-repack.md.
`

// Not parallel: package cli has global state, so two runs in one process would share
// it.
func TestPlanText(t *testing.T) {
	db := pgtest.New(t)
	db.Exec(t, plannedSQL)
	for name, args := range map[string][]string{
		"plan":                {"plan"},
		"plan_dry_run":        {"run", "--dry-run"},
		"plan_direct_trigger": {"plan", "--strategy", "direct-trigger", "--until", "sync_schema"},
		"plan_sql":            {"plan", "--until", "setup", "--sql"},
	} {
		if name == "plan_sql" && db.Version() >= 18 {
			continue // there NOT NULL is a constraint with a name
		}
		var stdout, stderr strings.Builder
		args = append(append([]string{"repack"}, args...), "--table", "app.orders", "--dsn", db.DSN, "--jobs", "2")
		if code := run(t.Context(), args, &stdout, &stderr); code != exitDone || stderr.Len() > 0 {
			t.Fatalf("%v: exit code %d: %s", args, code, stderr.String())
		}
		before, after, told := strings.Cut(stdout.String(), serverRepackText)
		if told != (db.Version() >= 19) {
			t.Errorf("%v: the server's own REPACK is told of: %t", args, told)
		}
		golden(t, strings.TrimSuffix(name, "_dry_run"), sizePattern.ReplaceAllString(signalsPattern.ReplaceAllString(before+after, "$1  READINGS\n\n"), "SIZE"))
	}
}

// The names of fields are stable: see docs/plan.md.
func TestPlanJSON(t *testing.T) {
	db := pgtest.New(t)
	db.Exec(t, plannedSQL)
	db.Exec(t, `BEGIN; LOCK TABLE app.orders IN ROW SHARE MODE; PREPARE TRANSACTION 'fields'`)
	fields := map[string]bool{}
	for code, args := range map[int][]string{exitDone: {"--table", "app.orders"}, exitRefused: {"--table", "app.unpaid"}} {
		var stdout, stderr strings.Builder
		args = append([]string{"repack", "plan", "--format", "json", "--dsn", db.DSN}, args...)
		if got := run(t.Context(), args, &stdout, &stderr); got != code {
			t.Fatalf("%v: exit code %d, want %d: %s", args, got, code, stderr.String())
		}
		var plan any
		if err := json.Unmarshal([]byte(stdout.String()), &plan); err != nil {
			t.Fatal(err)
		}
		collect(fields, "", plan)
	}
	if db.Version() >= 19 { // null before
		for _, name := range []string{"sql", "why_not"} {
			if !fields["server_repack."+name] {
				t.Errorf("no field server_repack.%s", name)
			}
			delete(fields, "server_repack."+name)
		}
	}
	golden(t, "plan_fields", strings.Join(slices.Sorted(maps.Keys(fields)), "\n")+"\n")
}

// collect notes the paths of all fields.
func collect(fields map[string]bool, path string, value any) {
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			fields[path+name] = true
			collect(fields, path+name+".", member)
		}
	case []any:
		for _, element := range v {
			collect(fields, path, element)
		}
	}
}

// golden compares text with a file in testdata.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s: got (go test ./cmd/repack -update writes it anew)\n%s", path, text)
	}
}
