package stages

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/size"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/throttle"
)

// LogLimit is how large the change log may become before the swap. While work is stopped, or slow,
// it grows with each write of the application. The limit can be changed while a run is at work.
type LogLimit struct {
	bytes atomic.Int64
	// Reset removes the job when the limit is passed. Otherwise, the log of the run says so, once.
	Reset bool
}

// Set changes the limit; zero: there is none.
func (l *LogLimit) Set(bytes int64) { l.bytes.Store(bytes) }

// logEvery is how often the change log is measured, if it has a limit.
const logEvery = time.Second

// logFull is why the work of a run is ended.
type logFull struct{ bytes, limit int64 }

func (f *logFull) Error() string {
	return fmt.Sprintf("the change log has %s, limit %s", size.Text(f.bytes), size.Text(f.limit))
}

// watchLog measures the change log of job id until the returned function is called. If the job is
// to be removed, it calls end.
func (e *Env) watchLog(ctx context.Context, id int64, end context.CancelCauseFunc) (stop func()) {
	if e.LogLimit == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.LogLimit.watch(ctx, e.Log.Debug, func() (int64, error) { return logBytes(ctx, e.Registry, e.Pool, id) }, func(full *logFull) bool {
			if e.LogLimit.Reset {
				end(full)
				return true
			}
			e.Log.Warn("change log larger than its limit", "job", id, "bytes", full.bytes, "limit", full.limit)
			return false
		})
	}()
	return func() { cancel(); <-done }
}

// watch calls passed when measure returns more than the limit: again only after the limit was
// changed, and not after passed has returned true.
func (l *LogLimit) watch(ctx context.Context, debug func(string, ...any), measure func() (int64, error), passed func(*logFull) (end bool)) {
	told := int64(0)
	ticks := time.NewTicker(logEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		limit := l.bytes.Load()
		if limit == 0 || limit == told {
			continue
		}
		bytes, err := measure()
		if err != nil {
			if ctx.Err() == nil { // if the connection is lost, the run notices it too
				debug("change log not measured", "error", err)
			}
			continue
		}
		if bytes <= limit {
			continue
		}
		if told = limit; passed(&logFull{bytes, limit}) {
			return
		}
	}
}

// logBytes measures the change log of a job that has not switched to write-through. Later the log
// hardly grows, and the swap is near.
func logBytes(ctx context.Context, r *registry.Registry, q catalog.Querier, id int64) (bytes int64, err error) {
	job, err := r.Get(ctx, q, id)
	if err != nil || job.CompletedBy != nil || job.Swapped() {
		return 0, err
	}
	return LogBytes(ctx, q, job)
}

const logBytesSQL = `SELECT coalesce(pg_total_relation_size(to_regclass($1)), 0)`

// LogBytes measures the change log of a job, which may just have been dropped.
func LogBytes(ctx context.Context, q catalog.Querier, job *registry.Job) (bytes int64, err error) {
	log := catalog.Name{Schema: job.ShadowSchema, Name: job.ChangeLog}
	if err := q.QueryRow(ctx, logBytesSQL, log.String()).Scan(&bytes); err != nil {
		return 0, fmt.Errorf("measure the change log of job %d: %w", job.ID, err)
	}
	return bytes, nil
}

// removeFull removes the job, because its change log has become too large. Nothing of it is left,
// and the next run begins anew.
func (e *Env) removeFull(ctx context.Context, full *logFull, err error) error {
	e.Log.Warn("the change log is larger than its limit: removing the job", "job", e.Job.ID, "bytes", full.bytes, "limit", full.limit)
	ctx, cancel := context.WithTimeout(ctx, giving)
	defer cancel()
	removed := e.remove(ctx)
	switch {
	case errors.Is(removed, ErrSwapped):
		return err
	case removed != nil:
		return fmt.Errorf("%w, and the job could not be removed; remove it with: repack reset --table '%s': %w", full, e.Source.Name, removed)
	}
	return &throttle.StoppedError{Reason: full.Error() + ", and the job was removed, so that the next run begins anew"}
}
