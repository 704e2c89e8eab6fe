package stages

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// The server notes what SERIALIZABLE transactions have read, table by table, for
// as long as one is there that was concurrent with them: writing it would
// contradict them. In pg_locks these notes are locks, which outlive their
// transactions, and block nobody.
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

// queueNotedReads is notedReads as a part of b.
func queueNotedReads(b *pgx.Batch, oid uint32, noted *bool) {
	b.Queue(notedReadsSQL, oid).QueryRow(func(row pgx.Row) error {
		if err := row.Scan(noted); err != nil {
			return fmt.Errorf("look for what serializable transactions have read: %w", err)
		}
		return nil
	})
}

// awaitSerializable waits until no transaction is left for which the replaced table
// has to be written to, and returns *SnapshotError after the configured wait.
func (e *Env) awaitSerializable(ctx context.Context) error {
	parked := e.Job.Source
	if !e.Job.Swapped() {
		parked = *e.Job.Shadow // it has been in use, when the job is reverting
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
