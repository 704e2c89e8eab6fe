package demo

import (
	"context"
	"fmt"
	"slices"
)

// proof is what the demo has found out.
type proof struct {
	tables        []comparison
	before, after view
	orphans       int64
	errors        int
	messages      []string
	retries       int
	toBigint      bool
	greatest      int64 // id of an order
}

// comparison is of the rows a table has with those that it has to have.
type comparison struct {
	table                     string
	Expected, Found           int64
	Recorded                  int64 // of those expected, how many the writers committed
	Missing, Extra, Different int64
	Examples                  []int64 // ids of such rows
}

// check is one more thing that was looked at.
type check struct{ what, found string }

func (p *proof) checks() []check {
	same := func(ok bool) string {
		if ok {
			return "the same before and after"
		}
		return "NOT the same before and after"
	}
	checks := []check{
		{fmt.Sprintf("checksum of %s orders no writer touched", count(p.after.quiet.Rows)), same(p.before.quiet == p.after.quiet)},
		{
			fmt.Sprintf("%d columns, indexes, constraints", len(p.before.definitions)),
			same(slices.Equal(p.before.definitions, p.after.definitions)),
		},
		{"foreign keys", fmt.Sprintf("%d of %d valid, %d rows that refer to nothing", p.after.keys.Valid, p.before.keys.All, p.orphans)},
		{"errors the writers saw", count(int64(p.errors))},
		{"transactions that had to be repeated (40001)", count(int64(p.retries))},
	}
	if p.toBigint {
		checks[1].found += ", but for integer, which is bigint"
		checks = append(checks, check{"greatest id of an order", fmt.Sprintf("%s; an integer ends at %s", count(p.greatest), count(lastInteger))})
	}
	return checks
}

// failures says in words what does not hold.
func (p *proof) failures() []string {
	var failures []string
	fail := func(wrong bool, format string, args ...any) {
		if wrong {
			failures = append(failures, fmt.Sprintf(format, args...))
		}
	}
	for _, c := range p.tables {
		fail(c.Missing+c.Extra+c.Different > 0 || c.Found != c.Expected,
			"%s: %d rows found, %d expected: %d missing, %d extra, %d different, such as those of id %v",
			c.table, c.Found, c.Expected, c.Missing, c.Extra, c.Different, c.Examples)
	}
	fail(p.before.quiet != p.after.quiet, "the checksum of the orders no writer touched has changed")
	fail(p.orphans > 0, "%d rows refer to rows that are not there", p.orphans)
	fail(p.before.keys != p.after.keys || p.after.keys.Valid != p.after.keys.All,
		"valid foreign keys: %d of %d before, %d of %d after",
		p.before.keys.Valid, p.before.keys.All, p.after.keys.Valid, p.after.keys.All)
	for _, line := range p.before.definitions {
		fail(!slices.Contains(p.after.definitions, line), "no longer there: %s", line)
	}
	for _, line := range p.after.definitions {
		fail(!slices.Contains(p.before.definitions, line), "not there before: %s", line)
	}
	fail(p.toBigint && p.greatest <= lastInteger, "the greatest id of an order is %d: no writer came to the end of integer", p.greatest)
	fail(p.errors > 0, "%d transactions of the writers failed", p.errors)
	fail(p.retries > 0, "%d transactions of the writers had to be repeated", p.retries)
	return append(failures, p.messages...)
}

func (s *show) prove(ctx context.Context, l *load, before, after view) (*proof, error) {
	p := &proof{before: before, after: after, toBigint: s.ToBigint}
	if s.ToBigint {
		p.before.definitions = widened(before.definitions)
	}
	for _, w := range l.writers {
		p.errors += w.errors
		p.retries += w.retries
		p.messages = append(p.messages, w.messages...)
	}
	if err := s.upload(ctx, l); err != nil {
		return nil, err
	}
	for _, t := range compared {
		c := comparison{table: t.name}
		sql := fmt.Sprintf(compareSQL, t.name, t.seed, t.customer)
		err := s.conn.QueryRow(ctx, sql, s.seed.args(liveIDs)).
			Scan(&c.Expected, &c.Found, &c.Recorded, &c.Missing, &c.Extra, &c.Different, &c.Examples)
		if err != nil {
			return nil, fmt.Errorf("compare %s: %w", t.name, err)
		}
		p.tables = append(p.tables, c)
	}
	if err := s.conn.QueryRow(ctx, greatestSQL).Scan(&p.greatest); err != nil {
		return nil, fmt.Errorf("read the greatest id: %w", err)
	}
	if err := s.conn.QueryRow(ctx, orphansSQL).Scan(&p.orphans); err != nil {
		return nil, fmt.Errorf("look for orphans: %w", err)
	}
	return p, nil
}

// compared are the tables: how their rows were made at first, and which
// customer such a row belongs to.
var compared = []struct{ name, seed, customer string }{
	{"orders", seedOrdersSQL, "s.customer_id"},
	{"order_items", seedItemsSQL, "(s.order_id - 1) / 2 % @customers::bigint + 1"},
	{"payments", seedPaymentsSQL, "(s.order_id - 1) / 2 % @customers::bigint + 1"},
	{"customers", seedCustomersSQL, "s.id"},
}

// compareSQL: of customers no writer has touched, the table has to hold what it
// was filled with, of the others what the writers recorded.
const compareSQL = `
WITH expected AS (
    SELECT s.*
    FROM   (%[2]s) AS s
    WHERE  NOT EXISTS (SELECT FROM repack_demo.touched t WHERE t.id = %[3]s)
    UNION  ALL
    SELECT r.*
    FROM   repack_demo.recorded_%[1]s r
), compared AS (
    SELECT coalesce(e.id, a.id) AS id,
           a.id IS NULL AS missing,
           e.id IS NULL AS extra,
           a.id = e.id AND ROW (a.*) IS DISTINCT FROM ROW (e.*) AS different
    FROM   expected e
    FULL   JOIN repack_demo.%[1]s a ON a.id = e.id
)
SELECT (SELECT count(*) FROM expected),
       (SELECT count(*) FROM repack_demo.%[1]s),
       (SELECT count(*) FROM repack_demo.recorded_%[1]s),
       count(*) FILTER (WHERE missing),
       count(*) FILTER (WHERE extra),
       count(*) FILTER (WHERE different),
       (array_agg(id) FILTER (WHERE missing OR extra OR different))[1:5]
FROM   compared`

const orphansSQL = `
SELECT (SELECT count(*)
        FROM   repack_demo.orders o
        WHERE  NOT EXISTS (SELECT FROM repack_demo.customers c WHERE c.id = o.customer_id))
     + (SELECT count(*)
        FROM   repack_demo.order_items i
        WHERE  NOT EXISTS (SELECT FROM repack_demo.orders o WHERE o.id = i.order_id))
     + (SELECT count(*)
        FROM   repack_demo.payments p
        WHERE  NOT EXISTS (SELECT FROM repack_demo.orders o WHERE o.id = p.order_id))`
