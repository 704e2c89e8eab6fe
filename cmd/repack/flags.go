package main

import (
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/repack"
)

// connectionFlags are the flags of all commands that connect to a server, except demo.
func connectionFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "dsn", EnvVars: []string{"REPACK_DSN", "DATABASE_URL"},
			Usage: "connection `STRING` or URL (default: libpq's PG* variables, service file and password file)",
		},
		&cli.StringFlag{
			Name:  "pooler",
			Usage: "`session`: accept a connection pooler that keeps a server session for each client, such as PgBouncer with pool_mode = session (default: poolers are refused)",
		},
		&cli.StringFlag{Name: "registry-schema", Value: repack.DefaultRegistrySchema, Usage: "`SCHEMA` in which jobs are recorded"},
		&cli.StringFlag{Name: "log-level", Value: "info", Usage: "debug, info, warn or error"},
		&cli.StringFlag{Name: "log-format", Value: "text", Usage: "text or json"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress, and log errors only"},
	}
}

// tableFlag is --table. Its value is written as SQL writes it.
func tableFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "table", Aliases: []string{"t"},
		Usage: "`[SCHEMA.]NAME` of the table, as SQL writes it, quotes included; --table can be left out: repack run orders; a name without a schema is looked up in the role's search_path; for a partitioned table the command works on its partitions",
	}
}

// lockFlags are the flags of commands that lock tables of the application.
func lockFlags() []cli.Flag {
	return []cli.Flag{
		&cli.DurationFlag{
			Name: "lock-timeout", Value: repack.DefaultLockTimeout,
			Usage: "longest `TIME` for which one attempt may block the application: lock waits and the exchange of the tables together; lock waits are kept below deadlock_timeout",
		},
		&cli.IntFlag{Name: "lock-retries", Value: repack.DefaultLockRetries, Usage: "`NUMBER` of times to try again to acquire locks, with growing pauses"},
		&cli.StringFlag{
			Name: "foreign-keys", Value: string(repack.ForeignKeysAuto),
			Usage: "`WAY` to move foreign keys between the table and other tables: together (locks all these tables at the same time), one-by-one (the swap locks only the table), " +
				"or auto (together; one by one if together would take longer than --lock-timeout, or if the locks are not acquired in a few attempts). If a partitioned table refers to the table, one-by-one",
		},
		&cli.DurationFlag{
			Name:  "kill-blockers",
			Usage: "cancel sessions that have blocked us from a lock for this `TIME`, and terminate them in a later attempt (default: never)",
		},
		&cli.DurationFlag{
			Name: "max-snapshot-wait", Value: repack.DefaultMaxSnapshotWait,
			Usage: "longest `TIME` to wait, before the swap, for transactions with older snapshots",
		},
		&cli.DurationFlag{
			Name: "retry-for", Value: repack.DefaultRetryFor,
			Usage: "`TIME` for which to try to connect again if the connection is lost during the work; 0: do not try",
		},
	}
}

// oidFlags say what to do with the table's OID where it is stored as data.
func oidFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{
			Name: "update-oid",
			Usage: "update the OIDs of the table, and of objects that belong to it, in `SCHEMA.TABLE.COLUMN`, in the transaction that exchanges the tables " +
				"(can be given several times; default: a table whose OID is stored as data is refused)",
		},
		&cli.BoolFlag{Name: "ignore-oid", Usage: "do not change OIDs of the table that are stored as data: they refer to the old table, and to nothing after it is dropped"},
	}
}

// publishedFlag allows what a run and a revert are refused for by default.
func publishedFlag() cli.Flag {
	return &cli.BoolFlag{
		Name: "published-ok",
		Usage: "go on though a publication FOR ALL TABLES publishes repack's own tables too: a PostgreSQL subscriber without tables of these names stops until it has them " +
			"(default: the table is refused)",
	}
}

// options reads the options from a command's flags. Options whose flags the command
// does not have are zero.
func options(c *cli.Context) (*pgx.ConnConfig, repack.Options, error) {
	if err := noArguments(c); err != nil {
		return nil, repack.Options{}, err
	}
	return connected(c)
}

// tableOf returns the table of a command, or an empty text if several are named.
func tableOf(c *cli.Context) string {
	if list := c.StringSlice("table"); list != nil {
		name, single := repack.Selection{Tables: list}.Single()
		if !single || inBatch(c) {
			return ""
		}
		return name
	}
	for _, f := range c.Command.Flags {
		if _, several := f.(*cli.StringSliceFlag); several && f.Names()[0] == "table" {
			return ""
		}
	}
	return c.String("table")
}

// connected is options for a command that takes words.
func connected(c *cli.Context) (*pgx.ConnConfig, repack.Options, error) {
	logger, err := logger(c)
	if err != nil {
		return nil, repack.Options{}, err
	}
	config, err := pgx.ParseConfig(c.String("dsn"))
	if err != nil {
		return nil, repack.Options{}, &repack.UsageError{Err: fmt.Errorf("connection string: %w", err)}
	}
	retries := c.Int("lock-retries")
	if c.IsSet("lock-retries") && retries <= 0 {
		retries = -1
	}
	retryFor := c.Duration("retry-for")
	if c.IsSet("retry-for") && retryFor == 0 {
		retryFor = -1
	}
	if outside := c.String("outside"); outside != "" && outside != "stop" && outside != "wait" {
		return nil, repack.Options{}, usagef("--outside: want stop or wait, not %q", outside)
	}
	toBigint := bigint(c)
	return config, repack.Options{
		Table:              tableOf(c),
		Strategy:           c.String("strategy"),
		Until:              repack.Stage(c.String("until")),
		BatchSize:          c.Int("batch-size"),
		Transfer:           repack.Transfer(c.String("transfer")),
		OrderBy:            c.String("order-by"),
		Alter:              c.StringSlice("alter"),
		ToBigint:           toBigint.given,
		BigintColumns:      toBigint.columns,
		Set:                c.StringSlice("set"),
		Down:               c.StringSlice("down"),
		ColumnOrder:        c.String("column-order"),
		Tablespace:         c.String("tablespace"),
		IndexTablespace:    c.String("index-tablespace"),
		AllowLossy:         c.StringSlice("allow-lossy"),
		Views:              c.String("views"),
		Recompress:         c.Bool("recompress"),
		Cascade:            c.Bool("cascade"),
		NoCascade:          c.Bool("no-cascade"),
		NoRevert:           c.Bool("no-revert"),
		KeepOld:            c.Bool("keep-old"),
		RebuildMatviews:    c.Bool("rebuild-matviews"),
		UpdateOID:          c.StringSlice("update-oid"),
		IgnoreOID:          c.Bool("ignore-oid"),
		PublishedOK:        c.Bool("published-ok"),
		Jobs:               c.Int("jobs"),
		MaintenanceWorkMem: c.String("maintenance-work-mem"),
		LockTimeout:        c.Duration("lock-timeout"),
		LockRetries:        retries,
		KillBlockers:       c.Duration("kill-blockers"),
		MaxSnapshotWait:    c.Duration("max-snapshot-wait"),
		Verify:             repack.VerifyMode(c.String("verify")),
		ShadowSchema:       c.String("shadow-schema"),
		RegistrySchema:     c.String("registry-schema"),
		ForeignKeys:        repack.ForeignKeys(c.String("foreign-keys")),
		RetryFor:           retryFor,
		WaitForSwap:        c.Bool("wait-for-swap"),
		Window:             c.StringSlice("window"),
		SwapWindow:         c.StringSlice("swap-window"),
		Timezone:           c.String("timezone"),
		OutsideWait:        c.String("outside") == "wait",
		Pooler:             c.String("pooler"),
		Logger:             logger,
	}, nil
}
