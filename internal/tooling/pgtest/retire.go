package pgtest

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgserver"
)

// retiredAtOnce is how many databases are dropped together: each DROP DATABASE
// makes a checkpoint and has every session of the server answer, but after one
// the next costs little. Those that are left go with the server's directory.
const retiredAtOnce = 16

// retired are the databases of the shared server whose tests have ended, and which
// are still there.
var retired struct {
	sync.Mutex
	databases []*Database
}

// retire ends all that the test has left on the server and could be in the way of
// others: sessions, prepared transactions and replication slots. The database is
// dropped later, with others, but at once where the server is a test's own, which
// may have no room for more.
func (db *Database) retire(ctx context.Context) error {
	if err := db.release(ctx); err != nil {
		return fmt.Errorf("release database %s: %w", db.Name, err)
	}
	if !isShared(db.server) {
		return dropAll(ctx, db.server, []*Database{db})
	}
	return dropAll(ctx, db.server, addRetired(db))
}

// addRetired returns the databases to be dropped now, if there are any.
func addRetired(db *Database) (due []*Database) {
	retired.Lock()
	defer retired.Unlock()
	retired.databases = append(retired.databases, db)
	if len(retired.databases) < retiredAtOnce {
		return nil
	}
	due, retired.databases = retired.databases, nil
	return due
}

func dropAll(ctx context.Context, server *pgserver.Server, databases []*Database) error {
	if len(databases) == 0 {
		return nil
	}
	conn, err := pgx.Connect(ctx, server.ConnString(pgserver.Superuser))
	if err != nil {
		return fmt.Errorf("drop databases: %w", err)
	}
	defer conn.Close(ctx)
	for _, db := range databases {
		if err := db.drop(ctx, conn); err != nil {
			return fmt.Errorf("drop database %s: %w", db.Name, err)
		}
	}
	return nil
}

// drop removes the database and then its roles: by then they own nothing.
func (db *Database) drop(ctx context.Context, conn *pgx.Conn) error {
	name := pgx.Identifier{db.Name}.Sanitize()
	if err := execRetrying(ctx, conn, fmt.Sprintf(`DROP DATABASE %s WITH (FORCE)`, name)); err != nil {
		return err
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

// releaseSQL writes one statement for each thing that the test has left: a
// prepared transaction, a session, and a replication slot with its process.
const releaseSQL = `
SELECT   statement
FROM    (SELECT 1 AS step, format('ROLLBACK PREPARED %L', gid) AS statement
         FROM   pg_catalog.pg_prepared_xacts
         WHERE  database = current_database()
         UNION ALL
         SELECT 2, format('SELECT pg_catalog.pg_terminate_backend(%s, 10000)', pid)
         FROM   pg_catalog.pg_stat_activity
         WHERE  datname = current_database() AND pid <> pg_catalog.pg_backend_pid()
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
