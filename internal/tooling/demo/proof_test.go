package demo

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// These are of customers 4 and 6, whom no writer touches; the second has an item.
const (
	quietOrder     = "7"
	quietWithItems = "11"
)

// Each case does something behind the writers' backs, and says what the proof
// has to find.
func TestProofFinds(t *testing.T) {
	for name, c := range map[string]struct{ sql, want string }{
		"nothing":       {``, ``},
		"missing row":   {`DELETE FROM repack_demo.order_items WHERE id = (SELECT min(id) FROM repack_demo.order_items)`, "1 missing, 0 extra, 0 different"},
		"extra row":     {`INSERT INTO repack_demo.customers (name) VALUES ('x')`, "0 missing, 1 extra, 0 different"},
		"quiet row":     {`UPDATE repack_demo.orders SET note = '' WHERE id = ` + quietOrder, "checksum"},
		"recorded row":  {`UPDATE repack_demo.orders SET note = '' WHERE id = %d`, "0 missing, 0 extra, 1 different"},
		"unlinked rows": {`SET session_replication_role = replica; DELETE FROM repack_demo.orders WHERE id = ` + quietWithItems, "1 rows refer to rows"},
		"invalid key":   {invalidateSQL, "valid foreign keys: 3 of 3 before, 2 of 3 after"},
		"other index":   {`DROP INDEX repack_demo.orders_open_idx`, "no longer there: repack_demo.orders CREATE INDEX orders_open_idx"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, load, before := givenLoad(t)
			sql := c.sql
			if strings.Contains(sql, "%d") {
				sql = fmt.Sprintf(sql, recordedOrder(t, load))
			}
			p := proofAfter(t, s, load, before, sql)
			if got := strings.Join(p.failures(), "\n"); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
				t.Errorf("the proof says %q, want %q", got, c.want)
			}
		})
	}
}

const invalidateSQL = `
ALTER TABLE repack_demo.order_items DROP CONSTRAINT order_items_order_id_fkey;
ALTER TABLE repack_demo.order_items ADD CONSTRAINT order_items_order_id_fkey
      FOREIGN KEY (order_id) REFERENCES repack_demo.orders ON DELETE CASCADE NOT VALID`

func TestProofReportsErrorsOfWriters(t *testing.T) {
	t.Parallel()
	s, load, before := givenLoad(t)
	load.writers[2].failed(changes[0], io.ErrUnexpectedEOF)
	load.writers[3].retries++
	got := strings.Join(proofAfter(t, s, load, before, "").failures(), "\n")
	for _, want := range []string{"1 transactions of the writers failed", "1 transactions of the writers had to be repeated", io.ErrUnexpectedEOF.Error()} {
		if !strings.Contains(got, want) {
			t.Errorf("the proof says %q, want %q", got, want)
		}
	}
}

// givenLoad has had the writers at work, without a repack.
func givenLoad(t *testing.T) (*show, *load, view) {
	t.Helper()
	ctx := testContext(t)
	o := Options{Rows: MinRows, DSN: pgtest.New(t).DSN, Out: io.Discard}
	p, err := open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(ctx, p.config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	s := &show{Options: o, place: p, conn: conn, seed: newSeed(o.Rows), out: printer{o.Out}}
	if err := s.prepare(ctx); err != nil {
		t.Fatal(err)
	}
	before, err := s.look(ctx)
	if err != nil {
		t.Fatal(err)
	}
	load, err := startLoad(ctx, p.config, s.seed)
	if err != nil {
		t.Fatal(err)
	}
	defer load.stop(ctx)
	// A new payment comes with a new order and items. It is the rarest.
	pgtest.WaitFor(t, func() bool {
		var there bool
		if err := conn.QueryRow(ctx, `SELECT max(id) > $1 FROM repack_demo.payments`, s.seed.orders/10+4).Scan(&there); err != nil {
			t.Fatal(err)
		}
		return there
	}, "the writers to insert payments")
	load.stop(ctx)
	return s, load, before
}

func proofAfter(t *testing.T, s *show, l *load, before view, sql string) *proof {
	t.Helper()
	ctx := testContext(t)
	if _, err := s.conn.Exec(ctx, sql); err != nil {
		t.Fatal(err)
	}
	after, err := s.look(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.prove(ctx, l, before, after)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range p.tables {
		if c.Recorded == 0 {
			t.Errorf("%s: the writers recorded nothing", c.table)
		}
	}
	return p
}

// recordedOrder is one that a writer has committed.
func recordedOrder(t *testing.T, l *load) (id int64) {
	t.Helper()
	l.accounts(func(_ int64, a *account) {
		if a != nil && len(a.Orders) > 0 {
			id = a.Orders[0].ID
		}
	})
	if id == 0 {
		t.Fatal("the writers recorded no order")
	}
	return id
}
