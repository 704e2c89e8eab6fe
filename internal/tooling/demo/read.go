package demo

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

const readOrdersSQL = `
SELECT   id, customer_id, reference, status, cents, note, created_at, updated_at
FROM     repack_demo.orders
WHERE    customer_id = $1
ORDER BY id`

const readItemsSQL = `
SELECT   i.id, i.order_id, i.product, i.quantity
FROM     repack_demo.orders o
JOIN     repack_demo.order_items i ON i.order_id = o.id
WHERE    o.customer_id = $1
ORDER BY i.id`

// readAccount reads back what the writer has committed: at no moment may it be
// anything else.
func readAccount(ctx context.Context, w *writer, tx pgx.Tx) (func(), error) {
	a, _ := w.ledger.choose(w.random)
	orders, err := collect[order](ctx, tx, readOrdersSQL, a.ID)
	if err != nil {
		return nil, err
	}
	items, err := collect[item](ctx, tx, readItemsSQL, a.ID)
	if err != nil {
		return nil, err
	}
	wantOrders, wantItems := a.sorted()
	if !slices.EqualFunc(orders, wantOrders, order.equal) {
		return nil, fmt.Errorf("the orders of customer %d were read as %v, not %v", a.ID, orders, wantOrders)
	}
	if !slices.Equal(items, wantItems) {
		return nil, fmt.Errorf("the items of customer %d were read as %v, not %v", a.ID, items, wantItems)
	}
	return func() {}, nil
}

func collect[T any](ctx context.Context, tx pgx.Tx, sql string, args ...any) ([]T, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[T])
}

func (a *account) sorted() (orders []order, items []item) {
	for _, o := range a.Orders {
		orders = append(orders, *o)
		items = append(items, o.Items...)
	}
	slices.SortFunc(orders, func(a, b order) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(items, func(a, b item) int { return cmp.Compare(a.ID, b.ID) })
	return orders, items
}

// equal leaves the items aside.
func (o order) equal(p order) bool {
	return o.ID == p.ID && o.Customer == p.Customer && o.Reference == p.Reference && o.Status == p.Status &&
		o.Cents == p.Cents && o.Note == p.Note && o.Created.Equal(p.Created) && o.Updated.Equal(p.Updated)
}
