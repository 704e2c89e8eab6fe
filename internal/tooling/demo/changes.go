package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// change is a kind of transaction. run makes its statements and returns what
// has to be recorded if they commit; nil rolls them back.
type change struct {
	name   string
	weight int
	run    func(ctx context.Context, w *writer, tx pgx.Tx) (record func(), err error)
}

// changes are made as often as their weights say.
var changes = []change{
	{"insert an order with items and a payment", 15, placeOrder},
	{"insert orders in one statement", 5, importOrders},
	{"insert an order and roll back", 3, giveUp},
	{"update an order", 30, updateOrder},
	{"update all orders of a customer", 8, updateOrders},
	{"update an order by ON CONFLICT", 5, upsertOrder},
	{"exchange two unique values", 8, exchangeReferences},
	{"insert an item", 6, addItem},
	{"update an item", 6, changeItem},
	{"delete an order with its items", 14, deleteOrder},
	{"delete a customer with orders and items, insert another", 2, replaceCustomer},
	{"read all of a customer", 8, readAccount},
}

func (w *writer) pick() change {
	total := 0
	for _, c := range changes {
		total += c.weight
	}
	n := w.random.IntN(total)
	for _, c := range changes {
		if n -= c.weight; n < 0 {
			return c
		}
	}
	panic("unreachable: n is below the sum of all weights")
}

// hit makes sure that a statement found the rows that the writer knows to be
// there: it is how an application would notice that some are missing.
func hit(ctx context.Context, tx pgx.Tx, rows int, sql string, args ...any) error {
	tag, err := tx.Exec(ctx, sql, args...)
	if err != nil {
		return err
	}
	if tag.RowsAffected() != int64(rows) {
		return fmt.Errorf("%d rows were there, not %d: %s %v", tag.RowsAffected(), rows, strings.TrimSpace(sql), args)
	}
	return nil
}

// now is the time as the server can store it.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// draft is an order that has no id yet.
func (w *writer) draft(customer int64) *order {
	w.serial++
	at := now()
	return &order{
		Customer:  customer,
		Reference: fmt.Sprintf("W%d-%d", w.number+1, w.serial),
		Status:    statuses[w.random.IntN(len(statuses))],
		Cents:     w.random.Int64N(100000),
		Note:      fmt.Sprintf("Order by writer %d", w.number+1),
		Created:   at, Updated: at,
	}
}

const insertOrderSQL = `
INSERT INTO repack_demo.orders (customer_id, reference, status, cents, note, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING id`

const insertItemSQL = `
INSERT INTO repack_demo.order_items (order_id, product, quantity)
VALUES ($1, $2, $3)
RETURNING id`

const insertPaymentSQL = `
INSERT INTO repack_demo.payments (order_id, cents)
VALUES ($1, $2)
RETURNING id`

func insertOrder(ctx context.Context, tx pgx.Tx, o *order) error {
	return tx.QueryRow(ctx, insertOrderSQL, o.Customer, o.Reference, o.Status, o.Cents, o.Note, o.Created, o.Updated).Scan(&o.ID)
}

func (w *writer) insertItem(ctx context.Context, tx pgx.Tx, order int64) (item, error) {
	i := item{Order: order, Product: fmt.Sprintf("Product %d", w.random.IntN(100)), Quantity: 1 + w.random.Int64N(9)}
	err := tx.QueryRow(ctx, insertItemSQL, i.Order, i.Product, i.Quantity).Scan(&i.ID)
	return i, err
}

func placeOrder(ctx context.Context, w *writer, tx pgx.Tx) (func(), error) {
	a, _ := w.ledger.choose(w.random)
	o := w.draft(a.ID)
	if err := insertOrder(ctx, tx, o); err != nil {
		return nil, err
	}
	for range w.random.IntN(3) {
		i, err := w.insertItem(ctx, tx, o.ID)
		if err != nil {
			return nil, err
		}
		o.Items = append(o.Items, i)
	}
	if w.random.IntN(2) == 0 {
		p := payment{Order: o.ID, Cents: o.Cents}
		if err := tx.QueryRow(ctx, insertPaymentSQL, p.Order, p.Cents).Scan(&p.ID); err != nil {
			return nil, err
		}
		o.Payments = append(o.Payments, p)
	}
	return func() { a.Orders = append(a.Orders, o) }, nil
}

func giveUp(ctx context.Context, w *writer, tx pgx.Tx) (func(), error) {
	_, err := placeOrder(ctx, w, tx)
	return nil, err
}

const insertOrdersByWriterSQL = `
INSERT INTO repack_demo.orders (customer_id, reference, status, cents, note, created_at, updated_at)
SELECT $1, r, 'open', 100, 'Imported', $3, $3
FROM   unnest($2::text[]) AS r
RETURNING id, reference`

func importOrders(ctx context.Context, w *writer, tx pgx.Tx) (func(), error) {
	a, _ := w.ledger.choose(w.random)
	drafts := map[string]*order{}
	var references []string
	at := now()
	for range 3 {
		o := w.draft(a.ID)
		o.Status, o.Cents, o.Note, o.Created, o.Updated = "open", 100, "Imported", at, at
		drafts[o.Reference] = o
		references = append(references, o.Reference)
	}
	rows, err := tx.Query(ctx, insertOrdersByWriterSQL, a.ID, references, at)
	if err != nil {
		return nil, err
	}
	var id int64
	var reference string
	if _, err := pgx.ForEachRow(rows, []any{&id, &reference}, func() error {
		drafts[reference].ID = id
		return nil
	}); err != nil {
		return nil, err
	}
	return func() {
		for _, r := range references {
			a.Orders = append(a.Orders, drafts[r])
		}
	}, nil
}

// order chooses an order, and its place in its account; i is negative if the
// customer has none.
func (w *writer) order() (a *account, o *order, i int) {
	a, _ = w.ledger.choose(w.random)
	if len(a.Orders) == 0 {
		return a, nil, -1
	}
	i = w.random.IntN(len(a.Orders))
	return a, a.Orders[i], i
}

const updateOrderSQL = `
UPDATE repack_demo.orders
SET    status = $2, cents = $3, note = $4, updated_at = $5
WHERE  id = $1`

func updateOrder(ctx context.Context, w *writer, tx pgx.Tx) (func(), error) {
	_, o, _ := w.order()
	if o == nil {
		return placeOrder(ctx, w, tx)
	}
	changed := *o
	changed.Status, changed.Cents, changed.Updated = statuses[w.random.IntN(len(statuses))], w.random.Int64N(100000), now()
	if w.random.IntN(2) == 0 {
		changed.Note = fmt.Sprintf("Changed by writer %d", w.number+1)
	}
	err := hit(ctx, tx, 1, updateOrderSQL, o.ID, changed.Status, changed.Cents, changed.Note, changed.Updated)
	return func() { *o = changed }, err
}

const updateOrdersSQL = `
UPDATE repack_demo.orders
SET    cents = cents + $2, updated_at = $3
WHERE  customer_id = $1`

func updateOrders(ctx context.Context, w *writer, tx pgx.Tx) (func(), error) {
	a, _ := w.ledger.choose(w.random)
	more, at := w.random.Int64N(100), now()
	err := hit(ctx, tx, len(a.Orders), updateOrdersSQL, a.ID, more, at)
	return func() {
		for _, o := range a.Orders {
			o.Cents += more
			o.Updated = at
		}
	}, err
}

// upsertOrderSQL names a constraint, whose name has to be right at any time.
const upsertOrderSQL = `
INSERT INTO repack_demo.orders (customer_id, reference, status, cents, note)
VALUES ($1, $2, 'open', $3, 'must not appear')
ON CONFLICT ON CONSTRAINT orders_reference_key
DO UPDATE SET cents = EXCLUDED.cents, updated_at = $4`

func upsertOrder(ctx context.Context, w *writer, tx pgx.Tx) (func(), error) {
	_, o, _ := w.order()
	if o == nil {
		return placeOrder(ctx, w, tx)
	}
	cents, at := w.random.Int64N(100000), now()
	err := hit(ctx, tx, 1, upsertOrderSQL, o.Customer, o.Reference, cents, at)
	return func() { o.Cents, o.Updated = cents, at }, err
}

const setReferenceSQL = `
UPDATE repack_demo.orders
SET    reference = $2
WHERE  id = $1`

func exchangeReferences(ctx context.Context, w *writer, tx pgx.Tx) (func(), error) {
	_, one, _ := w.order()
	_, other, _ := w.order()
	if one == nil || other == nil || one == other {
		return placeOrder(ctx, w, tx)
	}
	w.serial++
	for _, set := range []struct {
		id        int64
		reference string
	}{
		{one.ID, fmt.Sprintf("W%d-%d", w.number+1, w.serial)}, {other.ID, one.Reference}, {one.ID, other.Reference},
	} {
		if err := hit(ctx, tx, 1, setReferenceSQL, set.id, set.reference); err != nil {
			return nil, err
		}
	}
	return func() { one.Reference, other.Reference = other.Reference, one.Reference }, nil
}

func addItem(ctx context.Context, w *writer, tx pgx.Tx) (func(), error) {
	_, o, _ := w.order()
	if o == nil {
		return placeOrder(ctx, w, tx)
	}
	i, err := w.insertItem(ctx, tx, o.ID)
	return func() { o.Items = append(o.Items, i) }, err
}

const updateItemSQL = `
UPDATE repack_demo.order_items
SET    quantity = $2
WHERE  id = $1`

func changeItem(ctx context.Context, w *writer, tx pgx.Tx) (func(), error) {
	_, o, _ := w.order()
	if o == nil || len(o.Items) == 0 {
		return addItem(ctx, w, tx)
	}
	i := &o.Items[w.random.IntN(len(o.Items))]
	quantity := 1 + w.random.Int64N(9)
	err := hit(ctx, tx, 1, updateItemSQL, i.ID, quantity)
	return func() { i.Quantity = quantity }, err
}

const deleteOrderSQL = `DELETE FROM repack_demo.orders WHERE id = $1`

func deleteOrder(ctx context.Context, w *writer, tx pgx.Tx) (func(), error) {
	a, o, i := w.order()
	if o == nil {
		return placeOrder(ctx, w, tx)
	}
	err := hit(ctx, tx, 1, deleteOrderSQL, o.ID)
	return func() { a.Orders = slices.Delete(a.Orders, i, i+1) }, err
}

const deleteCustomerSQL = `DELETE FROM repack_demo.customers WHERE id = $1`

const insertCustomerSQL = `INSERT INTO repack_demo.customers (name) VALUES ($1) RETURNING id`

func replaceCustomer(ctx context.Context, w *writer, tx pgx.Tx) (func(), error) {
	gone, i := w.ledger.choose(w.random)
	if err := hit(ctx, tx, 1, deleteCustomerSQL, gone.ID); err != nil {
		return nil, err
	}
	w.serial++
	comes := &account{Name: fmt.Sprintf("Customer %d of writer %d", w.serial, w.number+1)}
	err := tx.QueryRow(ctx, insertCustomerSQL, comes.Name).Scan(&comes.ID)
	return func() { w.ledger.replace(i, comes) }, err
}
