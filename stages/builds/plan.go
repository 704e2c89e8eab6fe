// Package builds plans how the indexes of a shadow are built: which of them at the same
// time, in which order, with how many workers and with how much memory. It also reads the
// progress of the builds.
package builds

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Build is an index that is to be built, and how.
type Build struct {
	catalog.Index
	cost    float64 // cost of the sort, relative to other builds
	Helpers int     // parallel workers in addition to the process that builds
	ordered bool    // the rows come roughly in the order of the index
	made    int     // its place in the order in which the source's indexes were created
}

// Planner plans the index builds of a job.
type Planner struct {
	Source *catalog.Table
	Jobs   int // how many builds may run at the same time
	// Order reads the order in which the rows were copied; nil: as they are in the
	// source.
	Order func(ctx context.Context) (catalog.Order, error)
}

// Plan plans the builds of missing together. Each list is for one session, which builds
// its indexes one after the other. The list that takes longest comes first. Each list
// goes to the processor that is free first. If processors are left over, the builds get
// helpers.
//
// All unique indexes are in one list, in the order in which those of the source were
// created, which is the order of their OIDs. There are two reasons. If several unique
// indexes would do for a foreign key, the server takes the one that was created first
// (transformFkeyCheckAttrs in its tablecmds.c). And if two of them forbid a row, the
// error names the first one. Indexes of a partition that are like an attached one are in
// one list too: see alike.
func (p Planner) Plan(ctx context.Context, q catalog.Querier, missing []catalog.Index) ([][]Build, error) {
	builds := make([]Build, len(missing))
	for i, index := range missing {
		builds[i] = Build{Index: index, cost: buildCost(index.Size, 0, false)}
	}
	if err := p.weigh(ctx, q, builds); err != nil {
		return nil, err
	}
	places, err := p.alike(ctx, q)
	if err != nil {
		return nil, err
	}
	var unique, rest []Build
	for _, b := range builds {
		if b.Unique {
			unique = append(unique, b)
		} else {
			rest = append(rest, b)
		}
	}
	lists, others := apart(rest, places)
	for _, b := range others {
		lists = append(lists, []Build{b})
	}
	if len(unique) > 0 {
		slices.SortStableFunc(unique, func(a, b Build) int { return cmp.Compare(a.made, b.made) })
		lists = append(lists, unique)
	}
	slices.SortStableFunc(lists, func(a, b []Build) int { return cmp.Compare(totalCost(b), totalCost(a)) })
	costs := make([]float64, len(lists))
	for i, list := range lists {
		costs[i] = totalCost(list)
	}
	for i, processors := range shareProcessors(costs, p.Jobs) {
		for j := range lists[i] {
			lists[i][j].Helpers = processors - 1
		}
	}
	return lists, nil
}

func totalCost(list []Build) float64 {
	var sum float64
	for _, b := range list {
		sum += b.cost
	}
	return sum
}

// A build with four million integers took 1.7 to 1.9 s of processor time if they were in
// random order, and 1.0 s if they were in order. Longer keys take longer.
const (
	randomCost    = 2
	orderedCost   = 1
	bytesPerCost  = 50
	bytesPerEntry = 20 // an entry of an integer
)

// buildCost estimates the cost of an index of size bytes with so many entries. The unit
// is an entry that comes in order. If entries is zero or less, the number is not known.
func buildCost(size int64, entries float64, ordered bool) float64 {
	if entries <= 0 {
		entries = float64(size) / bytesPerEntry
	}
	each := float64(randomCost)
	if ordered {
		each = orderedCost
	}
	return max(entries*each+float64(size)/bytesPerCost, 1)
}

// span is the time from the beginning to the end of a piece of work.
type span struct{ begin, end float64 }

// schedule returns when pieces of work with these costs begin and end. Each is done by
// the processor that is free first.
func schedule(costs []float64, processors int) []span {
	free := make([]float64, processors)
	spans := make([]span, len(costs))
	for i, cost := range costs {
		first := slices.Index(free, slices.Min(free))
		spans[i] = span{free[first], free[first] + cost}
		free[first] = spans[i].end
	}
	return spans
}

// shareProcessors returns how many processors each piece of work may use so that none is
// idle at the end. At any time, this is the number of processors divided by the number of
// pieces in progress; the share of a piece is the average over its time. More would gain
// nothing: a processor with a piece of its own does more than one that helps with another
// piece.
func shareProcessors(costs []float64, processors int) []int {
	spans := schedule(costs, processors)
	var times []float64
	for _, s := range spans {
		times = append(times, s.begin, s.end)
	}
	slices.Sort(times)
	shares := make([]float64, len(spans))
	for n := 1; n < len(times); n++ {
		begin, end := times[n-1], times[n]
		during := func(s span) bool { return s.begin <= begin && end <= s.end }
		running := 0
		for _, s := range spans {
			if during(s) {
				running++
			}
		}
		for i, s := range spans {
			if during(s) {
				shares[i] += float64(processors) / float64(running) * (end - begin) / (s.end - s.begin)
			}
		}
	}
	whole := make([]int, len(shares))
	for i, share := range shares {
		whole[i] = int(math.Round(share))
	}
	return whole
}

// weightsSQL has the table's name as parameters: with a join, the server could not use
// the indexes of the catalogs under the view pg_stats.
const weightsSQL = `
SELECT    ic.relname::text                   AS index,
          coalesce(a.attname::text, '')      AS column,
          coalesce(s.correlation, 0)::float8 AS correlation,
          ic.reltuples::float8               AS entries
FROM      pg_index i
JOIN      pg_class ic    ON ic.oid = i.indexrelid
LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attnum > 0
LEFT JOIN pg_stats s     ON s.schemaname = $2 AND s.tablename = $3 AND s.attname = a.attname AND NOT s.inherited
WHERE     i.indrelid = $1
ORDER BY  i.indexrelid`

// weight is what is known about an index of the source.
type weight struct {
	Index, Column string  // Column is the first column; empty if it is an expression
	Correlation   float64 // of Column with the order of the rows; zero if it is not known
	Entries       float64 // zero or less if it is not known
}

// orderedFrom is the correlation from which on rows count as ordered.
const orderedFrom = 0.9

// weigh estimates what the builds cost, and for which indexes the rows come in order. If
// the rows are copied as they are in the source, these are the indexes whose first column
// is in order there. If the rows are copied in another order, these are the indexes that
// begin as that order does. If all indexes are small and at most one is unique, weigh
// runs no query.
func (p Planner) weigh(ctx context.Context, q catalog.Querier, builds []Build) error {
	large, unique := false, 0
	for _, b := range builds {
		large = large || b.Size > cacheSortMemory
		if b.Unique {
			unique++
		}
	}
	if !large && unique < 2 {
		return nil
	}
	rows, err := q.Query(ctx, weightsSQL, p.Source.OID, p.Source.Name.Schema, p.Source.Name.Name)
	if err != nil {
		return fmt.Errorf("weigh indexes of %s: %w", p.Source.Name, err)
	}
	weights, err := pgx.CollectRows(rows, pgx.RowToStructByName[weight])
	if err != nil {
		return fmt.Errorf("weigh indexes of %s: %w", p.Source.Name, err)
	}
	isOrdered := func(w weight) bool { return math.Abs(w.Correlation) >= orderedFrom }
	if p.Order != nil {
		order, err := p.Order(ctx)
		if err != nil {
			return err
		}
		isOrdered = orderedAs(order, weights)
	}
	for i := range builds {
		b := &builds[i]
		for made, w := range weights {
			if w.Index == b.Name {
				b.made = made
				b.ordered = b.IsBtree() && isOrdered(w)
				b.cost = buildCost(b.Size, w.Entries, b.ordered)
			}
		}
	}
	return nil
}

// orderedAs returns a function that tells whether an index begins as order does.
func orderedAs(order catalog.Order, weights []weight) func(weight) bool {
	first := order.Column
	for _, w := range weights {
		if w.Index == order.Index {
			first = w.Column
		}
	}
	return func(w weight) bool { return w.Index == order.Index || w.Column != "" && w.Column == first }
}

// workersSQL sets the number of workers, but never to more than the server's setting.
const workersSQL = `SELECT set_config('max_parallel_maintenance_workers', least(current_setting('max_parallel_maintenance_workers')::int, %d)::text, true)`

// sortMemorySQL sets the memory of a sort, but never to more than the present setting. If
// temporary files are limited, it changes nothing: with less memory, the sort would need
// more of them.
const sortMemorySQL = `
SELECT set_config('maintenance_work_mem', least(setting::bigint, %d)::text, true)
FROM   pg_settings
WHERE  name = 'maintenance_work_mem' AND current_setting('temp_file_limit') = '-1'`

// WorkersSQL sets how many workers the build may use.
func (b Build) WorkersSQL() string { return fmt.Sprintf(workersSQL, b.Helpers) }

// SettingsSQL sets how many workers and how much memory the build may use. The settings
// hold for the build's own transaction.
func (b Build) SettingsSQL() []string {
	settings := []string{b.WorkersSQL()}
	if b.IsBtree() && !b.ordered {
		settings = append(settings, fmt.Sprintf(sortMemorySQL, sortMemory(b.Size, b.Helpers)>>10))
	}
	return settings
}

const (
	// cacheSortMemory fits a processor's cache, or nearly. On the machines on which this
	// was measured, a sort with it took little more than half the time of a sort with 256
	// MB.
	cacheSortMemory = 8 << 20
	// mergeBuffer is how much of a sort's memory the server needs to read one sorted run
	// (MERGE_BUFFER_SIZE and a tape's own buffer in its tuplesort.c).
	mergeBuffer = 272 << 10
	// sortedPerStored is how many times larger than the finished index the sorted entries
	// are, at most. If there are many duplicates, they can be larger still.
	sortedPerStored = 4
	// workerSortMemory is the least memory for which the server uses one more worker:
	// "CREATE INDEX", "maintenance_work_mem", in the manual.
	workerSortMemory = 32 << 20
)

// sortMemory returns how many bytes are best for building a btree index of size bytes: as
// few as are enough to merge all sorted runs in one pass. There are size/memory runs, and
// while they are merged, each needs a buffer in the memory.
//
// With helpers, each process sorts a share of the entries in a share of the memory.
func sortMemory(size int64, helpers int) int64 {
	processes := int64(helpers + 1)
	each := max(int64(math.Sqrt(float64(size/processes)*sortedPerStored*mergeBuffer)), cacheSortMemory)
	if helpers > 0 {
		each = max(each, workerSortMemory)
	}
	return each * processes
}
