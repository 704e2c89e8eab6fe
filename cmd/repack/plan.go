package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/internal/size"
	"github.com/repack-go/repack/repack"
)

func planCommand() *cli.Command {
	return &cli.Command{
		Name:  "plan",
		Usage: "show what a run would do, and change nothing: locks, SQL, what is carried over, disk space",
		Flags: slices.Concat([]cli.Flag{tableFlag()}, runFlags(), throttleFlags(), []cli.Flag{
			&cli.StringFlag{Name: "format", Value: "text", Usage: "text or json"},
			&cli.BoolFlag{Name: "sql", Usage: "also show the SQL statements and all names; json always has them"},
		}, lockFlags(), connectionFlags()),
		Action: func(c *cli.Context) error {
			write, ok := map[string]func(io.Writer, *repack.Plan) error{"text": writePlan, "json": writePlanJSON}[c.String("format")]
			if !ok {
				return &repack.UsageError{Err: fmt.Errorf("--format: want text or json, not %q", c.String("format"))}
			}
			if c.Bool("sql") && c.String("format") == "text" {
				write = writeFullPlan
			}
			return showPlan(c, write)
		},
	}
}

func showPlan(c *cli.Context, write func(io.Writer, *repack.Plan) error) error {
	config, o, err := options(c)
	if err == nil {
		err = readThrottle(c, &o)
	}
	if err != nil {
		return err
	}
	r, err := repack.New(config, o)
	if err != nil {
		return err
	}
	plan, err := r.Plan(c.Context)
	if plan != nil {
		if err := write(c.App.Writer, plan); err != nil {
			return err
		}
	}
	return err
}

func writePlanJSON(w io.Writer, plan *repack.Plan) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(plan)
}

func writePlan(w io.Writer, plan *repack.Plan) error { return planText{}.write(w, plan) }

func writeFullPlan(w io.Writer, plan *repack.Plan) error { return planText{full: true}.write(w, plan) }

// planText writes a plan as text. full includes the statements and all names.
type planText struct{ full bool }

// write writes nothing for a refused table: the error already has the reasons.
func (t planText) write(w io.Writer, plan *repack.Plan) error {
	if len(plan.Refused) > 0 {
		return nil
	}
	var b strings.Builder
	t.head(&b, plan)
	t.carried(&b, plan.Carried)
	t.stages(&b, plan)
	_, err := io.WriteString(w, b.String())
	return err
}

func (t planText) head(b *strings.Builder, plan *repack.Plan) {
	fmt.Fprintf(b, "Plan for %s, strategy %s. Nothing has been changed.\n", plan.Table, plan.Strategy)
	if j := plan.Job; j != nil {
		stands := "stopped in"
		switch {
		case j.Running:
			stands = "at work in"
		case j.StageDone:
			stands = "stopped after"
		}
		fmt.Fprintf(b, "Job %d is %s stage %s: what follows is what is left to do.\n", j.Job, stands, j.Stage)
	}
	if len(plan.Alteration) > 0 {
		fmt.Fprintf(b, "\nWhat is changed, and nothing else:\n")
		for _, line := range plan.Alteration {
			fmt.Fprintf(b, "  %s\n", line)
		}
	}
	d := plan.Disk
	fmt.Fprintf(b, "\nDisk: at most %s (table %s, TOAST %s, indexes %s), and about as much write-ahead log: %s.\n",
		size.Text(d.AtMost), size.Text(d.TableBytes), size.Text(d.ToastBytes), size.Text(d.IndexBytes), size.Text(d.WAL))
	switch {
	case d.LiveFraction != nil:
		fmt.Fprintf(b, "      About %.0f%% of the table is live, by its statistics: %d rows.\n", *d.LiveFraction*100, d.Rows)
	case d.TableBytes > 0:
		fmt.Fprintf(b, "      Its statistics do not say how much of the table is live: see repack bloat.\n")
	}
	if s := plan.ServerRepack; s != nil && s.Why == "" {
		fmt.Fprintf(b, "\nIf all you want is the space back, the server's own command would do, too: %s\n"+
			"How the two differ: docs/repack-or-repack.md.\n", s.SQL)
	}
	for _, columns := range plan.NotSearched {
		fmt.Fprintf(b, "\nNot searched for the OIDs that change: %s.\n", columns)
	}
	for _, s := range plan.Standbys {
		fmt.Fprintf(b, "\nStandby %q: the swap's ACCESS EXCLUSIVE lock is replayed there. Queries that outlast\n"+
			"max_standby_streaming_delay are cancelled, and replay waits for them that long.\n", s.Name)
		if !s.Feedback {
			fmt.Fprintf(b, "It reports no snapshot now (hot_standby_feedback): the swap cannot wait for its transactions.\n")
		}
	}
	if len(plan.Signals) > 0 {
		fmt.Fprintf(b, "\nWork can be stopped by these (docs/throttle.md). Now:\n")
	}
	for _, s := range plan.Signals {
		fmt.Fprintf(b, "  %-19s  %s\n", s.Flag, s.Now)
	}
	for _, s := range plan.WaitsFor {
		fmt.Fprintf(b, "\nWould have to wait for %s.\n", session(s))
	}
}

func session(s repack.PlannedWait) string {
	who := fmt.Sprintf("pid %d of %s", s.PID, s.User)
	if s.PID == 0 {
		who = fmt.Sprintf("prepared transaction %q of %s", s.GID, s.User)
	}
	who += fmt.Sprintf(" (%s, begun %s ago", s.State, time.Duration(s.Seconds)*time.Second)
	if s.Lock != "" {
		who += ", holds " + s.Lock + " on the table"
	}
	if s.Snapshot {
		who += ", holds a snapshot"
	}
	if s.Query != "" {
		who += ", query: " + s.Query
	}
	return who + ")"
}

// shownNames is the number of names that fit on a line.
const shownNames = 6

func (t planText) carried(b *strings.Builder, carried []repack.PlannedProperty) {
	b.WriteString("\nCarried over:\n")
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, c := range carried {
		names, rest := c.Names, ""
		if len(names) > shownNames && !t.full {
			rest = fmt.Sprintf(" and %d more", len(names)-shownNames+1)
			names = names[:shownNames-1]
		}
		fmt.Fprintf(table, "  %s\t%d\t%s%s\n", c.Kind, c.Count, strings.Join(names, ", "), rest)
	}
	_ = table.Flush() // a strings.Builder never fails
}

func (t planText) stages(b *strings.Builder, plan *repack.Plan) {
	if keys := plan.ForeignKeys; keys.Keys > 0 {
		way := map[repack.ForeignKeys]string{repack.ForeignKeysTogether: "together", repack.ForeignKeysOneByOne: "one by one"}[keys.Way]
		fmt.Fprintf(b, "\nForeign keys with other tables are moved %s: %s.\n", way, keys.Why)
	}
	fmt.Fprintf(b, "\nLocks not obtained in time are tried for again, at most %d times.\n", plan.LockRetries)
	if plan.KillAfter > 0 {
		fmt.Fprintf(b, "Sessions in the way for %s are cancelled, and then terminated.\n", time.Duration(plan.KillAfter*float64(time.Second)))
	}
	for _, stage := range plan.Stages {
		fmt.Fprintf(b, "\n%s\n", stage.Stage)
		for _, step := range stage.Steps {
			fmt.Fprintf(b, "  - %s\n", step.Does)
			for _, l := range step.Locks {
				fmt.Fprintf(b, "      %s on %s%s\n", l.Mode, l.Relation, waitOf(l))
			}
			if t.full {
				statements(b, step.SQL)
			}
		}
	}
	if len(plan.Stages) == 0 {
		b.WriteString("\nNothing is left to do.\n")
	}
}

// waitOf returns the limit of the wait for a lock. It is empty for weak locks: other
// sessions do not have to wait behind a request for one.
func waitOf(l repack.PlannedLock) string {
	if l.Mode == "ACCESS SHARE" || l.Mode == "ROW SHARE" {
		return ""
	}
	return fmt.Sprintf(", waiting at most %s", time.Duration(l.Seconds*float64(time.Second)))
}

func statements(b *strings.Builder, sql []string) {
	for _, statement := range sql {
		b.WriteString("\n")
		for line := range strings.Lines(statement + ";\n") {
			b.WriteString("      " + line)
		}
	}
	if len(sql) > 0 {
		b.WriteString("\n")
	}
}
