// Package migrations creates and upgrades the registry's tables.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/tern/v2/migrate"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
)

//go:embed *.sql
var files embed.FS

// ErrNewerRegistry reports that the registry was written by a newer version of
// the tool, which alone may go on with its jobs.
var ErrNewerRegistry = errors.New("registry was made by a newer version of repack: upgrade repack, or name another --registry-schema")

const schemaExistsSQL = `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)`

// Apply creates the registry in schema, or upgrades it, on a connection of its
// own: tern ends each migration with RESET ALL. Two processes may call it at
// the same time; tern holds an advisory lock. It returns ErrNewerRegistry.
func Apply(ctx context.Context, conn *pgx.Conn, schema string) error {
	exists, err := createSchema(ctx, conn, schema)
	if err != nil {
		return err
	}
	if exists {
		current, err := Current(ctx, conn, schema)
		if err != nil || current {
			return err
		}
	}
	before, err := tables(ctx, conn, schema)
	if err != nil {
		return err
	}
	migrator, err := open(ctx, conn, schema)
	if err != nil {
		return err
	}
	if err := takeBack(ctx, conn, schema, before); err != nil { // the table of the version, which is written to
		return err
	}
	version, err := migrator.GetCurrentVersion(ctx)
	if err != nil {
		return fmt.Errorf("read registry version: %w", err)
	}
	if int(version) > len(migrator.Migrations) {
		return ErrNewerRegistry
	}
	var configureErr error
	migrator.OnStart = func(int32, string, string, string) {
		configureErr = errors.Join(configureErr, configure(ctx, conn))
	}
	if err := migrator.Migrate(ctx); err != nil {
		return fmt.Errorf("migrate registry schema %q: %w", schema, errors.Join(configureErr, err))
	}
	if err := session.Configure(ctx, conn); err != nil { // the last migration has ended with RESET ALL
		return err
	}
	return takeBack(ctx, conn, schema, before)
}

// createSchema creates the schema, and says whether it was there before.
func createSchema(ctx context.Context, q catalog.Querier, schema string) (exists bool, err error) {
	if err := q.QueryRow(ctx, schemaExistsSQL, schema).Scan(&exists); err != nil {
		return false, fmt.Errorf("look for registry schema %q: %w", schema, err)
	}
	if exists {
		// CREATE … IF NOT EXISTS alone would ask for CREATE on the database
		// even where an administrator has prepared the schema.
		return true, nil
	}
	if _, err := q.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{schema}.Sanitize()); err != nil {
		return false, fmt.Errorf("create registry schema %q: %w", schema, err)
	}
	return false, nil
}

// open makes the version table where it is not there.
func open(ctx context.Context, conn *pgx.Conn, schema string) (*migrate.Migrator, error) {
	migrator, err := migrate.NewMigrator(ctx, conn, versionTable(schema))
	if err != nil {
		return nil, fmt.Errorf("open registry schema %q: %w", schema, err)
	}
	migrator.Data = map[string]any{"schema": pgx.Identifier{schema}.Sanitize()}
	if err := migrator.LoadMigrations(files); err != nil {
		return nil, fmt.Errorf("load registry migrations: %w", err)
	}
	return migrator, nil
}

// errRollBack rolls back what Try has made.
var errRollBack = errors.New("the registry was made to see whether it can be")

// Try creates the registry and takes that back, to see whether anything is in the
// way, such as an event trigger. There must be none yet; its schema may be there.
// After an error conn may hold tern's advisory lock, and has to be closed.
func Try(ctx context.Context, conn *pgx.Conn, schema string) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := try(ctx, tx, schema); err != nil {
			return err
		}
		return errRollBack
	})
	if errors.Is(err, errRollBack) {
		return nil
	}
	return err
}

func try(ctx context.Context, tx pgx.Tx, schema string) error {
	if _, err := createSchema(ctx, tx, schema); err != nil {
		return err
	}
	migrator, err := open(ctx, tx.Conn(), schema)
	if err != nil {
		return err
	}
	if err := takeBack(ctx, tx, schema, nil); err != nil {
		return err
	}
	for _, m := range migrator.Migrations {
		if _, err := tx.Exec(ctx, m.UpSQL); err != nil {
			return fmt.Errorf("migrate registry schema %q: %w", schema, err)
		}
	}
	return takeBack(ctx, tx, schema, nil)
}

// What is in a schema depends on it; pg_class has no index by the schema.
const tablesSQL = `
SELECT   format('%I.%I', n.nspname, c.relname)
FROM     pg_catalog.pg_namespace n
JOIN     pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND d.refobjid = n.oid
                               AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
CROSS    JOIN LATERAL (SELECT relname, relkind FROM pg_catalog.pg_class WHERE oid = d.objid OFFSET 0) c
WHERE    n.nspname = $1 AND c.relkind = 'r'
ORDER BY 1`

func tables(ctx context.Context, q catalog.Querier, schema string) ([]string, error) {
	rows, err := q.Query(ctx, tablesSQL, schema)
	if err != nil {
		return nil, fmt.Errorf("list tables of the registry: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list tables of the registry: %w", err)
	}
	return names, nil
}

// takeBack undoes what event triggers have done to the tables that were not there
// before. Those that were may belong to another role, as it was set up.
func takeBack(ctx context.Context, q catalog.Querier, schema string, before []string) error {
	now, err := tables(ctx, q, schema)
	if err != nil {
		return err
	}
	for _, table := range now {
		if slices.Contains(before, table) {
			continue
		}
		if err := catalog.TakeBack(ctx, q, catalog.Made{Kind: "TABLE", Name: table}); err != nil {
			return err
		}
	}
	return nil
}

const transactionSQL = `SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE`

// configure makes a migration's transaction, which has just begun, one of ours:
// the RESET ALL of the migration before has given it the role's settings.
func configure(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, transactionSQL); err != nil {
		return fmt.Errorf("set transaction mode: %w", err)
	}
	return session.Configure(ctx, conn)
}

func versionTable(schema string) string { return pgx.Identifier{schema, "schema_version"}.Sanitize() }

const versionSQL = `SELECT version FROM %s`

// Current reports whether the registry, which must exist, is of this version. It
// needs no more than the right to read it, which is all that most of its users have,
// and changes nothing. It returns ErrNewerRegistry.
func Current(ctx context.Context, conn *pgx.Conn, schema string) (bool, error) {
	var version int
	err := conn.QueryRow(ctx, fmt.Sprintf(versionSQL, versionTable(schema))).Scan(&version)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.UndefinedTable {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read registry version: %w", err)
	}
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return false, fmt.Errorf("list registry migrations: %w", err)
	}
	if version > len(names) {
		return false, ErrNewerRegistry
	}
	return version == len(names), nil
}
