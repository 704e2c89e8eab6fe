package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// TestReference compares docs/cli.md with the flags. -update writes it anew.
func TestReference(t *testing.T) {
	const path = "../../docs/cli.md"
	want := reference(application(io.Discard, io.Discard))
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is stale: go test ./cmd/repack -run TestReference -update", path)
	}
}

// reference describes every command and flag.
func reference(app *cli.App) string {
	var b strings.Builder
	b.WriteString("# Commands and flags\n\nWritten by `go test ./cmd/repack -run TestReference -update` from the flags themselves.\n" +
		"A flag beats its variable of the environment.\n\n" + "```\n" + exitCodes + "\n```\n")
	for _, command := range app.Commands {
		fmt.Fprintf(&b, "\n## repack %s\n\n%s.\n", command.Name, strings.ToUpper(command.Usage[:1])+command.Usage[1:])
		if len(command.Flags) == 0 {
			continue
		}
		b.WriteString("\n| flag | variable | default | |\n|---|---|---|---|\n")
		for _, f := range command.Flags {
			documented, ok := f.(cli.DocGenerationFlag)
			if !ok {
				continue
			}
			var names []string
			for _, name := range f.Names() {
				names = append(names, "`"+strings.Repeat("-", min(len(name), 2))+name+"`")
			}
			usage := strings.NewReplacer("|", `\|`, "`", "").Replace(documented.GetUsage())
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", strings.Join(names, ", "), strings.Join(documented.GetEnvVars(), ", "), documented.GetDefaultText(), usage)
		}
	}
	return b.String()
}

// TestDescribed is what packages need: a manual page, completion and a version.
func TestDescribed(t *testing.T) {
	for args, want := range map[string]string{
		"man": ".TH repack", "completion bash": "complete -o bashdefault", "completion zsh": "#compdef repack",
		"completion fish": "complete -c repack", "completion powershell": "Register-ArgumentCompleter", "--version": "repack " + version,
	} {
		var stdout, stderr strings.Builder
		if code := run(t.Context(), append([]string{"repack"}, strings.Fields(args)...), &stdout, &stderr); code != exitDone || !strings.Contains(stdout.String(), want) {
			t.Errorf("repack %s: exit code %d, no %q: %s", args, code, want, stderr.String())
		}
	}
	for _, args := range []string{"completion", "completion tcsh", "man extra"} {
		var stdout, stderr strings.Builder
		if code := run(t.Context(), append([]string{"repack"}, strings.Fields(args)...), &stdout, &stderr); code != exitUsage {
			t.Errorf("repack %s: exit code %d", args, code)
		}
	}
}

// TestEnvironment reads flags from the environment, and says which variable is wrong.
func TestEnvironment(t *testing.T) {
	t.Setenv("REPACK_JOBS", "two")
	var stdout, stderr strings.Builder
	code := run(t.Context(), []string{"repack", "run", "orders", "--dsn", "postgres://nobody@host.invalid/x"}, &stdout, &stderr)
	if code != exitUsage || !strings.Contains(stderr.String(), "REPACK_JOBS") {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}
