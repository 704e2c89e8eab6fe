package demo

import (
	"math/rand/v2"
	"time"
)

// account is a customer with everything that belongs to him, as far as one
// writer has committed it. The fields of these types are in the order of the
// tables' columns.
type account struct {
	ID     int64
	Name   string
	Orders []*order `db:"-"`
}

type order struct {
	ID        int64
	Customer  int64
	Reference string
	Status    string
	Cents     int64
	Note      string
	Created   time.Time
	Updated   time.Time
	Items     []item    `db:"-"`
	Payments  []payment `db:"-"`
}

type item struct {
	ID       int64
	Order    int64
	Product  string
	Quantity int64
}

type payment struct {
	ID    int64
	Order int64
	Cents int64
}

// writers is how many connections write. Customer c belongs to writer
// c % (2*writers); where that is no writer's number he is left alone, so that
// half of the rows are never written to.
const writers = 4

// quietSQL selects customers who are left alone, out of the first ones; the
// verb is the column.
const quietSQL = `%[1]s <= @customers::bigint AND %[1]s %% (2 * @writers::bigint) >= @writers::bigint`

// ledger is what one writer has committed. No other writer touches his
// customers, so it says exactly what the database has to hold of them.
type ledger struct {
	seed     seed
	active   []int64            // customers who can be chosen
	accounts map[int64]*account // those ever touched; nil: deleted
}

func newLedger(s seed, writer int64) *ledger {
	l := &ledger{seed: s, accounts: map[int64]*account{}}
	for c := writer; c <= s.customers; c += 2 * writers {
		if c > 0 {
			l.active = append(l.active, c)
		}
	}
	return l
}

// choose returns a customer to do something with, and his place in active.
func (l *ledger) choose(random *rand.Rand) (*account, int) {
	i := random.IntN(len(l.active))
	c := l.active[i]
	if l.accounts[c] == nil {
		l.accounts[c] = l.seed.account(c)
	}
	return l.accounts[c], i
}

// replace records that the customer at place i of active is gone, with all
// that belonged to him, and another one has come.
func (l *ledger) replace(i int, by *account) {
	l.accounts[l.active[i]] = nil
	l.accounts[by.ID] = by
	l.active[i] = by.ID
}
