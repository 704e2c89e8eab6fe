package signals

import (
	"context"
	"fmt"

	"github.com/repack-go/repack/internal/size"
	"github.com/repack-go/repack/stages/throttle"
)

// diskLimit stops work while the database and the write-ahead log take too much together.
type diskLimit struct {
	server *server
	limit  int64
	clock  clock[int64]
}

const takenSQL = `
SELECT pg_database_size(current_database())
       + coalesce((SELECT sum(size) FROM pg_ls_waldir()), 0)::bigint`

// Flag implements Signal.
func (d *diskLimit) Flag() string { return "--disk-limit" }

// Ready implements Signal.
func (d *diskLimit) Ready(ctx context.Context) error {
	return mayRead(ctx, d.server, d.Flag(), "pg_monitor", "the role may not read the size of the write-ahead log", "")
}

func (d *diskLimit) read(ctx context.Context) (taken int64, err error) {
	if taken, err = one[int64](ctx, d.server, takenSQL); err != nil {
		return 0, fmt.Errorf("%s: %w", d.Flag(), err)
	}
	return taken, nil
}

// Check implements throttle.Throttler.
func (d *diskLimit) Check(ctx context.Context, work throttle.Work) (throttle.Verdict, error) {
	if work == throttle.Comparing {
		return throttle.Verdict{}, nil
	}
	taken, err := d.clock.read(ctx, rarely, d.read)
	if err != nil {
		return throttle.Verdict{}, err
	}
	return throttle.Verdict{
		Stop: taken > d.limit, Reason: fmt.Sprintf("database and WAL take %s, limit %s", size.Text(taken), size.Text(d.limit)),
		Utilisation: float64(taken) / float64(d.limit),
	}, nil
}

// Now implements Signal.
func (d *diskLimit) Now(ctx context.Context) (string, error) {
	if err := d.Ready(ctx); err != nil {
		return "", err
	}
	taken, err := d.clock.read(ctx, rarely, d.read)
	return fmt.Sprintf("database and WAL take %s", size.Text(taken)), err
}
