package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Partitioned is a repack of a partitioned table. It has one job per partition, and
// ends when each partition has a job that is done.
type Partitioned struct {
	ID    int64
	Began time.Time
}

// findPartitionedSQL reads the unfinished repack of a partitioned table.
const findPartitionedSQL = `
SELECT id, began
FROM   %[1]s
WHERE  source = $1 AND ended IS NULL`

// openPartitionedSQL records a new repack of a partitioned table.
const openPartitionedSQL = `
INSERT INTO %[1]s (id, table_schema, table_name, source)
VALUES ($1, $2, $3, $4)
RETURNING id, began`

// FindPartitioned returns the unfinished repack of the partitioned table with this OID.
// It returns ErrNotFound if there is none.
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

// OpenPartitioned returns the unfinished repack of a partitioned table, and records a
// new one if there is none. The caller must hold the advisory lock of the partitioned
// table (TryLock). q must not be in a transaction: see NextID. Calling it again is safe.
func (r *Registry) OpenPartitioned(ctx context.Context, q catalog.Querier, oid uint32, name catalog.Name) (Partitioned, error) {
	p, err := r.FindPartitioned(ctx, q, oid)
	if !errors.Is(err, ErrNotFound) {
		return p, err
	}
	id, err := r.nextID(ctx, q, "partitioned")
	if err != nil {
		return p, fmt.Errorf("record the repack of %s: %w", name, err)
	}
	err = q.QueryRow(ctx, fmt.Sprintf(openPartitionedSQL, r.partitioned), id, name.Schema, name.Name, oid).Scan(&p.ID, &p.Began)
	if err != nil {
		return p, fmt.Errorf("record the repack of %s: %w", name, err)
	}
	return p, nil
}

// endPartitionedSQL records the end of a repack of a partitioned table.
const endPartitionedSQL = `
UPDATE %[1]s
SET    ended = clock_timestamp()
WHERE  id = $1`

// EndPartitioned ends repack id. The next run starts a new repack of all partitions.
func (r *Registry) EndPartitioned(ctx context.Context, q catalog.Querier, id int64) error {
	if _, err := q.Exec(ctx, fmt.Sprintf(endPartitionedSQL, r.partitioned), id); err != nil {
		return fmt.Errorf("end repack %d of a partitioned table: %w", id, err)
	}
	return nil
}

// donePartitionSQL looks for a job that is done and whose shadow is the partition.
// After the swap the shadow is the partition; if the partition has been replaced since,
// its OID is another and it counts as not done.
const donePartitionSQL = `
SELECT EXISTS (
    SELECT FROM %[1]s
    WHERE  partitioned = $1 AND shadow = $2 AND state = 'done')`

// DonePartition reports whether repack id has repacked the partition with this OID.
func (r *Registry) DonePartition(ctx context.Context, q catalog.Querier, id int64, oid uint32) (done bool, err error) {
	if err := q.QueryRow(ctx, fmt.Sprintf(donePartitionSQL, r.job), id, oid).Scan(&done); err != nil {
		return false, fmt.Errorf("look for the job of partition %d: %w", oid, err)
	}
	return done, nil
}

// jobsOfPartitionedSQL lists the unfinished jobs of a repack. It also lists those that were
// begun for a partition alone, if that partition does not exist any more: it was dropped,
// or PostgreSQL 19 has merged or split it.
const jobsOfPartitionedSQL = `
SELECT ` + columns + `
FROM     %[1]s
WHERE    state IN ('active', 'reverting', 'resetting', 'finishing')
AND     (partitioned = $1
         OR NOT EXISTS (SELECT FROM pg_class WHERE oid = CASE WHEN swapped_at IS NULL THEN source ELSE shadow END)
         AND (description #>> '{partition,parent,schema}', description #>> '{partition,parent,name}') IN (
             SELECT n.nspname, c.relname
             FROM   pg_partition_tree($2::oid::regclass) t
             JOIN   pg_class c     ON c.oid = t.relid
             JOIN   pg_namespace n ON n.oid = c.relnamespace
             WHERE  c.relkind = 'p'))
ORDER BY id`

const jobsOfCascadeSQL = `
SELECT   job.*
FROM     ` + jobWithDefaults + `
WHERE    state IN ('active', 'reverting', 'resetting', 'finishing') AND job.alteration #>> '{asked,group}' = $1
ORDER BY id`

// JobsOfCascade returns the unfinished jobs of tables that are altered before the table with
// that name, ordered by id.
func (r *Registry) JobsOfCascade(ctx context.Context, q catalog.Querier, name catalog.Name) ([]*Job, error) {
	rows, err := q.Query(ctx, fmt.Sprintf(jobsOfCascadeSQL, r.job), name.String())
	if err != nil {
		return nil, fmt.Errorf("look for jobs of the cascade of %s: %w", name, err)
	}
	jobs, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[Job])
	if err != nil {
		return nil, fmt.Errorf("look for jobs of the cascade of %s: %w", name, err)
	}
	return jobs, nil
}

// JobsOfPartitioned returns the unfinished jobs of repack id, of the partitioned table with
// this OID, ordered by id. It includes jobs of tables that are no longer partitions. It also
// includes jobs of partitions that are gone, no matter whether repack id has begun them. An
// id of 0 stands for no repack.
func (r *Registry) JobsOfPartitioned(ctx context.Context, q catalog.Querier, id int64, oid uint32) ([]*Job, error) {
	rows, err := q.Query(ctx, fmt.Sprintf(jobsOfPartitionedSQL, r.job), id, oid)
	if err != nil {
		return nil, fmt.Errorf("look for jobs of partitioned table %d: %w", oid, err)
	}
	jobs, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[Job])
	if err != nil {
		return nil, fmt.Errorf("look for jobs of partitioned table %d: %w", oid, err)
	}
	return jobs, nil
}
