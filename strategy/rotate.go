package strategy

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// RetiredName returns the name of a log after a new log has replaced it. The retired
// log keeps it until its rows have been moved: see TakeOver.
func RetiredName(log string) string { return log + "_retired" }

// Retired returns the qualified name of the retired log.
func (l *Link) Retired() catalog.Name {
	return catalog.Name{Schema: l.Log.Schema, Name: RetiredName(l.Log.Name)}
}

// RetireLogSQL returns the statement that renames the log, so that a new one can take
// its name. It takes ACCESS EXCLUSIVE on the log until the transaction ends.
//
// Run it while no session can write to From. Then every transaction that has written to
// the log has ended, and the trigger of the next one finds the new log by its name.
func (l *Link) RetireLogSQL() string {
	return fmt.Sprintf("ALTER TABLE %s RENAME TO %s", l.Log, catalog.Quote(l.Retired().Name))
}

// retiredSQL reports whether a relation exists.
const retiredSQL = `SELECT to_regclass($1) IS NOT NULL`

// HasRetired reports whether there is a retired log.
func (l *Link) HasRetired(ctx context.Context, q catalog.Querier) (there bool, err error) {
	if err := q.QueryRow(ctx, retiredSQL, l.Retired().String()).Scan(&there); err != nil {
		return false, fmt.Errorf("look for a retired change log: %w", err)
	}
	return there, nil
}

// takeOverSQL copies the rows of the retired log to the log.
const takeOverSQL = `
INSERT INTO %[1]s (%[3]s, truncated)
SELECT %[3]s, truncated FROM %[2]s`

// TakeOver moves the rows of the retired log to the log, and drops the retired log,
// inside tx. It takes ACCESS EXCLUSIVE on the retired log, to which no session writes,
// until tx ends.
//
// A log row means that the copy of a key must be looked at again. It may become visible
// later than it was, but it must exist until the key has been replayed. Therefore the
// move and the drop commit together.
func (l *Link) TakeOver(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, fmt.Sprintf(takeOverSQL, l.Log, l.Retired(), l.logColumns(""))); err != nil {
		return fmt.Errorf("take over what is left in %s: %w", l.Retired(), err)
	}
	if _, err := tx.Exec(ctx, "DROP TABLE "+l.Retired().String()); err != nil {
		return fmt.Errorf("drop %s: %w", l.Retired(), err)
	}
	return nil
}

// emptySQL reports whether the log is empty and no retired log exists.
const emptySQL = `SELECT to_regclass($1) IS NULL AND NOT EXISTS (SELECT FROM %s)`

// QueueEmpty adds to b the query whether no change is pending, and calls take with the
// answer. The query reads the whole log: the caller must keep the log short.
func (l *Link) QueueEmpty(b *pgx.Batch, take func(empty bool, err error) error) {
	b.Queue(fmt.Sprintf(emptySQL, l.Log), l.Retired().String()).QueryRow(func(row pgx.Row) error {
		var empty bool
		err := row.Scan(&empty)
		if err != nil {
			err = fmt.Errorf("look for pending changes: %w", err)
		}
		return take(empty, err)
	})
}
