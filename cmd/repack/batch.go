package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/jackc/pgx/v5"
	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/internal/size"
	"github.com/repack-go/repack/repack"
)

// tablesFlag is --table of a command that works on several tables.
func tablesFlag() cli.Flag {
	return &cli.StringSliceFlag{
		Name: "table", Aliases: []string{"t"},
		Usage: "table, a `PATTERN` as psql takes it: [SCHEMA.]NAME, with * and ?, quotes included; --table can be left out, and given several times: repack run orders 'pub*.o?ders'; " +
			"a name without a schema is looked up in the role's search_path; a partitioned table stands for its partitions",
	}
}

// selectionFlags choose tables, besides --table.
func selectionFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "exclude-table", Aliases: []string{"T"}, Usage: "leave out tables that match `PATTERN` (can be given several times)"},
		&cli.StringSliceFlag{Name: "schema", Aliases: []string{"n"}, Usage: "all tables of the schemas that match `PATTERN` (can be given several times)"},
		&cli.StringSliceFlag{Name: "exclude-schema", Aliases: []string{"N"}, Usage: "leave out the schemas that match `PATTERN` (can be given several times)"},
		&cli.BoolFlag{Name: "all", Usage: "all tables of the database; those that cannot be repacked are skipped, and named"},
		&cli.StringFlag{Name: "min-bloat", Usage: "only tables that waste at least this `PART|SIZE`, such as 30% or 500MB: see repack bloat"},
		&cli.StringFlag{Name: "min-size", Usage: "only tables of at least this `SIZE`, with indexes and TOAST, such as 100MB"},
		&cli.StringFlag{Name: "max-size", Usage: "only tables of at most this `SIZE`"},
		&cli.StringFlag{Name: "order", Usage: "`ORDER` of the tables: given, smallest, wasted or percent, the most first (default: given if all are names, else smallest); unfinished jobs come first"},
	}
}

// batchFlags are those of a run over several tables.
func batchFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "max-tables", Usage: "end, with exit code 5, when so many tables (`NUMBER`) are done; the same command continues"},
		&cli.DurationFlag{Name: "max-duration", Usage: "end, with exit code 5, after this `TIME` and the chunk under way; the same command continues"},
		&cli.StringFlag{Name: "max-written", Usage: "end, with exit code 5, when copies of this `SIZE` have been written, indexes included"},
		&cli.StringFlag{Name: "on-error", Value: "stop", Usage: "what follows a table that failed: stop, or continue with the next one"},
		&cli.BoolFlag{Name: "strict", Usage: "refuse, before any table is begun, if one of those that are chosen cannot be repacked (default: skip it, unless it was named)"},
		&cli.BoolFlag{Name: "new-batch", Usage: "choose again, instead of continuing a run over the same selection that has not ended"},
		&cli.StringFlag{Name: "format", Value: "text", Usage: "text, or json: a summary on standard output"},
	}
}

// selection reads what the flags choose.
func selection(c *cli.Context) repack.Selection {
	return repack.Selection{
		Tables: c.StringSlice("table"), Schemas: c.StringSlice("schema"), All: c.Bool("all"),
		Exclude: c.StringSlice("exclude-table"), ExcludeSchemas: c.StringSlice("exclude-schema"),
		MinSize: c.String("min-size"), MaxSize: c.String("max-size"), MinBloat: c.String("min-bloat"), Order: c.String("order"),
	}
}

// batch reads how the tables are repacked.
func batch(c *cli.Context) (repack.Batch, error) {
	b := repack.Batch{
		Selection: selection(c), Strict: c.Bool("strict"), NewBatch: c.Bool("new-batch"),
		MaxTables: c.Int("max-tables"), MaxDuration: c.Duration("max-duration"),
	}
	if len(b.Tables)+len(b.Schemas) == 0 && !b.All {
		return b, usagef("no table given: name tables, or give --schema or --all")
	}
	if format := c.String("format"); format != "text" && format != "json" {
		return b, usagef("--format: want text or json, not %q", format)
	}
	switch on := c.String("on-error"); on {
	case "stop":
	case "continue":
		b.ContinueOnError = true
	default:
		return b, usagef("--on-error: want stop or continue, not %q", on)
	}
	if text := c.String("max-written"); text != "" {
		var err error
		if b.MaxWritten, err = size.Parse(text); err != nil || b.MaxWritten == 0 {
			return b, usagef("--max-written %q is not a size above zero, such as 300GB", text)
		}
	}
	return b, nil
}

// inBatch reports whether a run is one over several tables, or has a flag that only such a run
// knows.
func inBatch(c *cli.Context) bool {
	_, single := selection(c).Single()
	for _, flag := range []string{"max-tables", "max-written", "max-duration", "strict", "new-batch"} {
		single = single && !c.IsSet(flag)
	}
	return !single
}

// summary is the result of a run over several tables.
type summary struct {
	Tables []repack.TableResult `json:"tables"`
}

// runBatch repacks the tables of a selection.
func runBatch(c *cli.Context, config *pgx.ConnConfig, o repack.Options) error {
	b, err := batch(c)
	if err != nil {
		return err
	}
	r, err := repack.New(config, o)
	if err != nil {
		return err
	}
	results, err := r.RunBatch(c.Context, b)
	if c.String("format") == "json" && (err == nil || results != nil) {
		encoder := json.NewEncoder(c.App.Writer)
		encoder.SetIndent("", "  ")
		if writeErr := encoder.Encode(summary{append([]repack.TableResult{}, results...)}); writeErr != nil {
			return writeErr
		}
	}
	tell := newTeller(c, o.Logger)
	for _, result := range results {
		if result.Result == "skipped" {
			text := fmt.Sprintf("skipped: %s: %s", plain(result.Schema)+"."+plain(result.Name), firstReason(result.Reason))
			tell.say(c.Context, text, "skipped", "table", plain(result.Schema)+"."+plain(result.Name), "reason", result.Reason)
		}
	}
	if err == nil && len(results) == 0 {
		tell.say(c.Context, "nothing to do: no table is left by --min-bloat, --min-size and --max-size", "nothing to do")
	}
	return err
}

// firstReason returns the first reason of a refusal, which has a line for each.
func firstReason(text string) string {
	lines := strings.Split(text, "\n")
	if len(lines) > 1 {
		return strings.TrimSpace(lines[1])
	}
	return text
}

// planBatch shows what a run over several tables would do.
func planBatch(c *cli.Context, config *pgx.ConnConfig, o repack.Options) error {
	b, err := batch(c)
	if err != nil {
		return err
	}
	r, err := repack.New(config, o)
	if err != nil {
		return err
	}
	list, err := r.PlanBatch(c.Context, b)
	if err != nil {
		return err
	}
	if c.String("format") == "json" {
		encoder := json.NewEncoder(c.App.Writer)
		encoder.SetIndent("", "  ")
		return encoder.Encode(map[string]any{"tables": list})
	}
	return writePlanned(c.App.Writer, list)
}

func writePlanned(w io.Writer, list []repack.PlannedTable) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TABLE\tSIZE\tWOULD FREE\tNEEDS AT MOST\tREFUSED")
	ifKnown := func(n *int64) string {
		if n == nil {
			return "not known"
		}
		return size.Text(*n)
	}
	for _, p := range list {
		refused, disk := "-", ifKnown(p.DiskBytes)
		if p.Refused != "" {
			refused, disk = firstReason(p.Refused), "-"
		}
		fmt.Fprintf(table, "%s.%s\t%s\t%s\t%s\t%s\n", plain(p.Schema), plain(p.Name), size.Text(p.SizeBytes), ifKnown(p.WastedBytes), disk, refused)
	}
	return table.Flush()
}
