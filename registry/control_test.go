package registry_test

import (
	"testing"
	"time"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
)

func TestControl(t *testing.T) {
	t.Parallel()
	db, r, job, _ := given(t)
	conn := connect(t, db)
	table, other := job.Table(), catalog.Name{Schema: job.TableSchema, Name: "other"}
	tell := func(table *catalog.Name, verb registry.Verb, arguments registry.Arguments) {
		t.Helper()
		if err := r.Tell(t.Context(), conn, table, registry.Command{Verb: verb, Arguments: arguments, By: "anna@ops"}); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(id int64) registry.Control {
		t.Helper()
		c, err := r.Control(t.Context(), conn, id)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}

	if c := holds(job.ID); c.Paused != nil || c.Swap != nil || c.Stop != nil || len(c.Settings) != 0 {
		t.Fatalf("nobody has told anything, and this holds: %+v", c)
	}
	tell(&other, registry.Pause, registry.Arguments{})
	if c := holds(job.ID); c.Paused != nil {
		t.Errorf("a pause of another table holds: %+v", c.Paused)
	}
	tell(&table, registry.Pause, registry.Arguments{Reason: "deploy", Now: true})
	if c := holds(job.ID).Paused; c == nil || c.By != "anna@ops" || c.Arguments.Reason != "deploy" || !c.Arguments.Now || c.All || c.At.IsZero() {
		t.Errorf("paused: %+v", c)
	}
	tell(nil, registry.Resume, registry.Arguments{})
	if c := holds(job.ID); c.Paused != nil {
		t.Errorf("all were told to resume, and this holds: %+v", c.Paused)
	}
	tell(nil, registry.Pause, registry.Arguments{})
	if c := holds(0).Paused; c == nil || !c.All {
		t.Errorf("all were told to pause, and this holds for a table without job: %+v", c)
	}
	tell(&table, registry.Resume, registry.Arguments{})
	if c := holds(job.ID); c.Paused != nil {
		t.Errorf("the last word was to resume, and this holds: %+v", c.Paused)
	}

	tell(&table, registry.Set, registry.Arguments{Settings: map[string]string{"nice": "2", "jobs": "1"}})
	tell(&table, registry.Set, registry.Arguments{Settings: map[string]string{"nice": "3"}})
	if c := holds(job.ID).Settings; c["nice"].Value != "3" || c["jobs"].Value != "1" || c["nice"].By != "anna@ops" {
		t.Errorf("settings: %+v", c)
	}
	at := time.Date(2026, 11, 27, 2, 0, 0, 0, time.UTC)
	tell(&table, registry.SwapNow, registry.Arguments{NotBefore: &at})
	if c := holds(job.ID).Swap; c == nil || !c.Arguments.NotBefore.Equal(at) {
		t.Errorf("swap: %+v", c)
	}
}

// What an earlier job was told, and an earlier run to stop, does not hold.
func TestControlOfEarlierJob(t *testing.T) {
	t.Parallel()
	db, r, job, runner := given(t)
	conn := connect(t, db)
	table := job.Table()
	for _, verb := range []registry.Verb{registry.Pause, registry.Stop} {
		if err := r.Tell(t.Context(), conn, &table, registry.Command{Verb: verb, By: "anna@ops"}); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := r.Control(t.Context(), conn, job.ID); err != nil || c.Stop == nil {
		t.Fatalf("stop: %+v, %v", c.Stop, err)
	}
	if err := r.Claim(t.Context(), conn, job, runner); err != nil {
		t.Fatal(err)
	}
	c, err := r.Control(t.Context(), conn, job.ID)
	if err != nil || c.Stop != nil || c.Paused == nil {
		t.Errorf("the next run is told: stop %+v, pause %+v, %v", c.Stop, c.Paused, err)
	}
	db.Exec(t, `UPDATE "Odd registry".job SET created_at = clock_timestamp()`)
	if c, err := r.Control(t.Context(), conn, job.ID); err != nil || c.Paused != nil {
		t.Errorf("the next job is told to pause: %+v, %v", c.Paused, err)
	}
}
