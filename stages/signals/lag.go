package signals

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/size"
	"github.com/repack-go/repack/stages/throttle"
)

// lag stops work while a standby is too far behind. replay_lag of pg_stat_replication does not
// grow while a standby replays nothing, so positions are compared with those that the server has
// had: the lag is the age of the last position that the standby has replayed. For the time before
// the first reading, the server's replay_lag is taken.
type lag struct {
	server *server
	limit  time.Duration // 0: none
	ignore []string
	expect int

	clock clock[[]standby]
	ring  ring
}

// standby is a connected standby, or a subscriber.
type standby struct {
	Name     string
	State    *string // NULL: the role may not see how far it is
	Received bool    // it has said what it has received
	Replayed *int64
	Lag      *time.Duration
	behind   time.Duration
	bytes    int64
}

// standbysSQL leaves out those that take a base backup.
const standbysSQL = `
SELECT   r.application_name::text                             AS name,
         r.state                                              AS state,
         r.write_lsn IS NOT NULL OR r.flush_lsn IS NOT NULL   AS received,
         pg_wal_lsn_diff(r.replay_lsn, '0/0')::bigint         AS replayed,
         r.replay_lag                                         AS lag
FROM     pg_stat_replication r
WHERE    coalesce(r.state, '') <> 'backup' AND r.application_name <> ALL ($1::text[])
ORDER BY r.application_name, r.pid`

// currentSQL is what standbys can have received.
const currentSQL = `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint`

// Flag implements Signal.
func (l *lag) Flag() string { return "--max-replica-lag" }

// Ready implements Signal.
func (l *lag) Ready(ctx context.Context) error {
	return mayRead(ctx, l.server, l.Flag(), "pg_read_all_stats", "the role sees standbys, but not how far they are", "")
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
		return nil, fmt.Errorf("%s: %w", l.Flag(), err)
	}
	return l.measure(list, position{time.Now(), current})
}

// measure works out how far standbys are behind.
func (l *lag) measure(list []standby, now position) ([]standby, error) {
	l.ring.note(now)
	// A receiver such as pg_receivewal says what it has received, and replays nothing.
	list = slices.DeleteFunc(list, func(s standby) bool { return s.State != nil && s.Received && s.Replayed == nil })
	least := now.lsn
	for i := range list {
		s := &list[i]
		if s.State == nil {
			return nil, fmt.Errorf("%s: the role sees %s, but not how far it is (pg_read_all_stats)", l.Flag(), s.Name)
		}
		if s.Replayed == nil {
			return nil, fmt.Errorf("%s: %s has not said yet what it has replayed", l.Flag(), s.Name)
		}
		s.behind, s.bytes = l.ring.behind(*s.Replayed, now.at), max(now.lsn-*s.Replayed, 0)
		if s.bytes > 0 && s.Lag != nil {
			s.behind = max(s.behind, *s.Lag)
		}
		least = min(least, *s.Replayed)
	}
	l.ring.forget(least, now.at.Add(-max(2*l.limit, time.Minute)))
	return list, nil
}

// ring are positions that the server has had, the newest last.
type ring []position

// mostPositions bounds a ring. Beyond it, every second position is forgotten.
const mostPositions = 20_000

// note adds the present position. A position that the server has kept is the same with a newer
// time.
func (r *ring) note(now position) {
	if n := len(*r); n > 0 && (*r)[n-1].lsn == now.lsn {
		(*r)[n-1].at = now.at
		return
	}
	*r = append(*r, now)
	if len(*r) > mostPositions {
		for i := range len(*r) / 2 {
			(*r)[i] = (*r)[2*i]
		}
		*r = append((*r)[:len(*r)/2], now)
	}
}

// passed is the number of positions that a standby has replayed.
func (r ring) passed(replayed int64) int {
	return sort.Search(len(r), func(i int) bool { return r[i].lsn > replayed })
}

// behind is the time since the server was at the position that a standby has replayed. A standby
// that has replayed everything is not behind.
func (r ring) behind(replayed int64, now time.Time) time.Duration {
	passed := r.passed(replayed)
	switch {
	case passed == len(r):
		return 0
	case passed == 0: // it was there before we looked for the first time
		return now.Sub(r[0].at)
	}
	return now.Sub(r[passed-1].at)
}

// forget drops the positions from before a time that no standby is at any more: the newest that
// all have replayed is enough.
func (r *ring) forget(replayed int64, before time.Time) {
	old := sort.Search(len(*r), func(i int) bool { return !(*r)[i].at.Before(before) })
	*r = slices.Delete(*r, 0, max(min(old, r.passed(replayed))-1, 0))
}

// Check implements throttle.Throttler.
func (l *lag) Check(ctx context.Context, work throttle.Work) (throttle.Verdict, error) {
	if work == throttle.Comparing {
		return throttle.Verdict{}, nil
	}
	list, err := l.clock.read(ctx, readEvery, l.read)
	if err != nil {
		return throttle.Verdict{}, err
	}
	return l.verdict(list), nil
}

func (l *lag) verdict(list []standby) (v throttle.Verdict) {
	if len(list) < l.expect {
		return throttle.Verdict{Stop: true, Reason: fmt.Sprintf("connected replicas: %d, expected: %d", len(list), l.expect)}
	}
	for _, s := range list {
		if l.limit <= 0 {
			continue
		}
		v.Utilisation = max(v.Utilisation, float64(s.behind)/float64(l.limit))
		if s.behind > l.limit && !v.Stop {
			v.Stop, v.Reason = true, fmt.Sprintf("replica %s is %s behind, limit %s", s.Name, s.behind.Round(time.Second), l.limit)
		}
	}
	return v
}

// Now implements Signal.
func (l *lag) Now(ctx context.Context) (string, error) {
	if err := l.Ready(ctx); err != nil {
		return "", err
	}
	list, err := l.clock.read(ctx, readEvery, l.read)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "no replica is connected", nil
	}
	worst := slices.MaxFunc(list, func(a, b standby) int { return int(a.bytes - b.bytes) })
	return fmt.Sprintf("replica %s is %s and %s behind, of %d connected", worst.Name, worst.behind.Round(time.Millisecond), size.Text(worst.bytes), len(list)), nil
}
