package steps

import (
	"context"
	"time"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/builds"
	"github.com/repack-go/repack/stages/chunker"
)

// Hooks are called during a run. If a hook returns an error, the run ends as if the stage
// had failed; the job can be continued.
//
// AfterChunk, AfterStep and WhileBuilding are called by several goroutines at the same
// time, because chunks and indexes are processed in parallel.
type Hooks struct {
	// BeforeStage is called before a stage begins.
	BeforeStage func(ctx context.Context, stage registry.Stage) error
	// AfterStage is called after a stage has ended.
	AfterStage func(ctx context.Context, stage registry.Stage) error
	// AfterChunk is called after the commit of a chunk of the backfill.
	AfterChunk func(ctx context.Context, progress Progress) error
	// AfterStep is called after a commit inside a stage, such as StepExchanged.
	AfterStep func(ctx context.Context, step string) error
	// WhileBuilding is called about twice a second while indexes are being built, with
	// the list of these builds. It cannot end the run.
	WhileBuilding func(ctx context.Context, builds []IndexBuild)
	// AfterJob is called after clean_up has committed. It cannot end the run.
	AfterJob func(ctx context.Context, outcome Outcome)
}

// The steps after which Hooks.AfterStep is called. Each says what has been committed by
// then. A step may occur several times in a run.
const (
	StepLoggedKeysRemoved = "sync_schema: logged keys removed"
	StepIndexBuilt        = "sync_schema: index built"
	StepCaughtUp          = "post_sync_update: caught up"
	StepLogRetired        = "swap: log retired"
	StepWritingThrough    = "swap: writing through"
	StepDrained           = "swap: drained"
	StepRowByRow          = "keys: row by row"
	StepKeyAdded          = "keys: added"
	StepKeyValidated      = "keys: validated"
	StepExchanged         = "swap: exchanged"
	StepKeyHandedOver     = "keys: handed over"
	StepKeysHandedOver    = "keys: handed over all"
	StepMatviewsCreated   = "matviews: created"
	StepMatviewBuilt      = "matviews: built"
	StepMatviewsExchanged = "matviews: exchanged"
	StepCaptureEnded      = "clean_up: triggers dropped"
	StepExchangedBack     = "revert: exchanged"
	StepCaptureDropped    = "reset: triggers dropped"
)

// Progress is how far the backfill has got.
type Progress = chunker.Progress

// IndexBuild is an index of the shadow that is being built.
type IndexBuild = builds.Running

// Outcome is the result of a job that is done.
type Outcome struct {
	Table catalog.Name
	// Before and After are the sizes of the old and of the new table when clean_up began, in
	// bytes, with TOAST and indexes.
	Before, After int64
	// Took is how long repack worked on the job, without the time between runs.
	Took time.Duration
	// LongestLock is the longest time that ACCESS EXCLUSIVE was held on the table. It is nil
	// if that is not known.
	LongestLock *time.Duration
	// OldTable is the name of the old table if it was kept, and nil if it was dropped. Drop
	// are the statements that remove it.
	OldTable *catalog.Name
	Drop     []string
}
