// Package snapshots waits until no transaction can read with a snapshot that is older than
// what repack has written. On the server itself, on standbys, and for SERIALIZABLE
// transactions.
package snapshots

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/catalog"
)

// Error reports transactions that may still read with a snapshot older than the
// last writes to the shadow. After the swap they would see an incomplete table. Nothing has
// changed. Running again continues the job.
type Error struct {
	Waited  time.Duration
	Holders []Holder
	// Exchanged is set if the wait was for SERIALIZABLE transactions from before the
	// exchange, which may conflict with other transactions.
	Exchanged bool
}

func (e *Error) Error() string {
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

// Holder is a transaction that holds a snapshot.
type Holder struct {
	PID         int32
	Transaction string // virtual transaction id
	Xmin        string
	User        string
	Exporter    bool // may have exported its snapshot
	// Standby is set if queries on a standby hold the snapshot. It is the slot, or else the
	// application_name of the standby. The primary knows no more about those queries.
	Standby string
}

// String names the session.
func (h Holder) String() string {
	if h.Standby != "" {
		return h.Standby
	}
	return fmt.Sprintf("pid %d of %s", h.PID, h.User)
}

// standbySnapshotsSQL lists standbys, and slots of standbys, that report a snapshot older
// than transaction $1: it does not show everything that was committed before $1.
// hot_standby_feedback reports the oldest snapshot on the standby, or the oldest of
// transactions that write on the primary. A slot of logical decoding holds back the catalog
// only. Every role can see both views.
const standbySnapshotsSQL = `
SELECT   coalesce(a.pid, 0)                                      AS pid,
         ''                                                      AS transaction,
         x.xmin::text                                            AS xmin,
         coalesce(a.usename::text, '')                           AS user,
         false                                                   AS exporter,
         x.standby                                               AS standby
FROM    (SELECT a.pid, a.backend_xmin AS xmin, format('standby %s (pid %s)', quote_ident(a.application_name), a.pid) AS standby
         FROM   pg_stat_replication r
         JOIN   pg_stat_activity a ON a.pid = r.pid
         WHERE  a.datid IS NULL AND a.backend_xmin IS NOT NULL
         UNION ALL
         SELECT s.active_pid, s.xmin, format('standby of replication slot %s%s', quote_ident(s.slot_name),
                CASE WHEN s.active THEN '' ELSE ', which is not in use: drop the slot if the standby is gone' END)
         FROM   pg_replication_slots s
         WHERE  s.slot_type = 'physical' AND s.xmin IS NOT NULL) x
LEFT JOIN pg_stat_activity a ON a.pid = x.pid
WHERE    age(x.xmin) > age($1::text::xid)
ORDER BY age(x.xmin) DESC, x.standby`

const horizonSQL = `SELECT pg_snapshot_xmax(pg_current_snapshot())::xid::text`

// standbySnapshots returns those in which transactions before xid may be invisible.
func standbySnapshots(ctx context.Context, q catalog.Querier, xid string) ([]Holder, error) {
	rows, err := q.Query(ctx, standbySnapshotsSQL, xid)
	if err != nil {
		return nil, fmt.Errorf("look for snapshots of standbys: %w", err)
	}
	holders, err := pgx.CollectRows(rows, pgx.RowToStructByName[Holder])
	if err != nil {
		return nil, fmt.Errorf("look for snapshots of standbys: %w", err)
	}
	return holders, nil
}

// Every transaction locks its virtual transaction ID, and pg_locks shows that to every role.
// So does pg_stat_activity with backend_xmin, which is set while a snapshot is held. For a
// session of another role, state and backend_type are null, unless our role is a member of
// that role or of pg_read_all_stats. Such a session counts as an exporter. An autovacuum
// worker has no user.
const snapshotsSQL = `
SELECT a.pid                                                         AS pid,
       l.virtualtransaction                                          AS transaction,
       a.backend_xmin::text                                          AS xmin,
       coalesce(a.usename::text, '')                                 AS user,
       coalesce(a.backend_type = 'walsender'
                OR a.state LIKE 'idle in transaction%', true)        AS exporter,
       ''                                                            AS standby
FROM   pg_locks l
JOIN   pg_stat_activity a ON a.pid = l.pid
WHERE  l.locktype = 'virtualxid' AND l.granted AND l.mode = 'ExclusiveLock'
AND    a.datname = current_database()
AND    a.application_name <> current_setting('application_name')
AND    a.usesysid IS NOT NULL
AND    a.backend_xmin IS NOT NULL
ORDER  BY a.xact_start, a.pid`

func snapshots(ctx context.Context, q catalog.Querier) ([]Holder, error) {
	rows, err := q.Query(ctx, snapshotsSQL)
	if err != nil {
		return nil, fmt.Errorf("look for snapshots: %w", err)
	}
	holders, err := pgx.CollectRows(rows, pgx.RowToStructByName[Holder])
	if err != nil {
		return nil, fmt.Errorf("look for snapshots: %w", err)
	}
	return holders, nil
}

// PollInterval is the pause between two queries that ask whether a wait is over.
const PollInterval = 20 * time.Millisecond

// Wait waits for a job.
type Wait struct {
	Pool   *pgxpool.Pool
	Log    *slog.Logger
	Job    int64
	AtMost time.Duration
}

// imported returns the holders in now that may have imported their snapshot from a holder in
// old (SET TRANSACTION SNAPSHOT). An imported snapshot has the same xmin, and its exporter
// was still there, idle in its transaction.
func imported(old, now []Holder) []Holder {
	return slices.DeleteFunc(slices.Clone(now), func(h Holder) bool {
		return !slices.ContainsFunc(old, func(o Holder) bool { return o.Exporter && o.Xmin == h.Xmin })
	})
}

// Older waits until every snapshot that exists now is gone. Later snapshots see
// everything that has been committed by now. A snapshot is gone when its transaction has
// ended or its xmin has moved, and no other transaction has imported it meanwhile. After
// the time AtMost it returns *Error.
func (w Wait) Older(ctx context.Context) error {
	old, err := snapshots(ctx, w.Pool)
	if err != nil {
		return err
	}
	var horizon string
	if err := w.Pool.QueryRow(ctx, horizonSQL).Scan(&horizon); err != nil {
		return fmt.Errorf("read the next transaction id: %w", err)
	}
	began, warned := time.Now(), false
	ticker := time.NewTicker(PollInterval)
	defer ticker.Stop()
	for {
		now, err := snapshots(ctx, w.Pool)
		if err != nil {
			return err
		}
		old = union(intersection(old, now), imported(old, now))
		remote, err := standbySnapshots(ctx, w.Pool, horizon)
		if err != nil {
			return err
		}
		all := slices.Concat(old, remote)
		if len(all) == 0 {
			return nil
		}
		waited := time.Since(began)
		if waited > w.AtMost {
			return &Error{Waited: waited, Holders: all}
		}
		if !warned && waited > time.Second {
			warned = true
			w.Log.Warn("waiting for transactions with older snapshots", "job", w.Job, "holders", all, "at_most", w.AtMost)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// Present waits until the snapshots that exist now on this server are gone, but no longer
// than atMost. It returns those that are left.
func (w Wait) Present(ctx context.Context, atMost time.Duration) (left []Holder, err error) {
	left, err = snapshots(ctx, w.Pool)
	ticker := time.NewTicker(PollInterval)
	defer ticker.Stop()
	for began := time.Now(); err == nil && len(left) > 0 && time.Since(began) < atMost; {
		select {
		case <-ctx.Done():
			return left, ctx.Err()
		case <-ticker.C:
		}
		var now []Holder
		now, err = snapshots(ctx, w.Pool)
		left = intersection(left, now)
	}
	return left, err
}

// same reports whether o is the same snapshot, seen again.
func (h Holder) same(o Holder) bool {
	return h.PID == o.PID && h.Transaction == o.Transaction && h.Xmin == o.Xmin
}

func union(a, b []Holder) []Holder {
	for _, h := range b {
		if !slices.ContainsFunc(a, h.same) {
			a = append(a, h)
		}
	}
	return a
}

// intersection returns the holders in b that are also in a. b has their present state.
func intersection(a, b []Holder) []Holder {
	return slices.DeleteFunc(slices.Clone(b), func(h Holder) bool { return !slices.ContainsFunc(a, h.same) })
}
