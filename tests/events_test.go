package tests

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// wantEvents are the events of a job, each with its stage.
func wantEvents() (events []string) {
	for _, s := range []string{"setup", "backfill", "sync_schema", "post_sync_update", "swap", "clean_up"} {
		events = append(events, "stage_started "+s, "stage_finished "+s)
	}
	return append(events, "job_finished clean_up")
}

// TestEventsOnce has runs fail, be interrupted and end, and looks at what the program is told.
func TestEventsOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL)
	var mu sync.Mutex
	var told []string
	tell := func(_ context.Context, e repack.Event) error {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, e.Event+" "+string(e.Stage))
		if e.Table != "app.t" || e.At.IsZero() || (e.Error == nil) != (strings.HasPrefix(e.Event, "stage_") || e.Event == "job_finished") {
			t.Errorf("event %+v", e)
		}
		return errors.New("this is logged and not told again")
	}
	o := options(t, "app.t", repack.ChangeLog)
	o.OnEvent = tell
	broken := errors.New("broken")
	o.Hooks.AfterStep = func(_ context.Context, step string) error {
		if step == repack.StepWritingThrough {
			return broken
		}
		return nil
	}
	if err := newRepack(t, db, o).Run(testContext(t)); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	o.Hooks.AfterStep = nil
	// What was not told because the process was killed is told by the next run.
	db.Exec(t, `DELETE FROM repack_registry.event WHERE event IN ('failed', 'stage_finished') AND stage IN ('swap', 'sync_schema')`)
	mu.Lock()
	again := slices.Index(told, "stage_finished sync_schema")
	told = slices.DeleteFunc(told, func(e string) bool { return e == "failed swap" || e == "stage_finished sync_schema" })
	mu.Unlock()
	run(t, db, o)
	want := wantEvents()
	at := slices.Index(want, "stage_finished sync_schema")
	if again != at {
		t.Errorf("the event was told as number %d, want %d", again, at)
	}
	want = slices.Delete(want, at, at+1)
	end := slices.Index(want, "stage_finished swap")
	want = slices.Insert(want, end, "stage_finished sync_schema", "failed swap")
	if !slices.Equal(told, want) {
		t.Errorf("told %q\nwant %q", told, want)
	}
}

// TestEventsOfProgram looks at what a command and a server are told. A command
// that hangs does not hold up the swap.
func TestEventsOfProgram(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, smallSQL)
	var mu sync.Mutex
	var posted []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		posted = append(posted, eventOf(t, string(text)))
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "events")
	args := []string{"run", "app.t", "--on-event", "cat >> " + file, "--notify-url", server.URL + "/secret"}
	cli(t, db, 0, append(args, "--until", "backfill")...)
	cli(t, db, 0, args...).saysNot(t, "secret")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var called []string
	for line := range strings.Lines(string(text)) {
		called = append(called, eventOf(t, line))
	}
	if want := wantEvents(); !slices.Equal(called, want) || !slices.Equal(posted, want) {
		t.Errorf("the command was told %q\nthe server %q\nwant %q", called, posted, want)
	}
	cli(t, db, 2, "run", "app.t", "--notify-url", "example.com").says(t, "--notify-url")
	server.Close()
	refused := cli(t, db, 0, args...)
	refused.says(t, "event not passed on")
	refused.saysNot(t, "secret")

	hangs := make(chan struct{})
	swapped := make(chan struct{})
	o := options(t, "app.t", repack.ChangeLog)
	var once sync.Once
	o.OnEvent = func(context.Context, repack.Event) error {
		once.Do(func() { close(hangs) })
		<-swapped
		return nil
	}
	o.Hooks.AfterStage = func(_ context.Context, s repack.Stage) error {
		if s == repack.Swap {
			<-hangs
			close(swapped)
		}
		return nil
	}
	run(t, db, o)
}

func eventOf(t *testing.T, text string) string {
	t.Helper()
	var e repack.Event
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		t.Errorf("event %q: %v", text, err)
	}
	return e.Event + " " + string(e.Stage)
}
