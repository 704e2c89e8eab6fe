package pgtest

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Querier is what a pool, a connection and a transaction have in common.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// queryTimeout bounds a statement of a test. One that waits for ever, such as for a lock
// that the test itself holds, then fails with its text.
const queryTimeout = 3 * time.Minute

func bounded(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), queryTimeout)
}

// Query returns the one value of the one row that sql yields, and fails the
// test if it yields anything else.
func Query[T any](t testing.TB, conn Querier, sql string, args ...any) T {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		t.Fatalf("pgtest: %v\n%s", err, sql)
	}
	value, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("pgtest: %v\n%s", err, sql)
	}
	return value
}

// Column returns the values of the one column that sql yields.
func Column[T any](t testing.TB, conn Querier, sql string, args ...any) []T {
	t.Helper()
	ctx, cancel := bounded(t)
	defer cancel()
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		t.Fatalf("pgtest: %v\n%s", err, sql)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("pgtest: %v\n%s", err, sql)
	}
	return values
}

// Null is how QueryString writes NULL.
const Null = "<NULL>"

// QueryString returns, as the server writes it, the one value of the one row
// that sql yields as the superuser, whatever its type.
func (db *Database) QueryString(t testing.TB, sql string, args ...any) string {
	t.Helper()
	args = append([]any{pgx.QueryResultFormats{pgx.TextFormatCode}}, args...)
	value := Query[*string](t, db.Pool, sql, args...)
	if value == nil {
		return Null
	}
	return *value
}
