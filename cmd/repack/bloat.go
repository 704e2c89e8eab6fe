package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/internal/size"
	"github.com/repack-go/repack/repack"
)

func bloatCommand() *cli.Command {
	return &cli.Command{
		Name:  "bloat",
		Usage: "show how much of tables and indexes is empty: by statistics, without reading them, or measured",
		Flags: slices.Concat([]cli.Flag{tablesFlag()}, selectionFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "measure", Usage: "read tables and indexes, with the extension pgstattuple"},
			&cli.StringFlag{Name: "format", Value: "text", Usage: "text or json"},
		}, connectionFlags()),
		Action: func(c *cli.Context) error {
			config, o, err := options(c)
			if err != nil {
				return err
			}
			o.Table = ""
			write, ok := map[string]func(io.Writer, []repack.Bloat) error{"text": writeBloat, "json": writeBloatJSON}[c.String("format")]
			if !ok {
				return usagef("--format: want text or json, not %q", c.String("format"))
			}
			r, err := repack.New(config, o)
			if err != nil {
				return err
			}
			list, err := r.Bloat(c.Context, selection(c), c.Bool("measure"), func(n int64) {
				o.Logger.InfoContext(c.Context, "tables and indexes are read", "bytes_at_most", n)
			})
			if err != nil {
				return err
			}
			return write(c.App.Writer, list)
		},
	}
}

func writeBloatJSON(w io.Writer, list []repack.Bloat) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(list)
}

// From these parts of a table, or of its indexes, on, a command is proposed.
const (
	worthRepack  = 20
	worthReindex = 30
)

func writeBloat(w io.Writer, list []repack.Bloat) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TABLE\tSIZE\tNEEDED\tWASTED\t%\tINDEXES\tWASTED\tANALYZED\tBY\tTHEN")
	for _, b := range list {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", bloatName(b), size.Text(b.SizeBytes), known(b.NeededBytes), known(b.WastedBytes), part(b.WastedPercent),
			size.Text(b.Indexes.SizeBytes), known(b.Indexes.WastedBytes), ago(b.AnalyzedAt, time.Now()), b.By, then(b))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, b := range list {
		for _, because := range []*string{b.UnknownBecause, b.Indexes.UnknownBecause} {
			if because == nil {
				continue
			}
			if _, err := fmt.Fprintf(w, "%s: not known: %s\n", bloatName(b), *because); err != nil {
				return err
			}
		}
	}
	return nil
}

func bloatName(b repack.Bloat) string { return plain(b.Schema) + "." + plain(b.Name) }

func known(n *int64) string {
	if n == nil {
		return "?"
	}
	return size.Text(*n)
}

func part(percent *float64) string {
	if percent == nil {
		return "?"
	}
	return fmt.Sprintf("%.0f%%", *percent)
}

// ago says how long ago t was.
func ago(t *time.Time, now time.Time) string {
	if t == nil {
		return "never"
	}
	switch d := now.Sub(*t); {
	case d < 2*time.Minute:
		return "just now"
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min ago", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h ago", d.Hours())
	default:
		return fmt.Sprintf("%.0f days ago", d.Hours()/24)
	}
}

// then returns the command that frees the space, or that makes it known.
func then(b repack.Bloat) string {
	switch {
	case b.WastedPercent != nil && *b.WastedPercent >= worthRepack:
		return "repack run -t " + bloatName(b)
	case b.Indexes.WastedPercent != nil && *b.Indexes.WastedPercent >= worthReindex:
		return "repack reindex -t " + bloatName(b)
	case b.Remedy == "analyze":
		return "ANALYZE " + bloatName(b)
	case b.Remedy == "measure":
		return "repack bloat --measure -t " + bloatName(b)
	default:
		return "-"
	}
}
