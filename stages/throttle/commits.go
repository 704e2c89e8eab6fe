package throttle

import (
	"context"
	"time"
)

// asynchronousSQL is a setting of a transaction whose COMMIT waits neither for the disk
// nor for a standby. It is for chunks and replay batches. Their work commits together
// with its record, so a crash loses both or neither. Every other commit of repack, such
// as the one that ends a stage, waits for its own WAL, and so for all WAL that was
// written before it.
//
// https://www.postgresql.org/docs/current/wal-async-commit.html
const asynchronousSQL = `SET LOCAL synchronous_commit = off`

// flushEvery is how long commits are asynchronous before one waits again. Otherwise an
// application that continues after a pause would wait too long: its commit waits until
// all WAL that was written before is on the disk, and on the standbys for which the
// commit waits.
const flushEvery = 2 * time.Second

// Commits returns the settings with which the next transaction of a chunk or a batch
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

// flushDue reports whether it is time for a commit that waits; if so, it records the
// time. The first commit waits. So for a small table, repack does not ask whether the
// application is at work.
func (t *Throttle) flushDue() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.flushed) < flushEvery {
		return false
	}
	t.flushed = time.Now()
	return true
}
