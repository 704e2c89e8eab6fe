package steps

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/lock"
)

// ErrPutOff reports that the exchange must wait. Changes were logged since the last drain,
// or a snapshot is older than their replay, or a session is drawing from a sequence.
var ErrPutOff = errors.New("the exchange has been put off, nothing has changed: run the same command again")

// quietPause is short. Chance decides whether a change comes between the drain and the
// lock, and a longer pause does not improve the chance.
const quietPause = 500 * time.Millisecond

// WhilePutOff runs work, and runs it again while it is put off. It gives up when it has
// tried as often as for a lock and has also spent the time that it may wait for snapshots.
func (w *Worker) WhilePutOff(ctx context.Context, what string, work func(context.Context) error) error {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = quietPause/10, quietPause
	began := time.Now()
	for attempt := 0; ; attempt++ {
		err := work(ctx)
		if !errors.Is(err, ErrPutOff) || attempt >= w.Locks.Retries && time.Since(began) >= w.SnapshotWait {
			return err
		}
		w.Log.Debug(what+" put off", "job", w.Job.ID, "attempt", attempt, "reason", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pauses.NextBackOff()):
		}
	}
}

// leastDrain is the time that the last replay gets at least, if the wait for the lock took
// most of the bound.
const leastDrain = 150 * time.Millisecond

// UnderLock does work that may take some time while other sessions wait for the locks of
// tx. The wait and the work together take no longer than the bound on waits for locks.
// Otherwise UnderLock returns ErrPutOff.
func UnderLock(ctx context.Context, tx *lock.Tx, work func() error) error {
	limit := fmt.Sprintf("SET LOCAL statement_timeout = %d", max(tx.Left(leastDrain).Milliseconds(), 1))
	if err := ExecAll(ctx, tx, []string{limit}); err != nil {
		return err
	}
	err := work()
	var pgErr *pgconn.PgError
	if ctx.Err() == nil && errors.As(err, &pgErr) && pgErr.Code == pgerrcode.QueryCanceled {
		// The server's error is left out, because Transact must not try the same again.
		return fmt.Errorf("%w: not done in time under the lock (%s)", ErrPutOff, pgErr.Message)
	}
	if err != nil {
		return err
	}
	return ExecAll(ctx, tx, []string{"SET LOCAL statement_timeout = 0"})
}

// AlteredMeanwhile returns err, as ErrPutOff if another session has just altered a
// function that the exchange alters. The server reports this as an internal error ("tuple
// concurrently updated").
func AlteredMeanwhile(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InternalError {
		return fmt.Errorf("%w: an object has just been altered (%s)", ErrPutOff, pgErr.Message)
	}
	return err
}

// NothingPending makes sure that nothing is pending. It replays nothing itself: a snapshot
// taken before tx commits would not see what it wrote.
func (w *Worker) NothingPending(ctx context.Context, tx *lock.Tx) error {
	return UnderLock(ctx, tx, func() error {
		b := &pgx.Batch{}
		w.Link.QueueEmpty(b, func(empty bool, err error) error {
			if err != nil || empty {
				return err
			}
			return fmt.Errorf("changes are pending that were not written through: %w", ErrPutOff)
		})
		return tx.SendBatch(ctx, b).Close()
	})
}
