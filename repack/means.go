package repack

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/stages/checks"
)

// The means of a run are what it needs from the server before it changes anything:
// functions whose EXECUTE privilege an administrator may have revoked from PUBLIC, and
// connections.

// functions are the functions of pg_catalog that are called: by us, by tern, and by
// views of pg_catalog. To read such a view, a role needs EXECUTE on the functions in
// it. Options.KillBlockers also needs pg_terminate_backend.
var functions = []string{
	"abs", "acldefault", "aclexplode", "age", "array_agg", "array_position", "array_remove", "array_replace",
	"array_to_string", "bool_and", "bool_or", "cardinality", "ceil", "clock_timestamp", "col_description",
	"concat_ws", "count", "current_database", "current_schema", "current_setting", "encode", "extract", "floor",
	"format", "format_type", "generate_series", "has_any_column_privilege", "has_column_privilege",
	"has_database_privilege", "has_function_privilege", "has_language_privilege", "has_parameter_privilege",
	"has_schema_privilege", "has_table_privilege", "has_tablespace_privilege", "has_type_privilege",
	"hash_record_extended", "inet_client_addr", "inet_server_addr",
	"jsonb_agg", "jsonb_array_elements_text", "jsonb_build_object", "jsonb_each_text", "lead", "left", "length",
	"lower", "make_interval", "max", "min", "mod", "now", "obj_description", "parse_ident", "pg_advisory_lock",
	"pg_advisory_unlock", "pg_backend_pid", "pg_blocking_pids", "pg_cancel_backend", "pg_current_snapshot",
	"pg_current_xact_id", "pg_describe_object", "pg_get_constraintdef", "pg_get_expr",
	"pg_get_function_arguments", "pg_get_functiondef", "pg_get_indexdef", "pg_get_partition_constraintdef",
	"pg_get_publication_tables", "pg_get_replication_slots", "pg_get_ruledef",
	"pg_get_statisticsobjdef_columns", "pg_get_triggerdef", "pg_get_userbyid", "pg_get_viewdef", "pg_has_role",
	"pg_indexes_size", "pg_is_in_recovery", "pg_is_other_temp_schema", "pg_lock_status", "pg_options_to_table",
	"pg_partition_ancestors", "pg_partition_tree", "pg_prepared_xact", "pg_relation_filenode",
	"pg_relation_is_updatable", "pg_relation_size", "pg_sequence_last_value", "pg_show_all_settings", "pg_snapshot_xmax", "pg_stat_get_activity",
	"pg_stat_get_progress_info", "pg_stat_get_wal_senders", "pg_table_is_visible", "pg_total_relation_size",
	"pg_try_advisory_lock", "pg_visible_in_snapshot", "quote_ident", "regexp_match", "regexp_replace",
	"replace", "row_number", "row_security_active", "rtrim", "set_config", "setval", "starts_with",
	"string_agg", "string_to_array", "strpos", "substr", "substring", "sum", "to_json", "to_jsonb",
	"to_regclass", "to_regnamespace", "to_regprocedure", "unnest", "upper",
}

func (r *Repack) called() []string {
	called := append(slices.Clone(functions), r.options.Limits.Functions()...)
	if r.options.KillBlockers > 0 {
		called = append(called, "pg_terminate_backend")
	}
	return called
}

// missingFunctionsSQL calls only one function. So if the role may not call that
// function, the error can only be about it. GRANT … ON FUNCTION also works for
// aggregates.
const missingFunctionsSQL = `
SELECT   p.oid::regprocedure::text
FROM     pg_proc p
WHERE    p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind <> 'p' AND p.proname = ANY ($1::text[])
AND      NOT has_function_privilege(p.oid, 'EXECUTE')
ORDER BY 1`

const askFunction = "has_function_privilege(oid,text)"

const mayUsePlpgsqlSQL = `SELECT has_language_privilege('plpgsql', 'USAGE')`

// missingMeans lists the grants that the role lacks. conn may be a session of a pooler:
// so missingMeans does not change the session, and does not rely on its settings.
func missingMeans(ctx context.Context, conn *pgx.Conn, called []string) (grants []string, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("check privileges on functions: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing was written
	if _, err := tx.Exec(ctx, "SET LOCAL search_path = pg_catalog"); err != nil {
		return nil, fmt.Errorf("check privileges on functions: %w", err)
	}
	var role string
	if err := tx.QueryRow(ctx, "SELECT current_user", pgx.QueryExecModeExec).Scan(&role); err != nil {
		return nil, fmt.Errorf("check privileges on functions: %w", err)
	}
	missing, err := missingFunctions(ctx, tx, called)
	for _, function := range missing {
		grants = append(grants, fmt.Sprintf("GRANT EXECUTE ON FUNCTION pg_catalog.%s TO %s;", function, catalog.Quote(role)))
	}
	if err != nil || len(grants) > 0 {
		return grants, err
	}
	var may bool
	if err := tx.QueryRow(ctx, mayUsePlpgsqlSQL, pgx.QueryExecModeExec).Scan(&may); err != nil {
		return nil, fmt.Errorf("check privileges on languages: %w", err)
	}
	if !may {
		grants = append(grants, fmt.Sprintf("GRANT USAGE ON LANGUAGE plpgsql TO %s;", catalog.Quote(role)))
	}
	return grants, nil
}

func missingFunctions(ctx context.Context, tx pgx.Tx, called []string) ([]string, error) {
	rows, err := tx.Query(ctx, missingFunctionsSQL, pgx.QueryExecModeExec, called)
	if err != nil {
		return nil, fmt.Errorf("check privileges on functions: %w", err)
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if forbidden(err) {
		return []string{askFunction}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("check privileges on functions: %w", err)
	}
	return missing, nil
}

func forbidden(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InsufficientPrivilege
}

const anyMissingSQL = "SELECT NOT has_language_privilege('plpgsql', 'USAGE') OR EXISTS (" + missingFunctionsSQL + ")"

// mayCall returns *RefusedError with the missing grants, if there are any.
func (r *Repack) mayCall(ctx context.Context, conn *pgx.Conn, name catalog.Name) error {
	var missing bool
	err := conn.QueryRow(ctx, anyMissingSQL, r.called()).Scan(&missing)
	if err == nil && !missing {
		return nil
	}
	if err != nil && !forbidden(err) {
		return fmt.Errorf("check privileges on functions: %w", err)
	}
	grants, err := missingMeans(ctx, conn, r.called())
	if err != nil {
		return err
	}
	if len(grants) > 0 {
		return &checks.RefusedError{Table: name, Reasons: checks.MissingPrivileges(grants)}
	}
	return nil
}

// lacking returns the grants whose absence caused err, if err says that something was
// not permitted and this process has no job yet. Look-ups before mayCall and the
// settings of a session need functions, too.
func (r *Repack) lacking(ctx context.Context, err error) []string {
	if !forbidden(err) || len(r.tenure.jobs) > 0 {
		return nil
	}
	conn, connectErr := session.Unset(ctx, r.config)
	if connectErr != nil {
		return nil // report err instead
	}
	defer session.Close(ctx, conn)
	grants, lookErr := missingMeans(ctx, conn, r.called())
	if lookErr != nil {
		r.options.Logger.Warn("privileges on functions not looked at", "error", lookErr)
	}
	return grants
}

// unable returns *RefusedError instead of err if err was caused by functions that may
// not be called.
func (r *Repack) unable(ctx context.Context, err error) error {
	if grants := r.lacking(ctx, err); len(grants) > 0 {
		return &checks.RefusedError{Table: catalog.Name{Name: r.options.Table}, Reasons: checks.MissingPrivileges(grants)}
	}
	return err
}

// freeSQL counts the connections that the strictest limit leaves for this process. It
// does not count sessions of this process ($1), because some of them may just be
// ending. Limits of a role and a database do not apply to superusers. Of the sessions
// of other roles, only the role and the database are visible.
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

// besidePool counts two connections outside the pool: the one that holds the advisory
// lock, and one for short work that needs a connection of its own.
const besidePool = 2

// fit returns how many jobs the free connections are enough for, at most Options.Jobs.
// It returns *RefusedError if they are not enough for one job.
func (r *Repack) fit(ctx context.Context, conn *pgx.Conn, name catalog.Name) (int, error) {
	var whose string
	var free int
	if err := conn.QueryRow(ctx, freeSQL, session.ApplicationName()).Scan(&whose, &free); err != nil {
		return 0, fmt.Errorf("count free connections: %w", err)
	}
	beside := besidePool
	if r.partitioned != nil { // and the connection that holds the lock of the partitioned table
		beside++
	}
	if r.options.Limits.Any() { // they have one of their own
		beside++
	}
	need := func(jobs int) int { return poolSize(jobs) + beside }
	if free < need(1) {
		return 0, &checks.RefusedError{Table: name, Reasons: []checks.Reason{{
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
