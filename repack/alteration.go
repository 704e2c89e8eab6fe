package repack

import (
	"fmt"
	"slices"
	"strings"

	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
	"github.com/repack-go/repack/stages/alter"
)

// alteration returns what o changes of the table.
func (o Options) alteration() alter.Request {
	return alter.Request{
		Alter: o.Alter, ToBigint: o.ToBigint, Bigint: o.BigintColumns, Set: o.Set, Down: o.Down, ColumnOrder: o.ColumnOrder,
		Tablespace: o.Tablespace, IndexTablespace: o.IndexTablespace, AllowLossy: o.AllowLossy, NoRevert: o.NoRevert, Views: o.Views, Cascade: o.Cascade, NoCascade: o.NoCascade, Group: o.group, Recompress: o.Recompress,
	}
}

// checkAlteration returns *UsageError if a text is empty, or if an option needs a change
// of the table and there is none.
func (o Options) checkAlteration() error {
	asked := o.alteration()
	for _, l := range []struct {
		flag  string
		texts []string
	}{{"alter", asked.Alter}, {"to-bigint", asked.Bigint}, {"set", asked.Set}, {"down", asked.Down}, {"allow-lossy", asked.AllowLossy}} {
		if slices.ContainsFunc(l.texts, func(text string) bool { return strings.TrimSpace(text) == "" }) {
			return &UsageError{fmt.Errorf("--%s: an empty text is given", l.flag)}
		}
	}
	if o.Cascade && (!o.ToBigint && len(o.BigintColumns) == 0 || o.NoCascade) {
		return &UsageError{fmt.Errorf("--cascade goes with --to-bigint, and not with --no-cascade")}
	}
	if until := []Stage{PreValidate, Swap, CleanUp}; o.Cascade && !slices.Contains(until, o.Until) {
		return &UsageError{fmt.Errorf("--until %s: with --cascade it can only be %s, %s or %s", o.Until, until[0], until[1], until[2])}
	}
	if !slices.Contains([]string{"", alter.RecreateViews, alter.CastViews}, o.Views) {
		return &UsageError{fmt.Errorf("--views: want %s or %s, not %q", alter.RecreateViews, alter.CastViews, o.Views)}
	}
	// Whatever is given besides a change needs one.
	if given := flagsOf(asked); asked.None() && len(given) > 0 {
		return &UsageError{fmt.Errorf("%s: no change of the table is given; add --alter, --to-bigint, --set, --column-order, --tablespace or --index-tablespace",
			strings.Join(given, " "))}
	}
	return nil
}

// keepAlteration gives e the changes that job was begun with. For a run that asks for
// others, it returns *UsageError.
func (r *Repack) keepAlteration(e *stages.Env, job *registry.Job) error {
	begun, err := alter.Asked(job.Alteration)
	if err != nil {
		return fmt.Errorf("job %d: %w", job.ID, err)
	}
	if asked := r.options.alteration(); r.runs && !asked.None() && !asked.Equal(begun) {
		return &UsageError{otherAlteration(job, begun, asked)}
	}
	e.Alter = begun
	return nil
}

// otherAlteration returns the error for a job that was begun with begun, and would be
// resumed with asked.
func otherAlteration(job *registry.Job, begun, asked alter.Request) error {
	table := shellQuote(job.Table().String())
	undo := "reset"
	if job.Swapped() {
		undo = "revert"
	}
	if begun.None() {
		return fmt.Errorf("job %d of %s was begun without %s; nothing has changed; finish the job with: repack run --table %s"+
			"\n  or start afresh after: repack %s --table %[4]s", job.ID, job.Table(), strings.Join(flagsOf(asked), " "), table, undo)
	}
	return fmt.Errorf("job %d of %s was begun with other changes of the table, and keeps them; nothing has changed; it was begun with:\n  %s"+
		"\nfinish the job with: repack run --table %s\n  or start afresh after: repack %s --table %[4]s",
		job.ID, job.Table(), strings.Join(flagsOf(begun), "\n  "), table, undo)
}

// flagsOf returns the flags that ask for r, quoted for the shell.
func flagsOf(r alter.Request) []string {
	var flags []string
	add := func(flag string, values ...string) {
		for _, value := range values {
			if value != "" {
				flags = append(flags, "--"+flag+" "+shellQuote(value))
			}
		}
	}
	add("alter", r.Alter...)
	switch {
	case len(r.Bigint) > 0:
		flags = append(flags, "--to-bigint="+shellQuote(strings.Join(r.Bigint, ",")))
	case r.ToBigint:
		flags = append(flags, "--to-bigint")
	}
	add("set", r.Set...)
	add("down", r.Down...)
	add("column-order", r.ColumnOrder)
	add("tablespace", r.Tablespace)
	add("index-tablespace", r.IndexTablespace)
	add("allow-lossy", r.AllowLossy...)
	add("views", r.Views)
	for _, f := range []struct {
		flag  string
		given bool
	}{{"--recompress", r.Recompress}, {"--cascade", r.Cascade}, {"--no-cascade", r.NoCascade}, {"--no-revert", r.NoRevert}} {
		if f.given {
			flags = append(flags, f.flag)
		}
	}
	return flags
}

// shellQuote returns text as one word of a POSIX shell.
func shellQuote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
