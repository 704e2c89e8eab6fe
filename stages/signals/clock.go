package signals

import (
	"context"
	"sync"
	"time"
)

const (
	// readEvery is how often a signal is read.
	readEvery = time.Second
	// lsnEvery is how often signals are read that our own writes bring to their limit: between
	// two readings, small pieces of work could go beyond it.
	lsnEvery = 10 * time.Millisecond
	// rarely is how often what takes the server long is read, or what hardly ever changes.
	rarely = 5 * time.Second
)

// clock keeps a reading until it is too old. A reading that fails is not kept.
type clock[T any] struct {
	mu    sync.Mutex
	at    time.Time
	value T
}

// read returns the kept reading, or a new one.
func (c *clock[T]) read(ctx context.Context, every time.Duration, read func(context.Context) (T, error)) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() && time.Since(c.at) < every {
		return c.value, nil
	}
	value, err := read(ctx)
	if err != nil {
		return value, err
	}
	c.at, c.value = time.Now(), value
	return value, nil
}

// position is where the write-ahead log was at a time.
type position struct {
	at  time.Time
	lsn int64
}
