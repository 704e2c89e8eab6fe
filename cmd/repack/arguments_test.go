package main

import (
	"strings"
	"testing"
)

// TestUsageSaysWhatIsWanted gives arguments that no command understands. No connection
// is made.
func TestUsageSaysWhatIsWanted(t *testing.T) {
	t.Setenv("REPACK_DSN", "postgres://nobody@host.invalid/x")
	for _, c := range []struct {
		args string // separated by spaces
		says []string
	}{
		{"plan --table a --table b", []string{"--table is given 2 times", "a, b"}},
		{"plan -t a --table a", []string{"--table is given 2 times"}},
		{"status --table=a -t=b", []string{"--table is given 2 times"}},
		{"revert -ta -tb", []string{"--table is given 2 times"}},
		{"plan a b", []string{"more than one table", "a, b"}},
		{"plan --table a b", []string{`"b"`, "the table is a"}},
		{"plan b --until swap --table a", []string{`"b"`, "the table is a"}},
		{"run --schema app -N 'a.b'", []string{"has a dot"}},
		{"run --strict", []string{"no table given"}},
		{"run a b --on-error ignore", []string{"stop or continue"}},
		{"run a b --max-written lots", []string{"300GB"}},
		{"run a b --min-bloat 300%", []string{"30%"}},
		{"run a b --order best", []string{"smallest"}},
		{"reset a --lock-timeout 1s b", []string{"more than one table"}},
		{"--table a run", []string{"--table stands before the command", "repack run --table"}},
		{"-j 2 run --table a", []string{"-j stands before the command", "repack run -j"}},
		{"--dsn=postgres://u:hunter2@h/x status", []string{"--dsn stands before the command", "repack status --dsn"}},
		{"--quiet", []string{"no command given", "repack run --quiet"}},
		{"--frobnicate", []string{"--frobnicate"}},
		{"rnu --table a", []string{`"rnu"`, "did you mean repack run?"}},
		{"statsu", []string{"did you mean repack status?"}},
		{"zzz", []string{`"zzz"`, "repack --help"}},
		{"run --tabel a", []string{"--tabel", "did you mean --table?"}},
		{"run --table a --dry_run", []string{"did you mean --dry-run?"}},
		{"status --dns=postgres://u:hunter2@h/x", []string{"unknown flag --dns", "did you mean --dsn?"}},
		{"status postgres://u:hunter2@h/x", []string{"--dsn"}},
		{"run --table a --lock-timeout 500", []string{"did you mean 500ms or 500s?"}},
		{"run --table a --max-snapshot-wait=30", []string{"did you mean 30ms or 30s?"}},
		{"run --table a --kill-blockers 5min", []string{"--kill-blockers", "5m"}},
		{"run --table a --lock-timeout soon", []string{`"soon"`, "500ms"}},
		{"run --table a --jobs two", []string{`--jobs "two" is not a whole number`}},
		{"run --table a -jx", []string{`--jobs "x" is not a whole number`}},
		{"run --table a --batch-size 1e5", []string{"whole number"}},
		{"run --table a --lock-retries 2.5", []string{"whole number"}},
		{"run --table", []string{"--table wants a value"}},
		{"run --table --until swap", []string{"--table wants a value"}},
	} {
		var stdout, stderr strings.Builder
		code := run(t.Context(), append([]string{"repack"}, strings.Fields(c.args)...), &stdout, &stderr)
		if code != exitUsage || stdout.Len() > 0 {
			t.Errorf("repack %s: exit code %d, standard output %q", c.args, code, stdout.String())
		}
		for _, want := range c.says {
			if !strings.Contains(stderr.String(), want) {
				t.Errorf("repack %s: no %q in %q", c.args, want, stderr.String())
			}
		}
		if strings.Contains(stderr.String(), "hunter2") {
			t.Errorf("repack %s prints the password: %s", c.args, stderr.String())
		}
	}
}

func TestArrange(t *testing.T) {
	t.Parallel()
	app := application(t.Output(), t.Output())
	for typed, want := range map[string]string{
		"run orders":                         "run --table=orders",
		"run orders --until swap":            "run --until=swap --table=orders",
		"run --keep-old orders -j1":          "run --keep-old --jobs=1 --table=orders",
		"run -torders --table-x":             "",
		"run -t orders orders":               "run --table=orders",
		"run -j=2 -q --table=a":              "run --jobs=2 -q --table=a",
		"run --jobs 2 -- -odd":               "run --jobs=2 --table=-odd",
		"run --lock-retries -1 a":            "run --lock-retries=-1 --table=a",
		"status -w orders --format json":     "status -w --format=json --table=orders",
		"verify orders --mode sample":        "verify --mode=sample --table=orders",
		"plan sales.orders --sql":            "plan --sql --table=sales.orders",
		"reset orders":                       "reset --table=orders",
		"revert --lock-timeout 1s orders":    "revert --lock-timeout=1s --table=orders",
		"run --help":                         "run --help",
		"--version":                          "version",
		"-v":                                 "version",
		"help run":                           "help run",
		"version extra":                      "version extra",
		"run --order-by a=b -t x":            "run --order-by=a=b --table=x",
		"run --to-bigint --until swap x":     "run --to-bigint --until=swap --table=x",
		"plan --to-bigint=a,b x":             "plan --to-bigint=a,b --table=x",
		"run --to-bigint x --no-revert":      "run --to-bigint --no-revert --table=x",
		"demo --rows 10 --strategy=b --keep": "demo --rows=10 --strategy=b --keep",
	} {
		got, err := arrange(app, append([]string{"repack"}, strings.Fields(typed)...))
		if want == "" {
			if err == nil {
				t.Errorf("repack %s is understood as %q", typed, got)
			}
			continue
		}
		if text := strings.Join(got, " "); err != nil || text != "repack "+want {
			t.Errorf("repack %s: %q, %v; want %q", typed, text, err, "repack "+want)
		}
	}
}

func TestVersionFlag(t *testing.T) {
	var stdout, stderr strings.Builder
	if code := run(t.Context(), []string{"repack", "--version"}, &stdout, &stderr); code != 0 || stdout.String() != "repack "+version+"\n" || stderr.Len() > 0 {
		t.Errorf("exit code %d, %q, %q", code, stdout.String(), stderr.String())
	}
}
