//go:build unix

package tests

import (
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/creack/pty"

	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// TestTerminal runs the program on a terminal, of 40 columns.
func TestTerminal(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, env string
		bar       bool
	}{
		{"xterm", "TERM=xterm-256color", true},
		{"dumb", "TERM=dumb", false},
		{"no colour", "NO_COLOR=1", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, smallSQL+`; INSERT INTO app.t SELECT g, repeat('x', 500) FROM generate_series(1001, 5000) g`)
			p := command(t, []string{"REPACK_DSN=" + db.DSN, "TERM=xterm", c.env}, "run", "app.t", "--batch-size", "50", "--jobs", "1", "--log-level", "debug")
			p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = nil, nil, nil
			terminal, err := pty.StartWithSize(p.cmd, &pty.Winsize{Rows: 24, Cols: 40})
			if err != nil {
				t.Fatal(err)
			}
			defer terminal.Close()
			output, _ := io.ReadAll(terminal) // ends with an error when the program has ended
			if code := p.wait(t); code != 0 {
				t.Fatalf("exit code %d\n%s", code, output)
			}
			text := strings.ReplaceAll(string(output), "\r\n", "\n")
			if strings.Contains(text, "\x1b") {
				t.Errorf("escape sequences in %q", text)
			}
			if drawn := strings.Contains(text, "\rcopying blocks"); drawn != c.bar || !c.bar && strings.Contains(text, "\r") {
				t.Errorf("a bar %t, want %t:\n%q", drawn, c.bar, text)
			}
			for line := range strings.Lines(text) {
				parts := strings.Split(strings.TrimSuffix(line, "\n"), "\r")
				if last := parts[len(parts)-1]; !logLine.MatchString(last) && !strings.HasPrefix(last, "app.t: ") {
					t.Errorf("a line on that of the bar: %q", line)
				}
				for _, part := range parts[:len(parts)-1] {
					if len(part) >= 40 {
						t.Errorf("%d columns drawn on 40: %q", len(part), part)
					}
				}
			}
		})
	}
}

// logLine is how a person sees a line of the log: the time of day, the level, and names without
// quotes.
var logLine = regexp.MustCompile(`^\d\d:\d\d:\d\d [A-Z]{3} [^"]`)

var lastLine = regexp.MustCompile(`(?m)^app\.t: \d+ \w+ → \d+ \w+ \(-?\d+ \w+, -?\d+ %\) in \d+ s(; longest lock \d+ ms)?$`)

// TestLastLine says what has been gained, also of a job that was gone on with, of
// each partition, and in JSON.
func TestLastLine(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		db.Exec(t, smallSQL+`;
			INSERT INTO app.t SELECT g, repeat('x', 500) FROM generate_series(1001, 20000) g;
			DELETE FROM app.t WHERE id % 10 > 0;
			CREATE TABLE app.parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
			CREATE TABLE app.one PARTITION OF app.parted FOR VALUES FROM (1) TO (2);
			CREATE TABLE app.two PARTITION OF app.parted DEFAULT`)
		if p := cli(t, db, 0, "run", "app.t", "--strategy", strategy, "--until", "swap"); lastLine.MatchString(p.stderr.String()) {
			t.Errorf("a job that is not done has an end:\n%s", p.stderr.String())
		}
		before := pgtest.Query[int64](t, db.Pool, `SELECT pg_total_relation_size('repack_job_1_old.t')`)
		p := cli(t, db, 0, "run", "app.t", "--log-level", "info")
		if !lastLine.MatchString(p.stderr.String()) || before == 0 {
			t.Errorf("no last line in\n%s", p.stderr.String())
		}
		cli(t, db, 0, "run", "app.parted", "--strategy", strategy).says(t, "app.one: ", "app.two: ")
		cli(t, db, 0, "run", "app.t", "--log-format", "json").says(t, `"msg":"table repacked"`, `"bytes_before":`, `"bytes_after":`, `"seconds":`)
		cli(t, db, 0, "run", "app.t", "--log-level", "warn").saysNot(t, "→")
	})
}
