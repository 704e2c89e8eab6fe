// Package migrations creates and upgrades the registry's tables.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/tern/v2/migrate"

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
	var exists bool
	if err := conn.QueryRow(ctx, schemaExistsSQL, schema).Scan(&exists); err != nil {
		return fmt.Errorf("look for registry schema %q: %w", schema, err)
	}
	quoted := pgx.Identifier{schema}.Sanitize()
	if !exists {
		// CREATE … IF NOT EXISTS alone would ask for CREATE on the database
		// even where an administrator has prepared the schema.
		if _, err := conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+quoted); err != nil {
			return fmt.Errorf("create registry schema %q: %w", schema, err)
		}
	}
	if exists {
		current, err := upToDate(ctx, conn, schema)
		if err != nil || current {
			return err
		}
	}
	migrator, err := migrate.NewMigrator(ctx, conn, versionTable(schema))
	if err != nil {
		return fmt.Errorf("open registry schema %q: %w", schema, err)
	}
	migrator.Data = map[string]any{"schema": quoted}
	if err := migrator.LoadMigrations(files); err != nil {
		return fmt.Errorf("load registry migrations: %w", err)
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

// Check returns ErrNewerRegistry where Apply would, and changes nothing. The
// registry must exist.
func Check(ctx context.Context, conn *pgx.Conn, schema string) error {
	_, err := upToDate(ctx, conn, schema)
	return err
}

// upToDate reports whether the registry is of this version. It needs no more
// than the right to read it, which is all that most of its users have.
func upToDate(ctx context.Context, conn *pgx.Conn, schema string) (bool, error) {
	var there bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, versionTable(schema)).Scan(&there); err != nil || !there {
		return false, err
	}
	var version int
	if err := conn.QueryRow(ctx, fmt.Sprintf(versionSQL, versionTable(schema))).Scan(&version); err != nil {
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
