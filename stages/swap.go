package stages

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
)

// swap puts the shadow in the source's place. First writers are switched from
// log to write-through, so that source and shadow are equal in every snapshot
// taken from then on; snapshots older than that are waited for; then one
// transaction exchanges the tables and has foreign keys lead to the new one.
//
// It takes SHARE ROW EXCLUSIVE on the source to switch, and later, in one
// transaction, ACCESS EXCLUSIVE on the source, its shadow and the tables joined
// to it by foreign keys. All waits of a transaction together are bounded by
// the lock timeout. Afterwards the foreign keys are validated, each under
// SHARE UPDATE EXCLUSIVE on its table, and materialized views rebuilt.
func swap(ctx context.Context, e *Env) error {
	if !e.Job.Swapped() {
		// Where an earlier run was told not to, or an older version did not.
		compared, err := e.compareBeforeSwap(ctx)
		if err != nil {
			return err
		}
		if err := e.concludeComparison(ctx, compared, nil); err != nil {
			return err
		}
		if err := e.keysFit(ctx, e.Job.Source, e.Job.ShadowTable()); err != nil {
			return err
		}
		if err := e.oidsAnswered(ctx, e.Job.Source); err != nil {
			return err
		}
		if err := e.untilExchanged(ctx, e.exchange); err != nil {
			return err
		}
		if err := e.step(ctx, StepExchanged); err != nil {
			return err
		}
	}
	there, err := e.newThere(ctx, e.Pool)
	if err != nil {
		return err
	}
	if there {
		if err := e.handOver(ctx); err != nil {
			return err
		}
		if err := e.validateForeignKeys(ctx); err != nil {
			return err
		}
		if err := e.rebuildMatviews(ctx); err != nil {
			return err
		}
		if err := e.endOneByOne(ctx); err != nil {
			return err
		}
	}
	if err := e.held(ctx); err != nil {
		return err
	}
	return e.endStage(ctx, e.Pool, registry.Swap)
}

// ErrPutOff reports that changes were logged since the last drain, that a
// snapshot is older than their replay, or that a sequence is being drawn from:
// the exchange must wait.
var ErrPutOff = errors.New("the exchange has been put off, nothing has changed: run the same command again")

// quietPause is short: whether a change comes between the drain and the lock is
// a matter of chance, which a longer pause does not better.
const quietPause = 500 * time.Millisecond

// untilExchanged brings the copy in step with the table in use for every snapshot, and
// runs exchange, again when a change has come between. It gives up when it has
// tried as often as for a lock, and for as long as it may wait for snapshots.
//
// Where the locks of all neighbours together are not to be had, their foreign keys are
// moved one by one.
func (e *Env) untilExchanged(ctx context.Context, exchange func(context.Context) error) error {
	oneByOne, denied := e.oneByOne(), false
	exchangeBy := func(ctx context.Context) error {
		return e.whilePutOff(ctx, "exchange", func(ctx context.Context) error {
			if err := e.writeThroughAndDrain(ctx); err != nil {
				return err
			}
			if oneByOne {
				if err := e.joinNeighbours(ctx); err != nil {
					return err
				}
			}
			err := exchange(ctx)
			denied = isTimeout(err)
			return err
		})
	}
	err := exchangeBy(ctx)
	if oneByOne || !denied || !e.couldBeApart() {
		return err
	}
	e.Log.Info("foreign keys are moved one by one", "job", e.Job.ID, "reason", err)
	oneByOne = true
	return exchangeBy(ctx)
}

// whilePutOff runs work again when it was put off: as often as for a lock, and for
// as long as it may wait for snapshots.
func (e *Env) whilePutOff(ctx context.Context, what string, work func(context.Context) error) error {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = quietPause/10, quietPause
	began := time.Now()
	for attempt := 0; ; attempt++ {
		err := work(ctx)
		if !errors.Is(err, ErrPutOff) || attempt >= e.Locks.Retries && time.Since(began) >= e.SnapshotWait {
			return err
		}
		e.Log.Debug(what+" put off", "job", e.Job.ID, "attempt", attempt, "reason", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pauses.NextBackOff()):
		}
	}
}

// writeThroughAndDrain switches to write-through, unless that has been done, and drains.
func (e *Env) writeThroughAndDrain(ctx context.Context) error {
	if !e.concurrent() {
		if err := e.catchUpShort(ctx); err != nil {
			return err
		}
		if err := e.writeThrough(ctx); err != nil {
			return err
		}
		if err := e.step(ctx, StepWritingThrough); err != nil {
			return err
		}
	}
	if err := e.drainShort(ctx); err != nil {
		return err
	}
	return e.step(ctx, StepDrained)
}

// catchUpShort is catchUp, and leaves a log that is short.
func (e *Env) catchUpShort(ctx context.Context) error {
	if err := e.takeOverLog(ctx); err != nil {
		return err
	}
	if err := e.catchUp(ctx); err != nil {
		return err
	}
	shortened, err := e.shortenLog(ctx)
	if err != nil || !shortened {
		return err
	}
	return e.catchUp(ctx)
}

// drainShort is drain, and leaves a log that is short.
func (e *Env) drainShort(ctx context.Context) error {
	if err := e.takeOverLog(ctx); err != nil {
		return err
	}
	if err := e.drain(ctx); err != nil {
		return err
	}
	shortened, err := e.shortenLog(ctx)
	if err != nil || !shortened {
		return err
	}
	return e.drain(ctx)
}

// leastDrain is what the last replay is given when the lock took its time.
const leastDrain = 150 * time.Millisecond

// drainLocked replays the rest of the log while writers wait, who have waited
// since the lock was asked for: both together take no longer than they may wait
// for a lock, or there is more to replay without one.
func (e *Env) drainLocked(ctx context.Context, tx *lock.Tx) error {
	return e.underLock(ctx, tx, func() error {
		if _, err := e.Link.ReplayAll(ctx, tx, false); err != nil {
			return err
		}
		return e.sameTables(ctx, tx)
	})
}

const currentXIDSQL = `SELECT pg_current_xact_id()::text`

// writeThrough drains the log and turns capture into write-through in one
// transaction, while no writer can be in between. Its commit completes the
// copy: a snapshot that sees it sees all of the copy's rows.
func (e *Env) writeThrough(ctx context.Context) error {
	return e.changeJob(ctx, e.Locks, func(ctx context.Context, tx *lock.Tx, job *jobRow) error {
		if err := e.stopWriters(ctx, tx); err != nil {
			return err
		}
		if err := e.drainLocked(ctx, tx); err != nil {
			return err
		}
		var xid string
		if err := tx.QueryRow(ctx, currentXIDSQL).Scan(&xid); err != nil {
			return fmt.Errorf("read transaction id: %w", err)
		}
		if err := execAll(ctx, tx, e.Link.WriteThrough(xid).SQL()); err != nil {
			return fmt.Errorf("switch capture to write-through: %w", err)
		}
		job.CompletedBy = &xid
		return nil
	})
}

// drain waits until writers with older snapshots, who log, are gone; replays
// what they have logged; and waits for the snapshots older than that replay.
func (e *Env) drain(ctx context.Context) error {
	for deadline := time.Now().Add(e.SnapshotWait); ; {
		if err := e.awaitSnapshots(ctx); err != nil {
			return err
		}
		pending, err := e.Link.Pending(ctx, e.Pool)
		if err != nil || pending == 0 {
			return err
		}
		r, err := e.pass(ctx)
		if err != nil {
			return err
		}
		if time.Now().After(deadline) {
			if r.Aside == 0 {
				return fmt.Errorf("changes are logged as fast as they are replayed: %w", ErrPutOff)
			}
			return fmt.Errorf("rows stay locked by the application (%d keys): %w", r.Aside, ErrPutOff)
		}
		if r.Aside == 0 {
			continue
		}
		e.Log.Debug("rows are locked by the application", "job", e.Job.ID, "keys", r.Aside)
		select { // each pass writes what it sets aside to the log again
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollInterval):
		}
	}
}

// validateForeignKeys validates the keys that were valid before the exchange.
func (e *Env) validateForeignKeys(ctx context.Context) error {
	oid := e.Job.Source
	if e.Job.Swapped() {
		oid = *e.Job.Shadow
	}
	return e.validateKeysOf(ctx, oid)
}

// validateKeysOf is validateForeignKeys of the table with that OID.
func (e *Env) validateKeysOf(ctx context.Context, oid uint32) error {
	if len(e.Source.AllForeignKeys()) == 0 && (e.Source.Partition == nil || len(e.Source.Partition.ForeignKeys) == 0) {
		return nil
	}
	now, err := catalog.Read(ctx, e.Pool, oid)
	if err != nil {
		return err
	}
	keys := now.AllForeignKeys()
	if now.Partition != nil { // of one that is not valid for all partitions, PostgreSQL 18 does not note what it has checked
		keys = append(keys, now.Partition.ForeignKeys...)
	}
	for _, key := range keys {
		if key.Validated || !e.Source.WasValid(key) {
			continue
		}
		if err := e.validate(ctx, key); err != nil {
			return fmt.Errorf("validate foreign key %q of %s: %w", key.Name, key.Table, err)
		}
	}
	return nil
}

// validate validates a key. It takes SHARE UPDATE EXCLUSIVE on the table of the key.
func (e *Env) validate(ctx context.Context, key catalog.ForeignKey) error {
	return e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		if err := tx.Settle(ctx, key.Table.String()); err != nil {
			return err
		}
		return tx.Do(ctx, key.ValidateSQL())
	})
}
