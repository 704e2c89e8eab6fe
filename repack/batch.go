package repack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
)

// Batch says how RunBatch repacks the tables of a selection.
type Batch struct {
	Selection
	// Strict makes RunBatch refuse, before it begins with any table, if one of those that were
	// not named cannot be repacked. Otherwise it skips such tables.
	Strict bool
	// ContinueOnError continues with the next table after a failure. Otherwise the batch stops.
	ContinueOnError bool
	// NewBatch begins another batch, although one of the same selection has not ended.
	NewBatch bool
	// MaxTables, MaxDuration and MaxWritten (bytes of the copies, with indexes) limit one call.
	// When one of them is reached, the chunk under way is finished, and RunBatch returns
	// *StoppedError. Zero: no limit.
	MaxTables   int
	MaxDuration time.Duration
	MaxWritten  int64
	// AfterTable is called with the result of each table. It may be nil.
	AfterTable func(TableResult)
}

// TableResult is what has become of a table of a batch.
type TableResult struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	// Result is done, skipped, refused, failed, stopped or not_begun.
	Result string `json:"result"`
	Reason string `json:"reason"`
	// BytesBefore and BytesAfter are sizes with indexes and TOAST; BytesAfter is nil if the table
	// is not done.
	BytesBefore int64   `json:"bytes_before"`
	BytesAfter  *int64  `json:"bytes_after"`
	Seconds     float64 `json:"seconds"`

	err error
}

// The results of a table that the registry does not keep: the next call tries it again.
const (
	resultFailed   = "failed"
	resultStopped  = "stopped"
	resultNotBegun = "not_begun"
)

// BatchError reports that some tables of a batch are not done. Unwrap returns an error for each.
type BatchError struct {
	Results []TableResult
	Errs    []error
}

// Error has a line for each table that is not done.
func (e *BatchError) Error() string {
	var lines []string
	done := 0
	for _, r := range e.Results {
		switch {
		case r.Result == string(registry.BatchDone):
			done++
		case r.err != nil && r.Result != string(registry.BatchSkipped):
			lines = append(lines, fmt.Sprintf("%s %s: %v", catalog.Name{Schema: r.Schema, Name: r.Name}, r.Result, r.err))
		case r.Result == resultNotBegun:
			lines = append(lines, fmt.Sprintf("%s: not begun", catalog.Name{Schema: r.Schema, Name: r.Name}))
		}
	}
	return fmt.Sprintf("%d of %d tables are done\n  %s", done, len(e.Results), strings.Join(lines, "\n  "))
}

// Unwrap returns the errors.
func (e *BatchError) Unwrap() []error { return e.Errs }

// batchRun is one call of RunBatch.
type batchRun struct {
	*Repack
	Batch
	id      int64
	began   time.Time
	written int64 // by tables that are done
	tables  []registry.BatchTable
	named   map[catalog.Name]bool
	results []TableResult
	meter   meter
}

// RunBatch repacks the tables of a selection, one after the other, as Run does each. The options
// hold for all of them; Options.Table must be empty.
//
// A batch is recorded. If the call ends before all tables are done, the next call with the same
// selection continues it: it does not choose again, and repacks no table twice. When a batch has
// ended, the next call begins another.
//
// It returns the results, and *BatchError if tables were refused, failed or were not begun.
// *NoMatchError, ErrNothingChosen and *UsageError mean that nothing has been begun. If no table is
// left by the sizes of the selection, there is nothing to do, and no error.
func (r *Repack) RunBatch(ctx context.Context, b Batch) ([]TableResult, error) {
	limits, err := b.limits()
	if err != nil {
		return nil, err
	}
	if r.options.Table != "" {
		return nil, &UsageError{errors.New("a batch has a selection, and no table")}
	}
	run := &batchRun{Repack: r, Batch: b, began: time.Now(), named: map[catalog.Name]bool{}}
	var result []TableResult
	err = r.persist(ctx, func(ctx context.Context, connected *Repack) error {
		run.Repack = connected
		if run.tables == nil {
			if err := run.prepare(ctx, limits); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || len(run.tables) == 0 {
		return result, err
	}
	return run.all(ctx)
}

// prepare finds the batch to continue, or chooses tables and records a new one.
func (b *batchRun) prepare(ctx context.Context, l limits) error {
	conn, err := session.ConnectAsIs(ctx, b.config)
	if err != nil {
		return err
	}
	defer session.Close(ctx, conn)
	b.tenure.connected = true
	chosen, err := b.choose(ctx, conn, b.Selection)
	if err != nil {
		return err
	}
	for _, c := range chosen {
		b.named[c.Name] = c.Named
	}
	if len(chosen) == 0 {
		return ErrNothingChosen
	}
	if err := session.Configure(ctx, conn); err != nil {
		return err
	}
	selection, err := json.Marshal(b.Selection)
	if err != nil {
		return err
	}
	ready, err := b.registryReady(ctx, conn, catalog.Name{})
	if err != nil {
		return err
	}
	if ready {
		open, err := b.registry.FindBatch(ctx, conn, selection)
		switch {
		case err == nil && !b.NewBatch:
			b.id, b.tables = open.ID, open.Tables
			b.options.Logger.Info("batch continues", "batch", open.ID, "tables", len(open.Tables), "since", open.Began)
			return nil
		case err == nil:
			err = b.registry.EndBatch(ctx, conn, open.ID)
		case errors.Is(err, registry.ErrNotFound):
			err = b.markBegun(ctx, conn, chosen)
		}
		if err != nil {
			return err
		}
	}
	if chosen, err = b.filter(ctx, conn, chosen, l); err != nil || len(chosen) == 0 {
		return err
	}
	return b.record(ctx, conn, selection, chosen)
}

// record records the batch. With Strict, it first makes sure that no table will be refused.
func (b *batchRun) record(ctx context.Context, conn *pgx.Conn, selection json.RawMessage, chosen []Chosen) error {
	tables := make([]registry.BatchTable, len(chosen))
	for i, c := range chosen {
		tables[i] = registry.BatchTable{N: i + 1, TableSchema: c.Name.Schema, TableName: c.Name.Name, Bytes: c.Bytes}
	}
	if b.Strict {
		if err := b.strict(ctx, tables); err != nil {
			return err
		}
	}
	if b.options.Until == PreValidate {
		b.tables = tables
		return nil
	}
	if err := b.upgrade(ctx, conn); err != nil {
		return err
	}
	batch, err := b.registry.NewBatch(ctx, conn, selection, tables)
	if err != nil {
		return err
	}
	b.id, b.tables = batch.ID, batch.Tables
	b.options.Logger.Info("batch begins", "batch", b.id, "tables", len(tables))
	return nil
}

// strict makes sure that no table will be refused.
func (b *batchRun) strict(ctx context.Context, tables []registry.BatchTable) error {
	var refused error
	for _, t := range tables {
		err := b.each(t, PreValidate).Run(ctx)
		var refusal *RefusedError
		if errors.As(err, &refusal) {
			refused = errors.Join(refused, err)
		} else if err != nil {
			return err
		}
	}
	return refused
}

// markBegun marks the tables that have an unfinished job.
func (b *batchRun) markBegun(ctx context.Context, conn *pgx.Conn, chosen []Chosen) error {
	jobs, err := b.registry.List(ctx, conn)
	if err != nil {
		return err
	}
	for i, c := range chosen {
		chosen[i].begun = slices.ContainsFunc(jobs, func(j *registry.Job) bool { return j.FinishedAt == nil && j.Table() == c.Name })
	}
	return nil
}

// each returns the Repack of one table.
func (b *batchRun) each(t registry.BatchTable, until Stage) *Repack {
	r := *b.Repack
	r.tenure = newTenure()
	r.options.Table, r.options.Until = t.Name().String(), until
	r.options.Throttlers = append(slices.Clone(r.options.Throttlers), &budget{b})
	after := r.options.Hooks.AfterJob
	r.options.Hooks.AfterJob = func(ctx context.Context, o Outcome) {
		b.written += o.After
		b.meter.reset() // the copy that it has measured is counted now
		if after != nil {
			after(ctx, o)
		}
	}
	return &r
}

// all repacks the tables that are not done.
func (b *batchRun) all(ctx context.Context) ([]TableResult, error) {
	var errs []error
	done := 0
	stop := false
	for _, t := range b.tables {
		result := TableResult{Schema: t.TableSchema, Name: t.TableName, BytesBefore: t.Bytes, BytesAfter: t.BytesAfter, Reason: t.Reason}
		switch {
		case t.Result != nil:
			result.Result = string(*t.Result)
		case stop:
			result.Result = resultNotBegun
		case b.MaxTables > 0 && done == b.MaxTables:
			stop, result.Result = true, resultNotBegun
			errs = append(errs, &StoppedError{Reason: fmt.Sprintf("%d tables are done", done)})
		default:
			result = b.table(ctx, t, result)
			if result.Result == string(registry.BatchDone) {
				done++
			}
			stop = b.stops(ctx, result)
			if result.err != nil && result.Result != string(registry.BatchSkipped) {
				errs = append(errs, result.err)
			}
			if b.AfterTable != nil {
				b.AfterTable(result)
			}
		}
		b.results = append(b.results, result)
	}
	if !stop && len(errs) == 0 || !slices.ContainsFunc(b.results, func(r TableResult) bool {
		return r.Result == resultFailed || r.Result == resultStopped || r.Result == resultNotBegun
	}) {
		errs = append(errs, b.end(ctx))
	}
	if errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil }); len(errs) > 0 {
		return b.results, &BatchError{Results: b.results, Errs: errs}
	}
	return b.results, nil
}

// stops reports whether the batch stops after a result.
func (b *batchRun) stops(ctx context.Context, r TableResult) bool {
	return ctx.Err() != nil || r.Result == resultStopped || r.Result == resultFailed && !b.ContinueOnError
}

// table repacks one table and records its result.
func (b *batchRun) table(ctx context.Context, t registry.BatchTable, result TableResult) TableResult {
	began := time.Now()
	err := b.each(t, b.options.Until).Run(ctx)
	result.Seconds = time.Since(began).Seconds()
	var refused *RefusedError
	var stopped *StoppedError
	switch {
	case err == nil:
		result.Result = string(registry.BatchDone)
	case ctx.Err() == nil && errors.As(err, &refused) && !b.named[t.Name()]:
		result.Result, result.Reason = string(registry.BatchSkipped), err.Error()
		b.options.Logger.Info("skipped", "table", t.Name().String(), "reason", err)
	case ctx.Err() == nil && errors.As(err, &refused):
		result.Result, result.Reason, result.err = string(registry.BatchRefused), err.Error(), err
	case errors.As(err, &stopped):
		result.Result, result.Reason, result.err = resultStopped, err.Error(), err
	default:
		result.Result, result.Reason, result.err = resultFailed, err.Error(), err
	}
	if err := b.note(context.WithoutCancel(ctx), t, &result); err != nil {
		result.err = errors.Join(result.err, err)
	}
	return result
}

// note records a result that the next call need not try again, and the size of a table that is
// done.
func (b *batchRun) note(ctx context.Context, t registry.BatchTable, result *TableResult) error {
	if result.Result == resultFailed || result.Result == resultStopped || b.id == 0 || b.options.Until != CleanUp {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, releasing)
	defer cancel()
	conn, err := session.Connect(ctx, b.config)
	if err != nil {
		return err
	}
	defer session.Close(ctx, conn)
	if result.Result == string(registry.BatchDone) {
		size, err := sizeOf(ctx, conn, t.Name())
		if err != nil {
			return err
		}
		result.BytesAfter, t.BytesAfter = &size, &size
	}
	kept := registry.BatchResult(result.Result)
	t.Result, t.Reason = &kept, result.Reason
	return b.registry.EndBatchTable(ctx, conn, b.id, t)
}

const sizeSQL = `
SELECT coalesce((SELECT sum(pg_total_relation_size(t.relid)) FROM pg_partition_tree(to_regclass($1)) t WHERE t.isleaf),
                pg_total_relation_size(to_regclass($1)), 0)::bigint`

func sizeOf(ctx context.Context, conn *pgx.Conn, table catalog.Name) (bytes int64, err error) {
	if err := conn.QueryRow(ctx, sizeSQL, table.String()).Scan(&bytes); err != nil {
		return 0, fmt.Errorf("measure %s: %w", table, err)
	}
	return bytes, nil
}

// end ends the batch, if all of its tables are done.
func (b *batchRun) end(ctx context.Context) error {
	if b.id == 0 || b.options.Until != CleanUp {
		return nil
	}
	conn, err := session.Connect(ctx, b.config)
	if err != nil {
		return err
	}
	defer session.Close(ctx, conn)
	return b.registry.EndBatch(ctx, conn, b.id)
}

// budget is the Throttler of a batch.
type budget struct{ *batchRun }

// measureEvery is how often the size of a copy is measured.
const measureEvery = 2 * time.Second

// Check implements Throttler.
func (b *budget) Check(ctx context.Context, _ Work) (Verdict, error) {
	if b.MaxDuration > 0 && time.Since(b.began) >= b.MaxDuration {
		return Verdict{}, &StoppedError{Reason: fmt.Sprintf("%s have passed", b.MaxDuration)}
	}
	if b.MaxWritten <= 0 {
		return Verdict{}, nil
	}
	written, err := b.meter.read(ctx, b.measure)
	if err != nil {
		return Verdict{}, err
	}
	if b.written+written >= b.MaxWritten {
		return Verdict{}, &StoppedError{Reason: fmt.Sprintf("%d bytes have been written", b.written+written)}
	}
	return Verdict{}, nil // a budget is no reason for small chunks, however much of it is used
}

// measure returns the size of the copy that this process is writing.
func (b *budget) measure(ctx context.Context) (int64, error) {
	conn, err := session.Connect(ctx, b.config)
	if err != nil {
		return 0, err
	}
	defer session.Close(ctx, conn)
	return b.registry.Written(ctx, conn, registry.NewRunner())
}
