package stages

import (
	"context"
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/strategy"
)

// cleanUp ends the reverse capture and drops the old table and everything else that
// belongs to the job. After it, revert is not possible. With KeepOld, the old table stays
// in its schema, as it is at this moment, without a link to any table in use.
//
// It takes ACCESS EXCLUSIVE on the new table, to drop our triggers.
func cleanUp(ctx context.Context, e *Env) error {
	if err := e.endOneByOne(ctx); err != nil { // a revert was begun and not finished
		return err
	}
	if err := e.releaseNew(ctx); err != nil {
		return err
	}
	if err := e.step(ctx, StepCaptureEnded); err != nil {
		return err
	}
	keep := ""
	if e.Job.Options.KeepOld {
		keep = e.Job.OldSchema
	}
	return e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		if err := roomFor(ctx, tx, e.Job.OldTable().String(), e.Link.Log.String()); err != nil {
			return err
		}
		if err := e.dropArtefacts(ctx, tx, keep, e.disposeSQL()...); err != nil {
			return err
		}
		if err := e.endStage(ctx, tx, registry.CleanUp); err != nil {
			return err
		}
		return e.Registry.SetState(ctx, tx, e.Job.ID, e.Runner.Claim, registry.Done)
	})
}

// disposeSQL drops the old table. If the old table is to be kept, disposeSQL drops only
// its user triggers, which are disabled. Then the old table depends on no object of the
// application.
func (e *Env) disposeSQL() []string {
	old := e.Job.OldTable().String()
	if !e.Job.Options.KeepOld {
		return []string{dropSQL("TABLE", old)}
	}
	statements := e.Source.DropBoundSQL(e.Job.OldTable())
	for _, t := range e.Source.Triggers {
		statements = append(statements, dropSQL("TRIGGER", catalog.Quote(t.Name)+" ON "+old))
	}
	return statements
}

// releaseNew removes the capture from the new table. If the old table is to be kept, it
// first receives what has been written since the swap.
func (e *Env) releaseNew(ctx context.Context) error {
	if e.Job.State == registry.Finishing {
		return nil
	}
	if there, err := e.newThere(ctx, e.Pool); err != nil || !there {
		return err
	}
	if err := e.tryDisposal(ctx); err != nil {
		return err
	}
	if err := e.awaitSerializable(ctx); err != nil {
		return err
	}
	return e.whilePutOff(ctx, "clean-up", func(ctx context.Context) error {
		if e.Job.Options.KeepOld {
			if err := e.catchUpShort(ctx); err != nil {
				return err
			}
		}
		return e.detachNew(ctx)
	})
}

// detachNew drops our triggers on the new table. If the old table is to be kept, the rest
// of the log is replayed into it under the same lock. detachNew returns ErrPutOff if that
// would take too long.
func (e *Env) detachNew(ctx context.Context) error {
	return e.changeJob(ctx, e.Locks, func(ctx context.Context, tx *lock.Tx, job *jobRow) error {
		name, ok, err := nameOf(ctx, tx, *e.Job.Shadow)
		if err != nil || !ok {
			return err
		}
		table := name.String() // the table may have been renamed since the swap
		if err := tx.Settle(ctx, table); err != nil {
			return err
		}
		if err := tx.Lock(ctx, table, "ACCESS EXCLUSIVE"); err != nil {
			return err
		}
		if e.Job.Options.KeepOld {
			if err := e.drainLocked(ctx, tx); err != nil {
				return err
			}
		}
		job.State = registry.Finishing
		return execAll(ctx, tx, strategy.DropTriggersSQL(name))
	})
}

func dropSQL(kind, object string) string { return fmt.Sprintf("DROP %s IF EXISTS %s", kind, object) }

func drop(ctx context.Context, q catalog.Querier, kind, object string) error {
	if _, err := q.Exec(ctx, dropSQL(kind, object)); err != nil {
		return fmt.Errorf("drop %s %s: %w", kind, object, err)
	}
	return nil
}

// dropArtefacts runs statements. Then it drops the capture function, the change log and
// the job's own schemas, except keep. If a user has created an object of their own in one
// of the schemas, the schema is not dropped, and the error names the object.
func (e *Env) dropArtefacts(ctx context.Context, q catalog.Querier, keep string, statements ...string) error {
	if err := execAll(ctx, q, append(statements, e.dropArtefactsSQL(keep)...)); err != nil {
		return fmt.Errorf("drop what belongs to the job: %w", err)
	}
	return nil
}

func (e *Env) dropArtefactsSQL(keep string) []string {
	statements := []string{
		dropSQL("FUNCTION", e.Link.Capture.String()+"()"),
		dropSQL("TABLE", e.Link.Log.String()+", "+e.Link.Retired().String()),
	}
	schemas := []string{e.Job.ShadowSchema, e.Job.OldSchema}
	statements = append(statements, e.Source.DropBoundDomainsSQL(schemas...)...)
	for _, schema := range schemas {
		if e.Job.OwnSchemas && schema != keep {
			statements = append(statements, dropSQL("SCHEMA", catalog.Quote(schema)))
		}
	}
	return statements
}
