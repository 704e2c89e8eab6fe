package snapshots

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// The server records what SERIALIZABLE transactions have read, for each table. It keeps the
// records while a transaction exists that was concurrent with them: if that one writes what
// they have read, there is a conflict. pg_locks shows the records as locks. These outlive
// their transactions and block no session.
const notedReadsSQL = `
SELECT EXISTS (
    SELECT FROM pg_locks l
    WHERE  l.mode = 'SIReadLock'
    AND    l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND   (l.relation = $1 OR l.relation IN (SELECT indexrelid FROM pg_index WHERE indrelid = $1)))`

func notedReads(ctx context.Context, q catalog.Querier, oid uint32) (noted bool, err error) {
	b := &pgx.Batch{}
	QueueNotedReads(b, oid, &noted)
	return noted, q.SendBatch(ctx, b).Close()
}

// QueueNotedReads asks, as a part of b, whether the server has records of what SERIALIZABLE
// transactions have read in the table with that OID.
func QueueNotedReads(b *pgx.Batch, oid uint32, noted *bool) {
	b.Queue(notedReadsSQL, oid).QueryRow(func(row pgx.Row) error {
		if err := row.Scan(noted); err != nil {
			return fmt.Errorf("look for what serializable transactions have read: %w", err)
		}
		return nil
	})
}

// Serializable waits until no transaction is left for which changes must be written to the
// replaced table, which has the OID replaced. After the time AtMost it returns *Error.
func (w Wait) Serializable(ctx context.Context, replaced uint32) error {
	ticker := time.NewTicker(PollInterval)
	defer ticker.Stop()
	for began, warned := time.Now(), false; ; {
		noted, err := notedReads(ctx, w.Pool, replaced)
		if err != nil || !noted {
			return err
		}
		waited := time.Since(began)
		if waited > w.AtMost {
			holders, err := snapshots(ctx, w.Pool)
			if err != nil {
				return err
			}
			return &Error{Waited: waited, Holders: holders, Exchanged: true}
		}
		if !warned && waited > time.Second {
			warned = true
			w.Log.Warn("waiting for serializable transactions from before the exchange", "job", w.Job, "at_most", w.AtMost)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
