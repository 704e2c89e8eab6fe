package tests

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// The tests' dialect for "the same table twice": inApp and inControl write one
// statement for the tables that the tool works on, and for their twins, which it never
// sees. @ stands for a schema and its dot, @@ for another one.
var (
	inApp     = strings.NewReplacer("@@", "app_other.", "@", "app.")
	inControl = strings.NewReplacer("@@", "control_other.", "@", "control.")
)

// twinned is a statement for app, and the same for control.
func twinned(sql string) [2]string { return [2]string{inApp.Replace(sql), inControl.Replace(sql)} }

// twins makes the schemas, and runs DDL once in app and once in control.
func twins(t *testing.T, db *pgtest.Database, ddl ...string) {
	t.Helper()
	db.Exec(t, `CREATE SCHEMA app; CREATE SCHEMA app_other; CREATE SCHEMA control; CREATE SCHEMA control_other`)
	both(t, db.Pool, ddl...)
}

// keepCopy makes control.t a copy of a table's rows, for a test that changes none.
func keepCopy(t *testing.T, db *pgtest.Database, table string) {
	t.Helper()
	db.Exec(t, `CREATE SCHEMA control; CREATE TABLE control.t AS TABLE `+table)
}

// controlDatabase is a database that gets the same statements as the one that the tool
// works on, and that the tool never sees: for tests that compare whole schemas, in which
// twins have another name.
func controlDatabase(t *testing.T, statements ...string) *pgtest.Database {
	t.Helper()
	db := pgtest.New(t)
	for _, sql := range statements {
		db.Exec(t, sql)
	}
	return db
}

// both runs one statement on app, then on control. It is what the application
// does, so it must not fail.
func both(t *testing.T, conn execer, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		for _, sql := range twinned(statement) {
			mustExec(t, conn, sql)
		}
	}
}

// bothRefused sends a statement that a constraint forbids in both places, under
// the same name.
func bothRefused(t *testing.T, conn execer, sql string) {
	t.Helper()
	refusedBy(t, conn, sql, func(constraint string) string { return constraint })
}

// refusedBy is bothRefused where name returns the application's name for the constraint
// that the message names.
func refusedBy(t *testing.T, conn execer, sql string, name func(constraint string) string) {
	t.Helper()
	var violated []string
	for _, sql := range twinned(sql) {
		_, err := conn.Exec(testContext(t), sql)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) {
			t.Errorf("%s: %v, want a violation", sql, err)
			return
		}
		violated = append(violated, pgErr.Code+" "+pgErr.TableName+" "+name(pgErr.ConstraintName))
	}
	if violated[0] != violated[1] {
		t.Errorf("%s: violates %s, want %s", sql, violated[0], violated[1])
	}
}

// bothIn runs statements in one transaction of that isolation level.
func bothIn(t *testing.T, db *pgtest.Database, isolation pgx.TxIsoLevel, statements ...string) {
	t.Helper()
	tx, err := db.Pool.BeginTx(testContext(t), pgx.TxOptions{IsoLevel: isolation})
	if err != nil {
		t.Fatalf("begin: %v", err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) // a failed test gives the connection back
	both(t, tx, statements...)
	commit(t, tx)
}

// alike compares tables of app with their twins.
func alike(t *testing.T, db *pgtest.Database, tables ...string) {
	t.Helper()
	for _, table := range tables {
		db.EqualTables(t, "app."+table, "control."+table)
	}
}

// differsSQL counts the rows that app.%[1]s and control.%[1]s do not share.
const differsSQL = `
SELECT count(*)
FROM   ((TABLE app.%[1]s EXCEPT ALL TABLE control.%[1]s)
        UNION ALL
        (TABLE control.%[1]s EXCEPT ALL TABLE app.%[1]s)) AS d`

// alikeIn compares a table with its twin as a transaction sees them.
func alikeIn(t *testing.T, tx pgx.Tx, table string) {
	t.Helper()
	if n := pgtest.Query[int64](t, tx, fmt.Sprintf(differsSQL, table)); n > 0 {
		t.Errorf("a transaction sees %d rows of %s other than it should", n, table)
	}
}
