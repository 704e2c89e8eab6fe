package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/internal/size"
	"github.com/repack-go/repack/repack"
)

const watchInterval = 2 * time.Second

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show where the latest job of each table stands",
		Flags: slices.Concat([]cli.Flag{
			tableFlag(),
			&cli.StringFlag{Name: "format", Value: "text", Usage: "text or json"},
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "show the status again every two seconds, until interrupted; on a terminal in the same place, with --format json a line each time"},
			&cli.BoolFlag{Name: "until-done", Usage: "with --watch: end when no job is unfinished any more; the exit code is 0 if the latest jobs are done, and 1 otherwise"},
			&cli.BoolFlag{Name: "history", Usage: "show when each stage of the table's jobs began and ended, and its error"},
		}, connectionFlags()),
		Action: func(c *cli.Context) error {
			config, o, err := options(c)
			if err != nil {
				return err
			}
			write, ok := map[string]func(io.Writer, []repack.Status) error{"text": writeText, "json": writeJSON}[c.String("format")]
			if !ok {
				return &repack.UsageError{Err: fmt.Errorf("--format: want text or json, not %q", c.String("format"))}
			}
			r, err := repack.New(config, o)
			if err != nil {
				return err
			}
			if c.Bool("history") {
				return showHistory(c, r)
			}
			if c.Bool("until-done") && !c.Bool("watch") {
				return usagef("--until-done goes with --watch")
			}
			if c.Bool("watch") && c.String("format") == "json" {
				write = writeJSONLine
			}
			return show(c, r, write)
		},
	}
}

// errWatched ends status --watch. An interrupt is its normal end, so nothing is
// reported.
var errWatched = errors.New("watched until interrupted")

// show writes the status once, or with --watch until the context ends.
func show(c *cli.Context, r *repack.Repack, write func(io.Writer, []repack.Status) error) error {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		list, err := r.Status(c.Context)
		if c.Bool("watch") && c.Context.Err() != nil {
			return errWatched
		}
		if err != nil {
			return err
		}
		if c.Bool("watch") && drawable(c.App.Writer, os.Getenv("TERM")) {
			_, _ = io.WriteString(c.App.Writer, clearScreen) // what cannot be drawn must not end the command
		}
		if err := write(c.App.Writer, list); err != nil {
			return err
		}
		if !c.Bool("watch") {
			return nil
		}
		if c.Bool("until-done") && !slices.ContainsFunc(list, func(s repack.Status) bool { return s.FinishedAt == nil }) {
			return ended(list)
		}
		select {
		case <-c.Context.Done():
			return errWatched
		case <-ticker.C:
		}
	}
}

// clearScreen goes to the beginning of a terminal and clears it.
const clearScreen = "\x1b[H\x1b[2J"

// ended is the end of status --watch --until-done.
func ended(list []repack.Status) error {
	for _, s := range list {
		if s.State != "done" {
			return fmt.Errorf("job %d of %s is %s", s.Job, s.Table, s.State)
		}
	}
	return nil
}

// showHistory writes the stages of a table's jobs.
func showHistory(c *cli.Context, r *repack.Repack) error {
	list, err := r.History(c.Context)
	if err != nil {
		return err
	}
	if c.String("format") == "json" {
		encoder := json.NewEncoder(c.App.Writer)
		encoder.SetIndent("", "  ")
		return encoder.Encode(list)
	}
	table := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "JOB\tSTAGE\tBEGAN\tTOOK\tERROR")
	for _, s := range list {
		took, failed := "-", "-"
		if s.Ended != nil {
			took = s.Ended.Sub(s.Began).Round(time.Millisecond).String()
		}
		if s.Error != nil {
			failed, _, _ = strings.Cut(*s.Error, "\n")
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\n", s.Job, s.Stage, s.Began.Local().Format(time.DateTime), took, failed)
	}
	return table.Flush()
}

// writeJSONLine writes the list on one line.
func writeJSONLine(w io.Writer, list []repack.Status) error { return json.NewEncoder(w).Encode(list) }

func writeJSON(w io.Writer, list []repack.Status) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(list)
}

func writeText(w io.Writer, list []repack.Status) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no jobs")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "JOB\tTABLE\tSTRATEGY\tSTAGE\tSTATE\tROWS COPIED\tOF ABOUT\tPENDING\tROWS/S\tETA\tRUN BY")
	for _, s := range list {
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%.0f\t%s\t%s\n", s.Job, s.Table, s.Strategy, s.Stage, s.State,
			s.RowsCopied, s.RowsTotal, s.PendingChanges, s.Rate, eta(s), runBy(s))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if err := writeSettings(w, list); err != nil {
		return err
	}
	batches := map[int64]bool{}
	for _, s := range list {
		if s.Batch == nil || batches[s.Batch.ID] {
			continue
		}
		batches[s.Batch.ID] = true
		if _, err := fmt.Fprintf(w, "batch %d: %d of %d tables, %s of %s\n", s.Batch.ID, s.Batch.Done, s.Batch.Tables, size.Text(s.Batch.BytesDone), size.Text(s.Batch.Bytes)); err != nil {
			return err
		}
	}
	for _, s := range list {
		for _, b := range s.IndexBuilds {
			if _, err := fmt.Fprintf(w, "job %d builds index %s: %s%s\n", s.Job, b.Index, phase(b), percent(b)); err != nil {
				return err
			}
		}
		if s.CascadeOf != "" {
			if _, err := fmt.Fprintf(w, "job %d is one of the cascade of %s\n", s.Job, s.CascadeOf); err != nil {
				return err
			}
		}
		for _, line := range s.Alteration {
			if _, err := fmt.Fprintf(w, "job %d changes %s\n", s.Job, line); err != nil {
				return err
			}
		}
		if s.Revertible != nil {
			if _, err := fmt.Fprintf(w, "job %d revertible: %s\n", s.Job, *s.Revertible); err != nil {
				return err
			}
		}
		if s.WaitingFor != nil {
			if _, err := fmt.Fprintf(w, "job %d waits since %s: %s\n", s.Job, s.WaitingSince.Local().Format(time.DateTime), *s.WaitingFor); err != nil {
				return err
			}
		}
		if s.Paused != nil {
			if _, err := fmt.Fprintf(w, "job %d is %s\n", s.Job, pausedBy(*s.Paused)); err != nil {
				return err
			}
		}
		if s.State == "interrupted" {
			if _, err := fmt.Fprintf(w, "job %d was interrupted: run the same command again to go on, or undo it with: repack %s --table '%s'\n",
				s.Job, wayBack(s), s.Table); err != nil {
				return err
			}
		}
		if s.LongestLockMS != nil {
			if _, err := fmt.Fprintf(w, "longest lock of job %d: %d ms\n", s.Job, *s.LongestLockMS); err != nil {
				return err
			}
		}
		if s.LastError == nil {
			continue
		}
		if _, err := fmt.Fprintf(w, "last error of job %d: %s\n", s.Job, *s.LastError); err != nil {
			return err
		}
	}
	return nil
}

// pausedBy says who has paused a job, since when, and why.
func pausedBy(p repack.Paused) string {
	text := "paused by " + p.By + " since " + p.Since.Local().Format(time.DateTime)
	if p.Reason != "" {
		text += " (" + p.Reason + ")"
	}
	if p.All {
		return text + ", like every table; continue with: repack resume --all"
	}
	return text
}

// wayBack returns the command that undoes a job.
func wayBack(s repack.Status) string {
	if s.Swapped {
		return "revert"
	}
	return "reset"
}

// phase returns the phase of a build, without the words that say that it builds an
// index.
func phase(b repack.IndexBuild) string { return strings.TrimPrefix(b.Phase, "building index: ") }

func percent(b repack.IndexBuild) string {
	if b.Percent == nil {
		return ""
	}
	return fmt.Sprintf(", %.0f%%", *b.Percent)
}

func eta(s repack.Status) string {
	if s.ETASeconds == nil {
		return "-"
	}
	return (time.Duration(*s.ETASeconds) * time.Second).String()
}

func runBy(s repack.Status) string {
	if s.Runner == nil {
		return "-"
	}
	return fmt.Sprintf("%d@%s since %s", s.Runner.PID, s.Runner.Host, s.Runner.Since.Format(time.DateTime))
}
