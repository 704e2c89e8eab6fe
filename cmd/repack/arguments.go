package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"

	"github.com/repack-go/repack/repack"
)

// arrange changes the typed arguments into a form that the flag package understands. It
// accepts a table without --table, flags after the table, and a value that is attached
// to a short flag. If an argument is wrong, it returns a *repack.UsageError that says
// what is expected. Messages do not repeat values that might be a password.
func arrange(app *cli.App, args []string) ([]string, error) {
	if len(args) < 2 {
		return args, nil
	}
	first := args[1]
	switch {
	case first == "--version" || first == "-version" || first == "-v":
		return append([]string{args[0], "version"}, args[2:]...), nil
	case slices.Contains(helpFlags, first):
		return args, nil
	case strings.HasPrefix(first, "-"):
		return nil, misplaced(app, args[1:])
	}
	command := app.Command(first)
	if command == nil {
		return args, nil // noCommand reports it
	}
	a := arguments{flags: command.Flags, keepsWords: command.ArgsUsage != ""}
	if err := a.read(args[2:]); err != nil {
		return nil, err
	}
	return append([]string{args[0], first}, a.result...), nil
}

var helpFlags = []string{"--help", "-help", "-h", "--h"}

// misplaced returns the error for a flag that stands before the command.
func misplaced(app *cli.App, args []string) error {
	name, _, _ := strings.Cut(args[0], "=")
	known := slices.ContainsFunc(app.Commands, func(c *cli.Command) bool { return find(c.Flags, strings.TrimLeft(name, "-")) != nil })
	for _, word := range args[1:] {
		if known && app.Command(word) != nil {
			return usagef("%s stands before the command: flags stand behind it, as in: repack %s %s …", name, word, name)
		}
	}
	if known {
		return usagef("no command given: flags stand behind it, as in: repack run %s …", name)
	}
	return usagef("unknown flag %s, and no command given: see repack --help", name)
}

// arguments are the arguments after a command, while they are being read.
type arguments struct {
	flags      []cli.Flag
	keepsWords bool     // words are no tables
	tables     []string // given with --table
	words      []string // words that belong to no flag
	result     []string
}

func (a *arguments) read(args []string) error {
	for len(args) > 0 {
		word := args[0]
		switch {
		case word == "--":
			a.words = append(a.words, args[1:]...)
			return a.end()
		case len(word) < 2 || word[0] != '-':
			a.words = append(a.words, word)
			args = args[1:]
		default:
			rest, err := a.flag(word, args[1:])
			if err != nil {
				return err
			}
			args = rest
		}
	}
	return a.end()
}

// flag reads one flag, and its value if it takes one. It returns the arguments that
// follow.
func (a *arguments) flag(word string, rest []string) ([]string, error) {
	name, value, given := strings.Cut(strings.TrimLeft(word, "-"), "=")
	if slices.Contains(helpFlags, word) {
		a.result = append(a.result, word)
		return rest, nil
	}
	f := find(a.flags, name)
	if f == nil && word[1] != '-' { // -j4
		if short := find(a.flags, word[1:2]); short != nil && !isBool(short) {
			f, name, value, given = short, word[1:2], word[2:], true
		}
	}
	if f == nil {
		return nil, usagef("unknown flag %s%s", strings.Repeat("-", len(word)-len(strings.TrimLeft(word, "-")))+name,
			didYouMean(name, names(a.flags), "--"))
	}
	if isBool(f) {
		a.result = append(a.result, word)
		return rest, nil
	}
	if !given {
		if len(rest) == 0 || strings.HasPrefix(rest[0], "--") && find(a.flags, rest[0][2:]) != nil {
			return nil, usagef("--%s wants a value", f.Names()[0])
		}
		value, rest = rest[0], rest[1:]
	}
	if f.Names()[0] == "table" {
		a.tables = append(a.tables, value)
		return rest, nil
	}
	a.result = append(a.result, "--"+f.Names()[0]+"="+value)
	return rest, check(f, value)
}

// end makes one --table of the tables that were named.
func (a *arguments) end() error {
	if find(a.flags, "table") == nil || a.keepsWords {
		for _, table := range a.tables {
			a.result = append(a.result, "--table="+table)
		}
		a.result = append(a.result, a.words...) // the command reads or refuses them
		return nil
	}
	for _, word := range a.words {
		if strings.Contains(word, "://") || strings.Contains(word, "=") && !strings.Contains(word, `"`) {
			return usagef("a connection string is given with --dsn")
		}
	}
	if _, several := find(a.flags, "table").(*cli.StringSliceFlag); several {
		for i, table := range append(a.tables, a.words...) {
			if !slices.Contains(append(a.tables, a.words...)[:i], table) {
				a.result = append(a.result, "--table="+table)
			}
		}
		return nil
	}
	switch {
	case len(a.tables) > 1:
		return usagef("--table is given %d times (%s): a command works on one table, name the others in commands of their own",
			len(a.tables), strings.Join(a.tables, ", "))
	case len(a.words) > 1:
		return usagef("more than one table is named (%s): a command works on one table, name the others in commands of their own",
			strings.Join(a.words, ", "))
	case len(a.words) == 1 && len(a.tables) == 1 && a.words[0] != a.tables[0]:
		return usagef("unexpected argument %q: the table is %s by --table", a.words[0], a.tables[0])
	}
	for _, table := range append(a.tables, a.words...) {
		a.result = append(a.result, "--table="+table)
		break
	}
	return nil
}

// check reports a value that has the wrong form, and says what it should look like. The
// flag package does not say that.
func check(f cli.Flag, value string) error {
	name := f.Names()[0]
	switch f.(type) {
	case *cli.DurationFlag:
		if _, err := time.ParseDuration(value); err == nil {
			return nil
		}
		if _, err := strconv.ParseFloat(value, 64); err == nil {
			return usagef("--%s %s: a duration has a unit; did you mean %[2]sms or %[2]ss?", name, value)
		}
		if joined := strings.Join(strings.Fields(value), ""); joined != value {
			if _, err := time.ParseDuration(joined); err == nil {
				return usagef("--%s %q: did you mean %s?", name, value, joined)
			}
		}
		return usagef("--%s %q is not a duration, such as 500ms, 30s, 5m or 2h", name, value)
	case *cli.IntFlag, *cli.Int64Flag:
		if _, err := strconv.ParseInt(value, 0, 64); err != nil {
			return usagef("--%s %q is not a whole number, such as 4 or 10000", name, value)
		}
	}
	return nil
}

func find(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func names(flags []cli.Flag) []string {
	list := []string{"help"}
	for _, f := range flags {
		list = append(list, f.Names()[0])
	}
	return list
}

// isBool reports whether f takes no value from the next argument. The only GenericFlag
// is --to-bigint, whose value is part of its word.
func isBool(f cli.Flag) bool {
	switch f.(type) {
	case *cli.BoolFlag, *cli.GenericFlag:
		return true
	}
	return false
}

// likeness is the similarity (Jaro-Winkler, 0 to 1) above which a word is suggested.
const likeness = 0.8

// didYouMean suggests the known word that is most similar to an unknown one.
func didYouMean(word string, known []string, prefix string) string {
	best, like := "", likeness
	for _, k := range known {
		l := smetrics.JaroWinkler(strings.ToLower(word), k, 0.7, 4)
		if letters(word) == letters(k) { // dns for dsn: in short words two letters are often exchanged
			l = 1
		}
		if l > like {
			best, like = k, l
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s%s?", prefix, best)
}

// letters returns the letters of a word in sorted order.
func letters(word string) string {
	runes := []rune(strings.ToLower(word))
	slices.Sort(runes)
	return string(runes)
}

func usagef(format string, args ...any) error {
	return &repack.UsageError{Err: fmt.Errorf(format, args...)}
}
