package main

import (
	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/internal/tooling/demo"
	"github.com/repack-go/repack/repack"
)

const demoDescription = `Starts a temporary PostgreSQL server and creates a table; half of its space is
empty. Four connections insert, update and delete, and the table is repacked at
the same time. At the end, every row is compared with what the connections have
recorded. With --to-bigint --cascade, the table's key and two columns that refer to it
become bigint, and the connections write keys that an integer cannot take. Then
the server and its files are removed, also after Ctrl-C.

The server's programs must be installed. A million rows take about a minute, and
2 GB in the directory for temporary files (TMPDIR).

The exit code is 0 only if the proof succeeds.`

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:        "demo",
		Usage:       "show how a table is repacked under load, on a temporary server",
		Description: demoDescription,
		Flags: []cli.Flag{
			&cli.Int64Flag{Name: "rows", Value: 1_000_000, Usage: "`NUMBER` of rows in the table"},
			&cli.StringFlag{Name: "strategy", Value: repack.ChangeLog, Usage: "change-log or direct-trigger"},
			&cli.BoolFlag{Name: "to-bigint", Usage: "the key of orders is integer, close to its end, and becomes bigint while the connections write beyond it; with --cascade"},
			&cli.BoolFlag{Name: "cascade", Usage: "with --to-bigint: so do the columns that refer to the key"},
			&cli.BoolFlag{
				Name:  "keep",
				Usage: "at the end, print how to connect, and keep the server running until Ctrl-C; with --dsn, keep the schemas",
			},
			// No EnvVars: a demo must not land in a database by accident.
			&cli.StringFlag{
				Name: "dsn",
				Usage: "use this server, and never one from the environment: connection `STRING` or URL; " +
					"schemas repack_demo and repack_demo_… are created there, and dropped at the end",
			},
			&cli.StringFlag{Name: "log-level", Value: "warn", Usage: "debug, info, warn or error"},
			&cli.StringFlag{Name: "log-format", Value: "text", Usage: "text or json"},
		},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if c.Bool("to-bigint") != c.Bool("cascade") {
				return usagef("--to-bigint and --cascade go together: order_items and payments refer to the key of orders")
			}
			bar := newProgress(c) // before the logger: the logger writes through it
			defer bar.finish()
			logger, err := logger(c)
			if err != nil {
				return err
			}
			return demo.Run(c.Context, demo.Options{
				Rows: c.Int64("rows"), ToBigint: c.Bool("to-bigint"), Strategy: c.String("strategy"), DSN: c.String("dsn"), Keep: c.Bool("keep"),
				Out: c.App.Writer, Logger: logger, Hooks: bar.hooks(logger),
			})
		},
	}
}
