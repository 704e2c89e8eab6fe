package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/repack"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "repack tables, or continue a repack",
		Flags: slices.Concat([]cli.Flag{tablesFlag()}, selectionFlags(), runFlags(), batchFlags(), windowFlags(), throttleFlags(), changeLogFlags(), metricsFlags(), eventFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "wait-for-swap", Usage: "when all is ready for the swap, stay at work and replay what is written, until: repack swap"},
			&cli.DurationFlag{Name: "progress-every", Value: progressEvery, Usage: "log how far the run is at this `INTERVAL`, where there is no bar"},
			&cli.BoolFlag{Name: "dry-run", Usage: "change nothing, and show what a run would do: see repack plan"},
		}, lockFlags(), connectionFlags()),
		Action: func(c *cli.Context) error {
			if c.Bool("dry-run") && !inBatch(c) {
				return showPlan(c, writePlan)
			}
			if every := c.Duration("progress-every"); every <= 0 {
				return &repack.UsageError{Err: fmt.Errorf("--progress-every: want a time above zero, not %s", every)}
			}
			bar := newProgress(c) // before the logger: the logger writes through it
			config, o, err := options(c)
			if err != nil {
				return err
			}
			if err := readThrottle(c, &o); err != nil {
				return err
			}
			if c.Bool("dry-run") {
				return planBatch(c, config, o)
			}
			if o.OnEvent, err = onEvent(c); err != nil {
				return err
			}
			stop, err := showMetrics(c, config, o)
			if err != nil {
				return err
			}
			defer stop()
			o.Hooks = bar.hooks(o.Logger)
			defer bar.finish()
			tell := newTeller(c, o.Logger)
			o.Hooks.AfterJob = func(ctx context.Context, outcome repack.Outcome) {
				bar.clear()
				tell.outcome(ctx, outcome)
			}
			if inBatch(c) {
				return runBatch(c, config, o)
			}
			r, err := repack.New(config, o)
			if err != nil {
				return err
			}
			err = r.Run(c.Context)
			bar.finish()
			if err == nil && o.Until != repack.CleanUp {
				tell.until(c.Context, r, o.Until)
			}
			return err
		},
	}
}

// runFlags are the flags that say what to repack and how.
func runFlags() []cli.Flag {
	var names []string
	for _, s := range registry.Stages {
		names = append(names, string(s))
	}
	return slices.Concat([]cli.Flag{
		&cli.StringFlag{
			Name: "strategy", Value: repack.ChangeLog,
			Usage: "change-log (logs the keys of changed rows and replays them) or direct-trigger (writes changes through to the shadow)",
		},
		&cli.StringFlag{Name: "until", Value: string(repack.CleanUp), Usage: "stop after `STAGE`: " + strings.Join(names, ", ")},
		&cli.IntFlag{Name: "batch-size", Usage: "approximate number of `ROWS` in a chunk or replay batch (default: adjusted to the time that they take)"},
		&cli.StringFlag{
			Name: "transfer", Value: string(repack.TransferAuto),
			Usage: "`WAY` in which a change-log backfill copies rows: server (INSERT … SELECT), client (COPY through this process: less WAL, more time) or auto (client if this process runs on the server's machine, the WAL is archived or replicated, and the table has only plain types and no TOASTed values)",
		},
		&cli.StringFlag{
			Name: "order-by",
			Usage: "copy the rows in this order (change-log only): `COLUMNS|INDEX`, such as \"customer, placed DESC NULLS LAST\" or the name of a btree index; " +
				"one statement copies all rows: it is not parallel, holds one snapshot until it ends, and starts again if interrupted; " +
				"rows that change during the job are stored wherever there is space",
		},
	}, alterFlags(), []cli.Flag{
		&cli.BoolFlag{Name: "keep-old", Usage: "keep the old table at clean_up, separate from all tables in use"},
		&cli.BoolFlag{Name: "rebuild-matviews", Usage: "after the swap, build materialized views on the table again, with the rows of that moment (default: such a table is refused)"},
		oidFlags()[0], oidFlags()[1], publishedFlag(),
		&cli.IntFlag{Name: "jobs", Aliases: []string{"j"}, Usage: "`CONNECTIONS` that copy, build indexes or replay at the same time (default: number of CPUs, at most 4; drops to one, with pauses, while other sessions are active)"},
		&cli.StringFlag{
			Name:  "maintenance-work-mem",
			Usage: "memory, a `SIZE` such as 2GB, that VACUUM and each index build may use; up to --jobs builds run at the same time (default: the server's setting, or less if that sorts faster)",
		},
		&cli.StringFlag{
			Name: "verify", Value: string(repack.VerifySample),
			Usage: "compare shadow and source before the swap: off, sample (about a sixteenth of the rows) or full; if rows differ, the job does not swap",
		},
		&cli.StringFlag{Name: "shadow-schema", Usage: "`SCHEMA` that has been prepared for the shadow; the old table goes to SCHEMA_old (default: both schemas are created)"},
	})
}

func revertCommand() *cli.Command {
	return &cli.Command{
		Name:  "revert",
		Usage: "put the old table back, with every write since the swap (after the swap, before clean_up)",
		Flags: slices.Concat([]cli.Flag{tableFlag()}, oidFlags(), []cli.Flag{publishedFlag()}, lockFlags(), connectionFlags()),
		Action: func(c *cli.Context) error {
			config, o, err := options(c)
			if err != nil {
				return err
			}
			r, err := repack.New(config, o)
			if err != nil {
				return err
			}
			if err := r.Revert(c.Context); err != nil {
				return err
			}
			tell := newTeller(c, o.Logger)
			tell.say(c.Context, tell.table+" is reverted: the old table is back in its place, with every write since the swap, and the copy is dropped",
				"reverted", "table", tell.table)
			return nil
		},
	}
}

func resetCommand() *cli.Command {
	return &cli.Command{
		Name:  "reset",
		Usage: "remove everything that a repack has created (before the swap; at any stage if a restored dump contained the job)",
		Flags: slices.Concat([]cli.Flag{tableFlag()}, lockFlags(), connectionFlags()),
		Action: func(c *cli.Context) error {
			config, o, err := options(c)
			if err != nil {
				return err
			}
			r, err := repack.New(config, o)
			if err != nil {
				return err
			}
			if err := r.Reset(c.Context); err != nil {
				return err
			}
			tell := newTeller(c, o.Logger)
			tell.say(c.Context, tell.table+" is reset: the shadow, the change log and the triggers are dropped, and the table is as it was found",
				"reset", "table", tell.table)
			return nil
		},
	}
}

const unreleased = "unreleased"

// version is set by the linker: -X main.version=v1.2.3.
var version = unreleased

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			_, err := fmt.Fprintln(c.App.Writer, "repack", versionText())
			return err
		},
	}
}
