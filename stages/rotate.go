package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/strategy"
)

// longLog is how many blocks of a change log are too many to be read while somebody
// waits. Those it has had stay, however few of its rows are pending: vacuum
// does not shorten it, and nothing else may while somebody writes.
const longLog = 256

// shortenLog puts a new log in the place of one that is long, so that what is read
// of it under a lock from then on is what has been logged since. It reports whether
// it has: then there may be something to replay.
//
// No change is lost: the log is retired under SHARE ROW EXCLUSIVE on the table that
// is written to, when every transaction that has written to the log is over, and
// what it holds is moved to the new log before that is next replayed. A run that
// ends in between leaves a retired log behind, with which the next begins, and
// nothingPending lets no exchange pass while there is one.
func (e *Env) shortenLog(ctx context.Context) (bool, error) {
	blocks, err := strategy.Blocks(ctx, e.Pool, e.Link.Log)
	if err != nil || blocks < longLog {
		return false, err
	}
	if err := e.transact(ctx, e.retireLog); err != nil {
		return false, fmt.Errorf("begin a new change log: %w", err)
	}
	e.Log.Debug("new change log", "job", e.Job.ID, "blocks_of_retired", blocks)
	if err := e.step(ctx, StepLogRetired); err != nil {
		return false, err
	}
	return true, e.takeOverLog(ctx)
}

// takeOverLog moves what is left in a retired log to the log in use.
func (e *Env) takeOverLog(ctx context.Context) error {
	retired, err := e.Link.HasRetired(ctx, e.Pool)
	if err != nil || !retired {
		return err
	}
	return e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error { return e.Link.TakeOver(ctx, tx) })
}

func (e *Env) retireLog(ctx context.Context, tx *lock.Tx) error {
	// An autovacuum of the log must not be met while writers wait.
	if err := tx.Settle(ctx, e.Link.Log.String()); err != nil {
		return err
	}
	if err := roomFor(ctx, tx, e.Link.Log.String()); err != nil {
		return err
	}
	if err := e.stopWriters(ctx, tx); err != nil {
		return err
	}
	if err := tx.Do(ctx, e.Link.RetireLogSQL()); err != nil {
		return err
	}
	if err := execAll(ctx, tx, []string{e.Link.CreateLogSQL()}); err != nil {
		return err
	}
	return catalog.RevokeAll(ctx, tx, catalog.Made{Kind: "TABLE", Name: e.Link.Log.String()})
}

// underLock does what may take its time while others wait for the locks of tx: both
// together take no longer than they may wait for a lock, or it is put off.
func (e *Env) underLock(ctx context.Context, tx *lock.Tx, work func() error) error {
	limit := fmt.Sprintf("SET LOCAL statement_timeout = %d", max(tx.Left(leastDrain).Milliseconds(), 1))
	if err := execAll(ctx, tx, []string{limit}); err != nil {
		return err
	}
	err := work()
	var pgErr *pgconn.PgError
	if ctx.Err() == nil && errors.As(err, &pgErr) && pgErr.Code == pgerrcode.QueryCanceled {
		// Without the server's error: it is not for Transact to try the same again.
		return fmt.Errorf("%w: not done in time under the lock (%s)", ErrPutOff, pgErr.Message)
	}
	if err != nil {
		return err
	}
	return execAll(ctx, tx, []string{"SET LOCAL statement_timeout = 0"})
}
