package signals

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/size"
	"github.com/repack-go/repack/stages/throttle"
)

// slots stops work while a replication slot retains too much write-ahead log.
type slots struct {
	server *server
	limit  int64
	clock  clock[[]slot]
}

type slot struct {
	Name     string
	Retained int64
	Status   string
}

const slotsSQL = `
SELECT   slot_name::text                                                                AS name,
         coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn), 0)::bigint AS retained,
         coalesce(wal_status, '')                                                       AS status
FROM     pg_replication_slots
WHERE    restart_lsn IS NOT NULL OR wal_status IS NOT NULL
ORDER BY retained DESC, name`

// Flag implements Signal.
func (s *slots) Flag() string { return "--max-slot-retained" }

// Ready implements Signal. Every role may read slots.
func (s *slots) Ready(context.Context) error { return nil }

func (s *slots) read(ctx context.Context) (list []slot, err error) {
	err = s.server.ask(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, slotsSQL)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByName[slot])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Flag(), err)
	}
	return list, nil
}

// Check implements throttle.Throttler.
func (s *slots) Check(ctx context.Context, work throttle.Work) (throttle.Verdict, error) {
	if work == throttle.Comparing {
		return throttle.Verdict{}, nil
	}
	list, err := s.clock.read(ctx, lsnEvery, s.read)
	if err != nil {
		return throttle.Verdict{}, err
	}
	return s.verdict(list), nil
}

func (s *slots) verdict(list []slot) (v throttle.Verdict) {
	for _, l := range list {
		v.Utilisation = max(v.Utilisation, float64(l.Retained)/float64(s.limit))
		switch {
		case v.Stop:
		case l.Retained > s.limit:
			v.Stop, v.Reason = true, fmt.Sprintf("slot %s retains %s of WAL, limit %s", l.Name, size.Text(l.Retained), size.Text(s.limit))
		case l.Status == "unreserved" || l.Status == "lost":
			v.Stop, v.Reason = true, fmt.Sprintf("slot %s is %s", l.Name, l.Status)
		}
	}
	return v
}

// Now implements Signal.
func (s *slots) Now(ctx context.Context) (string, error) {
	list, err := s.clock.read(ctx, readEvery, s.read)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "no slot retains WAL", nil
	}
	return fmt.Sprintf("slot %s retains %s of WAL, of %d slots", list[0].Name, size.Text(list[0].Retained), len(list)), nil
}
