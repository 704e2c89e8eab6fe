package preflight

import (
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/checks"
)

// Readable returns *checks.RefusedError if the server could not send a name or a definition to us
// in UTF-8, and otherwise err. A database with the encoding SQL_ASCII accepts any bytes, and
// other encodings have characters that UTF-8 does not have. Use it for errors from before
// there is a job. Rows are never sent to us, so they may contain anything.
func Readable(name catalog.Name, err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.CharacterNotInRepertoire && pgErr.Code != pgerrcode.UntranslatableCharacter {
		return err
	}
	return &checks.RefusedError{Table: name, Reasons: []checks.Reason{{
		Object: "a name, comment or definition",
		Why:    fmt.Sprintf("cannot be read as UTF-8, and so not be carried over as it is (%v)", err),
		Remedy: "write it in UTF-8: it is one of the table, or of what depends on it",
	}}}
}
