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
	"github.com/repack-go/repack/stages/oids"
	"github.com/repack-go/repack/stages/throttle"
	"github.com/repack-go/repack/strategy"
)

// Env is what the stages of one run work with.
type Env struct {
	Worker

	Strategy     strategy.Strategy
	ShadowSchema string // empty: the job has schemas of its own
	KeepOld      bool
	// RebuildMatviews allows materialized views on the table, and has them rebuilt.
	RebuildMatviews bool
	UpdateOID       []registry.OIDColumn // columns with OIDs of the table, to be updated when it has a new OID
	IgnoreOID       bool                 // allows other tables to store OIDs of the table
	PublishedOK     bool                 // allows publications FOR ALL TABLES
	OrderBy         string               // order of the copied rows: see catalog.ReadOrder; empty: as they come
	Jobs            int                  // connections that work at the same time, at most
	Throttle        *throttle.Throttle   // asked before each piece of work of those connections
	BatchSize       int                  // about how many rows a chunk or batch has; 0: by time
	Transfer        Transfer             // how the backfill's rows are transferred
	SnapshotWait    time.Duration        // limit of the wait for older snapshots
	Verify          registry.VerifyMode
	ForeignKeys     ForeignKeys // how foreign keys are moved
	// MaintenanceWorkMem is the memory that an index build, a sort and VACUUM may each
	// use; empty: the setting of the session.
	MaintenanceWorkMem string

	// Partitioned is the ID of the repack of the partitioned table that this job is a
	// part of.
	Partitioned *int64

	Link *strategy.Link // from which table to which the changes go: see Open

	// Restored reports whether Job belongs to another database: see ResetRestored.
	Restored bool

	validated bool                   // preValidate has passed in this run
	key       []catalog.KeyColumn    // key of the source, as the dry build has read it
	verified  *registry.Verification // the last verification of this run
	oids      *oids.Found            // what preflight has found
	reprints  catalog.Reprints
}

// Open makes job, which exists, the job of e. It returns *RestoredError if the job
// belongs to another database. Such a job can be reset, and nothing else.
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
	asked.KeepOld = asked.KeepOld || e.KeepOld // the user may ask for it until clean_up
	asked.RebuildMatviews = asked.RebuildMatviews || e.RebuildMatviews
	asked.PublishedOK = asked.PublishedOK || e.PublishedOK
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
	// The key is looked up by the table's OID, not by its name: the shadow may have been
	// moved to any schema by now.
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

// link sets the direction of the changes, from the table in use to its copy: before the
// swap from the source to the shadow, after it from the new table to the old one.
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

// execAll sends statements together, in one round trip. The error names the first of them,
// and the server's error which one has failed; see also execEach.
func execAll(ctx context.Context, q catalog.Querier, statements []string) error {
	if len(statements) == 0 {
		return nil
	}
	if _, err := q.Exec(ctx, strings.Join(statements, ";\n")); err != nil {
		return fmt.Errorf("%s: %w", beginning(statements), err)
	}
	return nil
}

// doAll is execAll for statements that may wait for locks: see lock.Tx.Do.
func doAll(ctx context.Context, tx *lock.Tx, statements []string) error {
	if len(statements) == 0 {
		return nil
	}
	if err := tx.Do(ctx, strings.Join(statements, ";\n")); err != nil {
		return fmt.Errorf("%s: %w", beginning(statements), alteredMeanwhile(err))
	}
	return nil
}

// beginning returns the first line of statements.
func beginning(statements []string) string {
	first, _, more := strings.Cut(statements[0], "\n")
	if more || len(statements) > 1 {
		first += " …"
	}
	return first
}

// savepoint is the savepoint that execEach rolls back to.
const savepoint = "tried"

// execEach is execAll in a subtransaction. If that fails, it runs the statements again
// one by one, so that the error names the statement that fails.
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

// WithHolders turns an error that only says that a lock was denied into a
// *lock.TimeoutError, which names the sessions that hold the lock. It looks only for
// holders of ACCESS EXCLUSIVE, because no other lock prevents repack from reading the
// table.
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
