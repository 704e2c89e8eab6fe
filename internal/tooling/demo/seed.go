package demo

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// seed computes the rows that the tables are filled with. seedCustomersSQL,
// seedOrdersSQL and seedItemsSQL compute the same on the server.
//
// Live orders have odd ids 1, 3, 5, …, those with even ids are deleted before
// the demo begins. The orders of one customer lie far from each other.
type seed struct{ orders, customers int64 }

const ordersOfACustomer = 10

func newSeed(rows int64) seed { return seed{orders: rows, customers: rows / ordersOfACustomer} }

// args are the parameters of all SQL that knows of the seed.
func (s seed) args(step int) pgx.NamedArgs {
	return pgx.NamedArgs{"customers": s.customers, "orders": s.orders, "step": step, "writers": writers}
}

const seedCustomersSQL = `
SELECT c AS id,
       'Customer ' || c AS name
FROM   generate_series(1::bigint, @customers::bigint) AS c`

// The steps from one id to the next: with the orders that are to be deleted, and
// without.
const (
	allIDs  = 1
	liveIDs = 2
)

const seedOrdersSQL = `
SELECT i AS id,
       (i - 1) / 2 % @customers::bigint + 1 AS customer_id,
       'R-' || i AS reference,
       (ARRAY['open', 'paid', 'shipped', 'shipped', 'shipped'])[i % 5 + 1] AS status,
       i * 7919 % 100000 AS cents,
       'Order ' || i || repeat(', as agreed', 4) AS note,
       timestamptz '2024-01-01 00:00:00+00' + i * interval '1 second' AS created_at,
       timestamptz '2024-01-01 00:00:00+00' + i * interval '1 second' AS updated_at
FROM   generate_series(1::bigint, 2 * @orders::bigint, @step::bigint) AS i`

var (
	statuses  = []string{"open", "paid", "shipped", "shipped", "shipped"}
	seedBegin = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
)

func (s seed) order(id int64) *order {
	n := (id - 1) / 2
	o := &order{
		ID: id, Customer: n%s.customers + 1,
		Reference: fmt.Sprintf("R-%d", id),
		Status:    statuses[id%5],
		Cents:     id * 7919 % 100000,
		Note:      fmt.Sprintf("Order %d%s", id, strings.Repeat(", as agreed", 4)),
		Created:   seedBegin.Add(time.Duration(id) * time.Second),
	}
	o.Updated = o.Created
	if n%5 == 0 {
		o.Items = []item{{ID: n/5 + 1, Order: id, Product: fmt.Sprintf("Product %d", n%100), Quantity: n%9 + 1}}
	}
	if n%10 == 0 {
		o.Payments = []payment{{ID: n/10 + 1, Order: id, Cents: o.Cents}}
	}
	return o
}

// Every fifth live order has an item.
const seedItemsSQL = `
SELECT n / 5 + 1 AS id,
       2 * n + 1 AS order_id,
       'Product ' || n % 100 AS product,
       n % 9 + 1 AS quantity
FROM   generate_series(0::bigint, @orders::bigint - 1, 5) AS n`

// Every tenth live order has a payment.
const seedPaymentsSQL = `
SELECT n / 10 + 1 AS id,
       2 * n + 1 AS order_id,
       (2 * n + 1) * 7919 % 100000 AS cents
FROM   generate_series(0::bigint, @orders::bigint - 1, 10) AS n`

// account returns a customer with all that belongs to him.
func (s seed) account(customer int64) *account {
	a := &account{ID: customer, Name: fmt.Sprintf("Customer %d", customer)}
	for n := customer - 1; n < s.orders; n += s.customers {
		a.Orders = append(a.Orders, s.order(2*n+1))
	}
	return a
}
