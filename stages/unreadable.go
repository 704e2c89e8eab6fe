package stages

import (
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
)

// Readable is err, or a *RefusedError where the server could not send us a name or a
// definition in UTF-8: a database with the encoding SQL_ASCII takes any bytes, and
// other encodings have characters that UTF-8 has not. It is for errors from before
// there is a job. Rows are never sent to us, and may hold what they like.
func Readable(name catalog.Name, err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.CharacterNotInRepertoire && pgErr.Code != pgerrcode.UntranslatableCharacter {
		return err
	}
	return &RefusedError{Table: name, Reasons: []Reason{{
		Object: "a name, comment or definition",
		Why:    fmt.Sprintf("cannot be read as UTF-8, and so not be carried over as it is (%v)", err),
		Remedy: "write it in UTF-8: it is one of the table, or of what depends on it",
	}}}
}
