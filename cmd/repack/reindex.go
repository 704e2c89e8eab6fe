package main

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/internal/size"
	"github.com/repack-go/repack/repack"
)

func reindexCommand() *cli.Command {
	return &cli.Command{
		Name:  "reindex",
		Usage: "rebuild indexes while the application writes (REINDEX CONCURRENTLY), the smallest first; what a failure leaves is dropped",
		Flags: slices.Concat([]cli.Flag{tablesFlag()}, selectionFlags(), []cli.Flag{
			&cli.StringSliceFlag{Name: "index", Usage: "only the index with this `NAME`, as SQL writes it, without its schema (can be given several times)"},
			&cli.DurationFlag{Name: "max-snapshot-wait", Value: repack.DefaultMaxSnapshotWait, Usage: "longest `TIME` to wait for transactions that have written to the table, or have older snapshots"},
			&cli.StringFlag{Name: "format", Value: "text", Usage: "text, or json: a summary on standard output"},
		}, windowFlags(), throttleFlags(), connectionFlags()),
		Action: func(c *cli.Context) error {
			config, o, err := options(c)
			if err != nil {
				return err
			}
			o.Table = ""
			if err := readThrottle(c, &o); err != nil {
				return err
			}
			r, err := repack.New(config, o)
			if err != nil {
				return err
			}
			tell := newTeller(c, o.Logger)
			results, err := r.Reindex(c.Context, repack.Rebuild{Selection: selection(c), Indexes: c.StringSlice("index"), After: func(i repack.Reindexed) {
				name := plain(i.Schema) + "." + plain(i.Name)
				text := fmt.Sprintf("%s: skipped: %s", name, i.Reason)
				if i.BytesAfter != nil {
					text = fmt.Sprintf("%s: %s → %s in %.1f s", name, size.Text(i.BytesBefore), size.Text(*i.BytesAfter), i.Seconds)
				}
				tell.say(c.Context, text, i.Result, "index", name, "reason", i.Reason, "bytes_before", i.BytesBefore, "bytes_after", i.BytesAfter, "seconds", i.Seconds)
			}})
			if c.String("format") == "json" && results != nil {
				encoder := json.NewEncoder(c.App.Writer)
				encoder.SetIndent("", "  ")
				if writeErr := encoder.Encode(map[string]any{"indexes": results}); writeErr != nil {
					return writeErr
				}
			}
			return err
		},
	}
}
