package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
)

// report is a table on standard output; a cell ends with a tab.
func report(title string, columns ...string) *tabwriter.Writer {
	fmt.Printf("\n%s\n\n", title)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, strings.Join(columns, "\t")+"\t")
	return w
}

func idle(ctx context.Context, b *bench) error {
	if err := b.prepareTable(ctx, narrowSQL, b.rows); err != nil {
		return err
	}
	return b.compare(ctx, fmt.Sprintf("Idle, narrow rows (%d, a fifth of them deleted), 4 indexes", b.rows))
}

// wideShare of the rows make a table of about the same size.
const wideShare = 10

func wide(ctx context.Context, b *bench) error {
	rows := b.rows / wideShare
	if err := b.prepareTable(ctx, wideSQL, rows); err != nil {
		return err
	}
	return b.compare(ctx, fmt.Sprintf("Idle, wide rows (%d, a fifth of them deleted), gin, expression and partial index", rows))
}

// memories are settings of maintenance_work_mem.
var memories = []string{"64MB", "256MB", "512MB"}

// memory looks at what index builds are given.
func memory(ctx context.Context, b *bench) error {
	if err := b.prepareTable(ctx, keysSQL, b.rows); err != nil {
		return err
	}
	for _, size := range memories {
		if err := b.exec(ctx, "postgres", "ALTER ROLE CURRENT_USER SET maintenance_work_mem = '"+size+"'"); err != nil {
			return err
		}
		title := fmt.Sprintf("Idle, maintenance_work_mem %s (%d rows, a fifth of them deleted), 3 indexes of integers", size, b.rows)
		if err := b.compareThese(ctx, title, vacuumFull, b.repack("repack")); err != nil {
			return err
		}
	}
	return b.exec(ctx, "postgres", "ALTER ROLE CURRENT_USER RESET maintenance_work_mem")
}

// referringSQL are two tables that refer to t, each with a quarter as many rows.
const referringSQL = `
CREATE TABLE %[1]s (id bigint PRIMARY KEY, t_id int NOT NULL REFERENCES t ON DELETE CASCADE, note text NOT NULL);
INSERT INTO %[1]s SELECT id, id, md5(id::text) FROM t WHERE id %% 4 = 0;
CREATE INDEX ON %[1]s (t_id)`

// altered compares runs that change the table with one that does not, on the same table: with
// an integer key, and for the order of the columns with much to gain.
func altered(ctx context.Context, b *bench) error {
	if err := b.prepareTable(ctx, keysSQL, b.rows, fmt.Sprintf(referringSQL, "items"), fmt.Sprintf(referringSQL, "payments"), "VACUUM ANALYZE"); err != nil {
		return err
	}
	title := fmt.Sprintf("A key that becomes bigint (%d rows, a fifth of them deleted); two tables refer to it", b.rows)
	err := b.compareThese(ctx, title, b.repack("repack"), b.repack("repack --to-bigint --no-cascade", "--to-bigint", "--no-cascade"),
		b.repack("repack --to-bigint --cascade", "--to-bigint", "--cascade"))
	if err != nil {
		return err
	}
	if err := b.prepareTable(ctx, looseSQL, b.rows); err != nil {
		return err
	}
	return b.compareThese(ctx, fmt.Sprintf("Columns in another order (%d rows, a fifth of them deleted)", b.rows),
		b.repack("repack"), b.repack("repack --column-order packed", "--column-order", "packed"))
}

// compare has all contenders work on an idle table.
func (b *bench) compare(ctx context.Context, title string) error {
	return b.compareThese(ctx, title, b.contenders()...)
}

// compareThese compares contenders with the first of them.
func (b *bench) compareThese(ctx context.Context, title string, contenders ...contender) error {
	results, err := b.medians(ctx, contenders)
	if err != nil {
		return err
	}
	w := report(title, "", "time", "WAL", "server CPU", "time s", "WAL MB", "server CPU s", "client CPU s", "client MB")
	base := results[0]
	for i, r := range results {
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%.1f\t%d\t%.1f\t%.2f\t%d\t\n", contenders[i].name,
			ratio(r.time, base.time), ratio(r.wal, base.wal), ratio(r.serverCPU, base.serverCPU),
			r.time.Seconds(), r.wal>>20, r.serverCPU.Seconds(), r.clientCPU.Seconds(), r.clientMem>>20)
	}
	return w.Flush()
}

func ratio[T int64 | time.Duration | float64](a, b T) float64 { return float64(a) / float64(b) }

const clients = 4

// underLoad repacks while the table is written to, at half of what it can take
// and at all of it.
func underLoad(ctx context.Context, b *bench) error {
	if err := b.prepareTable(ctx, narrowSQL, b.rows); err != nil {
		return err
	}
	contenders := []contender{b.repack("repack"), b.repack("repack, direct-trigger", "--strategy", "direct-trigger")}
	if b.hasPgRepack() {
		contenders = append(contenders, b.pgRepack())
	}
	most, err := b.most(ctx)
	if err != nil {
		return err
	}
	for _, rate := range []float64{most / 2, 0} {
		title := "Maximum load"
		if rate > 0 {
			title = fmt.Sprintf("Fixed load, %.0f updates a second (half of the maximum)", rate)
		}
		w := report(fmt.Sprintf("%s, %d clients", title, clients), "", "throughput", "before /s", "during /s", "longest ms before", "longest ms", "time s")
		for _, c := range contenders {
			before, during, took, err := b.against(ctx, rate, c)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "%s\t%.2f\t%.0f\t%.0f\t%.1f\t%.1f\t%.1f\t\n", c.name, ratio(during.perSecond, before.perSecond),
				before.perSecond, during.perSecond, milliseconds(before.longest), milliseconds(during.longest), took.Seconds())
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// most is how many updates a second the server takes from all clients.
func (b *bench) most(ctx context.Context) (float64, error) {
	if err := b.fresh(ctx); err != nil {
		return 0, err
	}
	s, err := b.under(ctx, clients)
	return s.perSecond, err
}

// against runs a contender on a fresh copy under a load.
func (b *bench) against(ctx context.Context, rate float64, c contender) (before, during spell, took time.Duration, err error) {
	if err := b.fresh(ctx); err != nil {
		return before, during, 0, err
	}
	l, err := b.startLoad(ctx, clients, rate)
	if err != nil {
		return before, during, 0, err
	}
	from, began, err := b.spellOf(ctx)
	if err == nil {
		err = b.finish(ctx, c)
	}
	ended := time.Now()
	if err := errors.Join(err, l.stop()); err != nil {
		return before, during, 0, err
	}
	return l.between(from, began), l.between(began, ended), ended.Sub(began), nil
}

// finish runs a contender to its end.
func (b *bench) finish(ctx context.Context, c contender) error {
	wait, err := b.start(ctx, c)
	if err != nil {
		return err
	}
	_, err = wait()
	return err
}

// bulkRows are updated by one statement.
const bulkRows = 100_000

// capture compares the application's speed with and without our triggers.
func capture(ctx context.Context, b *bench) error {
	if err := b.prepareTable(ctx, narrowSQL, min(b.rows, 1_000_000)); err != nil {
		return err
	}
	w := report("Capture installed (repack run --until setup)", "", "1 client", "4 clients", fmt.Sprintf("time of an UPDATE of %d rows", bulkRows),
		"1 client /s", "4 clients /s", "UPDATE ms")
	var base captureCost
	for i, c := range []contender{
		{name: "none"},
		b.repack("change-log", "--until", "setup"),
		b.repack("direct-trigger, shadow filled", "--strategy", "direct-trigger", "--until", "backfill"),
	} {
		var costs []captureCost
		for range b.runs {
			r, err := b.captured(ctx, c)
			if err != nil {
				return err
			}
			costs = append(costs, r)
		}
		r := captureCost{
			one:  middle(costs, func(c captureCost) float64 { return c.one }),
			four: middle(costs, func(c captureCost) float64 { return c.four }),
			bulk: middle(costs, func(c captureCost) time.Duration { return c.bulk }),
		}
		if i == 0 {
			base = r
		}
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%.0f\t%.0f\t%.0f\t\n", c.name, ratio(r.one, base.one), ratio(r.four, base.four),
			ratio(r.bulk, base.bulk), r.one, r.four, milliseconds(r.bulk))
	}
	return w.Flush()
}

type captureCost struct {
	one, four float64 // updates a second by so many clients
	bulk      time.Duration
}

func (b *bench) captured(ctx context.Context, c contender) (r captureCost, err error) {
	if err := b.fresh(ctx); err != nil {
		return r, err
	}
	if len(c.command) > 0 {
		if err := b.finish(ctx, c); err != nil {
			return r, err
		}
	}
	for n, result := range map[int]*float64{1: &r.one, clients: &r.four} {
		s, err := b.under(ctx, n)
		if err != nil {
			return r, err
		}
		*result = s.perSecond
	}
	conn, err := pgx.Connect(ctx, b.server.ConnString(copied))
	if err != nil {
		return r, fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	began := time.Now()
	if _, err := conn.Exec(ctx, `UPDATE t SET amount = amount + 1 WHERE id IN (SELECT id FROM t ORDER BY id LIMIT $1)`, bulkRows); err != nil {
		return r, fmt.Errorf("update: %w", err)
	}
	r.bulk = time.Since(began)
	return r, nil
}

// Each of loggedStatements updates loggedRows rows, chosen at random.
const (
	loggedStatements = 20
	loggedRows       = 10_000
)

// replay is what a log of changes costs that are made while nothing replays, by
// as many sessions; VACUUM of the shadow included.
func replay(ctx context.Context, b *bench) error {
	if err := b.prepareTable(ctx, narrowSQL, min(b.rows, 2_000_000)); err != nil {
		return err
	}
	w := report(fmt.Sprintf("Replay of %d changes (repack run --until post_sync_update --verify off)", loggedStatements*loggedRows),
		"--jobs", "time s", "server CPU s")
	for _, jobs := range []string{"1", "2"} {
		r, err := b.medianOf(func() (cost, error) { return b.replayed(ctx, jobs) })
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t\n", jobs, r.time.Seconds(), r.serverCPU.Seconds())
	}
	return w.Flush()
}

// replayed is what replaying by so many sessions costs.
func (b *bench) replayed(ctx context.Context, jobs string) (cost, error) {
	if err := b.fresh(ctx); err != nil {
		return cost{}, err
	}
	if err := b.finish(ctx, b.repack("", "--until", "sync_schema")); err != nil {
		return cost{}, err
	}
	update := fmt.Sprintf(`UPDATE t SET amount = amount + 1 WHERE id IN (SELECT id FROM t ORDER BY random() LIMIT %d)`, loggedRows)
	if err := b.exec(ctx, copied, slices.Repeat([]string{update}, loggedStatements)...); err != nil {
		return cost{}, err
	}
	return b.costOf(ctx, b.repack("", "--until", "post_sync_update", "--verify", "off", "--jobs", jobs))
}

// growth looks at what a row and an index cost, where there are more of them.
func growth(ctx context.Context, b *bench) error {
	if err := growRows(ctx, b); err != nil {
		return err
	}
	return growIndexes(ctx, b)
}

func growRows(ctx context.Context, b *bench) error {
	w := report("Growth: repack of a table of so many rows", "rows", "time s", "µs a row", "client MB")
	for _, share := range []int{40, 20, 10, 4, 2, 1} {
		rows := b.rows / share
		if err := b.prepareTable(ctx, narrowSQL, rows); err != nil {
			return err
		}
		r, err := b.median(ctx, b.repack("repack"))
		if err != nil {
			return err
		}
		live := rows * 4 / 5
		fmt.Fprintf(w, "%d\t%.1f\t%.2f\t%d\t\n", live, r.time.Seconds(), float64(r.time.Microseconds())/float64(live), r.clientMem>>20)
	}
	return w.Flush()
}

func growIndexes(ctx context.Context, b *bench) error {
	rows := b.rows / 20
	w := report(fmt.Sprintf("Growth: repack of %d rows with so many indexes", rows*4/5), "indexes", "time", "time s", "VACUUM FULL s", "client MB")
	for _, indexes := range []int{1, 2, 5, 10, 20, 30} {
		more := []string{"DROP INDEX t_customer, t_created, t_status"}
		for i := 1; i < indexes; i++ {
			more = append(more, fmt.Sprintf("CREATE INDEX ON t (customer, (id + %d))", i))
		}
		if err := b.prepareTable(ctx, narrowSQL, rows, more...); err != nil {
			return err
		}
		full, err := b.median(ctx, vacuumFull)
		if err != nil {
			return err
		}
		r, err := b.median(ctx, b.repack("repack"))
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%d\t%.2f\t%.1f\t%.1f\t%d\t\n", indexes, ratio(r.time, full.time), r.time.Seconds(), full.time.Seconds(), r.clientMem>>20)
	}
	return w.Flush()
}

// changes looks at what the application's changes cost, where there are more of
// them.
func changes(ctx context.Context, b *bench) error {
	if err := b.prepareTable(ctx, narrowSQL, b.rows); err != nil {
		return err
	}
	most, err := b.most(ctx)
	if err != nil {
		return err
	}
	idle, err := b.median(ctx, b.repack("repack"))
	if err != nil {
		return err
	}
	w := report(fmt.Sprintf("Growth: repack of %d rows under so many updates a second by %d clients", b.rows*4/5, clients),
		"asked for", "before /s", "during /s", "longest ms", "time s")
	fmt.Fprintf(w, "none\t\t\t\t%.1f\t\n", idle.time.Seconds())
	for _, load := range []struct {
		asked string
		rate  float64
	}{
		{"a quarter", most / 4},
		{"half", most / 2},
		{"three quarters", most * 3 / 4},
		{"all there are", 0},
	} {
		before, during, took, err := b.against(ctx, load.rate, b.repack("repack"))
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.1f\t%.1f\t\n", load.asked, before.perSecond, during.perSecond, milliseconds(during.longest), took.Seconds())
	}
	return w.Flush()
}
