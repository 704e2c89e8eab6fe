package repack

import (
	"context"
	"sync"
	"time"
)

// meter keeps a reading for a while. It is read by several goroutines.
type meter struct {
	mu    sync.Mutex
	at    time.Time
	value int64
}

// reset forgets the kept reading.
func (m *meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = time.Time{}
}

// read returns the kept reading, or that of measure if the kept one is too old.
func (m *meter) read(ctx context.Context, measure func(context.Context) (int64, error)) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.at) < measureEvery {
		return m.value, nil
	}
	value, err := measure(ctx)
	if err != nil {
		return 0, err
	}
	m.at, m.value = time.Now(), value
	return value, nil
}
