package stages

import (
	"context"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/steps"
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
	if err := e.Step(ctx, steps.StepCaptureEnded); err != nil {
		return err
	}
	if err := e.awaitCalls(ctx); err != nil {
		return err
	}
	return e.Perform(ctx, e.disposal())
}

func planCleanUp(ctx context.Context, p *planner) ([]steps.Step, error) {
	var list []steps.Transaction
	if p.Job.State != registry.Finishing {
		list = append(list, p.swappedEnv().release(p.Source.Name))
	}
	return p.Steps(ctx, append(list, p.disposal())...)
}

// disposal drops what is left of the job.
func (e *Env) disposal() steps.Transaction {
	keep, does := "", "drop the old table and every artefact"
	if e.Job.Options.KeepOld {
		keep, does = e.Job.OldSchema, "drop every artefact but the old table"
	}
	return steps.Transaction{Does: does, Actions: []steps.Action{
		steps.RoomForOurs(e.Job.OldTable(), e.Link.Log),
		e.builder().DropArtefacts(keep, e.builder().DisposeSQL()...),
		steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error {
			if err := e.EndStage(ctx, tx, registry.CleanUp); err != nil {
				return err
			}
			return e.Registry.SetState(ctx, tx, e.Job.ID, e.Runner.Claim, registry.Done)
		}),
	}}
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
	if err := e.AwaitSerializable(ctx); err != nil {
		return err
	}
	return e.WhilePutOff(ctx, "clean-up", func(ctx context.Context) error {
		if e.Job.Options.KeepOld {
			if err := e.replayer().CatchUpShort(ctx); err != nil {
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
	err := e.ChangeJob(ctx, e.Locks, func(ctx context.Context, tx *lock.Tx, job *steps.JobRow) error {
		name, ok, err := nameOf(ctx, tx, *e.Job.Shadow)
		if err != nil || !ok {
			return err
		}
		job.State = registry.Finishing
		return e.release(name).Do(ctx, tx) // the table may have been renamed since the swap
	})
	return e.UnfitChanges(ctx, err)
}

// release is the transaction of detachNew, for the table with that name.
func (e *Env) release(table catalog.Name) steps.Transaction {
	actions := steps.AcquireSettled("ACCESS EXCLUSIVE", table.String)
	if e.Job.Options.KeepOld {
		actions = append(actions, e.replayer().DrainLocked()...)
	}
	return steps.Transaction{
		Does:    "end the capture",
		Locks:   func(p *steps.Planner) []steps.Lock { return []steps.Lock{p.Strong("ACCESS EXCLUSIVE", table)} },
		Actions: append(actions, steps.Send(strategy.DropTriggersSQL(table)...)),
	}
}
