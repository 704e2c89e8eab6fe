package repack

import (
	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/migrations"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/compare"
	"github.com/repack-go/repack/stages/preflight"
	"github.com/repack-go/repack/stages/replay"
	"github.com/repack-go/repack/stages/snapshots"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/stages/throttle"
)

// Errors that a caller may want to distinguish with errors.As. The package comment says
// what to do about each.
type (
	// RefusedError lists the reasons why a table cannot be repacked. Nothing was
	// changed.
	RefusedError = checks.RefusedError
	// PoolerError reports a connection pooler that cannot be used. Nothing was set in
	// its sessions.
	PoolerError = session.PoolerError
	// BusyError names the process that works on the table: host, process id, since
	// when.
	BusyError = registry.BusyError
	// LockTimeoutError names the sessions that hold a lock which was not granted in
	// time. Nothing has changed since the last commit; call again to continue the job.
	LockTimeoutError = lock.TimeoutError
	// SnapshotError names the transactions whose snapshots are too old for the swap.
	// Nothing has changed; call again to continue the job.
	SnapshotError = snapshots.Error
	// DriftError lists DDL on the table since the job began that the shadow does not
	// have.
	DriftError = steps.DriftError
	// OIDsHeldError lists where the table's OID is stored as data. The tables were not
	// exchanged.
	OIDsHeldError = stages.OIDsHeldError
	// RevertDriftError lists DDL on the table since the swap that the old table does
	// not have. The tables were not exchanged.
	RevertDriftError = stages.RevertDriftError
	// NotConvergingError reports that the application changes rows faster than the
	// change log is replayed.
	NotConvergingError = replay.NotConvergingError
	// ParityError lists differences between the table and the one that would replace
	// it. The exchange was rolled back.
	ParityError = steps.ParityError
	// StrandedError reports a failure after the exchange of the tables. It names the
	// commands that continue the job and that go back.
	StrandedError = stages.StrandedError
	// DiskFullError reports that a disk was full before the swap. The job was removed,
	// so that the application can write; if that failed, its field Release says why.
	DiskFullError = stages.DiskFullError
	// OutlivedError names a check that a row no longer satisfies, so the row cannot be
	// copied.
	OutlivedError = preflight.OutlivedError
	// StoppedError reports that the run has ended because it was told to: by Repack.StopRun, by
	// a throttler, or because it has waited too long. Nothing has failed: the next call
	// continues the job.
	StoppedError = throttle.StoppedError
	// UnfitError names rows that the other table cannot take, when a job alters the table:
	// before the swap the new table, after it the old one. Nothing was lost.
	UnfitError = alter.UnfitError
	// RestoredError reports a job that came with a dump of another database. Only Reset
	// can be used with it.
	RestoredError = stages.RestoredError
	// NewerJobError reports a job that a newer version of repack has begun. Nothing was
	// changed.
	NewerJobError = catalog.NewerError
	// VerifyError names rows of the copy that differ from the table's rows and that no
	// pending change explains.
	VerifyError = compare.Error
)

// Conditions that a caller may want to distinguish with errors.Is. Nothing was changed.
var (
	// ErrSwapped reports that Reset is not possible, because the tables have been
	// exchanged.
	ErrSwapped = stages.ErrSwapped
	// ErrNotSwapped reports that Revert is not possible, because the tables have not
	// been exchanged.
	ErrNotSwapped = stages.ErrNotSwapped
	// ErrIrreversible reports that Revert is not possible, because the job was begun with
	// Options.NoRevert.
	ErrIrreversible = stages.ErrIrreversible
	// ErrFinishing reports that neither Reset nor Revert is possible, because clean_up
	// has begun and the old table misses writes.
	ErrFinishing = stages.ErrFinishing
	// ErrNothingToVerify reports that the job has no two tables that should be equal:
	// it is not between post_sync_update and clean_up, or it is being reverted.
	ErrNothingToVerify = stages.ErrNothingToVerify
	// ErrNewerRegistry reports a registry that a newer version of repack has created.
	ErrNewerRegistry = migrations.ErrNewerRegistry
	// ErrPutOff reports that each attempt at the exchange had to be postponed: the
	// application had logged changes, held an older snapshot, or used a sequence.
	ErrPutOff = steps.ErrPutOff
	// ErrNoJob reports that there is no such job. See NoJobError.
	ErrNoJob = registry.ErrNotFound
)

// UsageError reports an option that is not valid. Until then the database was only
// asked for names, and whether it accepts the option.
type UsageError struct{ Err error }

// Error returns the text of Err.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UsageError) Unwrap() error { return e.Err }
