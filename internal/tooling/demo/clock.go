package demo

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/registry"
)

// The writers' time is cut into moments: before the run, each of its stages,
// after it.
const (
	before = "before"
	after  = "after"
)

var moments = func() []string {
	names := []string{before}
	for _, s := range registry.Stages {
		names = append(names, string(s))
	}
	return append(names, after)
}()

// clock says which moment it is. One goroutine sets it, the writers read it.
type clock struct {
	now   atomic.Int64
	began []time.Time // of each moment; zero: not yet
}

func newClock() *clock {
	c := &clock{began: make([]time.Time, len(moments)+1)}
	c.enter(before)
	return c
}

// enter begins a moment. It does not go back: the tables of a cascade go through the stages one
// after the other.
func (c *clock) enter(moment string) {
	i := slices.Index(moments, moment)
	if int64(i) < c.now.Load() || !c.began[i].IsZero() {
		return
	}
	c.began[i] = time.Now()
	c.now.Store(int64(i))
}

// end closes the last moment.
func (c *clock) end() { c.began[len(moments)] = time.Now() }

// took is how long the moments from first up to but not including end lasted.
func (c *clock) took(first, end int) time.Duration { return c.began[end].Sub(c.began[first]) }

// waits is what one writer saw in one moment.
type waits struct {
	transactions []time.Duration // those that began in it
	longest      time.Duration   // transaction, of all that were there in it
	statement    time.Duration   // the longest, likewise
}

// stopwatch measures the statements and transactions of one writer. It is the
// pgx.QueryTracer of its connection.
type stopwatch struct {
	clock     *clock
	statement start
	seen      []waits // by moment
}

type start struct {
	at     time.Time
	moment int64
}

func newStopwatch(c *clock) *stopwatch {
	return &stopwatch{clock: c, seen: make([]waits, len(moments))}
}

func (s *stopwatch) start() start { return start{time.Now(), s.clock.now.Load()} }

// during returns what was seen in each moment since began: the lock that
// somebody waited for may be of any of them.
func (s *stopwatch) during(began start) []waits { return s.seen[began.moment : s.clock.now.Load()+1] }

// TraceQueryStart implements pgx.QueryTracer.
func (s *stopwatch) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	s.statement = s.start()
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (s *stopwatch) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {
	took := time.Since(s.statement.at)
	seen := s.during(s.statement)
	for i := range seen {
		seen[i].statement = max(seen[i].statement, took)
	}
}

// committed counts a transaction.
func (s *stopwatch) committed(began start) {
	took := time.Since(began.at)
	seen := s.during(began)
	seen[0].transactions = append(seen[0].transactions, took)
	for i := range seen {
		seen[i].longest = max(seen[i].longest, took)
	}
}

// at names the present moment.
func (s *stopwatch) at() string { return moments[s.clock.now.Load()] }
