package demo

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
)

// load is the application.
type load struct {
	clock   *clock
	writers []*writer
	running sync.WaitGroup
	quit    chan struct{}
	once    sync.Once
}

// startLoad returns when every writer is connected. ctx ends the load at once,
// in the middle of a transaction.
func startLoad(ctx context.Context, config *pgx.ConnConfig, s seed) (*load, error) {
	l := &load{clock: newClock(), quit: make(chan struct{})}
	for i := range writers {
		w, err := newWriter(ctx, config, s, l.clock, i)
		if err != nil {
			l.stop(ctx)
			return nil, fmt.Errorf("connect writer %d: %w", i+1, err)
		}
		l.writers = append(l.writers, w)
	}
	for _, w := range l.writers {
		l.running.Go(func() { w.work(ctx, l.quit) })
	}
	return l, nil
}

// stop lets the writers end the transactions they are in. Only then their
// ledgers may be read. It may be called again.
func (l *load) stop(ctx context.Context) {
	l.once.Do(func() {
		close(l.quit)
		l.running.Wait()
		l.clock.end()
		for _, w := range l.writers {
			w.close(ctx)
		}
	})
}

// accounts calls do for every customer a writer has touched; account is nil
// for one who is gone.
func (l *load) accounts(do func(customer int64, a *account)) {
	for _, w := range l.writers {
		for customer, a := range w.ledger.accounts {
			do(customer, a)
		}
	}
}

// seen is what all writers saw in the moments from first up to but not
// including end.
func (l *load) seen(first, end int) (all waits) {
	for _, w := range l.writers {
		for _, one := range w.watch.seen[first:end] {
			all.transactions = append(all.transactions, one.transactions...)
			all.longest = max(all.longest, one.longest)
			all.statement = max(all.statement, one.statement)
		}
	}
	return all
}
