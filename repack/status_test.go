package repack

import (
	"testing"

	"github.com/repack-go/repack/registry"
)

// TestExtrapolate: the end of a backfill is told by its blocks, and by nothing where
// none has been copied.
func TestExtrapolate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name             string
		stage            Stage
		estimate, blocks int64
		copied           registry.Copied
		total            int64
		eta              float64 // negative: not known
	}{
		{"not begun", Backfill, 500, 100, registry.Copied{}, 500, -1},
		{"a quarter", Backfill, 5, 100, registry.Copied{Rows: 250, Blocks: 25, Rate: 50}, 1000, 15},
		{"no rows in the first blocks", Backfill, 5, 100, registry.Copied{Blocks: 50}, 0, -1},
		{"no rate yet", Backfill, 5, 100, registry.Copied{Rows: 10, Blocks: 50}, 20, -1},
		{"rows at an end", Backfill, 5, 3, registry.Copied{Rows: 10, Blocks: 2, Rate: 1}, 15, 5},
		{"another stage", Setup, 5, 100, registry.Copied{Rows: 250, Blocks: 25, Rate: 50}, 1000, -1},
	} {
		var s Status
		s.extrapolate(&registry.Job{Stage: c.stage, RowEstimate: &c.estimate, Blocks: &c.blocks}, c.copied)
		if s.RowsTotal != c.total {
			t.Errorf("%s: %d rows, want %d", c.name, s.RowsTotal, c.total)
		}
		switch {
		case c.eta < 0 && s.ETASeconds != nil:
			t.Errorf("%s: %v seconds", c.name, *s.ETASeconds)
		case c.eta >= 0 && (s.ETASeconds == nil || *s.ETASeconds != c.eta):
			t.Errorf("%s: %v seconds, want %v", c.name, s.ETASeconds, c.eta)
		}
	}
}

// TestState: what a job has come to is said before who works on it, and that before
// how it ended the last time.
func TestState(t *testing.T) {
	t.Parallel()
	failed := "it failed"
	for _, c := range []struct {
		name    string
		job     registry.Job
		running bool
		want    string
	}{
		{"stopped", registry.Job{State: registry.Active}, false, "stopped"},
		{"running again after an error", registry.Job{State: registry.Active, Error: &failed, Interrupted: true}, true, "running"},
		{"failed", registry.Job{State: registry.Active, Error: &failed}, false, "failed"},
		{"interrupted", registry.Job{State: registry.Active, Interrupted: true, Error: &failed}, false, "interrupted"},
		{"a reset that failed", registry.Job{State: registry.Resetting, Error: &failed}, false, "resetting"},
		{"a revert that was interrupted", registry.Job{State: registry.Reverting, Interrupted: true}, false, "reverting"},
		{"a revert at work", registry.Job{State: registry.Reverting}, true, "running"},
		{"done, with its runner there", registry.Job{State: registry.Done, Error: &failed}, true, "done"},
		{"reverted", registry.Job{State: registry.Reverted}, false, "reverted"},
	} {
		if got := state(&c.job, c.running); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
