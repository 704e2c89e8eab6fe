package replay

import (
	"context"
	"fmt"
	"slices"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/strategy"
)

// longLog is the number of blocks from which on a change log is too long to read while
// sessions wait. The log keeps its blocks, even if few of its rows are pending. VACUUM does
// not shorten it, and nothing else can while sessions write to it.
const longLog = 256

// shortenLog replaces a long log by a new one. From then on, a read under a lock reads only
// what has been logged since. It returns true if it has replaced the log: then there may be
// changes to replay.
//
// No change is lost. The log is retired under SHARE ROW EXCLUSIVE on the table that the
// application writes to, when every transaction that has written to the log has ended. The
// rows of the retired log are moved to the new log before the new log is replayed. If a run
// ends in between, it leaves a retired log, and the next run begins with that. While there
// is a retired log, NothingPending allows no exchange.
func (r *Replayer) shortenLog(ctx context.Context) (bool, error) {
	blocks, err := strategy.Blocks(ctx, r.Pool, r.Link.Log)
	if err != nil || blocks < longLog {
		return false, err
	}
	if err := r.Perform(ctx, r.retirement()); err != nil {
		return false, fmt.Errorf("begin a new change log: %w", err)
	}
	r.Log.Debug("new change log", "job", r.Job.ID, "blocks_of_retired", blocks)
	if err := r.Step(ctx, steps.StepLogRetired); err != nil {
		return false, err
	}
	return true, r.takeOverLog(ctx)
}

// takeOverLog moves the rows of a retired log to the log in use, if there is a retired log.
func (r *Replayer) takeOverLog(ctx context.Context) error {
	retired, err := r.Link.HasRetired(ctx, r.Pool)
	if err != nil || !retired {
		return err
	}
	return r.Transact(ctx, func(ctx context.Context, tx *lock.Tx) error { return r.Link.TakeOver(ctx, tx) })
}

// retirement retires the log, and creates the one that takes its name.
func (r *Replayer) retirement() steps.Transaction {
	log := r.Link.Log
	return steps.Transaction{Actions: slices.Concat(
		[]steps.Action{
			steps.Settle(func() []string { return []string{log.String()} }), // writers must not have to wait for an autovacuum of the log
			steps.RoomForOurs(log),
		},
		r.StopWriters(),
		[]steps.Action{
			steps.SendBounded(func() []string { return []string{r.Link.RetireLogSQL()} }),
			steps.Send(r.Link.CreateLogSQL()),
			steps.RevokeAll(catalog.Made{Kind: "TABLE", Name: log.String()}),
			steps.Send(r.Link.IdentifyLogSQL()),
		},
	)}
}
