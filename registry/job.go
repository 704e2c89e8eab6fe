package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Job is one repack of one table.
type Job struct {
	ID          int64
	TableSchema string
	TableName   string
	Source      uint32  // OID of the table at setup; after the swap it is the old table
	Shadow      *uint32 // OID of the shadow; after the swap it is the table
	Strategy    string
	Options     Options
	Stage       Stage // latest stage begun
	StageDone   bool  // Stage is complete
	State       State

	ShadowSchema string
	OldSchema    string
	OwnSchemas   bool   // whether the job created its two schemas
	ChangeLog    string // ChangeLog, Capture and KeyIndex are names in ShadowSchema
	Capture      string
	KeyIndex     string
	Description  json.RawMessage // the source at setup, an encoded catalog.Table
	Alteration   json.RawMessage // what the job changes, an encoded alter.Alteration; null: nothing

	Partitioned *int64 // id of the Partitioned that the job belongs to

	Filenode    *uint32 // file of the source in which Blocks was measured
	Blocks      *int64
	RowEstimate *int64
	CompletedBy *string    // transaction whose commit made the copy equal to the table
	SwappedAt   *time.Time // nil before the swap and after a revert
	// LongestLockMS is the longest time, in milliseconds, that a transaction of the job
	// held strong locks. It is counted from the request for the first lock.
	LongestLockMS *int64 `db:"longest_lock_ms"`

	RunnerHost  *string
	RunnerPID   *int32 `db:"runner_pid"`
	RunnerSince *time.Time
	Error       *string
	Interrupted bool // stopped by a signal, not by an error
	CreatedAt   time.Time
	UpdatedAt   time.Time
	FinishedAt  *time.Time
}

// Options are the options that a job began with. A run that resumes it uses them again.
type Options struct {
	KeepOld         bool `json:"keep_old"`
	RebuildMatviews bool `json:"rebuild_matviews,omitempty"`
	// OrderBy is the order of the copied rows, in the form that catalog.ReadOrder
	// takes.
	OrderBy string `json:"order_by,omitempty"`
	// UpdateOID are columns that keep OIDs of the table, and follow it.
	UpdateOID []OIDColumn `json:"update_oid,omitempty"`
	// IgnoreOID allows other places to contain OIDs of the table.
	IgnoreOID bool `json:"ignore_oid,omitempty"`
	// PublishedOK allows publications FOR ALL TABLES.
	PublishedOK bool `json:"published_ok,omitempty"`
	// RowTriggers makes capture use row triggers. They need no transition tables, which
	// may need temporary files.
	RowTriggers bool `json:"row_triggers,omitempty"`
	// CountRows makes row triggers count rows. Every role that writes may call the
	// functions that this needs.
	CountRows bool `json:"count_rows,omitempty"`
	// RowByRow is set while foreign keys are moved one by one.
	RowByRow RowByRow `json:"row_by_row,omitempty"`
}

// RowByRow says when the trigger makes a change of a row to the copy too.
type RowByRow string

// Values of RowByRow: before the server's triggers for foreign keys, or after them. The
// empty value means that changes are not made row by row.
const (
	BeforeKeys RowByRow = "before_keys"
	AfterKeys  RowByRow = "after_keys"
)

// OIDColumn is a column that contains OIDs.
type OIDColumn struct {
	Schema string `json:"schema"`
	Table  string `json:"table"`
	Column string `json:"column"`
}

// WithOIDs returns o with the options for OIDs that a later run adds. Columns that o
// has already are not added again.
func (o Options) WithOIDs(update []OIDColumn, ignore bool) Options {
	o.IgnoreOID = o.IgnoreOID || ignore
	o.UpdateOID = slices.Clone(o.UpdateOID)
	for _, c := range update {
		if !slices.Contains(o.UpdateOID, c) {
			o.UpdateOID = append(o.UpdateOID, c)
		}
	}
	return o
}

// Table returns the name of the table that the job repacks.
func (j *Job) Table() catalog.Name { return catalog.Name{Schema: j.TableSchema, Name: j.TableName} }

// ShadowTable returns the name that the shadow has before the swap.
func (j *Job) ShadowTable() catalog.Name { return j.Table().In(j.ShadowSchema) }

// OldTable returns the name that the source has after the swap.
func (j *Job) OldTable() catalog.Name { return j.Table().In(j.OldSchema) }

// Swapped reports whether the shadow has taken the source's place.
func (j *Job) Swapped() bool { return j.SwappedAt != nil }

// SourceDescription decodes the description of the source at setup. It returns
// *catalog.NewerError if a newer version of repack has written it.
func (j *Job) SourceDescription() (*catalog.Table, error) {
	t, err := catalog.Decode(j.Description)
	if err != nil {
		return nil, fmt.Errorf("job %d: %w", j.ID, err)
	}
	t.OID = j.Source
	return t, nil
}

// ErrNotFound reports that the registry has no such job.
var ErrNotFound = errors.New("no such job")

// ErrStageMoved reports that the job has another claim or stage than the caller
// expects: another process has continued it. The caller's transaction must roll back.
var ErrStageMoved = errors.New("the job has been moved on by another process")

// Registry reads and writes the registry's tables in one schema. It holds no
// connection.
type Registry struct {
	schema              string
	job, history, chunk string // qualified and quoted
	partitioned, lastID string
	control, heartbeat  string
	batch, batchTable   string
	reindex, event      string
}

// New returns the Registry in schema. It does not query whether the schema exists.
func New(schema string) *Registry {
	table := func(name string) string { return pgx.Identifier{schema, name}.Sanitize() }
	return &Registry{
		schema: schema, job: table("job"), history: table("stage_history"), chunk: table("chunk"),
		partitioned: table("partitioned"), lastID: table("last_id"),
		control: table("control"), heartbeat: table("heartbeat"),
		batch: table("batch"), batchTable: table("batch_table"),
		reindex: table("reindex"), event: table("event"),
	}
}

// existsSQL reports whether the schema has the table of jobs.
const existsSQL = `
SELECT EXISTS (
    SELECT FROM pg_class c
    JOIN   pg_namespace n ON n.oid = c.relnamespace
    WHERE  n.nspname = $1 AND c.relname = 'job')`

// Schema returns the name of the registry's schema, not quoted.
func (r *Registry) Schema() string { return r.schema }

// Exists reports whether the registry has been created in this database.
func (r *Registry) Exists(ctx context.Context, q catalog.Querier) (exists bool, err error) {
	if err := q.QueryRow(ctx, existsSQL, r.schema).Scan(&exists); err != nil {
		return false, fmt.Errorf("look for registry in schema %q: %w", r.schema, err)
	}
	return exists, nil
}

// missingPrivilegesSQL lists the statements that allow the current role to use the
// registry, or to create it.
const missingPrivilegesSQL = `
SELECT CASE WHEN $2
            THEN format('CREATE SCHEMA %I AUTHORIZATION %I;', $1::text, current_user)
            ELSE format('GRANT CREATE ON DATABASE %I TO %I;', current_database(), current_user) END
WHERE  to_regnamespace(quote_ident($1)) IS NULL AND NOT has_database_privilege(current_database(), 'CREATE')
UNION
SELECT format('GRANT USAGE, CREATE ON SCHEMA %I TO %I;', n.nspname, current_user)
FROM   pg_namespace n
WHERE  n.nspname = $1
AND    NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid AND relname = 'job')
AND    NOT (has_schema_privilege(n.oid, 'USAGE') AND has_schema_privilege(n.oid, 'CREATE'))
UNION
SELECT s.statement
FROM   pg_namespace n
JOIN   pg_class c ON c.relnamespace = n.oid AND c.relname = 'job'
CROSS  JOIN LATERAL (VALUES
       (format('GRANT USAGE ON SCHEMA %I TO %I;', n.nspname, current_user)),
       (format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO %I;', n.nspname, current_user))) s (statement)
WHERE  n.nspname = $1
AND    NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
            AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE'))
ORDER  BY 1`

// Ready does the work of Exists and MissingPrivileges in one round trip.
func (r *Registry) Ready(ctx context.Context, q catalog.Querier, prepared bool) (exists bool, missing []string, err error) {
	err = q.QueryRow(ctx, readySQL, r.schema, prepared).Scan(&exists, &missing)
	if err != nil {
		return false, nil, fmt.Errorf("look for registry in schema %q: %w", r.schema, err)
	}
	return exists, missing, nil
}

// readySQL joins the queries of Exists and MissingPrivileges.
const readySQL = "SELECT (" + existsSQL + "), ARRAY(" + missingPrivilegesSQL + ")"

// MissingPrivileges lists the statements that an administrator must run before the
// current role can use the registry. If there is no schema yet, prepared decides: true,
// if an administrator also creates the schemas of jobs, asks for the registry's schema;
// false asks for CREATE on the database.
func (r *Registry) MissingPrivileges(ctx context.Context, q catalog.Querier, prepared bool) ([]string, error) {
	rows, err := q.Query(ctx, missingPrivilegesSQL, r.schema, prepared)
	if err != nil {
		return nil, fmt.Errorf("check privileges on registry schema %q: %w", r.schema, err)
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("check privileges on registry schema %q: %w", r.schema, err)
	}
	return statements, nil
}

// missingToReadSQL lists the statements that allow the current role to read the
// registry.
const missingToReadSQL = `
SELECT s.statement
FROM   pg_namespace n
CROSS  JOIN LATERAL (
       SELECT format('GRANT USAGE ON SCHEMA %I TO %I;', n.nspname, current_user)
       WHERE  NOT has_schema_privilege(n.oid, 'USAGE')
       UNION  ALL
       SELECT format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO %I;', n.nspname, current_user)
       WHERE  EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'r'
                      AND NOT has_table_privilege(c.oid, 'SELECT'))) s (statement)
WHERE  n.nspname = $1
ORDER  BY s.statement DESC`

// MissingToRead lists the statements that an administrator must run before the current
// role can read the registry.
func (r *Registry) MissingToRead(ctx context.Context, q catalog.Querier) ([]string, error) {
	return statements(ctx, q, missingToReadSQL, r.schema)
}

// missingToCountSQL asks for privileges on the change logs only. A privilege on the
// shadow would be one on the table after the swap.
const missingToCountSQL = `
SELECT s.statement
FROM   unnest($1::text[], $2::text[]) j (schema, log)
JOIN   pg_namespace n ON n.nspname = j.schema
JOIN   pg_class c     ON c.relnamespace = n.oid AND c.relname = j.log
CROSS  JOIN LATERAL (
       SELECT format('GRANT USAGE ON SCHEMA %I TO %I;', n.nspname, current_user)
       WHERE  NOT has_schema_privilege(n.oid, 'USAGE')
       UNION  ALL
       SELECT format('GRANT SELECT ON TABLE %I.%I TO %I;', n.nspname, c.relname, current_user)
       WHERE  NOT has_table_privilege(c.oid, 'SELECT')) s (statement)
ORDER  BY n.nspname, s.statement DESC`

// MissingToCount lists the statements that an administrator must run before the current
// role can count the pending changes of jobs. Finished jobs are skipped.
func MissingToCount(ctx context.Context, q catalog.Querier, jobs []*Job) ([]string, error) {
	var schemas, logs []string
	for _, j := range jobs {
		if j.FinishedAt == nil {
			schemas, logs = append(schemas, j.ShadowSchema), append(logs, j.ChangeLog)
		}
	}
	return statements(ctx, q, missingToCountSQL, schemas, logs)
}

// statements runs a query whose rows are statements.
func statements(ctx context.Context, q catalog.Querier, sql string, args ...any) ([]string, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("check privileges to read jobs: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("check privileges to read jobs: %w", err)
	}
	return list, nil
}

// columns are the columns of a Job.
const columns = `
         id, table_schema, table_name, source, shadow, strategy, options, stage, stage_done, state,
         shadow_schema, old_schema, own_schemas, change_log, capture, key_index, description, alteration,
         partitioned, filenode, blocks, row_estimate, completed_by, swapped_at, longest_lock_ms,
         runner_host, runner_pid, runner_since, error, interrupted, created_at, updated_at, finished_at`

// jobWithDefaults supplies default values for columns that the registry of an older
// version does not have. In the LATERAL subquery a column name means the table's column
// if there is one, otherwise the default. Therefore commands that only read need not
// upgrade the registry.
const jobWithDefaults = `(VALUES (NULL::bigint, NULL::bigint, false, NULL::jsonb)) older (partitioned, longest_lock_ms, interrupted, alteration),
         LATERAL (SELECT` + columns + ` FROM %[1]s) job`

// findSQL finds a job by the OID of its table, or by the table's name. At the swap the
// table's OID changes from the source's to the shadow's. If the table has been dropped
// or replaced, the job is still found by the name until it is reset.
const findSQL = `
SELECT   job.*
FROM     ` + jobWithDefaults + `
WHERE    state IN ('active', 'reverting', 'resetting', 'finishing')
AND      (source = $1 OR shadow = $1 AND swapped_at IS NOT NULL
          OR table_schema = $2 AND table_name = $3
          OR job.alteration #>> '{asked,group}' = $4)
ORDER BY (source = $1 OR shadow = $1) IS TRUE DESC, (table_schema = $2 AND table_name = $3) DESC, id DESC
LIMIT    1`

// Find returns the unfinished job of the table with this OID or name. A match by OID is
// preferred. Pass OID zero if the table does not exist. It returns ErrNotFound if there
// is no such job.
//
// If the table has no job, member is an unfinished job of another table that is altered before
// this one, in its cascade; or nil.
func (r *Registry) Find(ctx context.Context, q catalog.Querier, oid uint32, name catalog.Name) (job, member *Job, err error) {
	rows, err := q.Query(ctx, fmt.Sprintf(findSQL, r.job), oid, name.Schema, name.Name, name.String())
	job, err = oneJob(rows, err, "find job of "+name.String())
	if err != nil || job.Table() == name || job.Source == oid || job.Shadow != nil && *job.Shadow == oid {
		return job, nil, err
	}
	return nil, job, fmt.Errorf("find job of %s: %w", name, ErrNotFound)
}

// getSQL reads one job.
const getSQL = `
SELECT job.*
FROM   ` + jobWithDefaults + `
WHERE  id = $1`

// Get reads job id. It returns ErrNotFound if there is no such job.
func (r *Registry) Get(ctx context.Context, q catalog.Querier, id int64) (*Job, error) {
	rows, err := q.Query(ctx, fmt.Sprintf(getSQL, r.job), id)
	return oneJob(rows, err, fmt.Sprintf("read job %d", id))
}

// listSQL keeps the latest job of every table.
const listSQL = `
SELECT   DISTINCT ON (table_schema, table_name) job.*
FROM     ` + jobWithDefaults + `
ORDER BY table_schema, table_name, id DESC`

// List returns the latest job of every table, ordered by the table's schema and name.
func (r *Registry) List(ctx context.Context, q catalog.Querier) ([]*Job, error) {
	rows, err := q.Query(ctx, fmt.Sprintf(listSQL, r.job))
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	jobs, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[Job])
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	return jobs, nil
}

// oneJob collects the only row of a query. It returns ErrNotFound if there is none.
func oneJob(rows pgx.Rows, err error, doing string) (*Job, error) {
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	job, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[Job])
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return job, nil
}
