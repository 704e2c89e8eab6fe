package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Partitioned is a repack of a partitioned table: it is over when each of the
// partitions has a job of it that is done.
type Partitioned struct {
	ID    int64
	Began time.Time
}

const findPartitionedSQL = `
SELECT id, began
FROM   %[1]s
WHERE  source = $1 AND ended IS NULL`

const openPartitionedSQL = `
INSERT INTO %[1]s (table_schema, table_name, source)
VALUES ($1, $2, $3)
RETURNING id, began`

// FindPartitioned returns the repack of the partitioned table that is to be
// gone on with, or ErrNotFound.
func (r *Registry) FindPartitioned(ctx context.Context, q catalog.Querier, oid uint32) (p Partitioned, err error) {
	err = q.QueryRow(ctx, fmt.Sprintf(findPartitionedSQL, r.partitioned), oid).Scan(&p.ID, &p.Began)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return p, fmt.Errorf("look for a repack of partitioned table %d: %w", oid, err)
	}
	return p, nil
}

// OpenPartitioned begins one where there is none. The caller must hold the
// advisory lock of the partitioned table.
func (r *Registry) OpenPartitioned(ctx context.Context, q catalog.Querier, oid uint32, name catalog.Name) (Partitioned, error) {
	p, err := r.FindPartitioned(ctx, q, oid)
	if !errors.Is(err, ErrNotFound) {
		return p, err
	}
	err = q.QueryRow(ctx, fmt.Sprintf(openPartitionedSQL, r.partitioned), name.Schema, name.Name, oid).Scan(&p.ID, &p.Began)
	if err != nil {
		return p, fmt.Errorf("record the repack of %s: %w", name, err)
	}
	return p, nil
}

const endPartitionedSQL = `
UPDATE %[1]s
SET    ended = clock_timestamp()
WHERE  id = $1`

// EndPartitioned ends it: the next run begins with every partition.
func (r *Registry) EndPartitioned(ctx context.Context, q catalog.Querier, id int64) error {
	if _, err := q.Exec(ctx, fmt.Sprintf(endPartitionedSQL, r.partitioned), id); err != nil {
		return fmt.Errorf("end repack %d of a partitioned table: %w", id, err)
	}
	return nil
}

// The shadow of a job that is done is the partition now. One that has been
// replaced since is not done.
const donePartitionSQL = `
SELECT EXISTS (
    SELECT FROM %[1]s
    WHERE  partitioned = $1 AND shadow = $2 AND state = 'done')`

// DonePartition reports whether the partition has been repacked by it.
func (r *Registry) DonePartition(ctx context.Context, q catalog.Querier, id int64, oid uint32) (done bool, err error) {
	if err := q.QueryRow(ctx, fmt.Sprintf(donePartitionSQL, r.job), id, oid).Scan(&done); err != nil {
		return false, fmt.Errorf("look for the job of partition %d: %w", oid, err)
	}
	return done, nil
}

const jobsOfPartitionedSQL = `
SELECT ` + columns + `
FROM     %[1]s
WHERE    partitioned = $1 AND state IN ('active', 'reverting', 'resetting', 'finishing')
ORDER BY id`

// JobsOfPartitioned returns the jobs of it that are not finished, also those of
// tables that are no partitions any more.
func (r *Registry) JobsOfPartitioned(ctx context.Context, q catalog.Querier, id int64) ([]*Job, error) {
	rows, err := q.Query(ctx, fmt.Sprintf(jobsOfPartitionedSQL, r.job), id)
	if err != nil {
		return nil, fmt.Errorf("look for jobs of repack %d of a partitioned table: %w", id, err)
	}
	jobs, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[Job])
	if err != nil {
		return nil, fmt.Errorf("look for jobs of repack %d of a partitioned table: %w", id, err)
	}
	return jobs, nil
}
