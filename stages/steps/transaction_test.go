package steps

import (
	"context"
	"reflect"
	"testing"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
)

// TestSteps: a plan prints the statements of each action in order, without what only reads,
// and without the semicolons and blanks around them.
func TestSteps(t *testing.T) {
	t.Parallel()
	table := catalog.Name{Schema: "app", Name: "t"}
	var later []string
	transaction := Transaction{
		Does:  "change it",
		Locks: func(p *Planner) []Lock { return []Lock{p.Strong("ACCESS EXCLUSIVE", table)} },
		Actions: []Action{
			Unplanned(func(context.Context, *lock.Tx) error { t.Error("a plan carries nothing out"); return nil }),
			Send(" ALTER TABLE a;\n", "", "ALTER TABLE b"),
			SendLate(func() []string { return later }),
			Acquire("SHARE", func() []string { return []string{table.String()} }),
		},
	}
	later = []string{"ALTER TABLE c"}
	got, err := (&Planner{}).Steps(t.Context(), transaction)
	want := []Step{{
		Does:  "change it",
		Locks: []Lock{{Mode: "ACCESS EXCLUSIVE", Relation: `"app"."t"`}},
		SQL:   []string{"ALTER TABLE a", "ALTER TABLE b", "ALTER TABLE c", lock.SQL(table.String(), "SHARE")},
	}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

// TestStepsOfNothing: lists are empty, and not null, in JSON.
func TestStepsOfNothing(t *testing.T) {
	t.Parallel()
	got, err := (&Planner{}).Steps(t.Context(), Transaction{Does: "read"})
	if want := []Step{{Does: "read", Locks: []Lock{}, SQL: []string{}}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%#v, %v; want %#v", got, err, want)
	}
}
