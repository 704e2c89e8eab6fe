package signals

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/repack-go/repack/stages/throttle"
)

// walRate stops work while the server has written more than the limit on average. It looks back at
// most for walWindow, so that a rest is not saved up for long.
type walRate struct {
	server *server
	limit  int64 // bytes a second

	mu   sync.Mutex
	ring []position // the newest last
}

const (
	walWindow = 10 * time.Second
	walEvery  = 200 * time.Millisecond
)

func (w *walRate) Ready(context.Context) error { return nil }

// rate returns the bytes a second since the beginning of the window.
func (w *walRate) rate(ctx context.Context) (float64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if n := len(w.ring); n == 0 || now.Sub(w.ring[n-1].at) >= walEvery {
		var current int64
		err := w.server.ask(ctx, func(ctx context.Context, conn *pgx.Conn) error { return conn.QueryRow(ctx, currentSQL).Scan(&current) })
		if err != nil {
			return 0, fmt.Errorf("--max-wal-rate cannot be read: %w", err)
		}
		w.ring = append(w.ring, position{now, current})
	}
	for len(w.ring) > 2 && now.Sub(w.ring[1].at) > walWindow {
		w.ring = w.ring[1:]
	}
	first, last := w.ring[0], w.ring[len(w.ring)-1]
	return float64(last.lsn-first.lsn) / max(now.Sub(first.at).Seconds(), 1), nil
}

func (w *walRate) Check(ctx context.Context, work throttle.Work) (throttle.Verdict, error) {
	if work == throttle.Comparing {
		return throttle.Verdict{}, nil
	}
	rate, err := w.rate(ctx)
	if err != nil {
		return throttle.Verdict{}, err
	}
	verdict := throttle.Verdict{Utilisation: rate / float64(w.limit)}
	if rate > float64(w.limit) {
		verdict.Stop, verdict.Reason = true, fmt.Sprintf("the server writes %.0f bytes of WAL a second, limit %d", rate, w.limit)
	}
	return verdict, nil
}

func (w *walRate) Reading(ctx context.Context) (string, error) {
	if _, err := w.rate(ctx); err != nil {
		return "", err
	}
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(readEvery):
	}
	rate, err := w.rate(ctx)
	return fmt.Sprintf("the server writes %.0f bytes of WAL a second", rate), err
}

// active stops work while more other sessions are at work.
type active struct {
	server *server
	limit  int
	clock  clock[int]
}

const activeSQL = `
SELECT count(*)::int
FROM   pg_stat_activity
WHERE  datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
AND    state IN ('active', 'fastpath function call')
AND    coalesce(wait_event_type, '') NOT IN ('Lock', 'Client', 'Timeout', 'Activity')
AND    application_name <> current_setting('application_name')`

func (a *active) Ready(ctx context.Context) error {
	return mayRead(ctx, a.server, "--max-active", "pg_read_all_stats", "the role does not see what other sessions do", "")
}

func (a *active) read(ctx context.Context) (n int, err error) {
	err = a.server.ask(ctx, func(ctx context.Context, conn *pgx.Conn) error { return conn.QueryRow(ctx, activeSQL).Scan(&n) })
	if err != nil {
		return 0, fmt.Errorf("--max-active cannot be read: %w", err)
	}
	return n, nil
}

func (a *active) Check(ctx context.Context, _ throttle.Work) (throttle.Verdict, error) {
	n, err := a.clock.read(ctx, readEvery, a.read)
	if err != nil {
		return throttle.Verdict{}, err
	}
	return throttle.Verdict{Stop: n > a.limit, Reason: fmt.Sprintf("%d other sessions are at work, limit %d", n, a.limit), Utilisation: float64(n) / float64(a.limit)}, nil
}

func (a *active) Reading(ctx context.Context) (string, error) {
	n, err := a.clock.read(ctx, readEvery, a.read)
	return fmt.Sprintf("%d other sessions are at work", n), err
}

// query asks the user's own query.
type query struct {
	server *server
	sql    string
	clock  clock[throttle.Verdict]
}

func (q *query) Ready(ctx context.Context) error {
	_, err := q.read(ctx)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && !pgerrcode.IsOperatorIntervention(pgErr.Code) {
		return refused("--throttle-query", "the server says: "+pgErr.Message, "give a query whose first column is true, or above zero, if the run must stop")
	}
	var shape *shapeError
	if errors.As(err, &shape) {
		return refused("--throttle-query", shape.Error(), "give a query whose first column is true, or above zero, if the run must stop")
	}
	return err
}

// shapeError reports a query that does not return what is expected.
type shapeError struct{ why string }

func (e *shapeError) Error() string { return e.why }

func (q *query) read(ctx context.Context) (verdict throttle.Verdict, err error) {
	var values []any
	err = q.server.ask(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, q.sql)
		if err != nil {
			return err
		}
		defer rows.Close()
		if rows.Next() {
			if values, err = rows.Values(); err != nil {
				return err
			}
		}
		rows.Close()
		return rows.Err()
	})
	if err != nil {
		return verdict, fmt.Errorf("--throttle-query: %w", err)
	}
	reason := "--throttle-query"
	if len(values) > 1 && values[1] != nil {
		reason = fmt.Sprint(values[1])
	}
	if len(values) == 0 || values[0] == nil { // it cannot tell
		return throttle.Verdict{Stop: true, Reason: reason + " (no row, or NULL)"}, nil
	}
	stop, err := stops(values[0])
	return throttle.Verdict{Stop: stop, Reason: reason}, err
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
	case interface {
		Float64Value() (f pgtype.Float8, err error)
	}:
		f, err := v.Float64Value()
		return f.Float64 > 0, err
	}
	return false, &shapeError{fmt.Sprintf("its first column is %T, and neither boolean nor a number", value)}
}

func (q *query) Check(ctx context.Context, _ throttle.Work) (throttle.Verdict, error) {
	return q.clock.read(ctx, readEvery, q.read)
}

func (q *query) Reading(ctx context.Context) (string, error) {
	v, err := q.read(ctx)
	return fmt.Sprintf("--throttle-query stops the run: %t (%s)", v.Stop, v.Reason), err
}
