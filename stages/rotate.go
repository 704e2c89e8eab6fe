package stages

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
// is a retired log, nothingPending allows no exchange.
func (e *Env) shortenLog(ctx context.Context) (bool, error) {
	blocks, err := strategy.Blocks(ctx, e.Pool, e.Link.Log)
	if err != nil || blocks < longLog {
		return false, err
	}
	if err := e.Perform(ctx, e.retirement()); err != nil {
		return false, fmt.Errorf("begin a new change log: %w", err)
	}
	e.Log.Debug("new change log", "job", e.Job.ID, "blocks_of_retired", blocks)
	if err := e.Step(ctx, steps.StepLogRetired); err != nil {
		return false, err
	}
	return true, e.takeOverLog(ctx)
}

// takeOverLog moves the rows of a retired log to the log in use, if there is a retired log.
func (e *Env) takeOverLog(ctx context.Context) error {
	retired, err := e.Link.HasRetired(ctx, e.Pool)
	if err != nil || !retired {
		return err
	}
	return e.Transact(ctx, func(ctx context.Context, tx *lock.Tx) error { return e.Link.TakeOver(ctx, tx) })
}

// retirement retires the log, and creates the one that takes its name.
func (e *Env) retirement() steps.Transaction {
	log := e.Link.Log
	return steps.Transaction{Actions: slices.Concat(
		[]steps.Action{
			steps.Settle(func() []string { return []string{log.String()} }), // writers must not have to wait for an autovacuum of the log
			steps.RoomForOurs(log),
		},
		e.StopWriters(),
		[]steps.Action{
			steps.SendBounded(func() []string { return []string{e.Link.RetireLogSQL()} }),
			steps.Send(e.Link.CreateLogSQL()),
			steps.RevokeAll(catalog.Made{Kind: "TABLE", Name: log.String()}),
			steps.Send(e.Link.IdentifyLogSQL()),
		},
	)}
}
