package steps

import (
	"errors"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// DetailedError is an error of the server with its DETAIL and HINT. The DETAIL names, for
// example, the duplicate key, or the objects that depend on a table.
type DetailedError struct {
	Detail, Hint string
	Err          error
}

func (e *DetailedError) Error() string {
	msg := e.Err.Error()
	if e.Detail != "" {
		msg += "\nDETAIL: " + e.Detail
	}
	if e.Hint != "" {
		msg += "\nHINT: " + e.Hint
	}
	return msg
}

// Unwrap returns the error without the detail.
func (e *DetailedError) Unwrap() error { return e.Err }

// Detailed adds the server's DETAIL and HINT to err, once. It leaves out the hint to use
// DROP … CASCADE: the objects that this would drop are not ours.
func Detailed(err error) error {
	var already *DetailedError
	var pgErr *pgconn.PgError
	if errors.As(err, &already) || !errors.As(err, &pgErr) || pgErr.Detail == "" && pgErr.Hint == "" {
		return err
	}
	hint := pgErr.Hint
	if pgErr.Code == pgerrcode.DependentObjectsStillExist {
		hint = ""
	}
	if pgErr.Detail == "" && hint == "" {
		return err
	}
	return &DetailedError{Detail: pgErr.Detail, Hint: hint, Err: err}
}
