package pgtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgserver"
)

const (
	// pollInterval is how often a condition that another session brings about is
	// looked at.
	pollInterval = 10 * time.Millisecond
	// objectInUse is the SQLSTATE of a CREATE DATABASE that met a session in its
	// template, and of a DROP ROLE that met one of the role.
	objectInUse = "55006"
)

// pristine is the template that nobody can have changed or be connected to.
const pristine = "template0"

// createDatabase copies a database of server.
func createDatabase(ctx context.Context, server *pgserver.Server, name, template string) error {
	conn, err := pgx.Connect(ctx, server.ConnString(pgserver.Superuser))
	if err != nil {
		return fmt.Errorf("create database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	sql := fmt.Sprintf(`CREATE DATABASE %s TEMPLATE %s`, pgx.Identifier{name}.Sanitize(), pgx.Identifier{template}.Sanitize())
	if server.Version() >= 15 {
		// Not through the log, as is the default, but as older versions do: the
		// template's cache of the catalogs is copied too.
		sql += " STRATEGY file_copy"
	}
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
