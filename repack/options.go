package repack

import (
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
	"github.com/repack-go/repack/strategy"
)

// Defaults of Options.
const (
	DefaultRegistrySchema  = "repack_registry"
	DefaultLockTimeout     = 500 * time.Millisecond
	DefaultLockRetries     = 20
	DefaultMaxSnapshotWait = time.Minute
	DefaultRetryFor        = 5 * time.Minute
)

// PoolerSession accepts poolers that keep a session for each client.
const PoolerSession = string(session.SessionPooler)

// The strategies, see package strategy.
const (
	ChangeLog     = strategy.ChangeLogName
	DirectTrigger = strategy.DirectTriggerName
)

// Stage names a stage; see the constants.
type Stage = registry.Stage

// The stages in order.
const (
	PreValidate    = registry.PreValidate
	Setup          = registry.Setup
	Backfill       = registry.Backfill
	SyncSchema     = registry.SyncSchema
	PostSyncUpdate = registry.PostSyncUpdate
	Swap           = registry.Swap
	CleanUp        = registry.CleanUp
)

// VerifyMode says how much of source and shadow is compared before the swap.
type VerifyMode = registry.VerifyMode

// The modes of verification.
const (
	VerifyOff    = registry.VerifyOff
	VerifySample = registry.VerifySample
	VerifyFull   = registry.VerifyFull
)

// Transfer says which way the rows of a backfill go.
type Transfer = stages.Transfer

// The ways of Transfer.
const (
	TransferAuto   = stages.TransferAuto
	TransferServer = stages.TransferServer
	TransferClient = stages.TransferClient
)

// ForeignKeys says how the foreign keys between the table and others are moved.
type ForeignKeys = stages.ForeignKeys

// The ways of ForeignKeys.
const (
	ForeignKeysAuto     = stages.ForeignKeysAuto
	ForeignKeysTogether = stages.ForeignKeysTogether
	ForeignKeysOneByOne = stages.ForeignKeysOneByOne
)

// The steps after which Hooks.AfterStep is called: see package stages.
const (
	StepLoggedKeysRemoved = stages.StepLoggedKeysRemoved
	StepIndexBuilt        = stages.StepIndexBuilt
	StepCaughtUp          = stages.StepCaughtUp
	StepLogRetired        = stages.StepLogRetired
	StepWritingThrough    = stages.StepWritingThrough
	StepDrained           = stages.StepDrained
	StepRowByRow          = stages.StepRowByRow
	StepKeyAdded          = stages.StepKeyAdded
	StepKeyValidated      = stages.StepKeyValidated
	StepExchanged         = stages.StepExchanged
	StepKeyHandedOver     = stages.StepKeyHandedOver
	StepKeysHandedOver    = stages.StepKeysHandedOver
	StepMatviewsCreated   = stages.StepMatviewsCreated
	StepMatviewBuilt      = stages.StepMatviewBuilt
	StepMatviewsExchanged = stages.StepMatviewsExchanged
	StepCaptureEnded      = stages.StepCaptureEnded
	StepExchangedBack     = stages.StepExchangedBack
	StepCaptureDropped    = stages.StepCaptureDropped
)

// Hooks are called between the steps of a run.
type Hooks = stages.Hooks

// Outcome is what a job that is done has come to.
type Outcome = stages.Outcome

// Progress is how far a backfill is.
type Progress = stages.Progress

// IndexBuild is an index of the shadow that is being built.
type IndexBuild = stages.IndexBuild

// Options say what to repack and how. The zero value of a field stands for its
// default.
type Options struct {
	// Table is written as SQL writes it, quotes included; a bare name is
	// looked up in the role's own search_path. Status may go without.
	Table string
	// Strategy is ChangeLog (default) or DirectTrigger. A job keeps the
	// strategy it was begun with.
	Strategy string
	// Until is the last stage to run; default CleanUp.
	Until Stage
	// BatchSize is about how many rows make a chunk or a replay batch; by
	// default they are sized by the time they take.
	BatchSize int
	// Transfer is the way the rows of a change-log backfill go: within the
	// server (INSERT … SELECT), or through this process (COPY from one
	// connection to another), which is a quarter less WAL and takes longer.
	// Default TransferAuto: through this process where it runs on the server's
	// machine, the WAL is archived or replicated, and the table has nothing but
	// plain types and no TOASTed value.
	Transfer Transfer
	// OrderBy is the order in which the rows of a change-log job are copied:
	// the name of a btree index that is not partial, or columns separated by
	// commas, each with ASC or DESC and NULLS FIRST or LAST if need be, names
	// written as SQL writes them. Rows that change meanwhile go wherever there
	// is space. One statement copies all rows: not in parallel, with one
	// snapshot for as long as it takes, and from the beginning when it was
	// interrupted. A job keeps the order it was begun with. Default: the rows'
	// present order, about.
	OrderBy string
	// KeepOld leaves the old table behind at clean_up.
	KeepOld bool
	// RebuildMatviews allows materialized views on the table: after the swap
	// they are built anew, with the rows of that moment, and exchanged. Without
	// it such a table is refused.
	RebuildMatviews bool
	// UpdateOID names columns, each SCHEMA.TABLE.COLUMN as SQL writes it, that
	// keep the OID of the table or of what belongs to it: in type oid, regclass
	// or regtype, an array of them or a domain over them. The swap, and Revert,
	// rewrite those values in their own transaction, so that they follow the
	// table. It locks their tables in SHARE ROW EXCLUSIVE mode; their triggers
	// fire. A job keeps the columns, and more may be added until it ends.
	UpdateOID []string
	// IgnoreOID leaves the OIDs that are kept in other columns and in arguments of
	// triggers as they are: they mean the old table, and after clean_up nothing.
	// Without it such a table is refused.
	IgnoreOID bool
	// Jobs is how many connections copy, build indexes, or replay, at the same
	// time. By default it is the processors of this machine, at most 4, but one,
	// which rests between chunks, while other sessions are at work on the server.
	Jobs int
	// MaintenanceWorkMem is how much memory each of the index builds, of which
	// Jobs run at the same time, and VACUUM may use, written as the server
	// writes it, such as "2GB". Default: the session's maintenance_work_mem, and
	// less of it where a btree index is sorted sooner in a processor's cache.
	MaintenanceWorkMem string
	// LockTimeout bounds all lock waits of one transaction together; it is
	// kept below the server's deadlock_timeout. Default 500ms.
	LockTimeout time.Duration
	// LockRetries is how often locks are tried for again; default 20,
	// negative: never.
	LockRetries int
	// KillBlockers is how long locks are tried for before those in the way are
	// cancelled, and with the next attempt terminated; default zero: never.
	KillBlockers time.Duration
	// MaxSnapshotWait bounds the wait for transactions with older snapshots
	// before the swap; default one minute.
	MaxSnapshotWait time.Duration
	// ForeignKeys is how the foreign keys between the table and others are moved: all
	// together, while all of those tables are locked, or one by one, while the swap
	// locks the table only. One by one is not exact in a few respects, and a partition
	// cannot be repacked so: see docs/correctness.md. Default ForeignKeysAuto:
	// together, unless there are so many that the locks would be held for longer than
	// LockTimeout, or the locks are not obtained in a few attempts.
	ForeignKeys ForeignKeys
	// RetryFor is how long a server that was lost, in the midst of the work, is
	// tried to be connected to again; default five minutes, negative: never.
	RetryFor time.Duration
	// Verify is how much of source and shadow is compared before the swap;
	// default VerifySample. Once rows differ, a job does not swap before a
	// full comparison has passed. Verify compares in full by default.
	Verify VerifyMode
	// ShadowSchema names a schema that an administrator has prepared for the
	// shadow; the old table goes to the one of that name with "_old" behind
	// it. By default both are created for the job.
	ShadowSchema string
	// RegistrySchema is where jobs are remembered; default "repack_registry".
	RegistrySchema string
	// Pooler is empty, or PoolerSession: connections may go through a connection
	// pooler that keeps a session of the server for each client. Otherwise any
	// pooler that can be seen is refused: *PoolerError.
	Pooler string
	// Logger receives progress; nil discards.
	Logger *slog.Logger
	Hooks  Hooks

	yield bool // Jobs was left to us
}

// maxDefaultJobs keeps the default modest: the server has other work.
const maxDefaultJobs = 4

func (o Options) withDefaults() (Options, error) {
	set(&o.Strategy, ChangeLog)
	set(&o.Until, CleanUp)
	o.yield = o.Jobs == 0
	set(&o.Jobs, min(runtime.NumCPU(), maxDefaultJobs))
	set(&o.LockTimeout, DefaultLockTimeout)
	set(&o.LockRetries, DefaultLockRetries)
	set(&o.MaxSnapshotWait, DefaultMaxSnapshotWait)
	set(&o.RetryFor, DefaultRetryFor)
	set(&o.Verify, VerifySample)
	set(&o.Transfer, TransferAuto)
	set(&o.ForeignKeys, ForeignKeysAuto)
	set(&o.RegistrySchema, DefaultRegistrySchema)
	set(&o.Logger, slog.New(slog.DiscardHandler))
	if _, err := strategy.New(o.Strategy); err != nil {
		return o, &UsageError{err}
	}
	if o.OrderBy != "" && o.Strategy != ChangeLog {
		return o, &UsageError{fmt.Errorf("order %q: strategy %s copies ranges of blocks under short row locks, not rows in order; use %s",
			o.OrderBy, o.Strategy, ChangeLog)}
	}
	if _, err := session.ParsePooler(o.Pooler); err != nil {
		return o, &UsageError{err}
	}
	if _, err := registry.ParseStage(string(o.Until)); err != nil {
		return o, &UsageError{err}
	}
	if _, err := registry.ParseVerifyMode(string(o.Verify)); err != nil {
		return o, &UsageError{err}
	}
	if !slices.Contains([]Transfer{TransferAuto, TransferServer, TransferClient}, o.Transfer) {
		return o, &UsageError{fmt.Errorf("unknown transfer %q: want %s, %s or %s", o.Transfer, TransferAuto, TransferServer, TransferClient)}
	}
	if !slices.Contains([]ForeignKeys{ForeignKeysAuto, ForeignKeysTogether, ForeignKeysOneByOne}, o.ForeignKeys) {
		return o, &UsageError{fmt.Errorf("unknown way of foreign keys %q: want %s, %s or %s",
			o.ForeignKeys, ForeignKeysAuto, ForeignKeysTogether, ForeignKeysOneByOne)}
	}
	if o.Jobs < 0 || o.BatchSize < 0 || o.LockTimeout < 0 || o.MaxSnapshotWait < 0 || o.KillBlockers < 0 {
		return o, &UsageError{fmt.Errorf("jobs, batch size, lock timeout and snapshot wait cannot be negative")}
	}
	o.LockRetries = max(o.LockRetries, 0)
	return o, nil
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
