package main

import (
	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/repack"
)

// throttleFlags say when work stops. Their values are those that repack set takes, too.
func throttleFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "max-replica-lag", Usage: "stop while a standby is more than this `TIME` behind, such as 10s; the role needs pg_read_all_stats"},
		&cli.StringSliceFlag{Name: "ignore-replica", Usage: "standby that --max-replica-lag does not look at: its application_name (`NAME`; can be given several times)"},
		&cli.IntFlag{Name: "expect-replicas", Usage: "stop while fewer than this `NUMBER` of standbys are connected"},
		&cli.StringFlag{Name: "max-slot-retained", Usage: "stop while a replication slot retains more write-ahead log than this `SIZE`, such as 20GB, or is about to be lost"},
		&cli.StringFlag{Name: "max-wal-rate", Usage: "stop while the server writes more write-ahead log in a second than this `SIZE`, such as 50MB, also on average of ten seconds"},
		&cli.StringFlag{Name: "max-active", Usage: "stop while more than this `NUMBER` of other sessions are at work; the role needs pg_read_all_stats"},
		&cli.StringFlag{Name: "nice", Usage: "rest this `NUMBER` of times as long as each chunk took, always (default: 1, and only while other sessions are at work)"},
		&cli.StringFlag{Name: "throttle-query", Usage: "stop while the first column of this `SQL` query is true, above zero or NULL, or the query fails; the second column is the reason"},
		&cli.StringFlag{Name: "min-free-disk", Usage: "stop while less than this `SIZE`, or part such as 15%, is free in the server's directories; only on the server's machine"},
		&cli.StringFlag{Name: "free-disk-command", Usage: "shell `COMMAND` whose first line is the number of bytes that --min-free-disk is compared with"},
		&cli.StringFlag{Name: "disk-limit", Usage: "stop while database and write-ahead log take more than this `SIZE` together; the role needs pg_monitor"},
		&cli.StringFlag{Name: "throttle-give-up", Usage: "end, with exit code 5, when work has been stopped for this `TIME` (default: never)"},
	}
}

// changeLogFlags say what is done about a change log that becomes large.
func changeLogFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "max-change-log", Usage: "`SIZE` that the change log may have before the swap, such as 10GB; it grows with each write while work is stopped or slow"},
		&cli.StringFlag{Name: "on-change-log-full", Value: repack.ChangeLogWarn, Usage: "what a run does when the change log is larger than --max-change-log: warn (once, in the log), or reset (remove the job and end with exit code 5; the next run begins anew)"},
	}
}

// readThrottle reads the flags of throttleFlags and changeLogFlags.
func readThrottle(c *cli.Context, o *repack.Options) error {
	o.Limits.IgnoreReplicas, o.Limits.ExpectReplicas = c.StringSlice("ignore-replica"), c.Int("expect-replicas")
	o.Limits.FreeDiskCommand, o.OnChangeLogFull = c.String("free-disk-command"), c.String("on-change-log-full")
	for _, f := range append(throttleFlags(), changeLogFlags()...) {
		name := f.Names()[0]
		if _, isText := f.(*cli.StringFlag); !isText || !c.IsSet(name) || name == "free-disk-command" || name == "on-change-log-full" {
			continue
		}
		if err := o.ReadSetting(name, c.String(name)); err != nil {
			return err
		}
	}
	return nil
}

// windowFlags keep work to hours of the week.
func windowFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "window", Usage: "begin work at these `HOURS` of the week only, such as \"Mon-Fri 22:00-05:00\" or 01:00-05:00 (can be given several times); outside them, the run ends with exit code 5 after the chunk under way, and the same command continues it; a stage that is estimated to end after the window does not begin"},
		&cli.StringSliceFlag{Name: "swap-window", Usage: "swap at these `HOURS` of the week only (can be given several times)"},
		&cli.StringFlag{Name: "timezone", Usage: "time `ZONE` of --window and --swap-window, such as Europe/Berlin (default: that of this process)"},
		&cli.StringFlag{Name: "outside", Value: "stop", Usage: "what a run does outside --window and --swap-window: stop (exit code 5) or wait"},
	}
}
