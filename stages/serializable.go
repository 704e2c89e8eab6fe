package stages

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
	queueNotedReads(b, oid, &noted)
	return noted, q.SendBatch(ctx, b).Close()
}

// queueNotedReads does what notedReads does, as a part of b.
func queueNotedReads(b *pgx.Batch, oid uint32, noted *bool) {
	b.Queue(notedReadsSQL, oid).QueryRow(func(row pgx.Row) error {
		if err := row.Scan(noted); err != nil {
			return fmt.Errorf("look for what serializable transactions have read: %w", err)
		}
		return nil
	})
}

// awaitSerializable waits until no transaction is left for which changes must be written to
// the replaced table. After the configured wait, it returns *SnapshotError.
func (e *Env) awaitSerializable(ctx context.Context) error {
	parked := e.Job.Source
	if !e.Job.Swapped() {
		parked = *e.Job.Shadow // while the job is reverting, the shadow is the table that was in use
	}
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for began, warned := time.Now(), false; ; {
		noted, err := notedReads(ctx, e.Pool, parked)
		if err != nil || !noted {
			return err
		}
		waited := time.Since(began)
		if waited > e.SnapshotWait {
			holders, err := snapshots(ctx, e.Pool)
			if err != nil {
				return err
			}
			return &SnapshotError{Waited: waited, Holders: holders, Exchanged: true}
		}
		if !warned && waited > time.Second {
			warned = true
			e.Log.Warn("waiting for serializable transactions from before the exchange", "job", e.Job.ID, "at_most", e.SnapshotWait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
