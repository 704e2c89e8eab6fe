package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/repack"
)

// teller says on standard error what a command has come to: as a sentence, or
// where the log is JSON as a line of it.
type teller struct {
	out    io.Writer
	logger *slog.Logger
	json   bool
	table  string // as the user has written it
}

func newTeller(c *cli.Context, logger *slog.Logger) teller {
	return teller{c.App.ErrWriter, logger, strings.EqualFold(c.String("log-format"), "json"), strings.TrimSpace(c.String("table"))}
}

// say writes text where people read, else message with attrs.
func (t teller) say(text, message string, attrs ...any) {
	switch {
	case t.json:
		t.logger.Info(message, attrs...)
	case t.logger.Enabled(context.Background(), slog.LevelInfo):
		fmt.Fprintln(t.out, text)
	}
}

// outcome tells what a job has gained, and where the old table is if it is kept.
func (t teller) outcome(o repack.Outcome) {
	attrs := []any{"table", o.Table.String(), "bytes_before", o.Before, "bytes_after", o.After, "seconds", o.Took.Seconds()}
	if o.LongestLock != nil {
		attrs = append(attrs, "longest_lock_ms", o.LongestLock.Milliseconds())
	}
	if o.OldTable != nil {
		attrs = append(attrs, "old_table", o.OldTable.String())
	}
	text := t.name(o.Table.Schema, o.Table.Name) + ": " + gained(o)
	if o.OldTable != nil {
		text += fmt.Sprintf("\nthe old table is kept, as it was at the end, as %s; drop it with: %s", o.OldTable, strings.Join(o.Drop, " "))
	}
	t.say(text, "table repacked", attrs...)
}

// gained is the line at the end: the sizes, unless they are not known, the time
// and the longest lock.
func gained(o repack.Outcome) string {
	text := "repacked"
	if o.Before > 0 {
		saved := o.Before - o.After
		text = fmt.Sprintf("%s → %s (%s, %d %%)", bytes(o.Before), bytes(o.After), bytes(saved), int(math.Round(100*float64(saved)/float64(o.Before))))
	}
	text += " in " + seconds(o.Took)
	if o.LongestLock != nil {
		text += fmt.Sprintf("; longest lock %d ms", o.LongestLock.Milliseconds())
	}
	return text
}

// seconds is a time as people say it, never none at all.
func seconds(d time.Duration) string {
	n := max(int(math.Round(d.Seconds())), 1)
	switch {
	case n < 120:
		return fmt.Sprintf("%d s", n)
	case n < 2*60*60:
		return fmt.Sprintf("%d min %d s", n/60, n%60)
	default:
		return fmt.Sprintf("%d h %d min", n/60/60, n/60%60)
	}
}

// name is how the user has called the table, except for a partition's.
func (t teller) name(schema, name string) string {
	parts := strings.ToLower(strings.ReplaceAll(t.table, `"`, ""))
	if strings.EqualFold(parts, name) || strings.EqualFold(parts, schema+"."+name) {
		return t.table
	}
	return plain(schema) + "." + plain(name)
}

// plain is a name as SQL writes it, without quotes where it needs none.
func plain(name string) string {
	for i, c := range name {
		if c != '_' && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') {
			return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
		}
	}
	return name
}

// untilText says what can be done once a run has ended where it was told to.
func (t teller) untilText(until repack.Stage, list []repack.Status) string {
	again := fmt.Sprintf("repack run --table '%s'", t.table)
	if len(list) == 0 {
		return fmt.Sprintf("%s can be repacked, and nothing has been changed; do it with: %s", t.table, again)
	}
	is := func(s repack.Status) bool { return s.Swapped && s.FinishedAt == nil }
	if slices.ContainsFunc(list, is) {
		return fmt.Sprintf("%s is swapped, and the old table is kept in step with it; end the job and drop the old table with: %s"+
			"\n  or put the old table back with: repack revert --table '%s'", t.table, again, t.table)
	}
	return fmt.Sprintf("%s is not swapped yet (stage %s is done), and its changes are captured until it is; continue with: %s"+
		"\n  or undo it with: repack reset --table '%s'", t.table, latest(list, until), again, t.table)
}

// latest is the stage of the job that is under way.
func latest(list []repack.Status, otherwise repack.Stage) repack.Stage {
	for _, s := range list {
		if s.FinishedAt == nil {
			return s.Stage
		}
	}
	return otherwise
}

// until tells what can be done after --until. That it cannot be found out does
// not make a failure of the run.
func (t teller) until(ctx context.Context, r *repack.Repack, until repack.Stage) {
	if !t.logger.Enabled(ctx, slog.LevelInfo) {
		return
	}
	list, err := r.Status(ctx)
	if err != nil && !errors.Is(err, repack.ErrNoJob) {
		t.logger.Warn("status not read", "error", err)
		return
	}
	list = slices.DeleteFunc(list, func(s repack.Status) bool { return s.FinishedAt != nil && until == repack.PreValidate })
	t.say(t.untilText(until, list), "run ended as told", "table", t.table, "until", until)
}

// complain says why a command has not done what it was to do.
func complain(ctx context.Context, w io.Writer, err error) {
	var told *repack.InterruptedError
	switch {
	case err == nil, errors.Is(err, errWatched):
	case ctx.Err() == nil:
		fmt.Fprintf(w, "repack: %v\n", err)
	case errors.As(err, &told):
		fmt.Fprintf(w, "repack: %s\n", told.Advice)
	default:
		fmt.Fprintln(w, "repack: interrupted: run the same command again")
	}
}
