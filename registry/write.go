package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
)

// nextIDSQL takes the next id of the table whose name is $1.
const nextIDSQL = `
INSERT INTO %[1]s AS last (of, id)
VALUES ($1, 1)
ON CONFLICT (of) DO UPDATE SET id = last.id + 1
RETURNING id`

// NextID reserves the id of a new job. The names of the job's artefacts contain it, so
// it is needed before Insert.
//
// Until q commits, every other new job waits. So q must not be in a transaction that
// goes on: an id that is not used is skipped.
func (r *Registry) NextID(ctx context.Context, q catalog.Querier) (id int64, err error) {
	return r.nextID(ctx, q, "job")
}

// nextID reserves an id of a table of the registry. There is no sequence for it, because
// a publication FOR ALL SEQUENCES would publish it.
func (r *Registry) nextID(ctx context.Context, q catalog.Querier, table string) (id int64, err error) {
	if err := q.QueryRow(ctx, fmt.Sprintf(nextIDSQL, r.lastID), table).Scan(&id); err != nil {
		return 0, fmt.Errorf("number a new %s: %w", table, err)
	}
	return id, nil
}

// insertSQL records a job and its completed setup.
const insertSQL = `
WITH begun AS (
INSERT INTO %[1]s (
    id, table_schema, table_name, source, shadow, strategy, options, stage, stage_done,
    shadow_schema, old_schema, own_schemas, change_log, capture, key_index, description, alteration, partitioned,
    claim, runner_host, runner_pid, runner_since)
VALUES (
    @id, @table_schema, @table_name, @source, @shadow, @strategy, @options, @stage, true,
    @shadow_schema, @old_schema, @own_schemas, @change_log, @capture, @key_index, @description, @alteration, @partitioned,
    @claim, @host, @pid, now())
RETURNING id, stage
)
INSERT INTO %[2]s (job_id, stage, ended)
SELECT id, stage, clock_timestamp() FROM begun`

// Insert records a job whose setup tx completes, and gives it to runner.
func (r *Registry) Insert(ctx context.Context, tx pgx.Tx, j *Job, runner Runner) error {
	_, err := tx.Exec(ctx, fmt.Sprintf(insertSQL, r.job, r.history), pgx.StrictNamedArgs{
		"id": j.ID, "table_schema": j.TableSchema, "table_name": j.TableName, "source": j.Source,
		"shadow": j.Shadow, "strategy": j.Strategy, "options": j.Options, "stage": j.Stage,
		"shadow_schema": j.ShadowSchema, "old_schema": j.OldSchema, "own_schemas": j.OwnSchemas,
		"change_log": j.ChangeLog, "capture": j.Capture, "key_index": j.KeyIndex, "description": j.Description,
		"alteration": j.Alteration, "partitioned": j.Partitioned,
		"claim": runner.Claim, "host": runner.Host, "pid": runner.PID,
	})
	if err != nil {
		return fmt.Errorf("record job %d: %w", j.ID, err)
	}
	return nil
}

// asynchronousSQL makes the commit of its transaction wait neither for the disk nor for
// a standby. It is for records that nothing depends on. If a crash loses such a record,
// it also loses everything that was written after it. The result is the same as that of
// an earlier crash.
//
// https://www.postgresql.org/docs/current/wal-async-commit.html
const asynchronousSQL = `SELECT set_config('synchronous_commit', 'off', true)`

// beginStageSQL changes nothing unless the claim is $2.
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

// BeginStage records that job id begins stage s, for the first time or again. It does
// so in a transaction of its own, which does not wait for the disk. It returns
// ErrStageMoved if claim is not the job's.
func (r *Registry) BeginStage(ctx context.Context, q catalog.Querier, id int64, claim string, s Stage) error {
	tag, err := q.Exec(ctx, fmt.Sprintf(beginStageSQL, r.job, r.history), id, claim, s)
	return requireMoved(tag.RowsAffected(), err, fmt.Sprintf("begin %s of job %d", s, id))
}

// endStageSQL changes nothing unless the claim is $2 and the stage is $3.
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

// EndStage records that stage s is complete. Call it in the transaction of the stage's
// last write, so that both commit or fail together. It returns ErrStageMoved if claim
// is not the job's or the job is in another stage.
func (r *Registry) EndStage(ctx context.Context, q catalog.Querier, id int64, claim string, s Stage) error {
	var n int64
	err := q.QueryRow(ctx, fmt.Sprintf(endStageSQL, r.job, r.history), id, claim, s).Scan(&n)
	return requireMoved(n, err, fmt.Sprintf("end %s of job %d", s, id))
}

// failSQL records an error for the job and for its stage that has not ended.
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

// Fail records why job id has stopped. The stage does not change. If claim is not the
// job's, Fail changes nothing.
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

// stoppedSQL does not change a job that has finished.
const stoppedSQL = `
WITH stopped AS (
    UPDATE %[1]s
    SET    error = NULL, interrupted = $3, updated_at = now()
    WHERE  id = $1 AND claim = $2 AND finished_at IS NULL
    RETURNING id
)
UPDATE %[2]s h
SET    ended = clock_timestamp(), error = $4
FROM   stopped
WHERE  h.job_id = stopped.id AND h.ended IS NULL`

// Interrupt records that a signal stopped job id, which is not a failure. It returns
// the job as it is afterwards. A job that is over, or has another claim, does not
// change.
func (r *Registry) Interrupt(ctx context.Context, q catalog.Querier, id int64, claim string) (*Job, error) {
	if _, err := q.Exec(ctx, fmt.Sprintf(stoppedSQL, r.job, r.history), id, claim, true, "interrupted"); err != nil {
		return nil, fmt.Errorf("record that job %d was interrupted: %w", id, err)
	}
	return r.Get(ctx, q, id)
}

// Stopped records that the run of job id has ended as it was told to, and why. A job that is
// over, or has another claim, does not change.
func (r *Registry) Stopped(ctx context.Context, q catalog.Querier, id int64, claim, reason string) error {
	if _, err := q.Exec(ctx, fmt.Sprintf(stoppedSQL, r.job, r.history), id, claim, false, "stopped: "+reason); err != nil {
		return fmt.Errorf("record that job %d was stopped: %w", id, err)
	}
	return nil
}

// workedSQL skips a stage whose recorded end is after the next stage's begin.
const workedSQL = `
SELECT coalesce(1000 * extract(epoch FROM sum(h.ended - h.began)), 0)::bigint
FROM  (SELECT began, ended, lead(began) OVER (ORDER BY began) AS next
       FROM   %[1]s
       WHERE  job_id = $1) h
WHERE  h.next IS NULL OR h.ended <= h.next`

// Worked returns how long the stages of job id have taken, without the time between
// runs.
//
// A run that was killed has not recorded when it ended, and is not counted: the next
// run records its own end in the row of the killed run too.
func (r *Registry) Worked(ctx context.Context, q catalog.Querier, id int64) (time.Duration, error) {
	var ms int64
	if err := q.QueryRow(ctx, fmt.Sprintf(workedSQL, r.history), id).Scan(&ms); err != nil {
		return 0, fmt.Errorf("add up the stages of job %d: %w", id, err)
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// noteLockedSQL keeps the longest time. $3 is in milliseconds.
const noteLockedSQL = `
WITH asynchronous AS (
    ` + asynchronousSQL + `
)
UPDATE %[1]s
SET    longest_lock_ms = greatest(longest_lock_ms, $3)
FROM   asynchronous
WHERE  id = $1 AND claim = $2`

// NoteLocked records how long a transaction of job id has held strong locks, counted
// from the request for the first lock. Only the longest time is kept. It does so in a
// transaction of its own, which does not wait for the disk. If claim is not the job's,
// it changes nothing.
func (r *Registry) NoteLocked(ctx context.Context, q catalog.Querier, id int64, claim string, took time.Duration) error {
	if _, err := q.Exec(ctx, fmt.Sprintf(noteLockedSQL, r.job), id, claim, took.Milliseconds()); err != nil {
		return fmt.Errorf("record locks of job %d: %w", id, err)
	}
	return nil
}

// fenceSQL locks the job row FOR SHARE, which conflicts with the UPDATE of Claim.
const fenceSQL = `
SELECT count(*) FROM (
    SELECT FROM %[1]s WHERE id = $1 AND claim = $2 FOR SHARE
) held`

// Fence returns ErrStageMoved unless claim is still the claim of job id. It locks the
// job row FOR SHARE until tx ends, so that no other process can claim the job before.
// Therefore nothing of a process that has lost its job can commit after the new process
// has begun.
//
// https://www.postgresql.org/docs/current/explicit-locking.html, "Row-Level Locks"
func (r *Registry) Fence(ctx context.Context, tx pgx.Tx, id int64, claim string) error {
	var n int64
	err := tx.QueryRow(ctx, fmt.Sprintf(fenceSQL, r.job), id, claim).Scan(&n)
	return requireMoved(n, err, fmt.Sprintf("hold job %d", id))
}

// requireMoved returns ErrStageMoved unless a statement has changed exactly one job.
func requireMoved(n int64, err error, doing string) error {
	if err == nil && n != 1 {
		err = ErrStageMoved
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// updateSQL changes nothing unless the claim is $2.
const updateSQL = `
UPDATE %[1]s
SET    filenode = $3, blocks = $4, row_estimate = $5, completed_by = $6, swapped_at = $7, state = $8,
       options = $9, description = $10, partitioned = $11, longest_lock_ms = greatest(longest_lock_ms, $12),
       alteration = $13, updated_at = now(),
       finished_at = CASE WHEN $8 IN ('done', 'reverted', 'reset') THEN clock_timestamp() END
WHERE  id = $1 AND claim = $2`

// Update writes what changes of a job between its stages: measurements, CompletedBy,
// SwappedAt, the state, the options, the description, the alteration, Partitioned, and
// LongestLockMS. It returns ErrStageMoved if claim is not the job's.
func (r *Registry) Update(ctx context.Context, q catalog.Querier, j *Job, claim string) error {
	b := &pgx.Batch{}
	r.QueueUpdate(b, j, claim)
	return q.SendBatch(ctx, b).Close()
}

// QueueUpdate adds the statement of Update to b.
func (r *Registry) QueueUpdate(b *pgx.Batch, j *Job, claim string) {
	b.Queue(fmt.Sprintf(updateSQL, r.job), j.ID, claim, j.Filenode, j.Blocks, j.RowEstimate, j.CompletedBy, j.SwappedAt,
		j.State, j.Options, j.Description, j.Partitioned, j.LongestLockMS, j.Alteration).Exec(func(tag pgconn.CommandTag) error {
		return requireMoved(tag.RowsAffected(), nil, fmt.Sprintf("update job %d", j.ID))
	})
}

// setStateSQL changes nothing unless the claim is $2.
const setStateSQL = `
UPDATE %[1]s
SET    state = $3, updated_at = now(),
       finished_at = CASE WHEN $3 IN ('done', 'reverted', 'reset') THEN clock_timestamp() END
WHERE  id = $1 AND claim = $2`

// SetState writes only the state of job id. A full disk may still have room for this,
// but not for the description, which Update writes again. It returns ErrStageMoved if
// claim is not the job's.
func (r *Registry) SetState(ctx context.Context, tx pgx.Tx, id int64, claim string, state State) error {
	tag, err := tx.Exec(ctx, fmt.Sprintf(setStateSQL, r.job), id, claim, state)
	return requireMoved(tag.RowsAffected(), err, fmt.Sprintf("make job %d %s", id, state))
}

// deleteSQL changes nothing unless the claim is $2.
const deleteSQL = `
DELETE FROM %[1]s
WHERE  id = $1 AND claim = $2`

// Delete deletes job id and, by cascade, its history. It needs no space on the disk. It
// returns ErrStageMoved if claim is not the job's.
func (r *Registry) Delete(ctx context.Context, tx pgx.Tx, id int64, claim string) error {
	tag, err := tx.Exec(ctx, fmt.Sprintf(deleteSQL, r.job), id, claim)
	return requireMoved(tag.RowsAffected(), err, fmt.Sprintf("delete job %d", id))
}
