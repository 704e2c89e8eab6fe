package repack

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
	"github.com/repack-go/repack/stages/alter"
)

// TestAlterationRefused: options that need a change of the table, and empty texts.
func TestAlterationRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		o    Options
		says string
	}{
		{Options{Down: []string{"a = 1"}}, "--down 'a = 1': no change of the table"},
		{Options{AllowLossy: []string{"a", "b"}}, "--allow-lossy 'a' --allow-lossy 'b': no change of the table"},
		{Options{NoRevert: true}, "--no-revert: no change of the table"},
		{Options{Alter: []string{" "}}, "--alter: an empty text"},
		{Options{ToBigint: true, BigintColumns: []string{""}}, "--to-bigint: an empty text"},
		{Options{Set: []string{"a = 1", ""}}, "--set: an empty text"},
		{Options{ToBigint: true, Down: []string{""}}, "--down: an empty text"},
		{Options{ToBigint: true, AllowLossy: []string{""}}, "--allow-lossy: an empty text"},
	} {
		_, err := c.o.withDefaults()
		var usage *UsageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v, want a *UsageError with %s", c.o, err, c.says)
		}
	}
}

func TestAlterationTaken(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{
		{Alter: []string{"DROP a"}},
		{ToBigint: true},
		{BigintColumns: []string{"a"}},
		{Set: []string{"a = 1"}},
		{ColumnOrder: "packed"},
		{Tablespace: "x"},
		{IndexTablespace: "x"},
	} {
		o.Down, o.AllowLossy, o.NoRevert = []string{"b = 1"}, []string{"c"}, true
		got, err := o.withDefaults()
		if err != nil || got.ToBigint != (o.ToBigint || len(o.BigintColumns) > 0) {
			t.Errorf("%+v: %+v, %v", o, got, err)
		}
		if asked := got.alteration(); asked.None() || len(asked.Down) != 1 || len(asked.AllowLossy) != 1 || !asked.NoRevert {
			t.Errorf("%+v asks for %+v", o, asked)
		}
	}
}

// TestAlterationIsKept: a job keeps the changes that it was begun with, and no run may ask
// for others.
func TestAlterationIsKept(t *testing.T) {
	t.Parallel()
	widen := alter.Request{Alter: []string{"RENAME a TO b"}, ToBigint: true, AllowLossy: []string{"c"}}
	asOptions := func(change func(*Options)) Options {
		o := Options{Alter: []string{"RENAME a TO b"}, ToBigint: true, AllowLossy: []string{"c"}, Set: []string{}}
		change(&o)
		return o
	}
	for _, c := range []struct {
		name    string
		begun   alter.Request
		swapped bool
		asked   Options
		says    []string // nil: the run goes on
	}{
		{name: "nothing by either"},
		{name: "nothing now", begun: widen},
		{name: "the same", begun: widen, asked: asOptions(func(*Options) {})},
		{
			name: "another text", begun: widen, asked: asOptions(func(o *Options) { o.Alter = []string{"RENAME a TO  b"} }),
			says: []string{"job 7 of ", "\n  --alter 'RENAME a TO b'\n  --to-bigint\n  --allow-lossy 'c'\n", "repack run --table", "repack reset --table"},
		},
		{name: "columns", begun: widen, asked: asOptions(func(o *Options) { o.BigintColumns = []string{"id"} }), says: []string{"\n  --to-bigint\n"}},
		{name: "no consent", begun: widen, asked: asOptions(func(o *Options) { o.AllowLossy = nil }), says: []string{"--allow-lossy 'c'"}},
		{name: "a consent more", begun: widen, asked: asOptions(func(o *Options) { o.NoRevert = true }), says: []string{"begun with"}},
		{name: "after the swap", begun: widen, swapped: true, asked: Options{ToBigint: true}, says: []string{"repack revert --table"}},
		{
			name: "begun without", asked: Options{ToBigint: true, Set: []string{"a = 'x'"}},
			says: []string{`begun without --to-bigint --set 'a = '\''x'\'''`, "repack run --table", "repack reset --table"},
		},
	} {
		r, err := New(nil, c.asked)
		if err != nil {
			t.Fatal(err)
		}
		e, job := &stages.Env{}, givenAlteredJob(t, c.begun)
		if err := r.keepAlteration(e, job); err != nil || !e.Alter.Equal(c.begun) {
			t.Errorf("%s: a revert: %v, and the job changes %+v", c.name, err, e.Alter)
		}
		r.runs = true
		if c.swapped {
			now := time.Now()
			job.SwappedAt = &now
		}
		err = r.keepAlteration(e, job)
		if c.says == nil {
			if err != nil || !e.Alter.Equal(c.begun) {
				t.Errorf("%s: %v, and the job changes %+v", c.name, err, e.Alter)
			}
			continue
		}
		var usage *UsageError
		if !errors.As(err, &usage) {
			t.Errorf("%s: %v, want a *UsageError", c.name, err)
			continue
		}
		for _, says := range c.says {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%s: no %q in %v", c.name, says, err)
			}
		}
	}
}

// givenAlteredJob returns a job that was begun with a request.
func givenAlteredJob(t *testing.T, begun alter.Request) *registry.Job {
	t.Helper()
	job := &registry.Job{ID: 7, TableSchema: "app", TableName: "it's"}
	if begun.None() {
		return job
	}
	var err error
	if job.Alteration, err = json.Marshal(map[string]any{"asked": begun, "columns": []string{}}); err != nil {
		t.Fatal(err)
	}
	return job
}

// TestFlagsOf: each request as flags of the shell, which are one line each.
func TestFlagsOf(t *testing.T) {
	t.Parallel()
	got := flagsOf(alter.Request{
		Alter: []string{"ALTER a SET DEFAULT 'x', DROP b", "DROP c"}, ToBigint: true, Bigint: []string{"id", `"A,b"`},
		Set: []string{"d = 1"}, Down: []string{"b = 2"}, ColumnOrder: "id, *", Tablespace: "fast", IndexTablespace: "x y", AllowLossy: []string{"e"}, NoRevert: true,
	})
	want := []string{
		`--alter 'ALTER a SET DEFAULT '\''x'\'', DROP b'`, "--alter 'DROP c'", `--to-bigint='id,"A,b"'`, "--set 'd = 1'", "--down 'b = 2'",
		"--column-order 'id, *'", "--tablespace 'fast'", "--index-tablespace 'x y'", "--allow-lossy 'e'", "--no-revert",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("flags\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := flagsOf(alter.Request{}); len(got) > 0 {
		t.Errorf("nothing is asked for with %q", got)
	}
}
