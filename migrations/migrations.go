package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"slices"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/tern/v2/migrate"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
)

//go:embed *.sql
var files embed.FS

// ErrNewerRegistry reports that a newer version of repack has written the registry.
// Only that version may continue its jobs. Nothing has changed.
var ErrNewerRegistry = errors.New("registry was made by a newer version of repack: upgrade repack, or name another --registry-schema")

const schemaExistsSQL = `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)`

// Apply creates the registry in schema, or upgrades it. Use a connection for Apply
// alone: tern ends each migration with RESET ALL. Afterwards the session has our
// settings again.
//
// Processes may call Apply at the same time: they wait for each other, with an advisory lock.
// Calling it again is safe. It returns ErrNewerRegistry.
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
	return alone(ctx, conn, schema, func() error { return apply(ctx, conn, schema) })
}

// apply is Apply while no other process is in it.
func apply(ctx context.Context, conn *pgx.Conn, schema string) error {
	if current, err := Current(ctx, conn, schema); err != nil || current { // another process was faster
		return err
	}
	before, err := tables(ctx, conn, schema)
	if err != nil {
		return err
	}
	migrator, err := open(ctx, conn, schema)
	if err != nil {
		return err
	}
	if err := takeBack(ctx, conn, schema, before); err != nil { // before writing to the version table
		return err
	}
	if err := identify(ctx, conn, versionTable(schema)); err != nil {
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
	if err := session.Configure(ctx, conn); err != nil { // the last migration ended with RESET ALL
		return err
	}
	return finish(ctx, conn, schema, before)
}

const (
	lockSQL   = `SELECT pg_advisory_lock($1)`
	unlockSQL = `SELECT pg_advisory_unlock($1)`
)

// longest limits the time for which a process waits for another one. Migrations take milliseconds.
const longest = time.Minute

// alone runs work while no other process is in alone for the same schema. tern's own lock is held
// only while it migrates: without this one, two processes would each undo what the other has done
// to the new tables.
func alone(ctx context.Context, conn *pgx.Conn, schema string, work func() error) error {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte("repack: migrate " + schema)) // never fails
	key := int64(hash.Sum64())
	waiting, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	if _, err := conn.Exec(waiting, lockSQL, key); err != nil {
		return fmt.Errorf("wait for another process that creates or upgrades registry schema %q: %w", schema, err)
	}
	if err := work(); err != nil {
		return errors.Join(err, unlock(context.WithoutCancel(ctx), conn, key))
	}
	return unlock(ctx, conn, key)
}

func unlock(ctx context.Context, conn *pgx.Conn, key int64) error {
	if conn.IsClosed() { // the lock has ended with the session
		return nil
	}
	if _, err := conn.Exec(ctx, unlockSQL, key); err != nil {
		return fmt.Errorf("give back the lock of migrations: %w", err)
	}
	return nil
}

// createSchema creates the schema, and reports whether it existed before.
func createSchema(ctx context.Context, q catalog.Querier, schema string) (exists bool, err error) {
	if err := q.QueryRow(ctx, schemaExistsSQL, schema).Scan(&exists); err != nil {
		return false, fmt.Errorf("look for registry schema %q: %w", schema, err)
	}
	if exists {
		// CREATE SCHEMA IF NOT EXISTS requires CREATE on the database even if an
		// administrator has created the schema already.
		return true, nil
	}
	if _, err := q.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{schema}.Sanitize()); err != nil {
		return false, fmt.Errorf("create registry schema %q: %w", schema, err)
	}
	return false, nil
}

// open loads the migrations. It creates the version table if there is none.
func open(ctx context.Context, conn *pgx.Conn, schema string) (*migrate.Migrator, error) {
	migrator, err := migrate.NewMigrator(ctx, conn, versionTable(schema))
	if err != nil {
		return nil, fmt.Errorf("open registry schema %q: %w", schema, err)
	}
	migrator.Data = map[string]any{
		"schema": pgx.Identifier{schema}.Sanitize(),
		"job":    catalog.Literal(pgx.Identifier{schema, "job"}.Sanitize()),
	}
	if err := migrator.LoadMigrations(files); err != nil {
		return nil, fmt.Errorf("load registry migrations: %w", err)
	}
	return migrator, nil
}

// identify gives a table that has no key a replica identity. If a publication of all tables
// publishes the table, the server changes its rows only then.
func identify(ctx context.Context, q catalog.Querier, table string) error {
	if _, err := q.Exec(ctx, catalog.ReplicaIdentity{Kind: "f"}.SQL(table)); err != nil {
		return fmt.Errorf("give %s a replica identity: %w", table, err)
	}
	return nil
}

// finish reverts what event triggers have done to new tables, the replica identities of
// ours included, and sets these again.
func finish(ctx context.Context, q catalog.Querier, schema string, before []string) error {
	if err := takeBack(ctx, q, schema, before); err != nil {
		return err
	}
	for _, table := range []string{versionTable(schema), pgx.Identifier{schema, "stage_history"}.Sanitize()} {
		if err := identify(ctx, q, table); err != nil {
			return err
		}
	}
	return nil
}

// errRollBack makes Try roll back what it has created.
var errRollBack = errors.New("the registry was made to see whether it can be")

// Try creates the registry and rolls back, to check whether anything prevents it, such
// as an event trigger. The registry must not exist yet; its schema may exist. After an
// error conn may still hold tern's advisory lock, so close it.
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

// try creates the registry inside tx.
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
	return finish(ctx, tx, schema, nil)
}

// tablesSQL finds the relations of a schema by their dependency on it, because pg_class
// has no index by schema.
const tablesSQL = `
SELECT   format('%I.%I', n.nspname, c.relname)
FROM     pg_catalog.pg_namespace n
JOIN     pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND d.refobjid = n.oid
                               AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
CROSS    JOIN LATERAL (SELECT relname, relkind FROM pg_catalog.pg_class WHERE oid = d.objid OFFSET 0) c
WHERE    n.nspname = $1 AND c.relkind = 'r'
ORDER BY 1`

// tables returns the qualified and quoted names of the tables in schema.
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

// takeBack reverts what event triggers have changed on tables that are not in before.
// Tables that existed before may belong to another role on purpose, and are not
// changed.
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

// transactionSQL sets the transaction mode that migrations need.
const transactionSQL = `SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE, NOT DEFERRABLE`

// configure gives the transaction of a migration, which has just begun, our settings.
// The RESET ALL of the migration before has restored the role's settings.
func configure(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, transactionSQL); err != nil {
		return fmt.Errorf("set transaction mode: %w", err)
	}
	return session.Configure(ctx, conn)
}

// versionTable is the qualified and quoted name of tern's version table.
func versionTable(schema string) string { return pgx.Identifier{schema, "schema_version"}.Sanitize() }

// versionSQL reads the number of the last migration.
const versionSQL = `SELECT version FROM %s`

// Current reports whether the registry is of this version. The schema must exist;
// without a version table Current returns false. It changes nothing and needs only the
// privilege to read the registry, because most of its users have no other. It returns
// ErrNewerRegistry.
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
