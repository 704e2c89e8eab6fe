package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// StageRun is one time that a stage was at work.
type StageRun struct {
	Job   int64      `json:"job"`
	Stage Stage      `json:"stage"`
	Began time.Time  `json:"began"`
	Ended *time.Time `json:"ended"`
	Error *string    `json:"error"`
}

// historySQL lists the stages of jobs $1 in the order in which they began.
const historySQL = `
SELECT   job_id AS job, stage, began, ended, error
FROM     %[1]s
WHERE    job_id = ANY ($1)
ORDER BY job_id, began`

// History lists when the stages of jobs began and ended, and their errors.
func (r *Registry) History(ctx context.Context, q catalog.Querier, jobs []int64) ([]StageRun, error) {
	rows, err := q.Query(ctx, fmt.Sprintf(historySQL, r.history), jobs)
	if err != nil {
		return nil, fmt.Errorf("read the history of jobs: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[StageRun])
	if err != nil {
		return nil, fmt.Errorf("read the history of jobs: %w", err)
	}
	return list, nil
}

// allSQL lists all jobs of a table.
const allSQL = `
SELECT   job.*
FROM     ` + jobWithDefaults + `
WHERE    table_schema = $1 AND table_name = $2
ORDER BY id`

// JobsOf lists all jobs of the table with that name, finished ones included, ordered by id.
func (r *Registry) JobsOf(ctx context.Context, q catalog.Querier, name catalog.Name) ([]*Job, error) {
	rows, err := q.Query(ctx, fmt.Sprintf(allSQL, r.job), name.Schema, name.Name)
	if err != nil {
		return nil, fmt.Errorf("list jobs of %s: %w", name, err)
	}
	jobs, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[Job])
	if err != nil {
		return nil, fmt.Errorf("list jobs of %s: %w", name, err)
	}
	return jobs, nil
}

// oldJobs are jobs that ended before $1, except those of repacks of partitioned tables that have
// not ended.
const oldJobs = `
FROM   %[1]s j
WHERE  j.finished_at < $1
AND    NOT EXISTS (SELECT FROM %[2]s p WHERE p.id = j.partitioned AND p.ended IS NULL)`

const (
	countOldSQL = `SELECT count(*)` + oldJobs

	pruneSQL = `DELETE FROM %[1]s WHERE id IN (SELECT j.id` + oldJobs + `)`

	pruneRestSQL = `
WITH control AS (
    DELETE FROM %[1]s WHERE told_at < $1 AND table_name IS NOT NULL
)
DELETE FROM %[2]s WHERE ended < $1`
)

// CountOld counts the jobs that Prune would delete.
func (r *Registry) CountOld(ctx context.Context, q catalog.Querier, before time.Time) (n int64, err error) {
	if err := q.QueryRow(ctx, fmt.Sprintf(countOldSQL, r.job, r.partitioned), before).Scan(&n); err != nil {
		return 0, fmt.Errorf("count old jobs: %w", err)
	}
	return n, nil
}

// Prune deletes jobs that ended before a time, with their history, and what was told about tables
// and batches until then. Jobs that have not ended stay. It returns the number of jobs.
func (r *Registry) Prune(ctx context.Context, conn *pgx.Conn, before time.Time) (n int64, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, fmt.Sprintf(pruneSQL, r.job, r.partitioned), before)
		if err != nil {
			return err
		}
		n = tag.RowsAffected()
		_, err = tx.Exec(ctx, fmt.Sprintf(pruneRestSQL, r.control, r.batch), before)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("prune the registry: %w", err)
	}
	return n, nil
}
