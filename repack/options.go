package repack

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/copier"
	"github.com/repack-go/repack/stages/neighbours"
	"github.com/repack-go/repack/stages/signals"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/stages/throttle"
	"github.com/repack-go/repack/strategy"
)

// Defaults of Options.
const (
	// DefaultRegistrySchema is the schema of the registry.
	DefaultRegistrySchema = "repack_registry"
	// DefaultLockTimeout limits all lock waits of one transaction together.
	DefaultLockTimeout = 500 * time.Millisecond
	// DefaultLockRetries is the number of attempts after the first.
	DefaultLockRetries = 20
	// DefaultMaxSnapshotWait limits the wait for older snapshots before the swap.
	DefaultMaxSnapshotWait = time.Minute
	// DefaultRetryFor is how long to try to connect again.
	DefaultRetryFor = 5 * time.Minute
)

// PoolerSession is a value of Options.Pooler. It accepts poolers that keep a server
// session for each client.
const PoolerSession = string(session.SessionPooler)

// The strategies: how writes to the source reach the shadow during the backfill. See
// package strategy.
const (
	// ChangeLog logs the keys of changed rows and replays them.
	ChangeLog = strategy.ChangeLogName
	// DirectTrigger writes changes through to the shadow in the application's
	// transaction.
	DirectTrigger = strategy.DirectTriggerName
)

// Stage names a stage of a job; see the constants.
type Stage = registry.Stage

// The stages in order. The package comment draws them.
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

// The modes of verification: nothing, about a sixteenth of the rows, all rows.
const (
	VerifyOff    = registry.VerifyOff
	VerifySample = registry.VerifySample
	VerifyFull   = registry.VerifyFull
)

// Transfer says how the rows of a backfill get to the shadow. See Options.Transfer.
type Transfer = copier.Transfer

// The values of Transfer.
const (
	TransferAuto   = copier.TransferAuto
	TransferServer = copier.TransferServer
	TransferClient = copier.TransferClient
)

// ForeignKeys says how foreign keys between the table and other tables are moved. See
// Options.ForeignKeys.
type ForeignKeys = neighbours.ForeignKeys

// The values of ForeignKeys.
const (
	ForeignKeysAuto     = neighbours.ForeignKeysAuto
	ForeignKeysTogether = neighbours.ForeignKeysTogether
	ForeignKeysOneByOne = neighbours.ForeignKeysOneByOne
)

// The values of OnChangeLogFull.
const (
	ChangeLogWarn  = "warn"
	ChangeLogReset = "reset"
)

// The steps after which Hooks.AfterStep is called: see package stages.
const (
	StepLoggedKeysRemoved = steps.StepLoggedKeysRemoved
	StepIndexBuilt        = steps.StepIndexBuilt
	StepCaughtUp          = steps.StepCaughtUp
	StepLogRetired        = steps.StepLogRetired
	StepWritingThrough    = steps.StepWritingThrough
	StepDrained           = steps.StepDrained
	StepRowByRow          = steps.StepRowByRow
	StepKeyAdded          = steps.StepKeyAdded
	StepKeyValidated      = steps.StepKeyValidated
	StepExchanged         = steps.StepExchanged
	StepKeyHandedOver     = steps.StepKeyHandedOver
	StepKeysHandedOver    = steps.StepKeysHandedOver
	StepMatviewsCreated   = steps.StepMatviewsCreated
	StepMatviewBuilt      = steps.StepMatviewBuilt
	StepMatviewsExchanged = steps.StepMatviewsExchanged
	StepCaptureEnded      = steps.StepCaptureEnded
	StepExchangedBack     = steps.StepExchangedBack
	StepCaptureDropped    = steps.StepCaptureDropped
)

// Hooks are functions that a run calls between its steps.
type Hooks = steps.Hooks

// Outcome is the result of a job that is done: sizes, times, and where the old table
// is.
type Outcome = steps.Outcome

// Progress is how far a backfill is, in rows and blocks.
type Progress = steps.Progress

// Event is something that has happened to a job. See Options.OnEvent.
type Event = registry.Event

// Limits say when work stops. See Options.Limits.
type Limits = signals.Limits

// Throttler says whether work may go on. See Options.Throttlers.
type Throttler = throttle.Throttler

// Verdict is what a Throttler says of a piece of work.
type Verdict = throttle.Verdict

// Work is a kind of work that a Throttler is asked about.
type Work = throttle.Work

// The kinds of work: a chunk of the backfill or the build of an index, a batch of the replay,
// a chunk of the verification, the swap.
const (
	Copying   = throttle.Copying
	Replaying = throttle.Replaying
	Comparing = throttle.Comparing
	Swapping  = throttle.Swapping
)

// IndexBuild is an index of the shadow that is being built.
type IndexBuild = steps.IndexBuild

// Options say what to repack and how. The zero value of a field means its default.
type Options struct {
	// Table is the table's name as SQL writes it, quotes included. A name without a
	// schema is looked up in the role's search_path. Status does not need it.
	Table string
	// Strategy is ChangeLog (default) or DirectTrigger. A job keeps the strategy that
	// it was begun with.
	Strategy string
	// Until is the last stage to run. Default: CleanUp.
	Until Stage
	// BatchSize is the approximate number of rows in a chunk or a replay batch.
	// Default: the size is adjusted to the time that chunks and batches take.
	BatchSize int
	// Transfer says how the rows of a change-log backfill get to the shadow: within the
	// server (INSERT … SELECT), or through this process (COPY from one connection to
	// another). The second way writes a quarter less WAL and takes longer.
	//
	// Default: TransferAuto. It chooses this process if the process runs on the
	// server's machine, the WAL is archived or replicated, and the table has only plain
	// types and no TOASTed values.
	Transfer Transfer
	// OrderBy is the order in which a change-log job copies the rows: the name of a
	// btree index that is not partial, or columns separated by commas. Each column may
	// have ASC or DESC, and NULLS FIRST or NULLS LAST. Names are written as SQL writes
	// them. Default: about the present order of the rows.
	//
	// One statement copies all rows. It is not parallel, it holds one snapshot until it
	// ends, and it starts again from the beginning if it was interrupted. Rows that
	// change during the job are stored wherever there is space. A job keeps the order
	// that it was begun with.
	OrderBy string
	// Alter changes the table while it is repacked. Each text is a list of actions of
	// ALTER TABLE, separated by commas, such as "ALTER COLUMN amount TYPE numeric(12,2),
	// DROP COLUMN legacy", or a whole ALTER TABLE statement for this table.
	//
	// A job keeps the changes that it was begun with: those of Alter and of the fields
	// up to NoRevert. A run that resumes it asks for the same ones, or for none. If it
	// asks for others, it returns *UsageError, and nothing has changed.
	Alter []string
	// ToBigint changes the type of the key's integer and smallint columns to bigint,
	// and that of the sequences in their defaults: of all of them, or of BigintColumns.
	ToBigint bool
	// BigintColumns are the columns of the key that become bigint, each as SQL writes
	// it: folded to lower case unless quoted. Columns imply ToBigint.
	BigintColumns []string
	// Set are assignments COLUMN = EXPRESSION, such as "email = lower(email)". The
	// expression is evaluated on a row of the source, and fills the column of the new
	// table.
	Set []string
	// Down are assignments COLUMN = EXPRESSION for columns that only the old table has.
	// The expression is evaluated on a row of the new table that was inserted after the
	// swap, so that Revert finds a value in the old table. Default: the column's
	// default, or else NULL. Down needs a change of the table.
	Down []string
	// ColumnOrder is the order of the new table's columns: "packed", which loses the
	// least space to alignment, or a list of columns, separated by commas, in which *
	// stands for all others. Names are written as SQL writes them. Default: the order
	// does not change.
	ColumnOrder string
	// Tablespace is the tablespace that the table moves to, and IndexTablespace the one
	// that its indexes move to. They are names, not quoted. Default: they stay where
	// they are.
	Tablespace      string
	IndexTablespace string
	// AllowLossy are columns, each as SQL writes it, whose values may lose a part when
	// they are converted, such as digits after the point. It does no harm for columns
	// whose values lose nothing. Without it, such a change is refused. AllowLossy needs
	// a change of the table.
	AllowLossy []string
	// Views says what becomes of a view that returns a column which gets another type:
	// "recreate" drops it in the swap and creates it again, with all views that read it and
	// all that they have; "cast" casts its columns, so that they keep their types. Without it,
	// such a view is refused. Views needs a change of the table.
	Views string
	// Recompress compresses the stored values again, with the method that their columns have
	// (ALTER COLUMN … SET COMPRESSION). Without it, a copied value stays compressed as it was,
	// as it does in VACUUM FULL.
	Recompress bool
	// Cascade, with ToBigint, first makes every column bigint that refers to the key by a
	// foreign key, or to a column that does so. Each table has a job of its own; the table
	// comes last. Run continues the jobs of all these tables. Revert and Reset undo all of them.
	// Until can only be PreValidate, Swap or CleanUp.
	//
	// Without it, a key that becomes wider than a column that refers to it is refused, unless
	// NoCascade is set.
	Cascade bool
	// NoCascade allows columns that refer to the key and stay narrower: they cannot take the
	// greater values.
	NoCascade bool
	// NoRevert gives up the way back: no write after the swap reaches the old table, and
	// Revert is not possible. Without it, a change from which there is no way back is
	// refused. NoRevert needs a change of the table.
	NoRevert bool
	// KeepOld keeps the old table at clean_up instead of dropping it.
	KeepOld bool
	// RebuildMatviews allows materialized views on the table. After the swap they are
	// built again, with the rows of that moment, and exchanged. Without it, a table
	// that has them is refused.
	RebuildMatviews bool
	// UpdateOID names columns, each SCHEMA.TABLE.COLUMN as SQL writes it, that store
	// the OID of the table or of an object that belongs to it. Their type is oid,
	// regclass or regtype, an array of these or a domain over them. The swap and Revert
	// update the values in their own transaction, so that the values follow the table.
	//
	// This takes SHARE ROW EXCLUSIVE on the tables of these columns, and fires their
	// triggers. A job keeps its columns; more may be added until it ends.
	UpdateOID []string
	// IgnoreOID leaves OIDs in other columns and in trigger arguments unchanged. They
	// then refer to the old table, and after clean_up to nothing. Without it, such a
	// table is refused.
	IgnoreOID bool
	// PublishedOK allows publications FOR ALL TABLES. They publish what is written to
	// the registry, the change log, the shadow and the old table as well. A PostgreSQL
	// subscriber that lacks one of these tables stops with an error until it has it:
	// see "Publications of all tables" in docs/how-it-works.md. A job keeps it. Without
	// it, every table of a database with such a publication is refused.
	PublishedOK bool
	// Jobs is the number of connections that copy, build indexes or replay at the same
	// time. Default: the number of CPUs of this machine, at most 4; it drops to one,
	// with pauses between chunks, while other sessions are active on the server.
	Jobs int
	// MaintenanceWorkMem is the memory that VACUUM and each index build may use,
	// written as the server writes it, such as "2GB". Up to Jobs index builds run at
	// the same time. Default: the session's maintenance_work_mem, and less for a btree
	// index that is sorted faster within a CPU's cache.
	MaintenanceWorkMem string
	// LockTimeout limits all lock waits of one transaction together. It is kept below
	// the server's deadlock_timeout, so that the server never cancels an application's
	// transaction in a deadlock with us. Default: 500ms.
	LockTimeout time.Duration
	// LockRetries is how often to try again to acquire locks. Default: 20. Negative:
	// never.
	LockRetries int
	// KillBlockers is how long a session may block us from a lock before it is
	// cancelled. A later attempt terminates it. Default: zero, which means never.
	KillBlockers time.Duration
	// MaxSnapshotWait limits the wait for transactions with older snapshots before the
	// swap. Default: one minute.
	MaxSnapshotWait time.Duration
	// ForeignKeys says how foreign keys between the table and other tables are moved:
	// all together, while all these tables are locked, or one by one, while the swap
	// locks only the table. One by one is not exact in a few respects, and a partition
	// cannot be repacked this way: see docs/correctness.md.
	//
	// Default: ForeignKeysAuto. It moves them together, unless there are so many that
	// the locks would be held longer than LockTimeout, or the locks cannot be acquired
	// in a few attempts. If a partitioned table refers to the table, the keys are moved
	// one by one, whatever ForeignKeys says.
	ForeignKeys ForeignKeys
	// Limits say when work stops: by the lag of replicas, the write-ahead log, other sessions,
	// disks, or a query. Default: never. What cannot be read stops the work too, and is refused
	// beforehand if it never could be read.
	Limits Limits
	// Nice makes each piece of the work that writes most be followed by a rest so many times as
	// long. Default: as long as the piece, and only while other sessions are at work.
	Nice float64
	// GiveUpAfter ends a run with *StoppedError when work has been stopped for that time. Default:
	// never.
	GiveUpAfter time.Duration
	// MaxChangeLog is how large the change log may become before the swap, in bytes. Default: as
	// large as it becomes. OnChangeLogFull says what a run does then: ChangeLogWarn (default) logs
	// it once; ChangeLogReset removes the job, so that the log does not take space that the
	// application needs, and returns *StoppedError.
	MaxChangeLog    int64
	OnChangeLogFull string
	// OnEvent is called with each event of the jobs that Run works on: in order, and once. If the
	// process is killed, the run that continues the job calls it with the events that were not
	// passed on; one under way may then be passed on again. The work does not wait for it, but Run
	// does at the end, for at most 30 seconds. An error is logged. Default: nobody is told.
	OnEvent func(ctx context.Context, event Event) error
	// Throttlers are asked before each piece of work whether it may begin: a chunk, the
	// build of an index, a batch of the replay, the swap. Default: none.
	Throttlers []Throttler
	// Window are the hours of the week at which work may begin, such as "Mon-Fri
	// 22:00-05:00" or "01:00-05:00". Default: always. SwapWindow are those at which the swap
	// may begin. Outside them, Run ends with *StoppedError after the piece of work under way.
	// A stage that is estimated to end after the window does not begin.
	Window, SwapWindow []string
	// Timezone is the time zone of Window and SwapWindow, such as "Europe/Berlin". Default:
	// that of this process.
	Timezone string
	// OutsideWait makes Run stay at work outside Window and SwapWindow, and wait for them.
	OutsideWait bool
	// WaitForSwap makes Run stay at work when all is ready for the swap, and replay what is
	// written, until Repack.AllowSwap is called, by any process.
	WaitForSwap bool
	// RetryFor is how long to try to connect again if the connection to the server is
	// lost during the work. Default: five minutes. Negative: never.
	RetryFor time.Duration
	// Verify is how much of source and shadow is compared before the swap. Default:
	// VerifySample. If rows differed, the job does not swap until a full comparison
	// finds no difference. Repack.Verify compares as much as this field says, too.
	Verify VerifyMode
	// ShadowSchema names a schema that an administrator has prepared for the shadow.
	// The old table goes to the schema of that name with "_old" appended. Default: both
	// schemas are created for the job.
	ShadowSchema string
	// RegistrySchema is the schema of the registry, where jobs are recorded. Default:
	// "repack_registry".
	RegistrySchema string
	// Pooler is empty, or PoolerSession: connections may go through a connection pooler
	// that keeps a server session for each client. Without it, every pooler that can be
	// detected is refused with *PoolerError.
	Pooler string
	// Logger receives log records. Default: they are discarded.
	Logger *slog.Logger
	// Hooks are called during the run. Default: none.
	Hooks Hooks

	hours throttle.Hours // of Window and SwapWindow
	yield bool           // Jobs has its default
	group string         // the table whose cascade this table is altered in, as SQL writes it
}

// maxDefaultJobs keeps the default small, because the server has other work.
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
	set(&o.OnChangeLogFull, ChangeLogWarn)
	set(&o.RegistrySchema, DefaultRegistrySchema)
	set(&o.Logger, slog.New(slog.DiscardHandler))
	if _, err := strategy.New(o.Strategy); err != nil {
		return o, &UsageError{err}
	}
	if o.OrderBy != "" && o.Strategy != ChangeLog {
		return o, &UsageError{fmt.Errorf("order %q: strategy %s copies ranges of blocks under short row locks, not rows in order; use %s",
			o.OrderBy, o.Strategy, ChangeLog)}
	}
	o.ToBigint = o.ToBigint || len(o.BigintColumns) > 0
	if err := o.checkAlteration(); err != nil {
		return o, err
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
	if o.OnChangeLogFull != ChangeLogWarn && o.OnChangeLogFull != ChangeLogReset {
		return o, &UsageError{fmt.Errorf("when the change log is full: want %s or %s, not %q", ChangeLogWarn, ChangeLogReset, o.OnChangeLogFull)}
	}
	for _, n := range []struct {
		name     string
		negative bool
	}{
		{"jobs", o.Jobs < 0},
		{"batch size", o.BatchSize < 0},
		{"lock timeout", o.LockTimeout < 0},
		{"snapshot wait", o.MaxSnapshotWait < 0},
		{"kill blockers", o.KillBlockers < 0},
		{"nice", o.Nice < 0},
		{"time to give up", o.GiveUpAfter < 0},
		{"change log", o.MaxChangeLog < 0},
	} {
		if n.negative {
			return o, &UsageError{fmt.Errorf("%s cannot be negative", n.name)}
		}
	}
	o.LockRetries = max(o.LockRetries, 0)
	return o.withHours()
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
