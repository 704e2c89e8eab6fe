package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/wire"
)

// A small table takes as long as what is said takes: the rows are a few milliseconds.

// shapes are tables of a thousand rows.
var shapes = []struct {
	name string
	sql  func() []string
}{
	{"2 columns, 1 index", func() []string { return shapeSQL(0, 0, 0) }},
	{"30 columns, 10 indexes", func() []string { return shapeSQL(28, 9, 0) }},
	{"20 foreign keys", func() []string { return shapeSQL(0, 0, 20) }},
	{"500 foreign keys", func() []string { return shapeSQL(0, 0, 500) }},
}

func shapeSQL(columns, indexes, keys int) []string {
	var more strings.Builder
	for i := range columns {
		fmt.Fprintf(&more, ", c%d int DEFAULT %[1]d", i)
	}
	statements := []string{
		"CREATE TABLE t (id int PRIMARY KEY, note text" + more.String() + ")",
		"INSERT INTO t SELECT g, 'note ' || g FROM generate_series(1, 1000) g",
	}
	for i := range indexes {
		statements = append(statements, fmt.Sprintf("CREATE INDEX ON t (c%d)", i))
	}
	for i := range keys {
		statements = append(statements, fmt.Sprintf("CREATE TABLE refers%d (t int REFERENCES t)", i))
	}
	return append(statements, "VACUUM ANALYZE t")
}

// latencies are of each direction.
var latencies = []time.Duration{0, time.Millisecond, 5 * time.Millisecond}

// said is what a run has cost on the wire.
type said struct {
	connections, statements, trips, locked int
	took                                   time.Duration
	refused                                error
}

// trips counts what a run says to the server, and how long that takes where the
// server is not near.
func trips(ctx context.Context, b *bench) error {
	for _, shape := range shapes {
		w := report("A thousand rows, "+shape.name, "latency ms", "connections", "statements", "round trips", "under the lock", "time s")
		if err := b.prepare(ctx, shape.sql()...); err != nil {
			return err
		}
		for _, latency := range latencies {
			results := make([]said, b.runs)
			for i := range results {
				var err error
				if results[i], err = b.saidBy(ctx, latency); err != nil {
					return err
				}
			}
			s := results[0]
			s.took = middle(results, func(s said) time.Duration { return s.took })
			fmt.Fprintf(w, "%d\t", latency.Milliseconds())
			if s.refused != nil {
				fmt.Fprintf(w, "\t\t\t\t%s\t\n", lastLine(s.refused.Error()))
				continue
			}
			fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%.2f\t\n", s.connections, s.statements, s.trips, s.locked, s.took.Seconds())
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// lastLine is what a run says last, shortened for a table.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	const width = 80
	last := lines[len(lines)-1]
	return last[:min(len(last), width)]
}

// saidBy runs repack through a proxy, in a database that has a registry.
func (b *bench) saidBy(ctx context.Context, latency time.Duration) (s said, err error) {
	if err := b.fresh(ctx); err != nil {
		return s, err
	}
	if err := b.exec(ctx, copied, "CREATE TABLE before (id int PRIMARY KEY)"); err != nil {
		return s, err
	}
	if err := b.finish(ctx, contender{name: "repack", command: []string{b.binary, "run", "--table", "before", "--quiet", "--dsn", b.server.ConnString(copied)}}); err != nil {
		return s, err
	}
	config, err := pgx.ParseConfig(b.server.ConnString(copied))
	if err != nil {
		return s, fmt.Errorf("connection string: %w", err)
	}
	proxyCtx, stop := context.WithCancel(ctx)
	defer stop()
	proxy, err := wire.Listen(proxyCtx, "unix", fmt.Sprintf("%s/.s.PGSQL.%d", config.Host, config.Port), latency)
	if err != nil {
		return s, err
	}
	dsn := fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable", proxy.Port(), config.User, copied)
	began := time.Now()
	err = b.finish(ctx, contender{name: "repack", command: []string{b.binary, "run", "--table", "t", "--quiet", "--dsn", dsn}})
	s.took = time.Since(began)
	if ctx.Err() != nil {
		return s, errors.Join(err, ctx.Err())
	}
	s.refused = err
	for _, c := range proxy.Connections() {
		s.connections++
		s.trips += c.Trips()
		s.statements += len(c.Statements())
		locked, _ := c.UnderLock(`"public"."t"`)
		s.locked += locked
	}
	return s, nil
}
