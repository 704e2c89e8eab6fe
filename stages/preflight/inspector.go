// Package preflight finds out, before anything is changed, what of a table cannot be carried
// over: it reads the catalog, and it tries what it can of a job in a transaction that it
// rolls back.
package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/neighbours"
	"github.com/repack-go/repack/stages/oids"
	"github.com/repack-go/repack/stages/shadow"
	"github.com/repack-go/repack/stages/steps"
)

// Inspector finds out, before anything is changed, what cannot be carried over.
type Inspector struct {
	steps.Request
	Asked neighbours.ForeignKeys // how foreign keys are to be moved

	Key []catalog.KeyColumn // of the source, as Try has read it
	// Bounded tells that no row is to be expected that only one of the two tables can take.
	Bounded bool
	// Capture has the options with which Try has captured changes.
	Capture registry.Options
	OIDs    *oids.Found // stored as data, as Look has found them
}

// Run looks, and tries what it can of the job.
func (p *Inspector) Run(ctx context.Context) error {
	if err := p.Look(ctx); err != nil {
		return err
	}
	tried, err := p.dryBuild(ctx)
	if err != nil {
		return err
	}
	reasons := tried.reasons
	if len(reasons) == 0 {
		if reasons, err = p.outlivedReasons(ctx, tried); err != nil {
			return err
		}
	}
	if len(reasons) > 0 {
		return &checks.RefusedError{Table: p.Source.Name, Reasons: reasons}
	}
	p.OIDs.Tell(p.Log)
	return p.report(ctx)
}

func (p *Inspector) mover() *neighbours.Mover {
	return &neighbours.Mover{Worker: p.Worker, Asked: p.Asked, Bounded: p.Bounded}
}

func (p *Inspector) builder() *shadow.Builder {
	return &shadow.Builder{Worker: p.Worker, Strategy: p.Strategy}
}

// Look refuses what can be refused without trying it. It only reads.
func (p *Inspector) Look(ctx context.Context) error {
	if err := p.ofAKind(ctx); err != nil {
		return err
	}
	reasons, err := checks.Find(ctx, p.Pool, p.Source, p.Allowed(), true)
	if err != nil {
		return err
	}
	reasons = append(reasons, shape(p.Source)...)
	_, published, err := p.allTables(ctx)
	if err != nil {
		return err
	}
	schemas, err := p.ofPublishedSchemas(ctx)
	if err != nil {
		return err
	}
	reasons = slices.Concat(reasons, published, schemas)
	missing, err := p.MissingPrivileges(ctx)
	if err != nil {
		return err
	}
	order, err := p.Order(ctx)
	if err != nil {
		return err
	}
	if order.Partial {
		reasons = append(reasons, checks.Reason{
			Object: "index " + order.Index, Why: "is partial and so has no order for the other rows",
			Remedy: "order by an index without WHERE, or by columns",
		})
	}
	if p.OIDs, err = p.StoredOIDs().Find(ctx, p.Source.OID); err != nil {
		return err
	}
	reasons = append(reasons, p.OIDs.Reasons()...)
	if apart := p.mover().Apart(p.Source); apart != nil && p.Alteration == nil && p.Request.Alter.None() && p.Asked == neighbours.ForeignKeysOneByOne {
		reasons = append(reasons, checks.Reason{Object: "--foreign-keys " + string(neighbours.ForeignKeysOneByOne), Why: apart.Error(), Remedy: "leave it out, or use " + string(neighbours.ForeignKeysTogether)})
	}
	if reasons = append(reasons, missing...); len(reasons) == 0 {
		if reasons, err = p.slowKeys(ctx); err != nil {
			return err
		}
	}
	if len(reasons) > 0 {
		return &checks.RefusedError{Table: p.Source.Name, Reasons: reasons}
	}
	return nil
}

// ofAKind refuses a relation that is not one of the application's tables.
func (p *Inspector) ofAKind(ctx context.Context) error {
	reasons, err := checks.Look(ctx, p.Pool, checks.OtherKinds, p.Source.OID)
	if err != nil {
		return err
	}
	if len(reasons) > 0 {
		return &checks.RefusedError{Table: p.Source.Name, Reasons: reasons}
	}
	return nil
}

// shape refuses what the description of the table shows.
func shape(t *catalog.Table) []checks.Reason {
	var reasons []checks.Reason
	if _, ok := t.Key(); !ok {
		reasons = append(reasons, checks.Reason{
			Why:    "it has no key: neither a primary key nor a unique index, not partial and not deferrable, on NOT NULL columns that are not generated",
			Remedy: fmt.Sprintf("add one, such as: CREATE UNIQUE INDEX CONCURRENTLY ON %s (…)", t.Name),
		})
	}
	for _, i := range t.Indexes {
		if !i.Valid {
			reasons = append(reasons, checks.Reason{
				Object: "index " + i.Name, Why: "is invalid, left by a failed CREATE INDEX CONCURRENTLY",
				Remedy: fmt.Sprintf("REINDEX INDEX CONCURRENTLY %[1]s or DROP INDEX CONCURRENTLY %[1]s", catalog.Name{Schema: t.Name.Schema, Name: i.Name}),
			})
		}
	}
	if clashes := t.Clashes(); len(t.Matviews) > 0 && len(clashes) > 0 {
		reasons = append(reasons, checks.Reason{
			Object: strings.Join(clashes, ", "), Why: "is the name of more than one of the table, the materialized views on it, and their indexes and statistics objects",
			Remedy: "rename one of them: they have to share a schema",
		})
	}
	return reasons
}

// MissingPrivileges returns the GRANT for every privilege that the job needs and lacks.
func (p *Inspector) MissingPrivileges(ctx context.Context) ([]checks.Reason, error) {
	matviews := []uint32{}
	for _, m := range p.Source.Matviews {
		matviews = append(matviews, m.OID)
	}
	rows, err := p.Pool.Query(ctx, privilegesSQL, p.Source.OID, p.Prepared(), p.Source.Roles(), matviews, p.Source.ActsAs())
	if err != nil {
		return nil, fmt.Errorf("check privileges: %w", err)
	}
	grants, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("check privileges: %w", err)
	}
	registryGrants, err := p.Registry.MissingPrivileges(ctx, p.Pool, p.ShadowSchema != "")
	if err != nil {
		return nil, err
	}
	grants = append(grants, registryGrants...)
	slices.Sort(grants)
	return checks.MissingPrivileges(slices.Compact(grants)), nil
}

// privilegesSQL lists the statements that give the current role the privileges it lacks:
//   - the rights of the roles for which it acts ($3), and from PostgreSQL 16 on the right to
//     become some of them ($5);
//   - to create in the schemas of the table, in those of objects that are created with it
//     or replaced, and in new or prepared schemas;
//   - to use the languages of functions that are created or replaced;
//   - to refer to other tables;
//   - to read what a partition's rows refer to, because otherwise the server looks up the
//     rows one by one;
//   - to use what all these objects are made of.
const privilegesSQL = `
WITH me (role, version, inherits, super) AS (
    SELECT current_user::text, current_setting('server_version_num')::int, rolinherit, rolsuper
    FROM   pg_roles WHERE rolname = current_user
), acting (name, member, able) AS (
    SELECT r.name, pg_has_role(r.name, 'MEMBER'),
           pg_has_role(r.name, 'USAGE')
           AND CASE WHEN me.version >= 160000 AND r.name = ANY ($5::text[]) THEN pg_has_role(r.name, 'SET') ELSE true END
    FROM   unnest($3::text[]) r(name), me
), dependents (class, id) AS (
    SELECT d.classid, d.objid
    FROM   pg_depend d
    WHERE  d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY ($1::oid || $4::oid[])
    AND    d.classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_proc'::regclass)
    UNION
    SELECT d.classid, d.objid
    FROM   pg_class c
    JOIN   pg_type t ON t.oid = c.reltype
    CROSS  JOIN LATERAL (SELECT classid, objid FROM pg_depend WHERE refclassid = 'pg_type'::regclass AND refobjid IN (t.oid, t.typarray) OFFSET 0) d
    WHERE  c.oid = $1 AND d.classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass, 'pg_proc'::regclass)
), parts (class, id) AS (
    SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid = ANY ($1::oid || $4::oid[])
    UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint WHERE conrelid = ANY ($1::oid || $4::oid[])
    UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid = ANY ($1::oid || $4::oid[])
    UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE tgrelid = ANY ($1::oid || $4::oid[]) AND NOT tgisinternal
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext WHERE stxrelid = ANY ($1::oid || $4::oid[])
    UNION ALL SELECT 'pg_policy'::regclass, oid FROM pg_policy WHERE polrelid = ANY ($1::oid || $4::oid[])
    UNION ALL SELECT 'pg_rewrite'::regclass, oid FROM pg_rewrite WHERE ev_class = ANY ($1::oid || $4::oid[])
    UNION ALL SELECT class, id FROM dependents
), needs (class, refclassid, refobjid) AS (
    SELECT x.class, d.refclassid, d.refobjid
    FROM   parts x
    CROSS  JOIN LATERAL (SELECT refclassid, refobjid FROM pg_depend WHERE classid = x.class AND objid = x.id OFFSET 0) d
)
SELECT format(CASE WHEN me.version >= 160000 AND (a.member OR NOT me.inherits)
                   THEN 'GRANT %I TO %I WITH INHERIT TRUE, SET TRUE;' ELSE 'GRANT %I TO %I;' END, a.name, me.role)
FROM   acting a, me
WHERE  NOT a.able AND (me.version >= 160000 OR me.inherits OR NOT a.member)
UNION
SELECT format('ALTER ROLE %I INHERIT;', me.role)
FROM   acting a, me
WHERE  NOT a.able AND me.version < 160000 AND NOT me.inherits
UNION
SELECT format('GRANT CREATE ON DATABASE %I TO %I;', current_database(), current_user)
WHERE  NOT has_database_privilege(current_database(), 'CREATE') AND cardinality($2::text[]) = 0
UNION
SELECT format('GRANT CREATE ON SCHEMA %I TO %I;', n.nspname, current_user)
FROM   pg_namespace n
WHERE  NOT has_schema_privilege(n.oid, 'CREATE')
AND   (n.oid IN (SELECT relnamespace FROM pg_class WHERE oid = ANY ($1::oid || $4::oid[]))
       OR n.oid IN (SELECT stxnamespace FROM pg_statistic_ext WHERE stxrelid = ANY ($1::oid || $4::oid[]))
       OR n.oid IN (SELECT c.relnamespace FROM dependents d
                    JOIN   pg_rewrite r ON r.oid = d.id AND d.class = 'pg_rewrite'::regclass
                    JOIN   pg_class c   ON c.oid = r.ev_class AND c.relkind = 'v')
       OR n.oid IN (SELECT p.pronamespace FROM dependents d JOIN pg_proc p ON p.oid = d.id AND d.class = 'pg_proc'::regclass))
UNION
SELECT format('GRANT CREATE ON SCHEMA %I TO %I;', n.nspname, pg_get_userbyid(s.stxowner))
FROM   me, pg_statistic_ext s
JOIN   pg_namespace n ON n.oid = s.stxnamespace
WHERE  s.stxrelid = ANY ($1::oid || $4::oid[]) AND NOT me.super
AND    pg_get_userbyid(s.stxowner) <> me.role AND NOT has_schema_privilege(s.stxowner, n.oid, 'CREATE')
UNION
SELECT format('GRANT CREATE ON SCHEMA %I TO %I;', n.nspname, pg_get_userbyid(p.proowner))
FROM   me, dependents d
JOIN   pg_proc p      ON p.oid = d.id AND d.class = 'pg_proc'::regclass
JOIN   pg_namespace n ON n.oid = p.pronamespace
WHERE  NOT me.super AND pg_get_userbyid(p.proowner) <> me.role AND NOT has_schema_privilege(p.proowner, n.oid, 'CREATE')
UNION
SELECT format('GRANT USAGE ON LANGUAGE %I TO %I;', l.lanname, current_user)
FROM   dependents d
JOIN   pg_proc p     ON p.oid = d.id AND d.class = 'pg_proc'::regclass
JOIN   pg_language l ON l.oid = p.prolang
WHERE  l.lanpltrusted AND NOT has_language_privilege(l.oid, 'USAGE')
UNION
SELECT CASE WHEN n.oid IS NULL
            THEN format('CREATE SCHEMA %I AUTHORIZATION %I;', s.name, current_user)
            ELSE format('GRANT USAGE, CREATE ON SCHEMA %I TO %I;', s.name, current_user) END
FROM   unnest($2::text[]) s(name)
LEFT   JOIN pg_namespace n ON n.nspname = s.name
WHERE  n.oid IS NULL
OR     NOT (has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE'))
UNION
SELECT format('GRANT REFERENCES ON TABLE %s TO %I;', f.confrelid::regclass, current_user)
FROM   pg_constraint f
CROSS  JOIN LATERAL unnest(f.confkey) k(attnum)
WHERE  f.contype = 'f' AND f.conrelid = $1 AND f.confrelid <> $1 AND f.conparentid = 0
AND    NOT has_column_privilege(f.confrelid, k.attnum, 'REFERENCES')
UNION
SELECT format('GRANT SELECT ON TABLE %s TO %I;', f.confrelid::regclass, current_user)
FROM   pg_constraint f
JOIN   pg_constraint p ON p.oid = f.conparentid
CROSS  JOIN LATERAL unnest(f.confkey) k(attnum)
WHERE  f.contype = 'f' AND f.conrelid = $1 AND p.conrelid <> $1
AND    NOT has_column_privilege(f.confrelid, k.attnum, 'SELECT')
UNION
SELECT format('GRANT ALL ON TABLE %s TO %I;', c.oid::regclass, current_user)
FROM   pg_class c
WHERE  c.oid = $1
AND    NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
            AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')
            AND has_table_privilege(c.oid, 'TRIGGER'))
UNION
SELECT format('GRANT USAGE ON TYPE %s TO %I;', a.atttypid::regtype, current_user)
FROM   pg_attribute a
WHERE  a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND NOT has_type_privilege(a.atttypid, 'USAGE')
UNION
SELECT format('GRANT USAGE ON SCHEMA %I TO %I;', n.nspname, current_user)
FROM   pg_namespace n
WHERE  NOT has_schema_privilege(n.oid, 'USAGE')
AND   (n.oid IN (SELECT t.typnamespace FROM pg_type t
                 WHERE  t.oid = ANY (ARRAY(SELECT a.atttypid FROM pg_attribute a
                                           WHERE  a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped)))
       OR n.oid IN (SELECT c.relnamespace FROM pg_constraint f JOIN pg_class c ON c.oid = ANY (ARRAY[f.confrelid, f.conrelid])
                    WHERE  f.oid = ANY (ARRAY(` + catalog.KeysSQL + `)) AND f.contype = 'f' AND $1 IN (f.conrelid, f.confrelid))
       OR n.oid IN (SELECT CASE d.refclassid
                           WHEN 'pg_proc'::regclass      THEN (SELECT pronamespace FROM pg_proc WHERE oid = d.refobjid)
                           WHEN 'pg_type'::regclass      THEN (SELECT typnamespace FROM pg_type WHERE oid = d.refobjid)
                           WHEN 'pg_operator'::regclass  THEN (SELECT oprnamespace FROM pg_operator WHERE oid = d.refobjid)
                           WHEN 'pg_collation'::regclass THEN (SELECT collnamespace FROM pg_collation WHERE oid = d.refobjid)
                           WHEN 'pg_opclass'::regclass   THEN (SELECT opcnamespace FROM pg_opclass WHERE oid = d.refobjid)
                           WHEN 'pg_class'::regclass     THEN (SELECT relnamespace FROM pg_class WHERE oid = d.refobjid)
                           WHEN 'pg_namespace'::regclass THEN d.refobjid END
                    FROM   needs d)
       OR n.oid IN (SELECT c.relnamespace FROM pg_partition_ancestors($1::oid::regclass) a JOIN pg_class c ON c.oid = a.relid))
UNION
SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I;', p.oid::regprocedure, current_user)
FROM   pg_proc p
WHERE  p.oid = ANY (ARRAY(
           SELECT d.refobjid FROM needs d
           WHERE  d.refclassid = 'pg_proc'::regclass
           AND    d.class IN ('pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_class'::regclass, 'pg_trigger'::regclass)))
AND    NOT has_function_privilege(p.oid, 'EXECUTE')
UNION
SELECT format('GRANT CREATE ON TABLESPACE %I TO %I;', t.spcname, current_user)
FROM   pg_tablespace t
WHERE  NOT has_tablespace_privilege(t.oid, 'CREATE')
AND    t.oid IN (SELECT reltablespace FROM pg_class
                 WHERE  oid = ANY ($1::oid || $4::oid[] || ARRAY(SELECT indexrelid FROM pg_index WHERE indrelid = ANY ($1::oid || $4::oid[]))))
ORDER  BY 1`

const reportSQL = `
SELECT pg_total_relation_size(c.oid),
       greatest(c.reltuples, 0)::bigint,
       (SELECT count(*) FROM pg_stat_activity a
        WHERE  a.datname = current_database() AND a.xact_start < now() - interval '1 minute'
        AND    a.pid <> pg_backend_pid())
FROM   pg_class c
WHERE  c.oid = $1`

// report logs what the run will need and what may make it wait.
func (p *Inspector) report(ctx context.Context) error {
	var size, rows, long int64
	if err := p.Pool.QueryRow(ctx, reportSQL, p.Source.OID).Scan(&size, &rows, &long); err != nil {
		return fmt.Errorf("measure %s: %w", p.Source.Name, err)
	}
	p.Log.Info("disk needed at most", "table", p.Source.Name.String(), "bytes", size, "rows", rows)
	if long > 0 {
		p.Log.Warn("transactions older than a minute are open; the swap waits for those that hold snapshots or locks", "transactions", long)
	}
	return nil
}
