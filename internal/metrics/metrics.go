// Package metrics shows jobs to Prometheus. All figures are read from the registry, so that
// counters do not fall when a job is resumed by another process.
package metrics

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/repack-go/repack/repack"
)

// Source reads the jobs: (*repack.Repack).Status.
type Source func(ctx context.Context) ([]repack.Status, error)

// collector is a prometheus.Collector.
type collector struct {
	source Source
	log    *slog.Logger

	mu   sync.Mutex
	read time.Time
	jobs []repack.Status
}

const (
	keep    = 2 * time.Second  // how long jobs that were read are kept
	readFor = 10 * time.Second // how long reading may take
)

// New returns a registry of Prometheus with the jobs of source.
func New(source Source, log *slog.Logger) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(&collector{source: source, log: log})
	return registry
}

// metric is a figure of a job. value returns false if the job has none.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(repack.Status) (float64, bool)
}

func describe(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("repack_"+name, help, []string{"table", "job"}, nil)
}

var (
	up          = prometheus.NewDesc("repack_up", "Whether the registry could be read.", nil, nil)
	info        = prometheus.NewDesc("repack_job_info", "What the latest job of each table is; always 1.", []string{"table", "job", "strategy", "stage", "state"}, nil)
	waiting     = prometheus.NewDesc("repack_waiting_seconds", "How long a run has been waiting, and for what.", []string{"table", "job", "reason"}, nil)
	lastEnd     = prometheus.NewDesc("repack_last_end_timestamp_seconds", "When the latest job of each table ended.", []string{"table", "result"}, nil)
	batchTables = prometheus.NewDesc("repack_batch_tables", "Tables of batches that have not ended, by whether they are done.", []string{"batch", "done"}, nil)
)

var metrics = []metric{
	{describe("rows_copied_total", "Rows that the backfill has copied."), prometheus.CounterValue, func(s repack.Status) (float64, bool) { return float64(s.RowsCopied), true }},
	{describe("rows", "About how many rows the table has."), prometheus.GaugeValue, func(s repack.Status) (float64, bool) { return float64(s.RowsTotal), true }},
	{describe("progress_ratio", "How much of the backfill is done, from 0 to 1."), prometheus.GaugeValue, func(s repack.Status) (float64, bool) {
		if s.RowsTotal <= 0 {
			return 0, false
		}
		return min(float64(s.RowsCopied)/float64(s.RowsTotal), 1), true
	}},
	{describe("rows_per_second", "How many rows the backfill copies in a second."), prometheus.GaugeValue, func(s repack.Status) (float64, bool) { return s.Rate, s.FinishedAt == nil }},
	{describe("eta_seconds", "How long the backfill will still take."), prometheus.GaugeValue, func(s repack.Status) (float64, bool) { return valueOf(s.ETASeconds) }},
	{describe("pending_changes", "Rows of the change log."), prometheus.GaugeValue, func(s repack.Status) (float64, bool) { return float64(s.PendingChanges), s.FinishedAt == nil }},
	{describe("change_log_bytes", "Size of the change log."), prometheus.GaugeValue, func(s repack.Status) (float64, bool) { return float64(s.ChangeLogBytes), s.FinishedAt == nil }},
	{describe("longest_lock_seconds", "The longest time for which a transaction of the job blocked the application."), prometheus.GaugeValue, func(s repack.Status) (float64, bool) {
		if s.LongestLockMS == nil {
			return 0, false
		}
		return float64(*s.LongestLockMS) / 1000, true
	}},
	{describe("heartbeat_timestamp_seconds", "When the process at work has last recorded that it is alive."), prometheus.GaugeValue, func(s repack.Status) (float64, bool) {
		if s.HeartbeatAt == nil {
			return 0, false
		}
		return float64(s.HeartbeatAt.Unix()), true
	}},
	{describe("paused", "Whether the job is paused."), prometheus.GaugeValue, func(s repack.Status) (float64, bool) { return boolean(s.Paused != nil), s.FinishedAt == nil }},
	{describe("swapped", "Whether the tables are swapped."), prometheus.GaugeValue, func(s repack.Status) (float64, bool) { return boolean(s.Swapped), true }},
}

func valueOf(f *float64) (float64, bool) {
	if f == nil {
		return 0, false
	}
	return *f, true
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Names lists the names of all metrics.
func Names() []string {
	return []string{
		"repack_up", "repack_job_info", "repack_waiting_seconds", "repack_last_end_timestamp_seconds", "repack_batch_tables", "repack_rows_copied_total",
		"repack_rows", "repack_progress_ratio", "repack_rows_per_second", "repack_eta_seconds", "repack_pending_changes", "repack_change_log_bytes",
		"repack_longest_lock_seconds", "repack_heartbeat_timestamp_seconds", "repack_paused", "repack_swapped",
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{up, info, waiting, lastEnd, batchTables} {
		descs <- d
	}
	for _, m := range metrics {
		descs <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	jobs, err := c.status()
	out <- prometheus.MustNewConstMetric(up, prometheus.GaugeValue, boolean(err == nil))
	if err != nil {
		c.log.Warn("metrics not read", "error", err)
		return
	}
	batches := map[int64]bool{}
	for _, s := range jobs {
		job := strconv.FormatInt(s.Job, 10)
		out <- prometheus.MustNewConstMetric(info, prometheus.GaugeValue, 1, s.Table, job, s.Strategy, string(s.Stage), s.State)
		for _, m := range metrics {
			if value, has := m.value(s); has {
				out <- prometheus.MustNewConstMetric(m.desc, m.kind, value, s.Table, job)
			}
		}
		if s.WaitingFor != nil && s.WaitingSince != nil {
			out <- prometheus.MustNewConstMetric(waiting, prometheus.GaugeValue, time.Since(*s.WaitingSince).Seconds(), s.Table, job, *s.WaitingFor)
		}
		if s.FinishedAt != nil {
			out <- prometheus.MustNewConstMetric(lastEnd, prometheus.GaugeValue, float64(s.FinishedAt.Unix()), s.Table, s.State)
		}
		if s.Batch != nil && !batches[s.Batch.ID] {
			batches[s.Batch.ID] = true
			id := strconv.FormatInt(s.Batch.ID, 10)
			out <- prometheus.MustNewConstMetric(batchTables, prometheus.GaugeValue, float64(s.Batch.Done), id, "yes")
			out <- prometheus.MustNewConstMetric(batchTables, prometheus.GaugeValue, float64(s.Batch.Tables-s.Batch.Done), id, "no")
		}
	}
}

// status reads the jobs, unless they were read just now.
func (c *collector) status() ([]repack.Status, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.read) < keep {
		return c.jobs, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), readFor)
	defer cancel()
	jobs, err := c.source(ctx)
	if err != nil {
		return nil, err
	}
	c.jobs, c.read = jobs, time.Now()
	return jobs, nil
}
