package pgtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/pgserver"
)

const (
	// pollInterval is how often a condition that another session brings about is
	// looked at.
	pollInterval = 10 * time.Millisecond
	// objectInUse is the SQLSTATE of a CREATE DATABASE that met a session in its
	// template, and of a DROP ROLE that met one of the role.
	objectInUse = "55006"
)

// create makes the database from template0, which nobody can have changed or be
// connected to.
func (db *Database) create(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, db.server.ConnString(pgserver.Superuser))
	if err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	sql := fmt.Sprintf(`CREATE DATABASE %s TEMPLATE template0`, pgx.Identifier{db.Name}.Sanitize())
	if err := execRetrying(ctx, conn, sql); err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	return nil
}

// execRetrying runs sql again while what it needs is in use, until ctx ends.
func execRetrying(ctx context.Context, conn *pgx.Conn, sql string) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		_, err := conn.Exec(ctx, sql)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != objectInUse {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

// drop removes the database and then its roles: by then they own nothing.
func (db *Database) drop(ctx context.Context) error {
	if err := db.release(ctx); err != nil {
		return fmt.Errorf("release database %s: %w", db.Name, err)
	}
	conn, err := pgx.Connect(ctx, db.server.ConnString(pgserver.Superuser))
	if err != nil {
		return fmt.Errorf("drop database: %w", err)
	}
	defer conn.Close(ctx)
	name := pgx.Identifier{db.Name}.Sanitize()
	if err := execRetrying(ctx, conn, fmt.Sprintf(`DROP DATABASE %s WITH (FORCE)`, name)); err != nil {
		return fmt.Errorf("drop database: %w", err)
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, role := range db.roles {
		name := pgx.Identifier{role}.Sanitize()
		if _, err := conn.Exec(ctx, fmt.Sprintf(`DROP OWNED BY %[1]s; DROP ROLE %[1]s`, name)); err != nil {
			return fmt.Errorf("drop role: %w", err)
		}
	}
	return nil
}

// releaseSQL writes one statement for each thing that FORCE does not cover: a
// prepared transaction, and a replication slot with its process.
//
// https://www.postgresql.org/docs/current/sql-dropdatabase.html
const releaseSQL = `
SELECT   statement
FROM    (SELECT 1 AS step, format('ROLLBACK PREPARED %L', gid) AS statement
         FROM   pg_catalog.pg_prepared_xacts
         WHERE  database = current_database()
         UNION ALL
         SELECT 2, format('SELECT pg_catalog.pg_terminate_backend(%s, 10000)', active_pid)
         FROM   pg_catalog.pg_replication_slots
         WHERE  database = current_database() AND active_pid IS NOT NULL
         UNION ALL
         SELECT 3, format('SELECT pg_catalog.pg_drop_replication_slot(%L)', slot_name)
         FROM   pg_catalog.pg_replication_slots
         WHERE  database = current_database() AND NOT temporary) AS steps
ORDER BY step, statement`

// release connects to the database itself: a prepared transaction can only be
// ended from there.
func (db *Database) release(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, db.DSN)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, releaseSQL)
	if err != nil {
		return err
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}
