package stages

import (
	"context"

	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/chunker"
)

// Hooks are called during a run. An error ends the run as a failure of the
// stage would; the job can be continued.
//
// AfterChunk, AfterStep and WhileBuilding are called by several goroutines at the
// same time: chunks and indexes are worked on in parallel.
type Hooks struct {
	BeforeStage func(ctx context.Context, stage registry.Stage) error
	AfterStage  func(ctx context.Context, stage registry.Stage) error
	// AfterChunk follows the commit of a chunk of the backfill.
	AfterChunk func(ctx context.Context, progress Progress) error
	// AfterStep follows a commit inside a stage, such as StepExchanged.
	AfterStep func(ctx context.Context, step string) error
	// WhileBuilding is called about twice a second while indexes are being
	// built, with those that are; it cannot end the run.
	WhileBuilding func(ctx context.Context, builds []IndexBuild)
	// AfterJob is called once clean_up has committed; it cannot end the run.
	AfterJob func(ctx context.Context, outcome Outcome)
}

// The steps after which Hooks.AfterStep is called, each with what has been committed by
// then. A step may come several times in a run.
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

// Progress is how far the backfill is.
type Progress = chunker.Progress
