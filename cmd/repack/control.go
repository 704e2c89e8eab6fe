package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/repack"
)

// told is a command that tells a run something, from any machine that may use the registry.
type told struct {
	name, usage string
	all         bool // takes --all instead of a table
	flags       []cli.Flag
	tell        func(context.Context, *cli.Context, *repack.Repack) error
	done        string // what is said then, after the table
}

func controlCommands() []*cli.Command {
	var list []*cli.Command
	for _, t := range []told{
		{
			name: "pause", all: true,
			usage: "make runs begin no further piece of work (from any machine; outlives the process)",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "reason", Usage: "`TEXT` that status shows"},
				&cli.BoolFlag{Name: "now", Usage: "also end the chunk under way; it is copied again later (with --order-by, the whole copy)"},
			},
			tell: func(ctx context.Context, c *cli.Context, r *repack.Repack) error {
				return r.Pause(ctx, c.String("reason"), c.Bool("now"))
			},
			done: "paused: no further piece of work begins, and writes are still captured; continue with: repack resume ",
		},
		{
			name: "resume", all: true,
			usage: "end a pause",
			tell:  func(ctx context.Context, _ *cli.Context, r *repack.Repack) error { return r.Resume(ctx) },
			done:  "resumed",
		},
		{
			name:  "swap",
			usage: "let a run that waits with --wait-for-swap swap the tables",
			flags: []cli.Flag{
				&cli.StringFlag{Name: "not-before", Usage: "`TIME` before which the tables are not swapped: 02:00 (the next time that the clock shows it here), \"2026-11-28 02:00\" or RFC 3339"},
			},
			tell: func(ctx context.Context, c *cli.Context, r *repack.Repack) error {
				notBefore, err := parseTime(c.String("not-before"), time.Now())
				if err != nil {
					return err
				}
				return r.AllowSwap(ctx, notBefore)
			},
			done: "may be swapped: the run at work does it, or the next one",
		},
		{
			name:  "stop",
			usage: "make the run of a table end after the piece of work under way (exit code 5); the same command continues it",
			tell:  func(ctx context.Context, _ *cli.Context, r *repack.Repack) error { return r.StopRun(ctx) },
			done:  "told to stop",
		},
	} {
		list = append(list, t.command())
	}
	return append(list, setCommand())
}

func (t told) command() *cli.Command {
	flags := []cli.Flag{tableFlag()}
	if t.all {
		flags = append(flags, &cli.BoolFlag{Name: "all", Usage: "every table, and runs that begin later"})
	}
	return &cli.Command{
		Name: t.name, Usage: t.usage,
		Flags: slices.Concat(flags, t.flags, connectionFlags()),
		Action: func(c *cli.Context) error {
			config, o, err := options(c)
			if err != nil {
				return err
			}
			if t.all && c.Bool("all") == (o.Table != "") {
				return usagef("give a table, or --all")
			}
			r, err := repack.New(config, o)
			if err != nil {
				return err
			}
			if err := t.tell(c.Context, c, r); err != nil {
				return err
			}
			tell := newTeller(c, o.Logger)
			table, which := tell.table, fmt.Sprintf("--table '%s'", tell.table)
			if table == "" {
				table, which = "every table", "--all"
			}
			text := table + " " + t.done
			if t.name == "pause" {
				text += which
			}
			tell.say(c.Context, text, t.name, "table", tell.table)
			return nil
		},
	}
}

// parseTime reads a time: empty is the zero time, and HH:MM the next time that the clock shows
// it.
func parseTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	if at, err := time.ParseInLocation("2006-01-02 15:04", text, now.Location()); err == nil {
		return at, nil
	}
	clock, err := time.Parse("15:04", text)
	if err != nil {
		return time.Time{}, usagef("--not-before %q is not a time, such as 02:00 or %q", text, "2026-11-28 02:00")
	}
	at := time.Date(now.Year(), now.Month(), now.Day(), clock.Hour(), clock.Minute(), 0, 0, now.Location())
	if at.Before(now) {
		at = time.Date(now.Year(), now.Month(), now.Day()+1, clock.Hour(), clock.Minute(), 0, 0, now.Location())
	}
	return at, nil
}

// setCommand changes options of a run. Its words are not tables.
func setCommand() *cli.Command {
	return &cli.Command{
		Name:      "set",
		Usage:     "change options of a run while it is at work, from any machine: repack set --table orders jobs=1",
		ArgsUsage: "FLAG=VALUE…",
		Flags: slices.Concat([]cli.Flag{
			tableFlag(),
			&cli.BoolFlag{Name: "show", Usage: "show the options that were changed, and who changed them"},
		}, connectionFlags()),
		Action: func(c *cli.Context) error {
			changed, err := assignments(c.Args().Slice())
			if err != nil {
				return err
			}
			if len(changed) == 0 && !c.Bool("show") {
				return usagef("give FLAG=VALUE, such as jobs=1, or --show")
			}
			config, o, err := connected(c)
			if err != nil {
				return err
			}
			r, err := repack.New(config, o)
			if err != nil {
				return err
			}
			if len(changed) > 0 {
				if err := r.Set(c.Context, changed); err != nil {
					return err
				}
			}
			if !c.Bool("show") {
				return nil
			}
			list, err := r.Status(c.Context)
			if err != nil {
				return err
			}
			return writeSettings(c.App.Writer, list)
		},
	}
}

// assignments reads FLAG=VALUE.
func assignments(words []string) (map[string]string, error) {
	changed := map[string]string{}
	for _, word := range words {
		flag, value, ok := strings.Cut(word, "=")
		if !ok || flag == "" {
			return nil, usagef("%q is not FLAG=VALUE, such as jobs=1", word)
		}
		changed[strings.TrimPrefix(flag, "--")] = value
	}
	return changed, nil
}

// writeSettings writes the options that were changed for unfinished jobs.
func writeSettings(w io.Writer, list []repack.Status) error {
	for _, s := range list {
		for _, flag := range slices.Sorted(maps.Keys(s.Settings)) {
			set := s.Settings[flag]
			_, err := fmt.Fprintf(w, "job %d works with %s=%s, set by %s at %s\n", s.Job, flag, set.Value, set.By, set.At.Local().Format(time.DateTime))
			if err != nil {
				return err
			}
		}
	}
	return nil
}
