package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/repack"
)

func pruneCommand() *cli.Command {
	return &cli.Command{
		Name:  "prune",
		Usage: "forget jobs that ended long ago: delete them, with their history, from the registry",
		Flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: "older-than", Value: "90d", Usage: "`TIME` since the end of a job, such as 90d or 12h"},
			&cli.BoolFlag{Name: "dry-run", Usage: "delete nothing, and say how many jobs would be forgotten"},
		}, connectionFlags()),
		Action: func(c *cli.Context) error {
			age, err := parseAge(c.String("older-than"))
			if err != nil {
				return err
			}
			config, o, err := options(c)
			if err != nil {
				return err
			}
			r, err := repack.New(config, o)
			if err != nil {
				return err
			}
			n, err := r.Prune(c.Context, time.Now().Add(-age), c.Bool("dry-run"))
			if err != nil {
				return err
			}
			did := "forgotten"
			if c.Bool("dry-run") {
				did = "would be forgotten"
			}
			_, err = fmt.Fprintf(c.App.Writer, "%d jobs %s\n", n, did)
			return err
		},
	}
}

// parseAge reads a duration that may be in days.
func parseAge(text string) (time.Duration, error) {
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		n, err := strconv.ParseUint(days, 10, 16)
		if err == nil {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	age, err := time.ParseDuration(text)
	if err != nil || age < 0 {
		return 0, usagef("--older-than %q is not a time, such as 90d or 12h", text)
	}
	return age, nil
}
