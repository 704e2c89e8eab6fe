package steps

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
)

const arrayTypeTakenSQL = `
SELECT a.typname::text
FROM   pg_type r
JOIN   pg_type a      ON a.oid = r.typarray
JOIN   pg_class leave ON leave.oid = to_regclass($2)
JOIN   pg_type x      ON x.typname = a.typname AND x.typnamespace = leave.relnamespace
WHERE  r.oid = (SELECT reltype FROM pg_class WHERE oid = to_regclass($1))
AND    x.oid <> (SELECT l.typarray FROM pg_type l WHERE l.oid = leave.reltype)`

// MakeRoom makes sure that the array type of table has a name that is free in the schema
// of leaving, because table is about to take the place of leaving. The array type of a
// table t is usually called _t, but not always. The server chooses another name if there
// is a table called _t. It also does so if t has 63 bytes and another table's name
// differs from t only in the last byte, because _t is cut to 63 bytes. When a type is
// created with the name of an array type, the server gives the array type another name.
// So MakeRoom creates such a type, and drops it again.
func MakeRoom(ctx context.Context, tx *lock.Tx, table, leaving catalog.Name) error {
	var created []string
	for {
		var name string
		err := tx.QueryRow(ctx, arrayTypeTakenSQL, table.String(), leaving.String()).Scan(&name)
		if errors.Is(err, pgx.ErrNoRows) {
			break
		}
		if err != nil {
			return fmt.Errorf("look for the array type of %s: %w", table, err)
		}
		instead := catalog.Name{Schema: table.Schema, Name: name}.String()
		if err := ExecAll(ctx, tx, []string{"CREATE TYPE " + instead + " AS ENUM ()"}); err != nil {
			return err
		}
		created = append(created, "DROP TYPE "+instead)
	}
	return ExecAll(ctx, tx, created)
}
