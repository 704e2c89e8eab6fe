package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const updateSQL = `UPDATE t SET amount = amount + 1 WHERE id = $1`

// load is connections that update single rows, chosen at random, until it ends.
type load struct {
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu      sync.Mutex
	began   time.Time
	count   int
	longest time.Duration
	err     error
}

// startLoad has clients update up to rate rows a second together; zero: as many
// as they can.
func (b *bench) startLoad(ctx context.Context, clients int, rate float64) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel, began: time.Now()}
	for range clients {
		l.workers.Go(func() { l.fail(ctx, l.work(ctx, b, rate/float64(clients))) })
	}
	return l
}

func (l *load) work(ctx context.Context, b *bench, rate float64) error {
	conn, err := pgx.Connect(ctx, b.server.ConnString(copied))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	due := time.Now()
	for ctx.Err() == nil {
		if rate > 0 {
			due = due.Add(time.Duration(float64(time.Second) / rate))
			select {
			case <-ctx.Done():
			case <-time.After(time.Until(due)):
			}
		}
		began := time.Now()
		if _, err := conn.Exec(ctx, updateSQL, 1+rand.IntN(b.rows)); err != nil {
			return fmt.Errorf("update: %w", err)
		}
		l.mu.Lock()
		l.count++
		l.longest = max(l.longest, time.Since(began))
		l.mu.Unlock()
	}
	return nil
}

func (l *load) fail(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
}

// spell is what the load came to since the last spell was taken.
type spell struct {
	perSecond float64
	longest   time.Duration
}

func (l *load) take() spell {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := spell{perSecond: float64(l.count) / time.Since(l.began).Seconds(), longest: l.longest}
	l.began, l.count, l.longest = time.Now(), 0, 0
	return s
}

func (l *load) stop() error {
	l.cancel()
	l.workers.Wait()
	return l.err
}

// spellOf measures a load for as long as the flag says, after a second for it
// to get going.
func (b *bench) spellOf(ctx context.Context, l *load) (spell, error) {
	for _, d := range []time.Duration{time.Second, b.seconds} {
		l.take()
		select {
		case <-ctx.Done():
			return spell{}, ctx.Err()
		case <-time.After(d):
		}
	}
	return l.take(), nil
}
