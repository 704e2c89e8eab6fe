package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/repack"
)

// logger returns a logger that writes to standard error. Standard output is for
// results.
func logger(c *cli.Context) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.String("log-level"))); err != nil {
		return nil, &repack.UsageError{Err: fmt.Errorf("--log-level: %w", err)}
	}
	if c.Bool("quiet") {
		level = max(level, slog.LevelError)
	}
	out := c.App.ErrWriter
	switch format := strings.ToLower(c.String("log-format")); format {
	case "text":
		if person(out) {
			return slog.New(tint.NewTextHandler(out, &tint.Options{Level: level, TimeFormat: time.TimeOnly, NoColor: true, ReplaceAttr: bare})), nil
		}
		return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level, ReplaceAttr: bare})), nil
	case "json":
		return slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: level, ReplaceAttr: inSeconds})), nil
	default:
		return nil, &repack.UsageError{Err: fmt.Errorf("--log-format: want text or json, not %q", format)}
	}
}

// person reports whether somebody reads what is written to w.
func person(w io.Writer) bool {
	if p, ok := w.(*progress); ok {
		w = p.out
	}
	return isTerminal(w)
}

// isTerminal reports whether w is a terminal, on which a progress bar can be seen.
func isTerminal(w any) bool {
	file, ok := w.(*os.File)
	return ok && terminal(file)
}

// quoted is one identifier in double quotes of a name that may have several.
var quoted = regexp.MustCompile(`"(?:[^"]|"")+"`)

// quotedName is a name of which each part is in double quotes, as the packages below write it.
var quotedName = regexp.MustCompile(`^` + quoted.String() + `(?:\.` + quoted.String() + `)*$`)

// bare writes a name without quotes that it does not need.
func bare(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindString && quotedName.MatchString(a.Value.String()) {
		a.Value = slog.StringValue(quoted.ReplaceAllStringFunc(a.Value.String(), func(part string) string { return plain(unquote(part)) }))
	}
	return a
}

func unquote(part string) string { return strings.ReplaceAll(part[1:len(part)-1], `""`, `"`) }

// inSeconds writes a duration as a number of seconds, and says so in its name.
func inSeconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.Float64(a.Key+"_seconds", a.Value.Duration().Seconds())
	}
	return a
}
