package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
)

// ExecAll sends statements together, in one round trip. The error names the first of them,
// and the server's error which one has failed; see also ExecEach.
func ExecAll(ctx context.Context, q catalog.Querier, statements []string) error {
	if len(statements) == 0 {
		return nil
	}
	if _, err := q.Exec(ctx, strings.Join(statements, ";\n")); err != nil {
		return fmt.Errorf("%s: %w", beginning(statements), err)
	}
	return nil
}

// DoAll is ExecAll for statements that may wait for locks: see lock.Tx.Do.
func DoAll(ctx context.Context, tx *lock.Tx, statements []string) error {
	if len(statements) == 0 {
		return nil
	}
	if err := tx.Do(ctx, strings.Join(statements, ";\n")); err != nil {
		return fmt.Errorf("%s: %w", beginning(statements), AlteredMeanwhile(err))
	}
	return nil
}

// beginning returns the first line of statements.
func beginning(statements []string) string {
	first, _, more := strings.Cut(statements[0], "\n")
	if more || len(statements) > 1 {
		first += " …"
	}
	return first
}

// savepoint is the savepoint that ExecEach rolls back to.
const savepoint = "tried"

// ExecEach is ExecAll in a subtransaction. If that fails, it runs the statements again
// one by one, so that the error names the statement that fails.
func ExecEach(ctx context.Context, tx pgx.Tx, statements []string) error {
	if len(statements) == 0 {
		return nil
	}
	all := slices.Concat([]string{"SAVEPOINT " + savepoint}, statements, []string{"RELEASE SAVEPOINT " + savepoint})
	_, err := tx.Exec(ctx, strings.Join(all, ";\n"))
	if err == nil {
		return nil
	}
	if _, undoErr := tx.Exec(ctx, "ROLLBACK TO SAVEPOINT "+savepoint); undoErr != nil {
		return errors.Join(err, undoErr)
	}
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			_, undoErr := tx.Exec(ctx, "ROLLBACK TO SAVEPOINT "+savepoint+"; RELEASE SAVEPOINT "+savepoint)
			return errors.Join(fmt.Errorf("%s: %w", sql, err), undoErr)
		}
	}
	_, err = tx.Exec(ctx, "RELEASE SAVEPOINT "+savepoint)
	return err
}

// RoomFor runs lock.Tx.Room for ACCESS EXCLUSIVE. It includes the job's own tables: no
// application reads them, but a pg_dump locks all tables.
func RoomFor(ctx context.Context, tx *lock.Tx, relations ...string) error {
	wants := make([]lock.Want, len(relations))
	for i, name := range relations {
		wants[i] = lock.Want{Relation: name, Mode: "ACCESS EXCLUSIVE"}
	}
	return tx.Room(ctx, wants...)
}

// RoomForOurs is RoomFor as an action, for the job's own tables.
func RoomForOurs(tables ...catalog.Name) Action {
	return Unplanned(func(ctx context.Context, tx *lock.Tx) error {
		relations := make([]string, len(tables))
		for i, table := range tables {
			relations[i] = table.String()
		}
		return RoomFor(ctx, tx, relations...)
	})
}

// CurrentXIDSQL reads the ID of the transaction.
const CurrentXIDSQL = `SELECT pg_current_xact_id()::text`

const oidOfSQL = `SELECT $1::text::regclass::oid`

// OIDOf returns the OID of a relation.
func OIDOf(ctx context.Context, q catalog.Querier, relation catalog.Name) (oid uint32, err error) {
	if err := q.QueryRow(ctx, oidOfSQL, relation.String()).Scan(&oid); err != nil {
		return 0, fmt.Errorf("look up %s: %w", relation, err)
	}
	return oid, nil
}

// DropSQL returns the statement that drops an object if it exists.
func DropSQL(kind, object string) string { return fmt.Sprintf("DROP %s IF EXISTS %s", kind, object) }

// Drop drops an object if it exists.
func Drop(ctx context.Context, q catalog.Querier, kind, object string) error {
	if _, err := q.Exec(ctx, DropSQL(kind, object)); err != nil {
		return fmt.Errorf("drop %s %s: %w", kind, object, err)
	}
	return nil
}

// ReadRangesSQL makes the server read a range of TIDs by a TID range scan, not by a scan
// of the whole table.
const ReadRangesSQL = `SET LOCAL enable_seqscan = off`

// MemorySQL gives builds and sorts in the same transaction the memory that was asked for.
func MemorySQL(maintenanceWorkMem string) []string {
	if maintenanceWorkMem == "" {
		return nil
	}
	return []string{"SET LOCAL maintenance_work_mem = " + catalog.Literal(maintenanceWorkMem)}
}
