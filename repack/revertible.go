package repack

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/stages/steps"
)

// NotRevertible is the value of Status.Revertible for a job that was begun with
// Options.NoRevert.
const NotRevertible = "no (--no-revert)"

// revertible says whether Revert can put the old table back; or is nil before the swap and
// after clean_up has begun. Only a job that alters the table can have rows that the old table
// cannot take. To find them, it tries to replay what is pending, and rolls back.
func revertible(ctx context.Context, conn *pgx.Conn, job *registry.Job, alteration *alter.Alteration) (*string, error) {
	if !job.Swapped() || job.State != registry.Active {
		return nil, nil
	}
	yes, no := "yes", NotRevertible
	switch {
	case alteration == nil:
		return &yes, nil
	case !alteration.Reversible():
		return &no, nil
	}
	w, err := steps.Observer(ctx, conn, job, alteration)
	if err != nil {
		return nil, err
	}
	unfit := &alter.UnfitError{Table: job.Table(), KeyColumns: w.Link.KeyNames(), Swapped: true}
	err = catalog.Undone(ctx, conn, func(tx pgx.Tx) (err error) {
		if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", DefaultLockTimeout.Milliseconds())); err != nil {
			return err
		}
		unfit.Rows, err = w.Link.UnfitChanges(ctx, tx, alter.MostUnfit, w.Concurrent())
		return err
	})
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr) && (pgErr.Code == pgerrcode.InsufficientPrivilege || pgErr.Code == pgerrcode.LockNotAvailable ||
		pgErr.Code == pgerrcode.UndefinedTable || pgErr.Code == pgerrcode.ReadOnlySQLTransaction):
		unknown := "unknown (" + pgErr.Message + ")"
		return &unknown, nil
	case err != nil:
		return nil, fmt.Errorf("look whether the old table can take all rows: %w", err)
	case len(unfit.Rows) == 0:
		return &yes, nil
	}
	no = "no (" + unfit.Summary() + ")"
	return &no, nil
}
