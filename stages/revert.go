package stages

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/stages/shadow"
	"github.com/repack-go/repack/stages/steps"
)

// Revert puts the old table back, with every write made since the swap, and removes the job.
// It takes the steps of the swap with the tables exchanged: replay, write-through, wait for
// older snapshots, exchange, validate. It may be called again after a failure. After
// ErrNotSwapped, nothing has changed.
//
// The locks are those of the swap.
func Revert(ctx context.Context, e *Env) error {
	if e.Job.State == registry.Finishing {
		return ErrFinishing
	}
	if !e.Job.Swapped() && e.Job.State != registry.Reverting {
		return ErrNotSwapped
	}
	if e.Job.Swapped() && !e.Alteration.Reversible() {
		return ErrIrreversible
	}
	if err := e.AwaitSerializable(ctx); err != nil {
		return e.failed(ctx, fmt.Errorf("revert: %w", err))
	}
	if e.Job.Swapped() {
		for _, fits := range []func(context.Context) error{
			e.wideBehind, func(ctx context.Context) error { return e.viewsFit(ctx, e.Job.OldTable()) }, e.fitsBack,
		} {
			if err := fits(ctx); err != nil {
				return e.failed(ctx, fmt.Errorf("revert: %w", err))
			}
		}
		if err := e.oidsAnswered(ctx, *e.Job.Shadow); err != nil {
			return e.failed(ctx, fmt.Errorf("revert: %w", err))
		}
		left, err := e.rebuilder().Leave(ctx)
		if err == nil && !left {
			err = e.rebuildMatviews(ctx) // finish what was left to do after their exchange
		}
		if err != nil {
			return e.failed(ctx, fmt.Errorf("revert: %w", err))
		}
		if err := e.validateBound(ctx); err != nil {
			return e.failed(ctx, fmt.Errorf("revert: %w", err))
		}
		if err := e.preflight().KeysFit(ctx, *e.Job.Shadow, e.Job.OldTable()); err != nil {
			return e.failed(ctx, fmt.Errorf("revert: %w", err))
		}
		if err := e.untilExchanged(ctx, e.withViews(e.Job.OldTable(), e.exchangeBack)); err != nil {
			return e.failed(ctx, fmt.Errorf("revert: %w", err))
		}
		if err := e.Step(ctx, steps.StepExchangedBack); err != nil {
			return err
		}
	}
	if err := e.mover().HandOver(ctx); err != nil {
		return e.failed(ctx, fmt.Errorf("revert: %w", err))
	}
	if err := e.mover().ValidateForeignKeys(ctx); err != nil {
		return e.failed(ctx, fmt.Errorf("revert: %w", err))
	}
	if err := e.rebuildMatviews(ctx); err != nil {
		return e.failed(ctx, fmt.Errorf("revert: %w", err))
	}
	if err := e.AwaitSerializable(ctx); err != nil {
		return e.failed(ctx, fmt.Errorf("revert: %w", err))
	}
	return e.discard(ctx, registry.Reverted)
}

// ErrIrreversible reports that the job was begun with the option to give up the way back.
var ErrIrreversible = errors.New("there is no way back: the job was begun with --no-revert, and the old table has no write since the swap")

// fitsBack makes sure, before any lock, that the old table can take all rows that have been
// written since the swap. It replays them. If a row does not fit, it returns an
// *alter.UnfitError: the new table stays in use, and its changes are captured as before.
func (e *Env) fitsBack(ctx context.Context) error {
	if e.Alteration == nil || e.Concurrent() {
		return nil
	}
	return alter.Refuse(e.replayer().CatchUpShort(ctx))
}

// exchangeBack is exchange with the tables in the opposite roles. The old table still has
// what DressSQL gives a shadow, but not what DDL has done to the new table since the swap.
// If there was such DDL, nothing is exchanged.
func (e *Env) exchangeBack(ctx context.Context) error {
	if err := e.LearnOld(ctx); err != nil {
		return err
	}
	return e.Learning(ctx, *e.Job.Shadow, e.exchangeBackKnown)
}

// exchangeBackKnown makes the exchange. repack must know how the server prints the
// definitions: see learning.
func (e *Env) exchangeBackKnown(ctx context.Context) error {
	var x *exchanging
	var reread []string
	err := e.ChangeJob(ctx, e.mover().ExchangePolicy(), func(ctx context.Context, tx *lock.Tx, job *steps.JobRow) error {
		x = &exchanging{Env: e, out: *e.Job.Shadow, in: e.Job.Source, views: e.views}
		if err := x.backExchange().Do(ctx, tx); err != nil {
			return err
		}
		description, err := catalog.Encode(x.becomes().ValidAsIn(e.Source))
		if err != nil {
			return err
		}
		job.SwappedAt, job.CompletedBy, job.State, job.Description, job.Options.RowByRow = nil, nil, registry.Reverting, description, e.Forward().Rows
		b := &pgx.Batch{}
		e.QueueJob(b, job)
		reread, err = x.parity(ctx, tx, b, e.Job.ShadowTable())
		return err
	})
	if err != nil {
		return err
	}
	e.TellReread(x.table.Name, reread)
	e.Source = x.becomes().ValidAsIn(e.Source)
	e.SetLink(e.Link.Key)
	return nil
}

// backExchange is the transaction of exchangeBack.
func (x *exchanging) backExchange() steps.Transaction {
	parked := x.Job.ShadowTable()
	locked := append(x.lockForExchange(x.Job.OldTable()), steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error {
		if err := x.learnRenamed(ctx, tx); err != nil {
			return err
		}
		if err := x.Learned(x.table); err != nil {
			return err
		}
		return x.driftSinceSwap(x.table)
	}))
	return steps.Transaction{Actions: slices.Concat(locked, []steps.Action{
		steps.SendBounded(func() []string {
			statements := slices.Concat(
				x.Alteration.SequencesBackSQL(x.table),
				shadow.DropKeysSQL(x.Moving(x.table)),
				x.table.DetachSQL(), // a partition
				x.mover().RetireRowByRowSQL(x.table),
				shadow.RetireSQL(x.table, parked),
				x.mover().ReinstateRowByRowSQL(),
				x.builder().ReinstateSQL(),
				shadow.ShowSequencesSQL(x.table),
				x.table.AttachSQL(), // a partition
				shadow.InstallSQL(x.Moving(x.views.Installed(x.becomes())), parked),
			)
			if link, xid := x.follow(x.Forward()); xid != "" || link.MirrorSince != "" {
				statements = append(statements, x.followSQL(link, xid)...)
			}
			return append(statements, x.recompile...)
		}),
	}, x.recreateViews(), []steps.Action{
		x.done(exchangeSteps/2, 4),
		x.rewriteOIDs(),
	})}
}

// learnRenamed learns how definitions read in which columns have their old names again, as only
// this transaction sees them. Most are known from before the swap. If one was added or changed since
// then, this takes a few round trips under the lock.
func (x *exchanging) learnRenamed(ctx context.Context, tx *lock.Tx) error {
	if !x.Alteration.RenamesColumns() || x.Knows(x.table, x.out) {
		return nil
	}
	for _, t := range []*catalog.Table{x.table, x.becomes()} {
		if err := x.LearnIn(ctx, tx, t, x.out); err != nil {
			return err
		}
	}
	return nil
}

// validateBound lets the server check the rows of an old partition against the partition's
// bound before the exchange, when no session waits. Then ATTACH need not check them.
func (e *Env) validateBound(ctx context.Context) error {
	statements := e.Source.ValidateBoundSQL(e.Job.OldTable())
	if len(statements) == 0 {
		return nil
	}
	return e.Transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		if err := tx.Settle(ctx, e.Job.OldTable().String()); err != nil {
			return err
		}
		return steps.DoAll(ctx, tx, statements)
	})
}

// driftSinceSwap compares the new table with what the source was at the swap. It leaves out
// what joins the table to other objects: the old table takes that over as it is now.
func (e *Env) driftSinceSwap(now *catalog.Table) error {
	changes, err := e.Reprints.Diff(e.Alteration.Target(e.Source).WithoutLinks(), now.WithoutLinks())
	if err != nil {
		return err
	}
	if len(changes) > 0 {
		return &RevertDriftError{Table: e.Source.Name, Changes: changes}
	}
	return nil
}

// RevertDriftError reports DDL on the new table since the swap that the old table does not
// have. Nothing has been exchanged.
type RevertDriftError struct {
	Table   catalog.Name
	Changes []catalog.Difference
}

func (e *RevertDriftError) Error() string {
	msg := fmt.Sprintf("%s has been changed since the swap, and reverting would lose that:", e.Table)
	for _, c := range e.Changes {
		msg += "\n  " + c.Text()
	}
	return msg + "\nundo the change and revert again"
}
