package demo

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const createRecordsSQL = `
CREATE UNLOGGED TABLE repack_demo.touched (id bigint);
CREATE UNLOGGED TABLE repack_demo.recorded_customers   (LIKE repack_demo.customers);
CREATE UNLOGGED TABLE repack_demo.recorded_orders      (LIKE repack_demo.orders);
CREATE UNLOGGED TABLE repack_demo.recorded_order_items (LIKE repack_demo.order_items);
CREATE UNLOGGED TABLE repack_demo.recorded_payments    (LIKE repack_demo.payments)`

const analyzeRecordsSQL = `
ANALYZE repack_demo.touched, repack_demo.recorded_customers, repack_demo.recorded_orders, repack_demo.recorded_order_items, repack_demo.recorded_payments`

// upload makes tables of the writers' ledgers.
func (s *show) upload(ctx context.Context, l *load) error {
	if _, err := s.conn.Exec(ctx, createRecordsSQL); err != nil {
		return fmt.Errorf("create tables of the records: %w", err)
	}
	for _, r := range l.records() {
		if _, err := s.conn.CopyFrom(ctx, pgx.Identifier{schema, r.table}, r.columns, pgx.CopyFromRows(r.rows)); err != nil {
			return fmt.Errorf("fill %s: %w", r.table, err)
		}
	}
	if _, err := s.conn.Exec(ctx, analyzeRecordsSQL); err != nil {
		return fmt.Errorf("analyze the records: %w", err)
	}
	return nil
}

// records are the ledgers as rows.
type records struct {
	table   string
	columns []string
	rows    [][]any
}

func (l *load) records() []*records {
	touched := &records{"touched", []string{"id"}, nil}
	customers := &records{"recorded_customers", []string{"id", "name"}, nil}
	orders := &records{"recorded_orders", []string{
		"id", "customer_id", "reference", "status", "cents", "note", "created_at", "updated_at",
	}, nil}
	items := &records{"recorded_order_items", []string{"id", "order_id", "product", "quantity"}, nil}
	payments := &records{"recorded_payments", []string{"id", "order_id", "cents"}, nil}
	l.accounts(func(customer int64, a *account) {
		touched.add(customer)
		if a == nil {
			return
		}
		customers.add(a.ID, a.Name)
		for _, o := range a.Orders {
			orders.add(o.ID, o.Customer, o.Reference, o.Status, o.Cents, o.Note, o.Created, o.Updated)
			for _, i := range o.Items {
				items.add(i.ID, i.Order, i.Product, i.Quantity)
			}
			for _, p := range o.Payments {
				payments.add(p.ID, p.Order, p.Cents)
			}
		}
	})
	return []*records{touched, customers, orders, items, payments}
}

func (r *records) add(row ...any) { r.rows = append(r.rows, row) }
