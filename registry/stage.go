// Package registry remembers jobs: the row of each, the history of its stages,
// the chunks of its backfill, and the advisory lock of the process that runs it.
package registry

import (
	"fmt"
	"slices"
)

// Stage is a step of a job, in the spelling of the command line.
type Stage string

// The stages in the order in which they run. PreValidate changes nothing and so
// is never the stage of a job.
const (
	PreValidate    Stage = "pre_validate"
	Setup          Stage = "setup"
	Backfill       Stage = "backfill"
	SyncSchema     Stage = "sync_schema"
	PostSyncUpdate Stage = "post_sync_update"
	Swap           Stage = "swap"
	CleanUp        Stage = "clean_up"
)

// Stages lists all stages in order.
var Stages = []Stage{PreValidate, Setup, Backfill, SyncSchema, PostSyncUpdate, Swap, CleanUp}

// ParseStage returns the stage of that name.
func ParseStage(name string) (Stage, error) {
	if !slices.Contains(Stages, Stage(name)) {
		return "", fmt.Errorf("unknown stage %q: want one of %v", name, Stages)
	}
	return Stage(name), nil
}

// Before reports whether s comes before o.
func (s Stage) Before(o Stage) bool { return slices.Index(Stages, s) < slices.Index(Stages, o) }

// State says whether a job goes on.
type State string

// The first four hold artefacts in the database. Those that are not Active have
// passed a point after which only what they are about can be gone on with:
// Resetting and Finishing jobs capture no changes any more.
const (
	Active    State = "active"
	Reverting State = "reverting"
	Resetting State = "resetting"
	Finishing State = "finishing"
	Done      State = "done"
	Reverted  State = "reverted"
	Reset     State = "reset"
)

// Over reports whether nothing of the job is left.
func (s State) Over() bool { return s == Done || s == Reverted || s == Reset }
