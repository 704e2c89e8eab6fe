package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/neighbours"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/stages/throttle"
)

// swap puts the shadow in the source's place, in these steps:
//
//  1. It switches writers from log to write-through. Source and shadow are equal in every
//     snapshot taken from then on.
//  2. It waits for the snapshots that are older.
//  3. One transaction exchanges the tables. The foreign keys then lead to the new table.
//  4. It validates the foreign keys and rebuilds materialized views.
//
// To switch, it takes SHARE ROW EXCLUSIVE on the source. The exchange takes ACCESS
// EXCLUSIVE on the source, its shadow and the tables joined to it by foreign keys, in one
// transaction. The lock timeout bounds all waits of a transaction together. Validation
// takes SHARE UPDATE EXCLUSIVE on the table of each foreign key.
func swap(ctx context.Context, e *Env) error {
	if !e.Job.Swapped() {
		// The comparison is still to be made if an earlier run was told not to make it,
		// or if an older version did not make it.
		compared, err := e.compareBeforeSwap(ctx)
		if err != nil {
			return err
		}
		if err := e.concludeComparison(ctx, compared, nil); err != nil {
			return err
		}
		if err := e.preflight().KeysFit(ctx, e.Job.Source, e.Job.ShadowTable()); err != nil {
			return err
		}
		if err := e.oidsAnswered(ctx, e.Job.Source); err != nil {
			return err
		}
		if err := e.wideEnough(ctx); err != nil {
			return err
		}
		if err := e.awaitSwap(ctx); err != nil {
			return err
		}
		if err := e.untilExchanged(ctx, e.withViews(e.Job.ShadowTable(), e.swapTables)); err != nil {
			return err
		}
		if err := e.Step(ctx, steps.StepExchanged); err != nil {
			return err
		}
	}
	there, err := e.newThere(ctx, e.Pool)
	if err != nil {
		return err
	}
	if there {
		if err := e.mover().HandOver(ctx); err != nil {
			return err
		}
		if err := e.mover().ValidateForeignKeys(ctx); err != nil {
			return err
		}
		if err := e.rebuildMatviews(ctx); err != nil {
			return err
		}
		if err := e.endOneByOne(ctx); err != nil {
			return err
		}
	}
	if err := e.StillHeld(ctx); err != nil {
		return err
	}
	return e.EndStage(ctx, e.Pool, registry.Swap)
}

// awaitSwap waits until the swap may begin, and replays meanwhile. Once writers write through,
// it does not wait.
func (e *Env) awaitSwap(ctx context.Context) error {
	if e.Concurrent() {
		return nil
	}
	return e.Throttle.WaitDoing(ctx, throttle.Swapping, e.replayer().CatchUpShort)
}

func planSwap(ctx context.Context, p *planner) ([]steps.Step, error) {
	var list []steps.Transaction
	if !p.Job.Swapped() {
		if !p.Concurrent() {
			xid := unnumbered
			list = append(list, p.replayer().Replaying("replay what has been changed since", false, nil), p.replayer().Switching(&xid))
		}
		older := fmt.Sprintf("wait for transactions with older snapshots, at most %s", p.SnapshotWait)
		if p.Job.Options.RowByRow == "" || p.joins {
			list = append(list, p.replayer().Replaying(older+", and replay what they have changed, "+
				"locking its rows FOR SHARE and skipping locked ones", true, nil))
		} else { // each change has been made to the copy, and nothing is logged
			list = append(list, steps.Transaction{Does: older})
		}
		joins, err := p.planJoin(ctx)
		if err != nil {
			return nil, err
		}
		x, err := p.exchanging(ctx)
		if err != nil {
			return nil, err
		}
		exchange := x.exchange(nil)
		exchange.Locks = p.exchangeLocks
		list = append(append(list, joins...), exchange)
	}
	handOver, err := p.planHandOver(ctx)
	if err != nil {
		return nil, err
	}
	list = append(list, handOver...)
	for _, key := range neighbours.KeysToValidate(p.Moving(p.Source)) {
		if key.Validated && key.Enforced && !key.ValidAbove {
			list = append(list, p.mover().Validation(fmt.Sprintf("validate foreign key %s of %s", catalog.Quote(key.Name), key.Table), key))
		}
	}
	return p.Steps(ctx, append(list, p.planMatviews()...)...)
}

// untilExchanged makes the copy equal to the table in use in every snapshot, and runs
// exchange. If a change comes in between, it does both again: see WhilePutOff.
//
// If the locks of all neighbours cannot be acquired together, it moves their foreign keys
// one by one.
func (e *Env) untilExchanged(ctx context.Context, exchange func(context.Context) error) error {
	if e.Alteration != nil {
		var err error
		if e.bounded, err = e.Alteration.Bounded(ctx, e.Pool, e.InUse()); err != nil {
			return err
		}
	}
	oneByOne, denied := e.mover().OneByOne(), false
	exchangeBy := func(ctx context.Context) error {
		return e.WhilePutOff(ctx, "exchange", func(ctx context.Context) error {
			if err := e.replayer().WriteThroughAndDrain(ctx); err != nil {
				return err
			}
			if oneByOne {
				if err := e.mover().Join(ctx); err != nil {
					return err
				}
			}
			err := exchange(ctx)
			denied = steps.IsTimeout(err) || errors.Is(err, neighbours.ErrMustBeApart)
			return err
		})
	}
	err := exchangeBy(ctx)
	if oneByOne || !denied || !errors.Is(err, neighbours.ErrMustBeApart) && !e.mover().CouldBeApart() {
		return err
	}
	e.Log.Info("foreign keys are moved one by one", "job", e.Job.ID, "reason", err)
	oneByOne = true
	return exchangeBy(ctx)
}
