// Package builds plans how the indexes of a shadow are built: which at the same time, in
// which order, with how many workers and with how much memory; and tells how far they are.
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
	cost    float64 // of sorting, compared with other builds
	Helpers int     // parallel workers beside the process that builds
	ordered bool    // the rows come about in the order of the index
	made    int     // its place among the indexes of the source by when they were made
}

// Planner is what the builds of a job are planned by.
type Planner struct {
	Source *catalog.Table
	Jobs   int // builds at the same time, at most
	// Order reads the order in which the rows were copied; nil: as they come.
	Order func(ctx context.Context) (catalog.Order, error)
}

// Plan plans the builds of missing together. Each list is for one session to do
// one after the other: what takes longest first, each on the processor that is free
// first, and with helpers where processors are left over.
//
// Unique indexes are one list, in the order in which those of the source were made, which
// is that of their OIDs. Of equal ones the server gives a foreign key the one that was
// made first (transformFkeyCheckAttrs in its tablecmds.c), and a row that two of them
// forbid is reported for that one.
func (p Planner) Plan(ctx context.Context, q catalog.Querier, missing []catalog.Index) ([][]Build, error) {
	builds := make([]Build, len(missing))
	for i, index := range missing {
		builds[i] = Build{Index: index, cost: buildCost(index.Size, 0, false)}
	}
	if err := p.weigh(ctx, q, builds); err != nil {
		return nil, err
	}
	var lists [][]Build
	var unique []Build
	for _, b := range builds {
		if b.Unique {
			unique = append(unique, b)
		} else {
			lists = append(lists, []Build{b})
		}
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

// Four million integers at random took 1.7 to 1.9 s of a processor, in order 1.0 s.
// Longer keys take longer.
const (
	randomCost    = 2
	orderedCost   = 1
	bytesPerCost  = 50
	bytesPerEntry = 20 // of an integer
)

// buildCost is about what it takes to build an index of so many bytes and entries, in
// units of an entry that comes in order; no entries: it is not known how many.
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

// span is when a piece of work begins and ends.
type span struct{ begin, end float64 }

// schedule is when pieces of work that take so long are done, each by the processor
// that is free first.
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

// shareProcessors is how many processors each piece of work may use so that none is
// idle at the end: on average over its time, those that there are divided by the
// pieces that are worked on. A processor that has a piece of its own does more than
// one that helps with another's, so that nothing is gained by more.
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

// weightsSQL names the table in parameters, as no join reaches the indexes of what is behind
// pg_stats.
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

// weight is what is known of an index of the source.
type weight struct {
	Index, Column string  // the first column; of an expression it has no name
	Correlation   float64 // of that with the order of the rows; zero where it is not known
	Entries       float64 // zero or less where it is not known
}

// orderedFrom is the correlation from which rows count as ordered.
const orderedFrom = 0.9

// weigh finds out what builds cost, and for which of them the rows come in order: where
// they are copied as they are, for those whose first column is in order in the source;
// else for those that begin as the order does in which they are copied. Where all
// indexes are small and at most one is unique nothing is asked.
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

// orderedAs tells which indexes begin as an order does.
func orderedAs(order catalog.Order, weights []weight) func(weight) bool {
	first := order.Column
	for _, w := range weights {
		if w.Index == order.Index {
			first = w.Column
		}
	}
	return func(w weight) bool { return w.Index == order.Index || w.Column != "" && w.Column == first }
}

// workersSQL never has a build use more workers than the server's setting.
const workersSQL = `SELECT set_config('max_parallel_maintenance_workers', least(current_setting('max_parallel_maintenance_workers')::int, %d)::text, true)`

// sortMemorySQL never gives a sort more than it would have had. Where temporary
// files are limited it had better not need them.
const sortMemorySQL = `
SELECT set_config('maintenance_work_mem', least(setting::bigint, %d)::text, true)
FROM   pg_settings
WHERE  name = 'maintenance_work_mem' AND current_setting('temp_file_limit') = '-1'`

// WorkersSQL sets how many workers the build may use.
func (b Build) WorkersSQL() string { return fmt.Sprintf(workersSQL, b.Helpers) }

// SettingsSQL sets how many workers and how much memory the build may use, in its own
// transaction.
func (b Build) SettingsSQL() []string {
	settings := []string{b.WorkersSQL()}
	if b.IsBtree() && !b.ordered {
		settings = append(settings, fmt.Sprintf(sortMemorySQL, sortMemory(b.Size, b.Helpers)>>10))
	}
	return settings
}

const (
	// cacheSortMemory is sorted within a processor's cache, or nearly: on the
	// machines this was measured on, in little more than half the time that
	// 256 MB take.
	cacheSortMemory = 8 << 20
	// mergeBuffer is what reading one sorted run takes of a sort's memory
	// (MERGE_BUFFER_SIZE and a tape's own in the server's tuplesort.c).
	mergeBuffer = 272 << 10
	// sortedPerStored is how much larger than a finished index the entries are
	// that are sorted for it, at the most but for many duplicates.
	sortedPerStored = 4
	// workerSortMemory is the least for which the server uses a worker more:
	// "CREATE INDEX", "maintenance_work_mem", in the manual.
	workerSortMemory = 32 << 20
)

// sortMemory is how many bytes are best for building a btree index of that size:
// as few as let all sorted runs be merged in one pass. There are size/memory
// runs, and each takes a buffer of the memory when they are merged.
//
// With helpers each process sorts a share of the entries in a share of the memory.
func sortMemory(size int64, helpers int) int64 {
	processes := int64(helpers + 1)
	each := max(int64(math.Sqrt(float64(size/processes)*sortedPerStored*mergeBuffer)), cacheSortMemory)
	if helpers > 0 {
		each = max(each, workerSortMemory)
	}
	return each * processes
}
