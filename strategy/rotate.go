package strategy

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// RetiredName is what a log of that name is called when a new one has taken its
// place, until what is left in it has been taken over.
func RetiredName(log string) string { return log + "_retired" }

// Retired is the log of that name.
func (l *Link) Retired() catalog.Name {
	return catalog.Name{Schema: l.Log.Schema, Name: RetiredName(l.Log.Name)}
}

// RetireLogSQL gives the name of the log to one that is yet to be created. It takes
// ACCESS EXCLUSIVE on the log, and must be sent while nobody can write to From: then
// every transaction that has written to the log is over, and the next one's trigger
// finds the new log by its name.
func (l *Link) RetireLogSQL() string {
	return fmt.Sprintf("ALTER TABLE %s RENAME TO %s", l.Log, catalog.Quote(l.Retired().Name))
}

const retiredSQL = `SELECT to_regclass($1) IS NOT NULL`

// HasRetired reports whether there is a retired log.
func (l *Link) HasRetired(ctx context.Context, q catalog.Querier) (there bool, err error) {
	if err := q.QueryRow(ctx, retiredSQL, l.Retired().String()).Scan(&there); err != nil {
		return false, fmt.Errorf("look for a retired change log: %w", err)
	}
	return there, nil
}

const takeOverSQL = `
INSERT INTO %[1]s (%[3]s, truncated)
SELECT %[3]s, truncated FROM %[2]s`

// TakeOver moves what is left in the retired log to the log, and drops the former,
// inside tx. A log row is a key whose copy has to be looked at again, so that it may
// be visible later than it was: it must be there until that has been done, and the
// move and the drop commit together. It takes ACCESS EXCLUSIVE on the retired log,
// to which nobody writes.
func (l *Link) TakeOver(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, fmt.Sprintf(takeOverSQL, l.Log, l.Retired(), l.logColumns(""))); err != nil {
		return fmt.Errorf("take over what is left in %s: %w", l.Retired(), err)
	}
	if _, err := tx.Exec(ctx, "DROP TABLE "+l.Retired().String()); err != nil {
		return fmt.Errorf("drop %s: %w", l.Retired(), err)
	}
	return nil
}

const emptySQL = `SELECT to_regclass($1) IS NULL AND NOT EXISTS (SELECT FROM %s)`

// QueueEmpty asks, as a part of b, whether no change is pending, and gives the answer
// to take. It reads the log, whose length its caller bounds.
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
