package stages

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// SnapshotError reports transactions that may still read with a snapshot older
// than the shadow's last writes: after the swap they would see a table that is
// incomplete. Nothing has changed; running again continues the job.
type SnapshotError struct {
	Waited  time.Duration
	Holders []SnapshotHolder
}

func (e *SnapshotError) Error() string {
	msg := fmt.Sprintf("waited %s for transactions with older snapshots, which would see an incomplete table after the swap",
		e.Waited.Round(time.Second))
	for _, h := range e.Holders {
		msg += "; " + h.String()
	}
	return msg + "; run the same command again when they are over, or raise --max-snapshot-wait"
}

// SnapshotHolder is a transaction that holds a snapshot, or may hold one where
// we are not allowed to see.
type SnapshotHolder struct {
	PID         int32
	Transaction string // virtual transaction id
	Xmin        string
	User        string
	Hidden      bool // another role's, without pg_read_all_stats
}

// String names the session.
func (h SnapshotHolder) String() string {
	s := fmt.Sprintf("pid %d of %s", h.PID, h.User)
	if h.Hidden {
		s += " (whether it has a snapshot is hidden from us: GRANT pg_read_all_stats TO CURRENT_USER would show)"
	}
	return s
}

// Every transaction locks its virtual id, and pg_locks shows that to everybody;
// backend_xmin, set while a snapshot is held, is shown for our own roles only.
const snapshotsSQL = `
SELECT a.pid                                       AS pid,
       l.virtualtransaction                        AS transaction,
       coalesce(a.backend_xmin::text, '')          AS xmin,
       coalesce(a.usename::text, '')               AS user,
       NOT v.visible                               AS hidden
FROM   pg_locks l
JOIN   pg_stat_activity a ON a.pid = l.pid
CROSS  JOIN LATERAL (
       SELECT coalesce(pg_has_role(a.usesysid, 'USAGE'), true)
              OR pg_has_role('pg_read_all_stats', 'USAGE') AS visible) v
WHERE  l.locktype = 'virtualxid' AND l.granted AND l.mode = 'ExclusiveLock'
AND    a.datname = current_database()
AND    a.application_name <> current_setting('application_name')
AND    a.backend_type NOT IN ('autovacuum worker', 'walsender')
AND    (a.backend_xmin IS NOT NULL OR NOT v.visible)
ORDER  BY a.xact_start, a.pid`

func snapshots(ctx context.Context, q catalog.Querier) ([]SnapshotHolder, error) {
	rows, err := q.Query(ctx, snapshotsSQL)
	if err != nil {
		return nil, fmt.Errorf("look for snapshots: %w", err)
	}
	holders, err := pgx.CollectRows(rows, pgx.RowToStructByName[SnapshotHolder])
	if err != nil {
		return nil, fmt.Errorf("look for snapshots: %w", err)
	}
	return holders, nil
}

// pollInterval is how often the server is asked whether a wait is over.
const pollInterval = 20 * time.Millisecond

// awaitSnapshots waits until every snapshot that exists now is gone: later ones
// see all that has been committed by now. A snapshot counts as gone when its
// transaction is over or its xmin has moved. It returns *SnapshotError after
// the configured wait.
func (e *Env) awaitSnapshots(ctx context.Context) error {
	old, err := snapshots(ctx, e.Pool)
	if err != nil || len(old) == 0 {
		return err
	}
	began, warned := time.Now(), false
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		now, err := snapshots(ctx, e.Pool)
		if err != nil {
			return err
		}
		if old = intersection(old, now); len(old) == 0 {
			return nil
		}
		waited := time.Since(began)
		if waited > e.SnapshotWait {
			return &SnapshotError{Waited: waited, Holders: old}
		}
		if !warned && waited > time.Second {
			warned = true
			e.Log.Warn("waiting for transactions with older snapshots", "job", e.Job.ID, "holders", old, "at_most", e.SnapshotWait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func intersection(a, b []SnapshotHolder) []SnapshotHolder {
	in := map[SnapshotHolder]bool{}
	for _, h := range b {
		in[h] = true
	}
	var both []SnapshotHolder
	for _, h := range a {
		if in[h] {
			both = append(both, h)
		}
	}
	return both
}
