package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
)

const nextIDSQL = `SELECT nextval(pg_get_serial_sequence($1, 'id'))`

// NextID reserves the number of a job, after which its artefacts are named.
func (r *Registry) NextID(ctx context.Context, tx pgx.Tx) (id int64, err error) {
	if err := tx.QueryRow(ctx, nextIDSQL, r.job).Scan(&id); err != nil {
		return 0, fmt.Errorf("number a new job: %w", err)
	}
	return id, nil
}

const insertSQL = `
WITH begun AS (
INSERT INTO %[1]s (
    id, table_schema, table_name, source, shadow, strategy, options, stage, stage_done,
    shadow_schema, old_schema, own_schemas, change_log, capture, key_index, description, partitioned,
    claim, runner_host, runner_pid, runner_since)
OVERRIDING SYSTEM VALUE
VALUES (
    @id, @table_schema, @table_name, @source, @shadow, @strategy, @options, @stage, true,
    @shadow_schema, @old_schema, @own_schemas, @change_log, @capture, @key_index, @description, @partitioned,
    @claim, @host, @pid, now())
RETURNING id, stage
)
INSERT INTO %[2]s (job_id, stage, ended)
SELECT id, stage, clock_timestamp() FROM begun`

// Insert records a job whose setup tx is just completing, held by runner.
func (r *Registry) Insert(ctx context.Context, tx pgx.Tx, j *Job, runner Runner) error {
	_, err := tx.Exec(ctx, fmt.Sprintf(insertSQL, r.job, r.history), pgx.StrictNamedArgs{
		"id": j.ID, "table_schema": j.TableSchema, "table_name": j.TableName, "source": j.Source,
		"shadow": j.Shadow, "strategy": j.Strategy, "options": j.Options, "stage": j.Stage,
		"shadow_schema": j.ShadowSchema, "old_schema": j.OldSchema, "own_schemas": j.OwnSchemas,
		"change_log": j.ChangeLog, "capture": j.Capture, "key_index": j.KeyIndex, "description": j.Description, "partitioned": j.Partitioned,
		"claim": runner.Claim, "host": runner.Host, "pid": runner.PID,
	})
	if err != nil {
		return fmt.Errorf("record job %d: %w", j.ID, err)
	}
	return nil
}

// asynchronousSQL makes the commit of its transaction wait neither for the disk nor for
// a standby. It is for records that are no promise: a crash that loses one loses all
// that was written after it as well, as if it had come before.
//
// https://www.postgresql.org/docs/current/wal-async-commit.html
const asynchronousSQL = `SELECT set_config('synchronous_commit', 'off', true)`

const beginStageSQL = `
WITH asynchronous AS (
    ` + asynchronousSQL + `
), moved AS (
    UPDATE %[1]s
    SET    stage = $3, stage_done = false, error = NULL, interrupted = false, updated_at = now()
    FROM   asynchronous
    WHERE  id = $1 AND claim = $2
    RETURNING id
)
INSERT INTO %[2]s (job_id, stage)
SELECT id, $3 FROM moved`

// BeginStage records that a job enters a stage, or enters it again, in a transaction of
// its own, which does not wait for the disk.
func (r *Registry) BeginStage(ctx context.Context, q catalog.Querier, id int64, claim string, s Stage) error {
	tag, err := q.Exec(ctx, fmt.Sprintf(beginStageSQL, r.job, r.history), id, claim, s)
	return requireMoved(tag.RowsAffected(), err, fmt.Sprintf("begin %s of job %d", s, id))
}

const endStageSQL = `
WITH moved AS (
    UPDATE %[1]s
    SET    stage_done = true, updated_at = now()
    WHERE  id = $1 AND claim = $2 AND stage = $3
    RETURNING id
), noted AS (
    UPDATE %[2]s h
    SET    ended = clock_timestamp()
    FROM   moved
    WHERE  h.job_id = moved.id AND h.stage = $3 AND h.ended IS NULL
    RETURNING 1
)
SELECT count(*) FROM moved`

// EndStage records that a stage is complete: in the transaction of its last write, so
// that both commit or fail together.
func (r *Registry) EndStage(ctx context.Context, q catalog.Querier, id int64, claim string, s Stage) error {
	var n int64
	err := q.QueryRow(ctx, fmt.Sprintf(endStageSQL, r.job, r.history), id, claim, s).Scan(&n)
	return requireMoved(n, err, fmt.Sprintf("end %s of job %d", s, id))
}

const failSQL = `
WITH failed AS (
    UPDATE %[1]s
    SET    error = $3, interrupted = false, updated_at = now()
    WHERE  id = $1 AND claim = $2
    RETURNING id
)
UPDATE %[2]s h
SET    ended = clock_timestamp(), error = $3
FROM   failed
WHERE  h.job_id = failed.id AND h.ended IS NULL`

// Fail records why a job has stopped; its stage stays where it is.
func (r *Registry) Fail(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, id int64, claim, reason string,
) error {
	rows, err := q.Query(ctx, fmt.Sprintf(failSQL, r.job, r.history), id, claim, reason)
	if err != nil {
		return fmt.Errorf("record failure of job %d: %w", id, err)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return fmt.Errorf("record failure of job %d: %w", id, err)
	}
	return nil
}

const interruptSQL = `
WITH stopped AS (
    UPDATE %[1]s
    SET    error = NULL, interrupted = true, updated_at = now()
    WHERE  id = $1 AND claim = $2 AND finished_at IS NULL
    RETURNING id
)
UPDATE %[2]s h
SET    ended = clock_timestamp(), error = 'interrupted'
FROM   stopped
WHERE  h.job_id = stopped.id AND h.ended IS NULL`

// Interrupt records that the job was stopped by the one who ran it: that is no failure.
// It returns the job as it is then. A job that is over stays as it is.
func (r *Registry) Interrupt(ctx context.Context, q catalog.Querier, id int64, claim string) (*Job, error) {
	if _, err := q.Exec(ctx, fmt.Sprintf(interruptSQL, r.job, r.history), id, claim); err != nil {
		return nil, fmt.Errorf("record that job %d was interrupted: %w", id, err)
	}
	return r.Get(ctx, q, id)
}

const workedSQL = `
SELECT coalesce(1000 * extract(epoch FROM sum(h.ended - h.began)), 0)::bigint
FROM  (SELECT began, ended, lead(began) OVER (ORDER BY began) AS next
       FROM   %[1]s
       WHERE  job_id = $1) h
WHERE  h.next IS NULL OR h.ended <= h.next`

// Worked is how long the stages of a job have taken, without the time between
// them. A run that was killed has not noted when it ended, and does not count:
// the next one has noted its own end there, too.
func (r *Registry) Worked(ctx context.Context, q catalog.Querier, id int64) (time.Duration, error) {
	var ms int64
	if err := q.QueryRow(ctx, fmt.Sprintf(workedSQL, r.history), id).Scan(&ms); err != nil {
		return 0, fmt.Errorf("add up the stages of job %d: %w", id, err)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

const noteLockedSQL = `
WITH asynchronous AS (
    ` + asynchronousSQL + `
)
UPDATE %[1]s
SET    longest_lock_ms = greatest(longest_lock_ms, $3)
FROM   asynchronous
WHERE  id = $1 AND claim = $2`

// NoteLocked records for how long a transaction of the job has held strong locks,
// from when the first was asked for, where that is the longest time so far, in a
// transaction of its own, which does not wait for the disk.
func (r *Registry) NoteLocked(ctx context.Context, q catalog.Querier, id int64, claim string, took time.Duration) error {
	if _, err := q.Exec(ctx, fmt.Sprintf(noteLockedSQL, r.job), id, claim, took.Milliseconds()); err != nil {
		return fmt.Errorf("record locks of job %d: %w", id, err)
	}
	return nil
}

const fenceSQL = `
SELECT count(*) FROM (
    SELECT FROM %[1]s WHERE id = $1 AND claim = $2 FOR SHARE
) held`

// Fence fails tx with ErrStageMoved unless claim is still the job's. It keeps a
// successor from claiming the job before tx has ended, so that nothing of a
// process that has lost its job can commit after the new one has begun.
func (r *Registry) Fence(ctx context.Context, tx pgx.Tx, id int64, claim string) error {
	var n int64
	err := tx.QueryRow(ctx, fmt.Sprintf(fenceSQL, r.job), id, claim).Scan(&n)
	return requireMoved(n, err, fmt.Sprintf("hold job %d", id))
}

func requireMoved(n int64, err error, doing string) error {
	if err == nil && n != 1 {
		err = ErrStageMoved
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

const updateSQL = `
UPDATE %[1]s
SET    filenode = $3, blocks = $4, row_estimate = $5, completed_by = $6, swapped_at = $7, state = $8,
       options = $9, description = $10, partitioned = $11, longest_lock_ms = greatest(longest_lock_ms, $12), updated_at = now(),
       finished_at = CASE WHEN $8 IN ('done', 'reverted', 'reset') THEN clock_timestamp() END
WHERE  id = $1 AND claim = $2`

// Update writes what changes of a job between its stages: measurements, the
// transaction that completed the shadow, the swap, the state, the options, the
// description, what it is a part of and its longest lock.
func (r *Registry) Update(ctx context.Context, q catalog.Querier, j *Job, claim string) error {
	b := &pgx.Batch{}
	r.QueueUpdate(b, j, claim)
	return q.SendBatch(ctx, b).Close()
}

// QueueUpdate is Update as a part of b.
func (r *Registry) QueueUpdate(b *pgx.Batch, j *Job, claim string) {
	b.Queue(fmt.Sprintf(updateSQL, r.job), j.ID, claim, j.Filenode, j.Blocks, j.RowEstimate, j.CompletedBy, j.SwappedAt,
		j.State, j.Options, j.Description, j.Partitioned, j.LongestLockMS).Exec(func(tag pgconn.CommandTag) error {
		return requireMoved(tag.RowsAffected(), nil, fmt.Sprintf("update job %d", j.ID))
	})
}

const setStateSQL = `
UPDATE %[1]s
SET    state = $3, updated_at = now(),
       finished_at = CASE WHEN $3 IN ('done', 'reverted', 'reset') THEN clock_timestamp() END
WHERE  id = $1 AND claim = $2`

// SetState writes the state alone: where a disk is full, it may still have room for
// that, and not for the description, which Update writes anew.
func (r *Registry) SetState(ctx context.Context, tx pgx.Tx, id int64, claim string, state State) error {
	tag, err := tx.Exec(ctx, fmt.Sprintf(setStateSQL, r.job), id, claim, state)
	return requireMoved(tag.RowsAffected(), err, fmt.Sprintf("make job %d %s", id, state))
}

const deleteSQL = `
DELETE FROM %[1]s
WHERE  id = $1 AND claim = $2`

// Delete forgets a job and its history. It takes no room on the disk.
func (r *Registry) Delete(ctx context.Context, tx pgx.Tx, id int64, claim string) error {
	tag, err := tx.Exec(ctx, fmt.Sprintf(deleteSQL, r.job), id, claim)
	return requireMoved(tag.RowsAffected(), err, fmt.Sprintf("delete job %d", id))
}
