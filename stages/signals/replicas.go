package signals

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/stages/throttle"
)

// lag stops work while a standby is too far behind. replay_lag of pg_stat_replication does not
// grow while a standby replays nothing, so the positions are compared with those that the server
// has had: the lag is the age of the last position that the standby has replayed.
type lag struct {
	server *server
	limit  time.Duration
	ignore []string
	expect int

	clock clock[[]standby]
	ring  []position // the newest last
}

type position struct {
	at  time.Time
	lsn int64
}

// standby is a connected standby, or a subscriber.
type standby struct {
	Name     string
	Replayed *int64
	Current  int64
	behind   time.Duration
}

const standbysSQL = `
SELECT   r.application_name::text                            AS name,
         pg_wal_lsn_diff(r.replay_lsn, '0/0')::bigint        AS replayed,
         pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS current
FROM     pg_stat_replication r
WHERE    r.state IN ('streaming', 'catchup') AND r.application_name <> ALL ($1::text[])
ORDER BY r.application_name, r.pid`

const currentSQL = `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint`

func (l *lag) Ready(ctx context.Context) error {
	return mayRead(ctx, l.server, "--max-replica-lag", "pg_read_all_stats", "the role sees standbys, but not how far they are", "")
}

// read reads the standbys and notes the present position.
func (l *lag) read(ctx context.Context) (list []standby, err error) {
	var current int64
	err = l.server.ask(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		if err := conn.QueryRow(ctx, currentSQL).Scan(&current); err != nil {
			return err
		}
		rows, err := conn.Query(ctx, standbysSQL, append([]string{}, l.ignore...))
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByNameLax[standby])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("--max-replica-lag cannot be read: %w", err)
	}
	now := time.Now()
	l.ring = append(l.ring, position{now, current})
	for i := range list {
		if list[i].Replayed == nil {
			return nil, fmt.Errorf("--max-replica-lag cannot be read: the position of %s is not known", list[i].Name)
		}
		list[i].behind = behind(l.ring, *list[i].Replayed, now)
	}
	l.ring = slices.DeleteFunc(l.ring, func(p position) bool { return now.Sub(p.at) > max(2*l.limit, time.Minute) })
	return list, nil
}

// behind is the time since the server was at the position that a standby has replayed. A standby
// that has replayed everything is not behind.
func behind(ring []position, replayed int64, now time.Time) time.Duration {
	passed := slices.IndexFunc(ring, func(p position) bool { return p.lsn > replayed })
	switch {
	case passed < 0:
		return 0
	case passed == 0: // it was there before we looked for the first time
		return now.Sub(ring[0].at)
	}
	return now.Sub(ring[passed-1].at)
}

func (l *lag) Check(ctx context.Context, work throttle.Work) (throttle.Verdict, error) {
	if work == throttle.Comparing {
		return throttle.Verdict{}, nil
	}
	list, err := l.clock.read(ctx, readEvery, l.read)
	if err != nil {
		return throttle.Verdict{}, err
	}
	if len(list) < l.expect {
		return throttle.Verdict{Stop: true, Reason: fmt.Sprintf("%d replicas are connected, %d are expected", len(list), l.expect)}, nil
	}
	verdict := throttle.Verdict{}
	for _, s := range list {
		if l.limit <= 0 {
			continue
		}
		verdict.Utilisation = max(verdict.Utilisation, float64(s.behind)/float64(l.limit))
		if s.behind > l.limit {
			return throttle.Verdict{Stop: true, Reason: fmt.Sprintf("replica %s is %s behind, limit %s", s.Name, s.behind.Round(time.Second), l.limit), Utilisation: verdict.Utilisation}, nil
		}
	}
	return verdict, nil
}

func (l *lag) Reading(ctx context.Context) (string, error) {
	list, err := l.clock.read(ctx, readEvery, l.read)
	if err != nil || len(list) == 0 {
		return "no replica is connected", err
	}
	worst := slices.MaxFunc(list, func(a, b standby) int { return int(a.behind - b.behind) })
	bytes := worst.Current - *worst.Replayed
	return fmt.Sprintf("replica %s is %d bytes behind", worst.Name, max(bytes, 0)), nil
}

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
SELECT   slot_name::text                                                            AS name,
         coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint    AS retained,
         coalesce(wal_status, '')                                                   AS status
FROM     pg_replication_slots
WHERE    restart_lsn IS NOT NULL OR wal_status IS NOT NULL
ORDER BY 2 DESC, 1`

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
		return nil, fmt.Errorf("--max-slot-retained cannot be read: %w", err)
	}
	return list, nil
}

func (s *slots) Check(ctx context.Context, work throttle.Work) (throttle.Verdict, error) {
	if work == throttle.Comparing {
		return throttle.Verdict{}, nil
	}
	list, err := s.clock.read(ctx, readEvery, s.read)
	if err != nil {
		return throttle.Verdict{}, err
	}
	verdict := throttle.Verdict{}
	for _, l := range list {
		verdict.Utilisation = max(verdict.Utilisation, float64(l.Retained)/float64(s.limit))
		switch {
		case l.Retained > s.limit:
			return throttle.Verdict{Stop: true, Reason: fmt.Sprintf("slot %s retains %d bytes of WAL, limit %d", l.Name, l.Retained, s.limit), Utilisation: verdict.Utilisation}, nil
		case l.Status == "unreserved" || l.Status == "lost":
			return throttle.Verdict{Stop: true, Reason: fmt.Sprintf("slot %s is %s", l.Name, l.Status), Utilisation: 1}, nil
		}
	}
	return verdict, nil
}

func (s *slots) Reading(ctx context.Context) (string, error) {
	list, err := s.clock.read(ctx, readEvery, s.read)
	if err != nil || len(list) == 0 {
		return "no slot retains WAL", err
	}
	return fmt.Sprintf("slot %s retains %d bytes of WAL", list[0].Name, list[0].Retained), nil
}
