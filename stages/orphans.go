package stages

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/steps"
)

// orphan is what is left of a job that no registry knows: its schema and its capture
// function. The function's name ends in the job's number, and so do the other names.
type orphan struct{ Schema, Capture string }

func (o orphan) number() string { return strings.TrimPrefix(o.Capture, steps.CapturePrefix) }

// own reports whether a job has created the schema.
func (o orphan) own() bool { return o.Schema == "repack_job_"+o.number() }

// orphansSQL finds orphans by the triggers of the table. Without triggers, it finds them by
// schemas. Such a schema is named like a job's, has the function or log of that job and a
// copy with the name of the table, and has no function that any trigger calls.
const orphansSQL = `
SELECT n.nspname::text, p.proname::text
FROM   pg_trigger t
JOIN   pg_proc p      ON p.oid = t.tgfoid
JOIN   pg_namespace n ON n.oid = p.pronamespace
WHERE  t.tgrelid = $1 AND t.tgname ~ '^(00|RI)_repack_' AND p.proname ~ '^repack_capture_[0-9]+$'
UNION
SELECT n.nspname::text, 'repack_capture_' || s.number
FROM   pg_namespace n
CROSS  JOIN LATERAL (SELECT substring(n.nspname::text FROM '^repack_job_([0-9]+)$') AS number) s
WHERE  s.number IS NOT NULL
AND   (EXISTS (SELECT FROM pg_proc WHERE pronamespace = n.oid AND proname = 'repack_capture_' || s.number)
       OR EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid AND relname ~ ('^repack_change_log_' || s.number || '_*$')))
AND    EXISTS (SELECT FROM pg_class c JOIN pg_namespace m ON m.oid = c.relnamespace
               WHERE  m.nspname IN (n.nspname, n.nspname || '_old') AND c.relname = $2 AND c.relkind = 'r')
AND    NOT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE p.pronamespace = n.oid)
ORDER  BY 1, 2`

// RemoveOrphans removes what is left of jobs of the table that no registry of this database
// knows. This happens when a dump is restored without the registry. It finds triggers,
// functions, logs and copies by name. removed tells whether there were any. The table
// itself stays, because it is the table in use. A copy in a schema that an administrator has
// prepared stays as well.
//
// It takes ACCESS EXCLUSIVE on the table to drop our triggers.
func RemoveOrphans(ctx context.Context, e *Env, oid uint32, name catalog.Name) (removed bool, err error) {
	rows, err := e.Pool.Query(ctx, orphansSQL, oid, name.Name)
	if err != nil {
		return false, fmt.Errorf("look for what is left of jobs of %s: %w", name, err)
	}
	orphans, err := pgx.CollectRows(rows, pgx.RowToStructByPos[orphan])
	if err != nil {
		return false, fmt.Errorf("look for what is left of jobs of %s: %w", name, err)
	}
	if len(orphans) == 0 {
		return false, nil
	}
	return true, e.WithConn(ctx, func(conn *pgxpool.Conn) error {
		return lock.Transact(ctx, conn, e.Locks, name.String(), []uint32{oid}, func(ctx context.Context, tx *lock.Tx) error {
			for _, o := range orphans {
				if err := e.removeOrphan(ctx, tx, o, name); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func (e *Env) removeOrphan(ctx context.Context, tx *lock.Tx, o orphan, table catalog.Name) error {
	if err := unknownToAll(ctx, tx, o, table); err != nil {
		return err
	}
	function := catalog.Name{Schema: o.Schema, Name: o.Capture}
	if err := release(ctx, tx, table, function); err != nil {
		return err
	}
	logs, err := o.logs(ctx, tx)
	if err != nil {
		return err
	}
	tables := logs
	if o.own() {
		for _, t := range []catalog.Name{table.In(o.Schema), table.In(o.Schema + "_old")} {
			if err := dropTyped(ctx, tx, t); err != nil {
				return err
			}
		}
		tables = append(tables, table.In(o.Schema), table.In(o.Schema+"_old"))
	}
	for _, t := range tables {
		if err := steps.Drop(ctx, tx, "TABLE", t.String()); err != nil {
			return err
		}
	}
	if err := steps.Drop(ctx, tx, "FUNCTION", function.String()+"()"); err != nil {
		return err
	}
	if !o.own() {
		e.Log.Warn("a copy of the table may be left in a schema that was prepared for it", "schema", o.Schema, "table", table.String())
		return nil
	}
	for _, schema := range []string{o.Schema, o.Schema + "_old"} {
		if err := steps.Drop(ctx, tx, "DOMAIN", catalog.Name{Schema: schema, Name: catalog.BoundDomain}.String()); err != nil {
			return err
		}
		if err := steps.Drop(ctx, tx, "SCHEMA", catalog.Quote(schema)); err != nil {
			return err
		}
	}
	return nil
}

const logsSQL = `
SELECT   c.relname::text
FROM     pg_class c
JOIN     pg_namespace n ON n.oid = c.relnamespace
WHERE    n.nspname = $1 AND c.relkind = 'r' AND c.relname ~ $2
ORDER BY c.relname`

func (o orphan) logs(ctx context.Context, q catalog.Querier) ([]catalog.Name, error) {
	rows, err := q.Query(ctx, logsSQL, o.Schema, "^repack_change_log_"+regexp.QuoteMeta(o.number())+"_*(_retired)?$")
	if err != nil {
		return nil, fmt.Errorf("look for change logs in schema %q: %w", o.Schema, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for change logs in schema %q: %w", o.Schema, err)
	}
	var logs []catalog.Name
	for _, name := range names {
		logs = append(logs, catalog.Name{Schema: o.Schema, Name: name})
	}
	return slices.Clip(logs), nil
}

// registriesSQL finds the tables that have the columns of a registry's job table.
const registriesSQL = `
SELECT   n.nspname::text
FROM     pg_class c
JOIN     pg_namespace n ON n.oid = c.relnamespace
WHERE    c.relname = 'job' AND c.relkind = 'r'
AND      4 = (SELECT count(*) FROM pg_attribute a
              WHERE  a.attrelid = c.oid AND a.attname IN ('shadow_schema', 'old_schema', 'capture', 'state') AND NOT a.attisdropped)
ORDER BY n.nspname`

const knownSQL = `
SELECT EXISTS (
    SELECT FROM %s
    WHERE  shadow_schema = $1 AND capture = $2 AND state IN ('active', 'reverting', 'resetting', 'finishing'))`

// unknownToAll refuses to remove what belongs to a job of any registry.
func unknownToAll(ctx context.Context, q catalog.Querier, o orphan, table catalog.Name) error {
	rows, err := q.Query(ctx, registriesSQL)
	if err != nil {
		return fmt.Errorf("look for registries: %w", err)
	}
	registries, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for registries: %w", err)
	}
	for _, schema := range registries {
		var known bool
		jobs := catalog.Name{Schema: schema, Name: "job"}
		if err := q.QueryRow(ctx, fmt.Sprintf(knownSQL, jobs), o.Schema, o.Capture).Scan(&known); err != nil {
			return fmt.Errorf("look for the job of schema %q in %s: %w", o.Schema, jobs, err)
		}
		if known {
			return &checks.RefusedError{Table: table, Reasons: []checks.Reason{{
				Object: "schema " + o.Schema, Why: fmt.Sprintf("belongs to a job of the registry in schema %q", schema),
				Remedy: fmt.Sprintf("repack reset with --registry-schema %s and the name of that job's table", schema),
			}}}
		}
	}
	return nil
}
