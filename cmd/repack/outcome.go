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

	"github.com/repack-go/repack/internal/size"
	"github.com/repack-go/repack/repack"
)

// teller writes the result of a command to standard error: as a sentence, or as a log
// line if the log is JSON.
type teller struct {
	out    io.Writer
	logger *slog.Logger
	json   bool
	table  string // as the user wrote it
}

func newTeller(c *cli.Context, logger *slog.Logger) teller {
	return teller{c.App.ErrWriter, logger, strings.EqualFold(c.String("log-format"), "json"), strings.TrimSpace(tableOf(c))}
}

// say writes text, or with a JSON log message and attrs.
func (t teller) say(ctx context.Context, text, message string, attrs ...any) {
	switch {
	case t.json:
		t.logger.InfoContext(ctx, message, attrs...)
	case t.logger.Enabled(ctx, slog.LevelInfo):
		_, _ = fmt.Fprintln(t.out, text) // standard error, as complain
	}
}

// outcome writes the result of a job, and where the old table is if it is kept.
func (t teller) outcome(ctx context.Context, o repack.Outcome) {
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
	t.say(ctx, text, "table repacked", attrs...)
}

// gained returns the last line: the sizes if they are known, the time, and the longest
// lock.
func gained(o repack.Outcome) string {
	text := "repacked"
	if o.Before > 0 {
		saved := o.Before - o.After
		text = fmt.Sprintf("%s → %s (%s, %d %%)", size.Text(o.Before), size.Text(o.After), size.Text(saved), int(math.Round(100*float64(saved)/float64(o.Before))))
	}
	text += " in " + seconds(o.Took)
	if o.LongestLock != nil {
		text += fmt.Sprintf("; longest lock %d ms", o.LongestLock.Milliseconds())
	}
	return text
}

// seconds returns a duration as people say it, at least one second.
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

// name returns the table's name as the user wrote it. A partition has its own name
// instead.
func (t teller) name(schema, name string) string {
	parts := strings.ToLower(strings.ReplaceAll(t.table, `"`, ""))
	if strings.EqualFold(parts, name) || strings.EqualFold(parts, schema+"."+name) {
		return t.table
	}
	return plain(schema) + "." + plain(name)
}

// plain returns a name as SQL writes it, without quotes if it needs none, like quote_ident
// of the server.
func plain(name string) string {
	special := keywords[name]
	for i, c := range name {
		special = special || c != '_' && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9')
	}
	if special {
		return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
	}
	return name
}

// untilText says what can be done after a run that ended after --until.
func (t teller) untilText(until repack.Stage, list []repack.Status) string {
	again := fmt.Sprintf("repack run --table '%s'", t.table)
	if len(list) == 0 {
		return fmt.Sprintf("%s can be repacked, and nothing has been changed; do it with: %s", t.table, again)
	}
	is := func(s repack.Status) bool { return s.Swapped && s.FinishedAt == nil }
	oneWay := func(s repack.Status) bool {
		return is(s) && s.Revertible != nil && *s.Revertible == repack.NotRevertible
	}
	if slices.ContainsFunc(list, oneWay) {
		return fmt.Sprintf("%s is swapped, and there is no way back (--no-revert); end the job and drop the old table with: %s", t.table, again)
	}
	if slices.ContainsFunc(list, is) {
		return fmt.Sprintf("%s is swapped, and the old table is kept in step with it; end the job and drop the old table with: %s"+
			"\n  or put the old table back with: repack revert --table '%s'", t.table, again, t.table)
	}
	return fmt.Sprintf("%s is not swapped yet (stage %s is done), and its changes are captured until it is; continue with: %s"+
		"\n  or undo it with: repack reset --table '%s'", t.table, latest(list, until), again, t.table)
}

// latest returns the stage of the job that has not ended.
func latest(list []repack.Status, otherwise repack.Stage) repack.Stage {
	for _, s := range list {
		if s.FinishedAt == nil {
			return s.Stage
		}
	}
	return otherwise
}

// until writes what can be done after --until. The run has succeeded, so it does not
// fail if the status cannot be read.
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
	t.say(ctx, t.untilText(until, list), "run ended as told", "table", t.table, "until", until)
}

// complain writes why a command has failed.
func complain(ctx context.Context, w io.Writer, err error) {
	var told *repack.InterruptedError
	switch {
	case err == nil, errors.Is(err, errWatched):
	case ctx.Err() == nil:
		_, _ = fmt.Fprintf(w, "repack: %v\n", err)
	case errors.As(err, &told):
		_, _ = fmt.Fprintf(w, "repack: %s\n", told.Advice)
	default:
		_, _ = fmt.Fprintln(w, "repack: interrupted: run the same command again")
	}
}
