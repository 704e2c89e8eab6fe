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

// Runner is the process that works on a job. Claim is a random token. The process
// writes it to the job row; see Registry.Claim.
type Runner struct {
	Host  string
	PID   int32
	Claim string
}

// NewRunner describes this process, with a new claim.
func NewRunner() Runner {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return Runner{Host: host, PID: int32(os.Getpid()), Claim: rand.Text()}
}

// BusyError reports that another process is working on the table. Nothing has changed.
// Host is "unknown" and PID is zero if the other process cannot be identified.
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

// lockClass is the first key of our advisory locks ("repk"). The second key is the OID
// of the source. Advisory locks are per database.
//
// https://www.postgresql.org/docs/current/explicit-locking.html, "Advisory Locks"
const lockClass = 0x7265706b

// tryLockSQL does not wait. A key is an int, so the OID is cast by its bits.
const tryLockSQL = `SELECT pg_try_advisory_lock($1::int, $2::oid::int8::bit(32)::int)`

const unlockSQL = `SELECT pg_advisory_unlock($1::int, $2::oid::int8::bit(32)::int)`

// holderSQL returns the session that holds the advisory lock.
const holderSQL = `
SELECT    coalesce(a.application_name, ''), coalesce(a.backend_start, now())
FROM      pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE     l.locktype = 'advisory' AND l.classid = $1::oid AND l.objid = $2::oid AND l.granted
AND       l.database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// lockGrace is how long the backend of a killed process may still hold its lock. The
// backend notices within client_connection_check_interval that its client is gone.
const lockGrace = 3 * time.Second

// TryLock acquires the advisory lock of the table with this OID at session level: conn
// holds it until Unlock or until the connection ends. It takes no lock on the table.
//
// If another session holds the lock, TryLock tries again for 3 s, because a process
// that has just been killed may still hold it. Then it returns *BusyError.
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

// holder returns a *BusyError that names the holder of the lock.
func holder(ctx context.Context, conn *pgx.Conn, oid uint32, table string) error {
	busy := &BusyError{Table: table, Host: "unknown", Since: time.Now()}
	var application string
	err := conn.QueryRow(ctx, holderSQL, lockClass, oid).Scan(&application, &busy.Since)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("look for who repacks %s: %w", table, err)
	}
	// session.ApplicationName writes this name.
	if _, err := fmt.Sscanf(application, "repack %d@%s", &busy.PID, &busy.Host); err != nil {
		busy.Host = application
	}
	return busy
}

// Unlock releases the advisory lock of a table, which conn must hold.
func Unlock(ctx context.Context, conn *pgx.Conn, oid uint32) error {
	if _, err := conn.Exec(ctx, unlockSQL, lockClass, oid); err != nil {
		return fmt.Errorf("give back advisory lock of table %d: %w", oid, err)
	}
	return nil
}

// claimSQL needs a row lock that conflicts with the one of Fence.
const claimSQL = `
UPDATE %[1]s
SET    claim = $2, runner_host = $3, runner_pid = $4, runner_since = now(), updated_at = now()
WHERE  id = $1`

// Claim makes runner the only process whose writes for the job can commit. It waits
// until transactions of an earlier process that called Fence have ended. It returns
// *BusyError if they do not end within the session's lock_timeout, and ErrStageMoved if
// the job does not exist. Calling it again is safe.
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

// releaseSQL removes the runner but not the claim.
const releaseSQL = `
WITH asynchronous AS (
    ` + asynchronousSQL + `
)
UPDATE %[1]s
SET    runner_host = NULL, runner_pid = NULL, runner_since = NULL, updated_at = now()
FROM   asynchronous
WHERE  id = $1 AND claim = $2`

// Release records that no process works on the job any more. It does so in a
// transaction of its own, which does not wait for the disk. If claim is no longer the
// job's, it changes nothing.
func (r *Registry) Release(ctx context.Context, conn *pgx.Conn, id int64, claim string) error {
	if _, err := conn.Exec(ctx, fmt.Sprintf(releaseSQL, r.job), id, claim); err != nil {
		return fmt.Errorf("release job %d: %w", id, err)
	}
	return nil
}

// Held reports whether a session holds the advisory lock of the table with this OID.
func Held(ctx context.Context, q catalog.Querier, oid uint32) (held bool, err error) {
	err = q.QueryRow(ctx, "SELECT EXISTS ("+holderSQL+")", lockClass, oid).Scan(&held)
	if err != nil {
		return false, fmt.Errorf("look for advisory lock of table %d: %w", oid, err)
	}
	return held, nil
}

// claimOfSQL reads a job's claim.
const claimOfSQL = `
SELECT coalesce(claim, '')
FROM   %[1]s
WHERE  id = $1`

// ClaimOf returns the claim of the process that may write for job id. It returns
// ErrNotFound if there is no such job.
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
