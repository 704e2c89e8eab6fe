package steps

import (
	"context"
	"errors"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/snapshots"
)

// Snapshots returns how this run waits for snapshots.
func (w *Worker) Snapshots() snapshots.Wait {
	return snapshots.Wait{Pool: w.Pool, Log: w.Log, Job: w.Job.ID, AtMost: w.SnapshotWait}
}

// AwaitSerializable waits until no transaction is left for which changes must be written to
// the replaced table.
func (w *Worker) AwaitSerializable(ctx context.Context) error {
	return w.Snapshots().Serializable(ctx, w.Copied())
}

// WithHolders turns an error that only says that a lock was denied into a
// *lock.TimeoutError, which names the sessions that hold the lock. It looks only for
// holders of ACCESS EXCLUSIVE, because no other lock prevents repack from reading the
// table.
func (w *Worker) WithHolders(ctx context.Context, oid uint32, name catalog.Name, err error) error {
	var told *lock.TimeoutError
	if !lock.Denied(err) || errors.As(err, &told) {
		return Detailed(err)
	}
	holders, lookErr := lock.Holders(ctx, w.Pool, oid)
	if lookErr != nil {
		return errors.Join(err, lookErr)
	}
	return &lock.TimeoutError{Relation: name.String(), Attempts: 1, Waited: w.Locks.Timeout, Blockers: holders, Err: err}
}

// IsTimeout reports whether a lock was not acquired in time.
func IsTimeout(err error) bool {
	var timeout *lock.TimeoutError
	return errors.As(err, &timeout)
}
