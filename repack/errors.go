package repack

import (
	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/migrations"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
)

// Errors a caller may want to tell apart with errors.Is and errors.As.
type (
	// RefusedError lists why a table cannot be repacked; nothing was touched.
	RefusedError = stages.RefusedError
	// PoolerError reports a connection pooler; nothing was set on its sessions.
	PoolerError = session.PoolerError
	// BusyError names the process that is working on the table.
	BusyError = registry.BusyError
	// LockTimeoutError names who holds a lock that was not obtained.
	LockTimeoutError = lock.TimeoutError
	// SnapshotError names transactions too old for the swap.
	SnapshotError = stages.SnapshotError
	// DriftError lists DDL on the table since the job began.
	DriftError = stages.DriftError
	// OIDsHeldError lists where the table's OID is kept as data.
	OIDsHeldError = stages.OIDsHeldError
	// RevertDriftError lists DDL on the table since the swap.
	RevertDriftError = stages.RevertDriftError
	// NotConvergingError reports that writers are faster than the replay.
	NotConvergingError = stages.NotConvergingError
	// ParityError lists differences between shadow and source.
	ParityError = stages.ParityError
	// StrandedError is a failure after the tables have been exchanged.
	StrandedError = stages.StrandedError
	// DiskFullError reports a full disk, which the job has given way to.
	DiskFullError = stages.DiskFullError
	// OutlivedError names a check that a row does not satisfy any more.
	OutlivedError = stages.OutlivedError
	// RestoredError reports a job that came with a dump of another database.
	RestoredError = stages.RestoredError
	// NewerJobError reports a job that a newer version has begun.
	NewerJobError = catalog.NewerError
	// VerifyError names rows of the copy that are not like the table's.
	VerifyError = stages.VerifyError
)

// Conditions under which nothing was changed.
var (
	ErrSwapped         = stages.ErrSwapped
	ErrNotSwapped      = stages.ErrNotSwapped
	ErrFinishing       = stages.ErrFinishing
	ErrNothingToVerify = stages.ErrNothingToVerify
	ErrNewerRegistry   = migrations.ErrNewerRegistry
	// ErrPutOff reports that the application was in the way of the exchange each
	// time that it was tried.
	ErrPutOff = stages.ErrPutOff
	ErrNoJob  = registry.ErrNotFound
)

// UsageError reports an option that makes no sense, before the database was
// asked for anything but names and whether it takes the option.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UsageError) Unwrap() error { return e.Err }
