package main

import (
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/repack-go/repack/repack"
)

// optionsOf returns the options of repack run with args. No connection is made.
func optionsOf(t *testing.T, args ...string) (repack.Options, error) {
	t.Helper()
	var o repack.Options
	app := application(t.Output(), t.Output())
	app.Command("run").Action = func(c *cli.Context) (err error) {
		_, o, err = options(c)
		return err
	}
	args, err := arrange(app, append([]string{"repack", "run"}, args...))
	if err != nil {
		return o, err
	}
	return o, app.RunContext(t.Context(), args)
}

// TestAlterFlags: values with commas stay whole, and --to-bigint takes no value from the
// next argument.
func TestAlterFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want repack.Options // of the options that change the table
	}{
		{[]string{"t"}, repack.Options{}},
		{
			[]string{"--alter", "ALTER a TYPE numeric(12,2), DROP b", "t", "--alter=RENAME c TO d"},
			repack.Options{Alter: []string{"ALTER a TYPE numeric(12,2), DROP b", "RENAME c TO d"}},
		},
		{[]string{"--alter", "-- a comment\nDROP b", "t"}, repack.Options{Alter: []string{"-- a comment\nDROP b"}}},
		{[]string{"--to-bigint", "--keep-old", "t"}, repack.Options{ToBigint: true}},
		{[]string{"--to-bigint", "t"}, repack.Options{ToBigint: true}},
		{[]string{"--to-bigint", "--no-revert", "-t", "t"}, repack.Options{ToBigint: true, NoRevert: true}},
		{[]string{"t", "--to-bigint"}, repack.Options{ToBigint: true}},
		{[]string{"--to-bigint=a,b", "t"}, repack.Options{ToBigint: true, BigintColumns: []string{"a", "b"}}},
		{[]string{`--to-bigint=a, "B,c""d" ,t`, "t"}, repack.Options{ToBigint: true, BigintColumns: []string{"a", `"B,c""d"`, "t"}}},
		{[]string{"--to-bigint=a", "--to-bigint=b", "t"}, repack.Options{ToBigint: true, BigintColumns: []string{"a", "b"}}},
		{[]string{`--to-bigint="true"`, "t"}, repack.Options{ToBigint: true, BigintColumns: []string{`"true"`}}},
		{[]string{"--to-bigint=", "t"}, repack.Options{ToBigint: true, BigintColumns: []string{""}}},
		{
			[]string{"--set", "a = f(b, 'x,y')", "--set", "c = 1", "--down", "d = coalesce(e, '-')", "t"},
			repack.Options{Set: []string{"a = f(b, 'x,y')", "c = 1"}, Down: []string{"d = coalesce(e, '-')"}},
		},
		{
			[]string{"--column-order", "id, placed_at, *", "--tablespace", "fast", "--index-tablespace=faster", "t"},
			repack.Options{ColumnOrder: "id, placed_at, *", Tablespace: "fast", IndexTablespace: "faster"},
		},
		{[]string{"--allow-lossy", "a", "--allow-lossy", `"B,c"`, "t"}, repack.Options{AllowLossy: []string{"a", `"B,c"`}}},
	} {
		o, err := optionsOf(t, c.args...)
		if err != nil || o.Table != "t" || o.KeepOld != slices.Contains(c.args, "--keep-old") {
			t.Errorf("run %q: table %q, %v", c.args, o.Table, err)
		}
		got := repack.Options{
			Alter: o.Alter, ToBigint: o.ToBigint, BigintColumns: o.BigintColumns, Set: o.Set, Down: o.Down, ColumnOrder: o.ColumnOrder,
			Tablespace: o.Tablespace, IndexTablespace: o.IndexTablespace, AllowLossy: o.AllowLossy, NoRevert: o.NoRevert,
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("run %q: %+v, want %+v", c.args, got, c.want)
		}
	}
}

func TestAlterFlagsWantValues(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"t", "--alter"}, {"t", "--alter", "--to-bigint"}, {"t", "--set"}, {"t", "--down"}, {"t", "--allow-lossy", "--no-revert"}} {
		var usage *repack.UsageError
		if o, err := optionsOf(t, args...); !errors.As(err, &usage) {
			t.Errorf("run %q: %+v, %v; want a *UsageError", args, o, err)
		}
	}
}
