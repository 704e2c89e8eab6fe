package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// pause is what a writer does between two transactions: an application is
	// not a benchmark.
	pause = time.Millisecond
	// maxRetries bounds how often one transaction is tried again.
	maxRetries = 10
	// repeatableRead is one transaction out of how many; the others are READ
	// COMMITTED.
	repeatableRead = 5
	// keptErrors is how many messages of one writer are shown.
	keptErrors = 3
)

// writer is one connection of the application, and the record of what it has
// committed.
type writer struct {
	conn   *pgx.Conn
	random *rand.Rand
	watch  *stopwatch
	ledger *ledger

	errors   int
	messages []string // of the first errors
	retries  int      // after serialization failures
	serial   int64    // of references it has given out
	number   int
}

func newWriter(ctx context.Context, config *pgx.ConnConfig, s seed, c *clock, number int) (*writer, error) {
	w := &writer{
		random: rand.New(rand.NewPCG(uint64(number), uint64(s.orders))),
		watch:  newStopwatch(c), ledger: newLedger(s, int64(number)), number: number,
	}
	config = config.Copy()
	config.RuntimeParams["application_name"] = fmt.Sprintf("repack demo writer %d", number+1)
	config.Tracer = w.watch
	var err error
	w.conn, err = pgx.ConnectConfig(ctx, config)
	return w, err
}

func (w *writer) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = w.conn.Close(ctx) // it may be broken, which has been counted
}

// work makes one transaction after another until quit is closed.
func (w *writer) work(ctx context.Context, quit <-chan struct{}) {
	for !w.conn.IsClosed() {
		w.transact(ctx)
		select {
		case <-ctx.Done():
			return
		case <-quit:
			return
		case <-time.After(pause):
		}
	}
}

// transact makes one transaction, again after a serialization failure.
func (w *writer) transact(ctx context.Context) {
	change := w.pick()
	for attempt := 0; ; attempt++ {
		began := w.watch.start()
		err := w.attempt(ctx, change)
		var pgErr *pgconn.PgError
		switch {
		case err == nil:
			w.watch.committed(began)
		case ctx.Err() != nil: // the demo has been interrupted
		case errors.As(err, &pgErr) && pgErr.Code == pgerrcode.SerializationFailure && attempt < maxRetries:
			w.retries++
			continue
		default:
			w.failed(change, err)
		}
		return
	}
}

func (w *writer) failed(c change, err error) {
	w.errors++
	if len(w.messages) < keptErrors {
		w.messages = append(w.messages, fmt.Sprintf("%s: %s: %v", w.watch.at(), c.name, err))
	}
}

// attempt records what the transaction has done only after its commit. An
// error of COMMIT itself may leave that open; it is counted, and ends the
// proof anyway.
func (w *writer) attempt(ctx context.Context, c change) error {
	isolation := pgx.ReadCommitted
	if w.random.IntN(repeatableRead) == 0 {
		isolation = pgx.RepeatableRead
	}
	tx, err := w.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: isolation})
	if err != nil {
		return err
	}
	record, err := c.run(ctx, w, tx)
	if err == nil && record == nil {
		return tx.Rollback(ctx) // what it did is not wanted after all
	}
	if err != nil {
		_ = tx.Rollback(ctx) // the first error is the one to tell
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	record()
	return nil
}
