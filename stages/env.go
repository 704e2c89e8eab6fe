package stages

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/throttle"
	"github.com/repack-go/repack/strategy"
)

// Env is what the stages of one run work with.
type Env struct {
	Worker

	Strategy     strategy.Strategy
	ShadowSchema string // empty: schemas of the job's own
	KeepOld      bool
	// RebuildMatviews allows materialized views on the table: they are rebuilt.
	RebuildMatviews bool
	UpdateOID       []registry.OIDColumn // columns whose OIDs of the table follow it
	IgnoreOID       bool                 // allows OIDs of the table to be kept elsewhere
	OrderBy         string               // of the copied rows: see catalog.ReadOrder; empty: as they come
	Jobs            int                  // connections that work at the same time, at most
	Throttle        *throttle.Throttle   // of those connections
	BatchSize       int                  // rows a chunk or batch, about; 0: by time
	Transfer        Transfer             // the way of the backfill's rows
	SnapshotWait    time.Duration        // bound on the wait for older snapshots
	Verify          registry.VerifyMode
	ForeignKeys     ForeignKeys // how they are moved
	// MaintenanceWorkMem is what index builds, a sort and VACUUM may use each;
	// empty: what the session has.
	MaintenanceWorkMem string

	// Partitioned is the repack of the partitioned table that this is a part of.
	Partitioned *int64

	Link *strategy.Link // the way changes go: see Open

	// Restored is whether Job is of another database: see ResetRestored.
	Restored bool

	validated bool                   // preValidate has passed in this run
	key       []catalog.KeyColumn    // of the source, by the dry build
	verified  *registry.Verification // the last one of this run
	oids      *oidSearch             // of preflight
	reprints  catalog.Reprints
}

// Open points e at a job that exists. It returns *RestoredError where that is of
// another database, which can be reset and no more.
func (e *Env) Open(ctx context.Context, job *registry.Job) error {
	source, err := job.SourceDescription()
	if err != nil {
		return err
	}
	e.Source, e.OrderBy = source, job.Options.OrderBy
	if other, err := foreign(ctx, e.Pool, job); err != nil {
		return err
	} else if other {
		return e.openRestored(ctx, job)
	}
	e.Job = job
	asked := job.Options
	asked.KeepOld = asked.KeepOld || e.KeepOld // may be asked for until clean_up
	asked.RebuildMatviews = asked.RebuildMatviews || e.RebuildMatviews
	asked = asked.WithOIDs(e.UpdateOID, e.IgnoreOID)
	if !reflect.DeepEqual(asked, job.Options) || e.Partitioned != nil {
		err := e.writeJob(ctx, func(_ pgx.Tx, job *jobRow) error {
			job.Options = asked
			if e.Partitioned != nil {
				job.Partitioned = e.Partitioned
			}
			return nil
		})
		if err != nil {
			return err
		}
		job = e.Job
	}
	if e.Strategy, err = strategy.New(job.Strategy); err != nil {
		return err
	}
	// The OIDs are asked, not the names: a shadow may be anywhere by now.
	keyOf := job.Source
	if job.Swapped() {
		keyOf = *job.Shadow
	}
	key, err := catalog.ReadKey(ctx, e.Pool, keyOf, job.KeyIndex)
	if err != nil {
		return err
	}
	e.link(key)
	return nil
}

// link joins the table in use and its copy: before the swap the source and the
// shadow, after it the new table and the old one.
func (e *Env) link(key []catalog.KeyColumn) {
	j := e.Job
	e.Link = strategy.NewLink(e.Source, key, j.Table(), j.ShadowTable(),
		catalog.Name{Schema: j.ShadowSchema, Name: j.ChangeLog}, catalog.Name{Schema: j.ShadowSchema, Name: j.Capture})
	e.Link.PerRow = e.Link.PerRow || j.Options.RowTriggers
	e.Link.Counted = j.Options.CountRows
	e.Link.Rows = j.Options.RowByRow
	if j.Swapped() {
		e.Link = e.Link.Reverse(j.Table(), j.OldTable())
	}
}

// execAll sends statements together, in one round trip. A plan notes them one by
// one. Which of them has failed the server's error tells; see also execEach.
func execAll(ctx context.Context, q catalog.Querier, statements []string) error {
	if len(statements) == 0 {
		return nil
	}
	if noted, is := q.(*transcript); is {
		noted.noteAll(statements)
		return nil
	}
	if _, err := q.Exec(ctx, strings.Join(statements, ";\n")); err != nil {
		first, _, more := strings.Cut(statements[0], "\n")
		if more || len(statements) > 1 {
			first += " …"
		}
		return fmt.Errorf("%s: %w", first, err)
	}
	return nil
}

// savepoint is what execEach goes back to.
const savepoint = "tried"

// execEach is execAll in a subtransaction. When that fails it is run again, statement
// by statement, so that the error names the one that does not work.
func execEach(ctx context.Context, tx pgx.Tx, statements []string) error {
	if len(statements) == 0 {
		return nil
	}
	all := slices.Concat([]string{"SAVEPOINT " + savepoint}, statements, []string{"RELEASE SAVEPOINT " + savepoint})
	_, err := tx.Exec(ctx, strings.Join(all, ";\n"))
	if err == nil {
		return nil
	}
	if _, undoErr := tx.Exec(ctx, "ROLLBACK TO SAVEPOINT "+savepoint); undoErr != nil {
		return errors.Join(err, undoErr)
	}
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			_, undoErr := tx.Exec(ctx, "ROLLBACK TO SAVEPOINT "+savepoint+"; RELEASE SAVEPOINT "+savepoint)
			return errors.Join(fmt.Errorf("%s: %w", sql, err), undoErr)
		}
	}
	_, err = tx.Exec(ctx, "RELEASE SAVEPOINT "+savepoint)
	return err
}

// WithHolders makes of a plain refusal of a lock one that names who holds the table:
// nobody but an ACCESS EXCLUSIVE lock keeps us from reading it.
func (e *Env) WithHolders(ctx context.Context, oid uint32, name catalog.Name, err error) error {
	var told *lock.TimeoutError
	if !lock.Denied(err) || errors.As(err, &told) {
		return detailed(err)
	}
	holders, lookErr := lock.Holders(ctx, e.Pool, oid)
	if lookErr != nil {
		return errors.Join(err, lookErr)
	}
	return &lock.TimeoutError{Relation: name.String(), Attempts: 1, Waited: e.Locks.Timeout, Blockers: holders, Err: err}
}
