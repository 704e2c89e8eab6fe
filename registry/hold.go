package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
)

// Runner is the process that works on a job. Claim is its token in the job row.
type Runner struct {
	Host  string
	PID   int32
	Claim string
}

// NewRunner describes this process with a claim of its own.
func NewRunner() Runner {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return Runner{Host: host, PID: int32(os.Getpid()), Claim: rand.Text()}
}

// BusyError reports that another process is working on the table.
type BusyError struct {
	Table string
	Host  string
	PID   int32
	Since time.Time
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%s is being repacked by process %d on host %s since %s; wait for it or stop it, then run again",
		e.Table, e.PID, e.Host, e.Since.Format(time.RFC3339))
}

// lockClass is the first key of our advisory locks, "repk"; the second is the
// OID of the source. Advisory locks are per database.
const lockClass = 0x7265706b

const tryLockSQL = `SELECT pg_try_advisory_lock($1::int, $2::oid::int8::bit(32)::int)`

const unlockSQL = `SELECT pg_advisory_unlock($1::int, $2::oid::int8::bit(32)::int)`

const holderSQL = `
SELECT    coalesce(a.application_name, ''), coalesce(a.backend_start, now())
FROM      pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE     l.locktype = 'advisory' AND l.classid = $1::oid AND l.objid = $2::oid AND l.granted
AND       l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// lockGrace is how long a lock may be held by the backend of a process that has
// been killed: it notices within client_connection_check_interval.
const lockGrace = 3 * time.Second

// TryLock takes the advisory lock of the table with that OID on conn, for as
// long as the connection lives. It returns *BusyError when another process has
// it for longer than a killed one could.
func TryLock(ctx context.Context, conn *pgx.Conn, oid uint32, table string) error {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(lockGrace); ; {
		var locked bool
		if err := conn.QueryRow(ctx, tryLockSQL, lockClass, oid).Scan(&locked); err != nil {
			return fmt.Errorf("take advisory lock of %s: %w", table, err)
		}
		if locked {
			return nil
		}
		if time.Now().After(deadline) {
			return holder(ctx, conn, oid, table)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// holder turns the lock's owner into a *BusyError.
func holder(ctx context.Context, conn *pgx.Conn, oid uint32, table string) error {
	busy := &BusyError{Table: table, Host: "unknown", Since: time.Now()}
	var application string
	err := conn.QueryRow(ctx, holderSQL, lockClass, oid).Scan(&application, &busy.Since)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("look for who repacks %s: %w", table, err)
	}
	// session.ApplicationName is the other end of this.
	if _, err := fmt.Sscanf(application, "repack %d@%s", &busy.PID, &busy.Host); err != nil {
		busy.Host = application
	}
	return busy
}

// Unlock gives the advisory lock of a table back.
func Unlock(ctx context.Context, conn *pgx.Conn, oid uint32) error {
	if _, err := conn.Exec(ctx, unlockSQL, lockClass, oid); err != nil {
		return fmt.Errorf("give back advisory lock of table %d: %w", oid, err)
	}
	return nil
}

const claimSQL = `
UPDATE %[1]s
SET    claim = $2, runner_host = $3, runner_pid = $4, runner_since = now(), updated_at = now()
WHERE  id = $1`

// Claim makes runner the only process whose writes for the job can commit. It
// waits for transactions of an earlier one (Fence) and returns *BusyError when
// they do not end.
func (r *Registry) Claim(ctx context.Context, conn *pgx.Conn, j *Job, runner Runner) error {
	tag, err := conn.Exec(ctx, fmt.Sprintf(claimSQL, r.job), j.ID, runner.Claim, runner.Host, runner.PID)
	if lock.Denied(err) {
		busy := &BusyError{Table: j.Table().String(), Host: "unknown", Since: j.UpdatedAt}
		if j.RunnerHost != nil && j.RunnerPID != nil {
			busy.Host, busy.PID = *j.RunnerHost, *j.RunnerPID
		}
		return busy
	}
	return requireMoved(tag.RowsAffected(), err, fmt.Sprintf("claim job %d", j.ID))
}

const releaseSQL = `
WITH asynchronous AS (
    ` + asynchronousSQL + `
)
UPDATE %[1]s
SET    runner_host = NULL, runner_pid = NULL, runner_since = NULL, updated_at = now()
FROM   asynchronous
WHERE  id = $1 AND claim = $2`

// Release notes that nobody works on the job any more, in a transaction of its own,
// which does not wait for the disk.
func (r *Registry) Release(ctx context.Context, conn *pgx.Conn, id int64, claim string) error {
	if _, err := conn.Exec(ctx, fmt.Sprintf(releaseSQL, r.job), id, claim); err != nil {
		return fmt.Errorf("release job %d: %w", id, err)
	}
	return nil
}

// Held reports whether some process holds the advisory lock of the source.
func Held(ctx context.Context, q catalog.Querier, oid uint32) (held bool, err error) {
	err = q.QueryRow(ctx, "SELECT EXISTS ("+holderSQL+")", lockClass, oid).Scan(&held)
	if err != nil {
		return false, fmt.Errorf("look for advisory lock of table %d: %w", oid, err)
	}
	return held, nil
}

const claimOfSQL = `
SELECT coalesce(claim, '')
FROM   %[1]s
WHERE  id = $1`

// ClaimOf returns the token of the process that may write for the job, or
// ErrNotFound.
func (r *Registry) ClaimOf(ctx context.Context, q catalog.Querier, id int64) (claim string, err error) {
	err = q.QueryRow(ctx, fmt.Sprintf(claimOfSQL, r.job), id).Scan(&claim)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("read claim of job %d: %w", id, err)
	}
	return claim, nil
}
