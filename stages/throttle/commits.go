package throttle

import (
	"context"
	"time"
)

// asynchronousSQL is a setting of a transaction whose COMMIT waits neither for the disk nor for
// a standby. It is for chunks and replay batches: what one has done commits together
// with the record of it, so that a crash loses both or neither. Every other commit of
// ours, such as the one that ends a stage, waits for its own WAL and so for all that
// was written before it.
//
// https://www.postgresql.org/docs/current/wal-async-commit.html
const asynchronousSQL = `SET LOCAL synchronous_commit = off`

// flushEvery is for how long commits are asynchronous before one waits again. An
// application that comes back from a pause waits for all WAL that was written before
// its own, on the disk and on the standbys that it waits for.
const flushEvery = 2 * time.Second

// Commits are the settings with which the next transaction of a chunk or a batch
// begins.
func (t *Throttle) Commits(ctx context.Context) (settings []string, err error) {
	if t.flushDue() {
		return nil, nil
	}
	atWork, err := t.atWork(ctx)
	if err != nil || atWork {
		return nil, err
	}
	return []string{asynchronousSQL}, nil
}

// flushDue reports, and notes, that it is time for a commit that waits. The first
// one does, so that of a small table nobody asks whether the application is at work.
func (t *Throttle) flushDue() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.flushed) < flushEvery {
		return false
	}
	t.flushed = time.Now()
	return true
}
