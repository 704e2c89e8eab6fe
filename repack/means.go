package repack

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/stages"
)

// means are what a run needs of the server before it touches anything: functions
// that an administrator may have taken from PUBLIC, and connections.

// functions of pg_catalog that are called, by name; signals are those that only
// Options.KillBlockers asks for.
var functions = []string{
	"acldefault", "aclexplode", "array_agg", "col_description", "current_setting", "format", "format_type",
	"generate_series", "has_any_column_privilege", "has_column_privilege", "has_database_privilege",
	"has_function_privilege", "has_parameter_privilege", "has_schema_privilege", "has_table_privilege",
	"has_tablespace_privilege", "has_type_privilege", "jsonb_agg", "jsonb_array_elements_text", "jsonb_build_object",
	"jsonb_each_text", "nextval", "obj_description", "pg_advisory_unlock", "pg_backend_pid", "pg_blocking_pids", "pg_current_snapshot",
	"pg_current_xact_id", "pg_describe_object", "pg_get_constraintdef", "pg_get_expr", "pg_get_functiondef",
	"pg_get_indexdef", "pg_get_partition_constraintdef", "pg_get_ruledef", "pg_get_serial_sequence",
	"pg_get_statisticsobjdef_columns", "pg_get_triggerdef", "pg_get_userbyid", "pg_get_viewdef", "pg_has_role",
	"pg_indexes_size", "pg_is_in_recovery", "pg_is_other_temp_schema", "pg_options_to_table",
	"pg_partition_ancestors", "pg_partition_tree", "pg_relation_filenode", "pg_relation_size", "pg_sleep",
	"pg_snapshot_xmax", "pg_table_is_visible", "pg_total_relation_size", "pg_try_advisory_lock",
	"pg_visible_in_snapshot", "quote_ident", "set_config", "setval", "string_agg", "substring", "to_jsonb", "to_regclass",
	"to_regnamespace", "to_regprocedure", "unnest",
}

var signals = []string{"pg_cancel_backend", "pg_terminate_backend"}

const missingMeansSQL = `
SELECT format('GRANT EXECUTE ON FUNCTION pg_catalog.%s TO %I;', p.oid::regprocedure, current_user)
FROM   pg_proc p
WHERE  p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind IN ('f', 'w') AND p.proname = ANY ($1::text[])
AND    NOT has_function_privilege(p.oid, 'EXECUTE')
UNION ALL
SELECT format('GRANT USAGE ON LANGUAGE plpgsql TO %I;', current_user)
WHERE  NOT has_language_privilege('plpgsql', 'USAGE')
ORDER  BY 1`

// mayCall returns *RefusedError with the grants that are missing.
func (r *Repack) mayCall(ctx context.Context, conn *pgx.Conn, name catalog.Name) error {
	called := functions
	if r.options.KillBlockers > 0 {
		called = append(called[:len(called):len(called)], signals...)
	}
	rows, err := conn.Query(ctx, missingMeansSQL, called)
	if err != nil {
		return fmt.Errorf("check privileges on functions: %w", err)
	}
	grants, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("check privileges on functions: %w", err)
	}
	if len(grants) > 0 {
		return &stages.RefusedError{Table: name, Reasons: stages.MissingPrivileges(grants)}
	}
	return nil
}

// freeSQL counts what the strictest limit leaves to this process, whose sessions
// ($1) are not counted: some may just be ending. Limits of a role and a database
// do not concern superusers. Of other roles' sessions not more is visible than
// whose they are.
//
// https://www.postgresql.org/docs/current/runtime-config-connection.html
const freeSQL = `
WITH me AS (
    SELECT oid, rolsuper, rolconnlimit FROM pg_roles WHERE rolname = session_user
), here AS (
    SELECT oid, datconnlimit FROM pg_database WHERE datname = current_database()
), others AS (
    SELECT usesysid, datid
    FROM   pg_stat_activity
    WHERE  usesysid IS NOT NULL AND datid IS NOT NULL AND application_name IS DISTINCT FROM $1
)
SELECT   whose, most - used
FROM    (SELECT 'the role' AS whose, rolconnlimit AS most, (SELECT count(*) FROM others WHERE usesysid = me.oid) AS used
         FROM   me WHERE NOT rolsuper AND rolconnlimit >= 0
         UNION ALL
         SELECT 'the database', datconnlimit, (SELECT count(*) FROM others WHERE datid = here.oid)
         FROM   here, me WHERE NOT rolsuper AND datconnlimit >= 0
         UNION ALL
         SELECT 'the server', current_setting('max_connections')::int
                - CASE WHEN rolsuper THEN 0 ELSE current_setting('superuser_reserved_connections')::int
                       + coalesce(current_setting('reserved_connections', true), '0')::int END, (SELECT count(*) FROM others)
         FROM   me) limits
ORDER BY 2
LIMIT    1`

// besidePool are the connection that holds the lock, and one for what needs a
// connection of its own for a moment.
const besidePool = 2

// fit is how many jobs the free connections are enough for, at most those asked
// for. It returns *RefusedError when there are too few for one.
func (r *Repack) fit(ctx context.Context, conn *pgx.Conn, name catalog.Name) (int, error) {
	var whose string
	var free int
	if err := conn.QueryRow(ctx, freeSQL, session.ApplicationName()).Scan(&whose, &free); err != nil {
		return 0, fmt.Errorf("count free connections: %w", err)
	}
	beside := besidePool
	if r.partitioned != nil { // and the one that holds the partitioned table's
		beside++
	}
	need := func(jobs int) int { return poolSize(jobs) + beside }
	if free < need(1) {
		return 0, &stages.RefusedError{Table: name, Reasons: []stages.Reason{{
			Object: "connections",
			Why:    fmt.Sprintf("%s has %d left, and %d are needed", whose, free, need(1)),
			Remedy: "raise CONNECTION LIMIT or max_connections, or end other sessions",
		}}}
	}
	jobs := r.options.Jobs
	for jobs > 1 && free < need(jobs) {
		jobs--
	}
	if jobs < r.options.Jobs {
		r.options.Logger.Warn("fewer connections at work", "jobs", jobs, "asked", r.options.Jobs, "limit_of", whose, "free", free)
	}
	return jobs, nil
}
