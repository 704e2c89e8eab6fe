// Command repack rewrites a PostgreSQL table while the application keeps writing to it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	_ "time/tzdata" // for --timezone where the machine has no time zones

	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/repack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), interruptions()...)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// interruptions are the signals that end a command. SIGHUP stays ignored if it was
// ignored when we were started, as nohup does.
func interruptions() []os.Signal {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// completing is the flag by which a shell asks what can follow.
const completing = "--generate-bash-completion"

// run is main without the process: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := application(stdout, stderr)
	var err error
	if args[len(args)-1] != completing {
		args, err = arrange(app, args)
	}
	if err == nil {
		err = app.RunContext(ctx, args)
	}
	complain(ctx, stderr, err)
	return exitCode(ctx, err)
}

func application(stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:  "repack",
		Usage: "rewrite a PostgreSQL table while the application keeps writing to it",
		Description: "repack copies a table in use into a shadow table, keeps both in step, and swaps\n" +
			"them in milliseconds. If a run is interrupted, the same command continues it.\n\n" +
			exitCodes,
		Version:   version, // lists --version in the help
		Writer:    stdout,
		ErrWriter: stderr,
		Commands: slices.Concat([]*cli.Command{
			runCommand(), planCommand(), statusCommand(), revertCommand(), resetCommand(), verifyCommand(), bloatCommand(), reindexCommand(), pruneCommand(),
		}, controlCommands(), []*cli.Command{serveCommand(), demoCommand(), completionCommand(), manCommand(), versionCommand()}),
		// Otherwise the library may call os.Exit.
		ExitErrHandler:  func(*cli.Context, error) {},
		OnUsageError:    usageError,
		Action:          noCommand,
		HideHelpCommand: true,
		// A quoted name may contain a comma.
		DisableSliceFlagSeparator: true,
		EnableBashCompletion:      true,
	}
	for _, command := range app.Commands {
		command.OnUsageError = usageError
		if command.Name != "demo" { // a demo must not land in a database by accident
			setEnvironment(command)
		}
	}
	return app
}

func usageError(_ *cli.Context, err error, _ bool) error { return &repack.UsageError{Err: err} }

// noCommand is called if the first word is not a command, or if there are no arguments.
func noCommand(c *cli.Context) error {
	switch words := c.Args().Slice(); {
	case len(words) == 0:
		c.App.Writer = c.App.ErrWriter
		return errors.Join(cli.ShowAppHelp(c), &repack.UsageError{Err: errors.New("no command given")})
	case words[0] == "help" && len(words) == 1:
		return cli.ShowAppHelp(c)
	case words[0] == "help" && len(words) == 2 && c.App.Command(words[1]) != nil:
		return cli.ShowCommandHelp(c, words[1])
	}
	var known []string
	for _, command := range c.App.Commands {
		known = append(known, command.Name)
	}
	word := c.Args().First()
	return usagef("unknown command %q%s: see repack --help", word, didYouMean(word, known, "repack "))
}

// noArguments refuses words that are not flags. Otherwise they would be ignored.
func noArguments(c *cli.Context) error {
	if c.NArg() > 0 {
		return &repack.UsageError{Err: fmt.Errorf("unexpected argument %q", c.Args().First())}
	}
	return nil
}
