package steps

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/strategy"
)

// Unfit returns an *alter.UnfitError that names rows, if err says that the copy cannot take a
// row, and the job alters the table. Otherwise it returns err. find looks for the rows in a
// transaction, which is rolled back.
func (w *Worker) Unfit(ctx context.Context, err error, find func(tx pgx.Tx) ([]strategy.Unfit, error)) error {
	if w.Alteration == nil || !strategy.IsUnfit(err) || ctx.Err() != nil {
		return err
	}
	unfit := &alter.UnfitError{Table: w.Job.Table(), KeyColumns: w.Link.KeyNames(), Swapped: w.Job.Swapped(), Err: err}
	failed := w.TryBy(ctx, w.OfRows(), func(_ context.Context, tx *lock.Tx) (err error) {
		unfit.Rows, err = find(tx)
		return err
	})
	switch {
	case failed != nil:
		return errors.Join(err, failed)
	case len(unfit.Rows) == 0: // the application has changed them meanwhile
		return err
	}
	return unfit
}

// Duplicates returns an *alter.UnfitError that names rows, if err says that a unique index of the
// copy could not be made because of them, and the job alters the table. Otherwise it returns err.
// try runs work in a transaction that is rolled back.
func (w *Worker) Duplicates(ctx context.Context, err error, try func(work func(tx pgx.Tx) error) error) error {
	unfit := w.Alteration.Collided(w.Job.Table(), err)
	if unfit == nil {
		return err
	}
	index, there := w.Alteration.Target(w.Source).Index(unfit.Index)
	if !there || !index.Unique { // an exclusion constraint: the server has named the values
		return unfit
	}
	failed := try(func(tx pgx.Tx) error {
		rows, err := w.Link.DuplicateRows(ctx, tx, index, alter.MostUnfit)
		if len(rows) > 0 { // the server has named one of the values, otherwise
			unfit.Rows, unfit.KeyColumns = rows, w.Link.KeyNames()
		}
		return err
	})
	if failed != nil {
		w.Log.Warn("the rows that are not unique could not be looked for", "job", w.Job.ID, "index", unfit.Index, "error", failed)
	}
	return unfit
}

// UnfitChanges is Unfit for an error of a replay.
func (w *Worker) UnfitChanges(ctx context.Context, err error) error {
	return w.Unfit(ctx, err, func(tx pgx.Tx) ([]strategy.Unfit, error) {
		return w.Link.UnfitChanges(ctx, tx, alter.MostUnfit, w.Concurrent())
	})
}
