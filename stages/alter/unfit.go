package alter

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/strategy"
)

// MostUnfit is how many rows an UnfitError names.
const MostUnfit = 10

// UnfitError names rows that the other table cannot take: before the swap the new table, after
// it the old one. Nothing is lost: the table in use has the rows.
type UnfitError struct {
	Table      catalog.Name
	KeyColumns []string
	Rows       []strategy.Unfit // at most MostUnfit
	// Swapped is set if the tables have been exchanged, so that a revert cannot put the old
	// table back.
	Swapped bool
	// Refused is set if the rows were there before the job, or if revert was asked for:
	// nothing was changed.
	Refused bool
	Unbegun bool   // there is no job
	Index   string // that could not be made, because rows are not unique; or empty
	Err     error  // what the server has said first; or nil
}

// Collided returns the error for a key that the job adds and rows violate, if err says so; or nil.
// The server has named the values.
func (a *Alteration) Collided(table catalog.Name, err error) *UnfitError {
	var pgErr *pgconn.PgError
	if a == nil || !strategy.Collision(err) || !errors.As(err, &pgErr) {
		return nil
	}
	return &UnfitError{Table: table, Refused: true, Index: pgErr.ConstraintName, Err: err, Rows: []strategy.Unfit{{Why: pgErr.Message + "; " + pgErr.Detail}}}
}

// Refuse marks an UnfitError in err as a refusal, and returns err.
func Refuse(err error) error {
	var unfit *UnfitError
	if errors.As(err, &unfit) {
		unfit.Refused = true
	}
	return err
}

func (e *UnfitError) Error() string {
	table := "the new table"
	if e.Swapped {
		table = "the old table"
	}
	msg := fmt.Sprintf("%s has rows that %s cannot take:", e.Table, table)
	for _, r := range e.Rows {
		msg += "\n  " + e.Row(r)
	}
	if len(e.Rows) == MostUnfit {
		msg += "\n  and maybe others"
	}
	if e.Swapped {
		return msg + fmt.Sprintf("\nchange or delete these rows, and run again: repack revert --table '%s'", e.Table)
	}
	if e.Unbegun {
		return msg + "\nchange or delete these rows, and run again"
	}
	return msg + fmt.Sprintf("\nchange or delete these rows, and run again; or give up with: repack reset --table '%s'", e.Table)
}

// Unwrap returns what the server has said.
func (e *UnfitError) Unwrap() error { return e.Err }

// Row names a row by its key, and says why it does not fit.
func (e *UnfitError) Row(u strategy.Unfit) string {
	text := e.key(u)
	if u.Column != "" {
		text += ": column " + u.Column
		if u.Value != "" {
			text += " = " + shortened(u.Value)
		}
	}
	if text == "" {
		return u.Why
	}
	return text + ": " + lossy(u.Why)
}

// Summary names the rows by their keys.
func (e *UnfitError) Summary() string {
	noun := "rows"
	if len(e.Rows) == 1 {
		noun = "row"
	}
	text := fmt.Sprintf("%d %s: ", len(e.Rows), noun)
	if len(e.Rows) == MostUnfit {
		text = fmt.Sprintf("%d or more rows: ", MostUnfit)
	}
	for i, r := range e.Rows {
		if i > 0 {
			text += "; "
		}
		text += e.key(r)
	}
	return text
}

func (e *UnfitError) key(u strategy.Unfit) string {
	var key []string
	for i, value := range u.Key {
		if i < len(e.KeyColumns) {
			key = append(key, e.KeyColumns[i]+"="+value)
		}
	}
	return strings.Join(key, ", ")
}

const longestValue = 100

func shortened(value string) string {
	letters := []rune(value)
	if len(letters) <= longestValue {
		return value
	}
	return string(letters[:longestValue]) + "…"
}

// lossy returns the text of checkedSQL without what the server adds to it.
func lossy(why string) string {
	before, _, found := strings.Cut(why, `"column `)
	if !found || !strings.HasPrefix(before, "invalid input syntax for type boolean") {
		return why
	}
	return "it would lose a part of its value"
}
