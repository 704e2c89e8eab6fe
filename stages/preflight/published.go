package preflight

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/checks"
)

// A publication FOR ALL TABLES also publishes our tables: the registry, the change log, the
// shadow, and the old table after the swap. The server has no means to leave a table out
// before PostgreSQL 19, and no setting of a session that keeps changes from being published.
// Our tables cannot be unlogged either: a crash would empty the registry and the log.
//
// So such a table is refused, unless the user allows it. Then two things must hold. The
// server must let us change rows of our tables, although they are published: each has a
// replica identity from the beginning. And the user must know which tables they are.

// allTablesSQL lists the publications FOR ALL TABLES. computed tells that rows of a table
// with generated columns ($1: stored ones; $2: virtual ones) cannot be changed if its
// replica identity is FULL: from PostgreSQL 18 on, what identifies a row must be published.
const allTablesSQL = `
SELECT   p.pubname::text,
         (p.pubupdate OR p.pubdelete) AND current_setting('server_version_num')::int >= 180000
         AND ($2 OR $1 AND to_jsonb(p) ->> 'pubgencols' = 'n') AS computed
FROM     pg_publication p
WHERE    p.puballtables
ORDER BY p.pubname`

// allTables returns the names of the publications FOR ALL TABLES, and a reason to refuse
// for each that the strategy cannot live with.
func (p *Inspector) allTables(ctx context.Context) (names []string, reasons []checks.Reason, err error) {
	if !p.MayBePublished() {
		return nil, nil, nil
	}
	generated := func(kind string) bool {
		return slices.ContainsFunc(p.Source.Columns, func(c catalog.Column) bool { return c.Generated == kind })
	}
	rows, err := p.Pool.Query(ctx, allTablesSQL, generated("s"), generated("v"))
	if err != nil {
		return nil, nil, fmt.Errorf("list publications of all tables: %w", err)
	}
	var name string
	var computed bool
	_, err = pgx.ForEachRow(rows, []any{&name, &computed}, func() error {
		names = append(names, name)
		if computed && !p.Strategy.WritesThrough() {
			reasons = append(reasons, checks.Reason{
				Object: "publication " + catalog.Quote(name),
				Why: "publishes changes of rows but not generated columns, and until the copy has its key, " +
					"a row of it is identified by all columns: the server would refuse to change such a row",
				Remedy: "use --strategy direct-trigger, whose copy has its key from the beginning",
			})
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list publications of all tables: %w", err)
	}
	return names, reasons, nil
}

// publishedSchemasSQL lists what publishes all tables of a schema. From PostgreSQL 15 on
// there is a catalog of these.
const publishedSchemasSQL = `
SELECT   DISTINCT pg_describe_object(d.classid, d.objid, 0)
FROM     pg_namespace n
JOIN     pg_depend d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid
WHERE    n.nspname = ANY ($1) AND d.classid = to_regclass('pg_catalog.pg_publication_namespace')
ORDER BY 1`

// ofPublishedSchemas returns a reason to refuse for each publication of a schema that was
// prepared for repack's tables. A new schema is in no such publication.
func (p *Inspector) ofPublishedSchemas(ctx context.Context) ([]checks.Reason, error) {
	if p.MayBePublished() {
		return nil, nil
	}
	schemas := append([]string{p.Registry.Schema()}, p.Prepared()...)
	rows, err := p.Pool.Query(ctx, publishedSchemasSQL, schemas)
	if err != nil {
		return nil, fmt.Errorf("look for publications of schemas: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for publications of schemas: %w", err)
	}
	var reasons []checks.Reason
	for _, what := range found {
		reasons = append(reasons, checks.Reason{
			Object: what, Why: "would also publish what repack writes to its own tables there",
			Remedy: "name a schema that is not published with --registry-schema or --shadow-schema, or prepare the subscribers and allow it with --published-ok",
		})
	}
	return reasons, nil
}

// TellPublished logs which of our tables are published, once they exist.
func (p *Inspector) TellPublished(ctx context.Context) error {
	names, _, err := p.allTables(ctx)
	if err != nil || len(names) == 0 {
		return err
	}
	p.Log.Warn("publications FOR ALL TABLES publish repack's own tables too: a PostgreSQL subscriber that lacks one of them stops until it has it",
		"job", p.Job.ID, "publications", names, "registry", p.Registry.Schema(),
		"tables", []string{p.Link.Log.String(), p.Job.ShadowTable().String(), p.Job.OldTable().String()})
	return nil
}
