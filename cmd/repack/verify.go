package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/repack"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "compare a table with its copy, row by row (from post_sync_update to clean_up)",
		Flags: slices.Concat([]cli.Flag{
			tableFlag(),
			&cli.StringFlag{Name: "mode", Value: string(repack.VerifyFull), Usage: "full, or sample: about a sixteenth of the rows of each table"},
			&cli.StringFlag{Name: "format", Value: "text", Usage: "text or json"},
			&cli.IntFlag{Name: "batch-size", Usage: "approximate number of `ROWS` in a chunk (default: adjusted to the time that chunks take)"},
			&cli.IntFlag{Name: "jobs", Aliases: []string{"j"}, Usage: "`CONNECTIONS` that compare at the same time (default: number of CPUs, at most 4; drops to one, with pauses, while other sessions are active)"},
		}, lockFlags(), connectionFlags()),
		Action: func(c *cli.Context) error {
			config, o, err := options(c)
			if err != nil {
				return err
			}
			write, ok := map[string]func(io.Writer, repack.Verification) error{
				"text": writeVerification, "json": writeVerificationJSON,
			}[c.String("format")]
			if !ok {
				return &repack.UsageError{Err: fmt.Errorf("--format: want text or json, not %q", c.String("format"))}
			}
			o.Verify = repack.VerifyMode(c.String("mode"))
			r, err := repack.New(config, o)
			if err != nil {
				return err
			}
			result, err := r.Verify(c.Context)
			var differs *repack.VerifyError
			if err == nil || errors.As(err, &differs) {
				err = errors.Join(err, write(c.App.Writer, result))
			}
			return err
		},
	}
}

func writeVerificationJSON(w io.Writer, v repack.Verification) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		Equal bool `json:"equal"`
		repack.Verification
	}{v.Equal(), v})
}

func writeVerification(w io.Writer, v repack.Verification) error {
	verdict := "equal"
	if !v.Equal() {
		verdict = "different"
	}
	_, err := fmt.Fprintf(w, "%s: %s and %s (%s): %d rows looked for, %d of the copy compared, %d pending, in %.1fs\n",
		verdict, v.Table, v.Copy, v.Mode, v.Rows, v.CopyRows, v.Pending, v.Seconds)
	for _, m := range v.Mismatches {
		if err == nil {
			_, err = fmt.Fprintln(w, "  "+m.Text)
		}
	}
	return err
}
