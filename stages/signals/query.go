package signals

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/repack-go/repack/stages/throttle"
)

// query asks the user's own query.
type query struct {
	server *server
	sql    string
	clock  clock[throttle.Verdict]
}

// Flag implements Signal.
func (q *query) Flag() string { return "--throttle-query" }

// Ready implements Signal.
func (q *query) Ready(ctx context.Context) error {
	const remedy = "give a query whose first column is true, or above zero, if the run must stop"
	_, err := q.read(ctx)
	var pgErr *pgconn.PgError
	var shape *shapeError
	switch {
	case errors.As(err, &pgErr) && pgErr.Code == pgerrcode.QueryCanceled:
		return refused(q.Flag(), fmt.Sprintf("it takes longer than %s, or was cancelled", askFor), remedy+", and that is fast")
	case errors.As(err, &pgErr) && !pgerrcode.IsOperatorIntervention(pgErr.Code):
		return refused(q.Flag(), "the server says: "+pgErr.Message, remedy)
	case errors.As(err, &shape):
		return refused(q.Flag(), shape.Error(), remedy)
	}
	return err
}

// shapeError reports a query that does not return what is expected.
type shapeError struct{ why string }

func (e *shapeError) Error() string { return e.why }

func (q *query) read(ctx context.Context) (verdict throttle.Verdict, err error) {
	var values []any
	err = q.server.ask(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		values, err = firstRow(ctx, conn, q.sql)
		return err
	})
	if err != nil {
		return verdict, fmt.Errorf("%s: %w", q.Flag(), err)
	}
	reason := q.Flag() + " says so"
	if len(values) > 1 && values[1] != nil {
		reason = fmt.Sprint(values[1])
	}
	if len(values) == 0 || values[0] == nil { // it cannot tell
		return throttle.Verdict{Stop: true, Reason: reason + " (no row, or NULL)"}, nil
	}
	stop, err := stops(values[0])
	return throttle.Verdict{Stop: stop, Reason: reason}, err
}

// firstRow returns the values of the first row. The query is described each time, because what it
// reads may have changed.
func firstRow(ctx context.Context, conn *pgx.Conn, sql string) (values []any, err error) {
	rows, err := conn.Query(ctx, sql, pgx.QueryExecModeDescribeExec)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	if rows.Next() {
		if values, err = rows.Values(); err != nil {
			return nil, err
		}
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(rows.FieldDescriptions()) == 0 {
		return nil, &shapeError{"it returns no columns"}
	}
	return values, nil
}

// stops reports whether a value of the first column stops the work.
func stops(value any) (bool, error) {
	switch v := value.(type) {
	case bool:
		return v, nil
	case int16:
		return v > 0, nil
	case int32:
		return v > 0, nil
	case int64:
		return v > 0, nil
	case float32:
		return v > 0, nil
	case float64:
		return v > 0, nil
	case pgtype.Float64Valuer:
		f, err := v.Float64Value()
		return f.Float64 > 0, err
	}
	return false, &shapeError{fmt.Sprintf("its first column is %T, and neither boolean nor a number", value)}
}

// Check implements throttle.Throttler.
func (q *query) Check(ctx context.Context, _ throttle.Work) (throttle.Verdict, error) {
	return q.clock.read(ctx, readEvery, q.read)
}

// Now implements Signal.
func (q *query) Now(ctx context.Context) (string, error) {
	v, err := q.read(ctx)
	return fmt.Sprintf("it stops the run: %t (%s)", v.Stop, v.Reason), err
}
