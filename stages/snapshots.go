package stages

import (
	"context"
	"fmt"
	"slices"
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
	// Exchanged is set where the wait was for SERIALIZABLE transactions from
	// before the tables were exchanged, which may contradict others.
	Exchanged bool
}

func (e *SnapshotError) Error() string {
	msg := fmt.Sprintf("waited %s for transactions with older snapshots, which would see an incomplete table after the swap",
		e.Waited.Round(time.Second))
	if e.Exchanged {
		msg = fmt.Sprintf("waited %s for serializable transactions from before the swap, whose conflicts are found with the old table",
			e.Waited.Round(time.Second))
	}
	for _, h := range e.Holders {
		msg += "; " + h.String()
	}
	return msg + "; run the same command again when they are over, or raise --max-snapshot-wait"
}

// SnapshotHolder is a transaction that holds a snapshot.
type SnapshotHolder struct {
	PID         int32
	Transaction string // virtual transaction id
	Xmin        string
	User        string
	Exporter    bool // may have exported its snapshot
}

// String names the session.
func (h SnapshotHolder) String() string { return fmt.Sprintf("pid %d of %s", h.PID, h.User) }

// Every transaction locks its virtual id, and pg_locks shows that to everybody,
// as pg_stat_activity does backend_xmin, set while a snapshot is held. Of another
// role's session state and backend_type are null, unless ours is a member of it or of
// pg_read_all_stats: such a one may be an exporter. An autovacuum worker is known
// by having no user.
const snapshotsSQL = `
SELECT a.pid                                                         AS pid,
       l.virtualtransaction                                          AS transaction,
       a.backend_xmin::text                                          AS xmin,
       coalesce(a.usename::text, '')                                 AS user,
       coalesce(a.backend_type = 'walsender'
                OR a.state LIKE 'idle in transaction%', true)        AS exporter
FROM   pg_locks l
JOIN   pg_stat_activity a ON a.pid = l.pid
WHERE  l.locktype = 'virtualxid' AND l.granted AND l.mode = 'ExclusiveLock'
AND    a.datname = current_database()
AND    a.application_name <> current_setting('application_name')
AND    a.usesysid IS NOT NULL
AND    a.backend_xmin IS NOT NULL
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

// imported keeps those holders that may have their snapshot from one in old
// (SET TRANSACTION SNAPSHOT): it then has the same xmin, and that one was still
// there, waiting in its transaction.
func imported(old, now []SnapshotHolder) []SnapshotHolder {
	return slices.DeleteFunc(slices.Clone(now), func(h SnapshotHolder) bool {
		return !slices.ContainsFunc(old, func(o SnapshotHolder) bool { return o.Exporter && o.Xmin == h.Xmin })
	})
}

// awaitSnapshots waits until every snapshot that exists now is gone: later ones
// see all that has been committed by now. A snapshot counts as gone when its
// transaction is over or its xmin has moved, and has not been imported by
// another meanwhile. It returns *SnapshotError after the configured wait.
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
		if old = union(intersection(old, now), imported(old, now)); len(old) == 0 {
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

// same reports whether o is the same snapshot, seen again.
func (h SnapshotHolder) same(o SnapshotHolder) bool {
	return h.PID == o.PID && h.Transaction == o.Transaction && h.Xmin == o.Xmin
}

func union(a, b []SnapshotHolder) []SnapshotHolder {
	for _, h := range b {
		if !slices.ContainsFunc(a, h.same) {
			a = append(a, h)
		}
	}
	return a
}

// intersection is those of b that are in a: b is how they are now.
func intersection(a, b []SnapshotHolder) []SnapshotHolder {
	return slices.DeleteFunc(slices.Clone(b), func(h SnapshotHolder) bool { return !slices.ContainsFunc(a, h.same) })
}
