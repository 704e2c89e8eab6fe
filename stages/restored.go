package stages

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/strategy"
)

// If a dump is taken during a job, the dump contains the job: its row in the registry, the
// shadow, the log, the function and the triggers. After the dump is restored, all of them
// have other OIDs. The OIDs in the job's row mean other objects there, or none. Nothing was
// replayed into such a copy, and nothing can be. So the job can only be removed, by name.

// RestoredError reports a job whose tables are not those of this database.
type RestoredError struct {
	Job   int64
	Table catalog.Name
}

func (e *RestoredError) Error() string {
	return fmt.Sprintf("job %d of %s is of another database: neither the table nor its copy is the one that the job was begun with, "+
		"as where a dump taken during it has been restored; nothing has been changed. Remove what is left of the job with: repack reset --table '%[2]s'",
		e.Job, e.Table)
}

// foreignSQL is true if neither name, $1 nor $3, means the table with the OID beside it, and
// if the table in use, $2, has none of our triggers. The triggers count because a table may
// have been renamed during the job.
const foreignSQL = `
SELECT to_regclass($1)::oid IS DISTINCT FROM $2::oid AND to_regclass($3)::oid IS DISTINCT FROM $4::oid
AND    NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = $2 AND tgfoid = to_regprocedure($5))`

// foreign reports whether the job was restored from a dump of another database.
func foreign(ctx context.Context, q catalog.Querier, j *registry.Job) (is bool, err error) {
	use, other, to := j.Source, j.Shadow, j.ShadowTable()
	if j.Swapped() && j.Shadow != nil {
		use, other, to = *j.Shadow, &j.Source, j.OldTable()
	}
	capture := catalog.Name{Schema: j.ShadowSchema, Name: j.Capture}.String() + "()"
	if err := q.QueryRow(ctx, foreignSQL, j.Table().String(), use, to.String(), other, capture).Scan(&is); err != nil {
		return false, fmt.Errorf("look up the tables of job %d: %w", j.ID, err)
	}
	return is, nil
}

const capturedSQL = `
SELECT   DISTINCT n.nspname, c.relname
FROM     pg_trigger t
JOIN     pg_class c     ON c.oid = t.tgrelid
JOIN     pg_namespace n ON n.oid = c.relnamespace
WHERE    t.tgfoid = to_regprocedure($1)
ORDER BY n.nspname, c.relname`

// captured returns the tables that have triggers which call the function of that name.
func captured(ctx context.Context, q catalog.Querier, function catalog.Name) ([]catalog.Name, error) {
	rows, err := q.Query(ctx, capturedSQL, function.String()+"()")
	if err != nil {
		return nil, fmt.Errorf("look for triggers that call %s: %w", function, err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[catalog.Name])
	if err != nil {
		return nil, fmt.Errorf("look for triggers that call %s: %w", function, err)
	}
	return tables, nil
}

// release drops our triggers on a table that call function. If there are triggers, it takes
// ACCESS EXCLUSIVE on the table; if there are none, it takes no lock. If another table has
// such triggers, the artefacts of that name belong to another job, and release refuses.
func release(ctx context.Context, tx *lock.Tx, table, function catalog.Name) error {
	tables, err := captured(ctx, tx, function)
	if err != nil {
		return err
	}
	for _, name := range tables {
		if name != table {
			return &checks.RefusedError{Table: table, Reasons: []checks.Reason{{
				Object: "function " + function.String(), Why: fmt.Sprintf("is called by triggers of %s, and not of a job of this table", name),
				Remedy: fmt.Sprintf("repack reset --table '%s'", name),
			}}}
		}
	}
	if len(tables) == 0 {
		return nil
	}
	if err := tx.Settle(ctx, table.String()); err != nil {
		return err
	}
	if err := tx.Lock(ctx, table.String(), "ACCESS EXCLUSIVE"); err != nil {
		return err
	}
	return steps.ExecAll(ctx, tx, append(strategy.DropTriggersSQL(table), strategy.DropLateTriggersSQL(table)...))
}

const oidOfSQL = `SELECT coalesce(to_regclass($1)::oid, 0)`

// openRestored points e at a job of another database, as far as this needs no OIDs, and
// returns the *RestoredError.
func (e *Env) openRestored(ctx context.Context, job *registry.Job) error {
	e.Job = job
	if err := e.Pool.QueryRow(ctx, oidOfSQL, job.Table().String()).Scan(&e.Source.OID); err != nil {
		return fmt.Errorf("look up %s: %w", job.Table(), err)
	}
	e.SetLink(nil)
	return &RestoredError{Job: job.ID, Table: job.Table()}
}

const ownSQL = `SELECT to_regprocedure($1) IS NOT NULL OR to_regclass($2) IS NOT NULL`

// ResetRestored removes, by name, what is there of a job that was begun in another database.
// The table in use stays. After the swap this is the new table; the old one is dropped. It
// may be called again after a failure.
//
// It takes ACCESS EXCLUSIVE on the table to drop our triggers.
func ResetRestored(ctx context.Context, e *Env) error {
	if e.Source.OID != 0 {
		if err := e.mover().ValidateKeysOf(ctx, e.Source.OID); err != nil {
			return err
		}
	}
	copied := e.Job.ShadowTable()
	if e.Job.Swapped() {
		copied = e.Job.OldTable()
	}
	return e.ChangeJob(ctx, e.Locks, func(ctx context.Context, tx *lock.Tx, job *steps.JobRow) error {
		if err := release(ctx, tx, e.Job.Table(), e.Link.Capture); err != nil {
			return err
		}
		// What a schema contains is the job's only if the job's function or log is there.
		var own bool
		if err := tx.QueryRow(ctx, ownSQL, e.Link.Capture.String()+"()", e.Link.Log.String()).Scan(&own); err != nil {
			return fmt.Errorf("look for artefacts of job %d: %w", e.Job.ID, err)
		}
		if own {
			if err := steps.RoomFor(ctx, tx, copied.String(), e.Link.Log.String()); err != nil {
				return err
			}
			if err := steps.ExecAll(ctx, tx, append(e.Source.DropTypedSQL(copied), steps.DropSQL("TABLE", copied.String()))); err != nil {
				return err
			}
			if err := steps.Do(ctx, tx, e.builder().DropArtefacts("")); err != nil {
				return err
			}
		} else {
			e.Log.Warn("nothing of the job was restored but its record, which is ended", "job", e.Job.ID, "table", e.Job.Table().String())
		}
		job.State = registry.Reset
		return nil
	})
}
