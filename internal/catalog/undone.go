package catalog

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// errUndone rolls back what has been done.
var errUndone = errors.New("what has been done is to be undone")

// Undone runs work in a transaction on a connection, or in a savepoint of a transaction, and
// rolls it back, whatever comes of it. It returns the error of work.
func Undone(ctx context.Context, conn interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}, work func(tx pgx.Tx) error,
) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := work(tx); err != nil {
			return err
		}
		return errUndone
	})
	if errors.Is(err, errUndone) {
		return nil
	}
	return err
}
