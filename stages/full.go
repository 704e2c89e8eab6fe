package stages

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/steps"
)

// DiskFullError reports that a disk was full before the swap. What the job had stored
// there has been removed, so that the application can write. The table itself has not
// changed, and the next run begins from the start.
type DiskFullError struct {
	Table catalog.Name
	// Removed is about how many bytes were freed. Needs is how many bytes a copy takes at
	// most. Both are zero if they are not known.
	Removed, Needs int64
	// Release is why the job could not be removed; nil: it has been removed.
	Release error
	Err     error // the server's, SQLSTATE 53100
}

func (e *DiskFullError) Error() string {
	const artefacts = "the copy, its indexes and the change log"
	if e.Release != nil {
		return fmt.Sprintf("%v\nthe disk is full, and %s could not be removed (%v); remove them, so that the application can write, with: repack reset --table '%s'",
			e.Err, artefacts, e.Release, e.Table)
	}
	msg := fmt.Sprintf("%v\nthe disk is full: %s have been removed", e.Err, artefacts)
	if e.Removed > 0 {
		msg += fmt.Sprintf(" (about %s)", megabytes(e.Removed))
	}
	msg += ", so that the application can write"
	if e.Needs > 0 {
		msg += fmt.Sprintf("; a new copy needs up to %s, and as much again where the write-ahead log is", megabytes(e.Needs))
	}
	return msg + "; when there is room, run the same command again: it begins anew"
}

// Unwrap returns the server's error.
func (e *DiskFullError) Unwrap() error { return e.Err }

// megabytes returns a size in MB, rounded up.
func megabytes(n int64) string { return fmt.Sprintf("%d MB", (n+1<<20-1)>>20) }

// diskFull reports whether a disk of the server was full.
func diskFull(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == pgerrcode.DiskFull
}

// givesWay reports whether err means a full disk for which the job is to be removed.
// After the swap the job is not removed: revert needs the old table, so it stays.
func (e *Env) givesWay(err error) bool {
	return diskFull(err) && (e.Job == nil || e.Job.State == registry.Active && !e.Job.Swapped())
}

const (
	// giving is how long the removal of a job may take. The application cannot write
	// during this time, but it could not write if the job stayed, either.
	giving = 2 * time.Minute
	// givingPause is the pause before repack tries again to connect to a server that has
	// crashed because a disk was full.
	givingPause = time.Second
)

// giveWay removes the job. It adds the result to err, the error of a full disk. The
// application may have found the disk full before repack did, and it needs the space more
// than repack does.
func (e *Env) giveWay(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(ctx, giving)
	defer cancel()
	told := &DiskFullError{Table: e.Source.Name, Err: steps.Detailed(err)}
	var sizeErr error
	if told.Removed, told.Needs, sizeErr = e.fullSizes(ctx); sizeErr != nil {
		e.Log.Warn("sizes not known", "table", e.Source.Name.String(), "error", sizeErr)
	}
	if e.Job != nil { // setup has rolled itself back
		e.Log.Warn("the disk is full: removing the job", "job", e.Job.ID, "table", e.Source.Name.String(), "error", err)
		told.Release = e.remove(ctx)
	}
	if errors.Is(told.Release, ErrSwapped) {
		return err
	}
	return told
}

const fullSizesSQL = `
SELECT coalesce(pg_total_relation_size($1::oid), 0),
      (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
       FROM   pg_class c
       JOIN   pg_namespace n ON n.oid = c.relnamespace
       WHERE  n.nspname = $2 AND c.relname = ANY ($3::text[]) AND c.relkind = 'r')`

// fullSizes measures what the job has stored, and the table that it copies.
func (e *Env) fullSizes(ctx context.Context) (removed, needs int64, err error) {
	schema, names := "", []string{}
	if e.Job != nil {
		schema, names = e.Job.ShadowSchema, []string{e.Job.TableName, e.Link.Log.Name, e.Link.Retired().Name}
	}
	if err := e.Pool.QueryRow(ctx, fullSizesSQL, e.Source.OID, schema, names).Scan(&needs, &removed); err != nil {
		return 0, 0, fmt.Errorf("measure %s: %w", e.Source.Name, err)
	}
	return removed, needs, nil
}

// remove does what Reset does. If the server has crashed because there was no space for
// the WAL, remove waits for it.
func (e *Env) remove(ctx context.Context) error {
	for {
		err := e.removeOnce(ctx)
		if !session.Lost(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(givingPause):
		}
	}
}

// removeOnce reads the registry first: a COMMIT during which the server crashed may have
// been that of the exchange, or of the removal. If there is no space even for the
// registry's new row, this row is written after the removal.
func (e *Env) removeOnce(ctx context.Context) error {
	job, err := e.Registry.Get(ctx, e.Pool, e.Job.ID)
	if errors.Is(err, registry.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	switch e.Job = job; {
	case job.State.Over():
		return nil
	case job.Swapped():
		return ErrSwapped
	}
	err = e.discard(ctx, registry.Reset)
	if diskFull(err) {
		err = e.discardUnrecorded(ctx)
	}
	return err
}

// discardUnrecorded removes the job with its row, in one transaction that only deletes.
// Then it records the result.
//
// It takes ACCESS EXCLUSIVE on the source, for the time that it takes to drop the shadow.
func (e *Env) discardUnrecorded(ctx context.Context) error {
	err := e.Transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		if _, err := e.detachSource(ctx, tx); err != nil {
			return err
		}
		if err := e.dropShadow(ctx, tx); err != nil {
			return err
		}
		return e.Registry.Delete(ctx, tx, e.Job.ID, e.Runner.Claim)
	})
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, e.Pool, func(tx pgx.Tx) error {
		if err := e.Registry.Insert(ctx, tx, e.Job, e.Runner); err != nil {
			return err
		}
		return e.Registry.SetState(ctx, tx, e.Job.ID, e.Runner.Claim, registry.Reset)
	})
	if err != nil {
		e.Log.Warn("job removed, and not recorded", "job", e.Job.ID, "error", err)
	}
	return nil
}

// kept adds to a full disk's error after the swap why the old table is not dropped.
func (e *Env) kept(err error) error {
	if !diskFull(err) || !e.Job.Swapped() || e.Job.State != registry.Active {
		return err
	}
	return fmt.Errorf("%w\nthe disk is full; the old table and the change log are the way back, and are kept until clean_up drops them", err)
}
