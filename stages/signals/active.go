package signals

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/stages/throttle"
)

// active stops work while more other sessions are at work.
type active struct {
	server *server
	limit  int
	clock  clock[int]
}

// Flag implements Signal.
func (a *active) Flag() string { return "--max-active" }

// Ready implements Signal.
func (a *active) Ready(ctx context.Context) error {
	return mayRead(ctx, a.server, a.Flag(), "pg_read_all_stats", "the role does not see what other sessions do", "")
}

func (a *active) read(ctx context.Context) (n int, err error) {
	hidden := 0
	err = a.server.ask(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		n, hidden, err = throttle.OthersAtWork(ctx, conn)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", a.Flag(), err)
	}
	if hidden > 0 && n <= a.limit {
		return 0, fmt.Errorf("%s: the role does not see what %d sessions do (pg_read_all_stats)", a.Flag(), hidden)
	}
	return n, nil
}

// Check implements throttle.Throttler.
func (a *active) Check(ctx context.Context, _ throttle.Work) (throttle.Verdict, error) {
	n, err := a.clock.read(ctx, readEvery, a.read)
	if err != nil {
		return throttle.Verdict{}, err
	}
	return throttle.Verdict{
		Stop: n > a.limit, Reason: fmt.Sprintf("other sessions at work: %d, limit %d", n, a.limit),
		Utilisation: float64(n) / float64(a.limit),
	}, nil
}

// Now implements Signal.
func (a *active) Now(ctx context.Context) (string, error) {
	if err := a.Ready(ctx); err != nil {
		return "", err
	}
	n, err := a.clock.read(ctx, readEvery, a.read)
	return fmt.Sprintf("other sessions at work: %d", n), err
}
