package stages

import (
	"context"

	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/strategy"
)

// endFollowing switches the capture of the table in use back to log.
func (e *Env) endFollowing(ctx context.Context) error {
	if !e.Job.Swapped() || !e.Concurrent() {
		return nil
	}
	if err := e.AwaitSerializable(ctx); err != nil {
		return err
	}
	err := e.ChangeJob(ctx, e.Locks, func(ctx context.Context, tx *lock.Tx, job *steps.JobRow) error {
		job.CompletedBy, job.Options.RowByRow = nil, ""
		return e.unfollow().Do(ctx, tx)
	})
	if err == nil {
		e.SetLink(e.Link.Key)
	}
	return err
}

// unfollow is the transaction of endFollowing.
func (e *Env) unfollow() steps.Transaction {
	t := steps.Transaction{
		Does:    "log changes from now on, instead of writing them through",
		Locks:   (*steps.Planner).Stopping,
		Actions: append(e.StopWriters(), steps.Send(e.Link.LogCapture().SQL()...)),
	}
	if e.Job.Options.RowByRow != "" {
		t.Does = "log changes from now on, instead of making them to the old table"
		t.Actions = append(t.Actions, steps.Send(e.mover().IdentitySQL(true)...), e.mover().DropLockFunctions())
	}
	return t
}

// followSQL makes the writes to link's table reach the replaced table. While foreign keys
// are moved one by one, they reach it row by row. While materialized views read the
// replaced table, they are written through, at once; xid is then the ID of the
// transaction that exchanges the tables. Otherwise xid is empty, and the keys are logged. If
// there is no way back, no write reaches the replaced table.
func (e *Env) followSQL(link *strategy.Link, xid string) []string {
	switch {
	case !e.Alteration.Reversible():
		return nil
	case link.Rows != "":
		return link.RowByRow().SQL()
	case xid == "":
		return link.LogCapture().SQL()
	default:
		return link.WriteThrough(xid).SQL()
	}
}

// rebuildMatviews rebuilds the materialized views that read the replaced table, and ends the
// writes to that table.
func (e *Env) rebuildMatviews(ctx context.Context) error {
	if len(e.Source.Matviews) == 0 {
		return nil
	}
	if err := e.rebuilder().Rebuild(ctx); err != nil {
		return err
	}
	return e.endFollowing(ctx)
}

// planMatviews plans rebuildMatviews.
func (p *planner) planMatviews() []steps.Transaction {
	if len(p.Source.Matviews) == 0 {
		return nil
	}
	after := p.swappedEnv()
	job := *after.Job
	job.Options.RowByRow = "" // the keys have been handed over by then
	after.Job = &job
	return append(after.rebuilder().Plan(), after.unfollow())
}

// endOneByOne runs HandOver after the swap, and then switches the capture back to log.
func (e *Env) endOneByOne(ctx context.Context) error {
	if e.Job.Options.RowByRow == "" {
		return nil
	}
	if err := e.mover().HandOver(ctx); err != nil {
		return err
	}
	if err := e.Step(ctx, steps.StepKeysHandedOver); err != nil {
		return err
	}
	return e.endFollowing(ctx)
}
