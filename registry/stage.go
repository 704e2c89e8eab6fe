package registry

import (
	"fmt"
	"slices"
)

// Stage is a stage of a job. Its value is the name on the command line and in the
// registry.
type Stage string

// The stages in the order in which they run. PreValidate changes nothing, and so it is
// never the stage of a job.
const (
	PreValidate    Stage = "pre_validate"
	Setup          Stage = "setup"
	Backfill       Stage = "backfill"
	SyncSchema     Stage = "sync_schema"
	PostSyncUpdate Stage = "post_sync_update"
	Swap           Stage = "swap"
	CleanUp        Stage = "clean_up"
)

// Stages lists all stages in the order in which they run.
var Stages = []Stage{PreValidate, Setup, Backfill, SyncSchema, PostSyncUpdate, Swap, CleanUp}

// ParseStage returns the stage with that name, or an error if there is none.
func ParseStage(name string) (Stage, error) {
	if !slices.Contains(Stages, Stage(name)) {
		return "", fmt.Errorf("unknown stage %q: want one of %v", name, Stages)
	}
	return Stage(name), nil
}

// Before reports whether s runs before o.
func (s Stage) Before(o Stage) bool { return slices.Index(Stages, s) < slices.Index(Stages, o) }

// State is the state of a job. The package overview draws the transitions.
type State string

// The states of a job. In the first four, the job has artefacts in the database. A job that
// is Reverting, Resetting or Finishing can only complete that operation. Resetting and
// Finishing jobs no longer capture changes.
const (
	Active    State = "active"
	Reverting State = "reverting"
	Resetting State = "resetting"
	Finishing State = "finishing"
	Done      State = "done"
	Reverted  State = "reverted"
	Reset     State = "reset"
)

// Over reports whether the job has ended and has no artefacts left.
func (s State) Over() bool { return s == Done || s == Reverted || s == Reset }
