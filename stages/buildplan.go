package stages

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// indexBuild is an index that is to be built, and how.
type indexBuild struct {
	catalog.Index
	helpers int  // parallel workers beside the process that builds
	ordered bool // the rows come about in the order of the index
}

// planBuilds plans the builds of missing together: largest first, each on the
// processor that is free first, and with helpers where processors are left over.
func (e *Env) planBuilds(ctx context.Context, q catalog.Querier, missing []catalog.Index) ([]indexBuild, error) {
	builds := make([]indexBuild, len(missing))
	for i, index := range missing {
		builds[i].Index = index
	}
	slices.SortStableFunc(builds, func(a, b indexBuild) int { return cmp.Compare(b.Size, a.Size) })
	sizes := make([]int64, len(builds))
	for i, b := range builds {
		sizes[i] = b.Size
	}
	for i, processors := range shareProcessors(sizes, e.Jobs) {
		builds[i].helpers = processors - 1
	}
	return builds, e.noteOrder(ctx, q, builds)
}

// span is when a piece of work begins and ends.
type span struct{ begin, end float64 }

// schedule is when pieces of work of such sizes are done, each by the processor that
// is free first.
func schedule(sizes []int64, processors int) []span {
	free := make([]float64, processors)
	spans := make([]span, len(sizes))
	for i, size := range sizes {
		first := slices.Index(free, slices.Min(free))
		spans[i] = span{free[first], free[first] + float64(max(size, 1))}
		free[first] = spans[i].end
	}
	return spans
}

// shareProcessors is how many processors each piece of work may use so that none is
// idle at the end: on average over its time, those that there are divided by the
// pieces that are worked on. A processor that has a piece of its own does less than
// one that helps with another's, so that nothing is gained by more.
func shareProcessors(sizes []int64, processors int) []int {
	spans := schedule(sizes, processors)
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

const leadingSQL = `
SELECT    ic.relname::text                  AS index,
          coalesce(a.attname::text, '')     AS column,
          coalesce(s.correlation, 0)::float8 AS correlation
FROM      pg_index i
JOIN      pg_class ic    ON ic.oid = i.indexrelid
JOIN      pg_class c     ON c.oid = i.indrelid
JOIN      pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attnum > 0
LEFT JOIN pg_stats s     ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname AND NOT s.inherited
WHERE     i.indrelid = $1
ORDER BY  ic.relname`

// leading is the first column of an index; of an expression it has no name.
type leading struct {
	Index, Column string
	Correlation   float64 // with the rows' order; zero where it is not known
}

// orderedFrom is the correlation from which rows count as ordered.
const orderedFrom = 0.9

// noteOrder finds out for which builds the rows come in order: where they are copied
// as they are, for those whose first column is in order in the source; else for those
// that begin as the order does in which they are copied. Of small indexes it is not
// asked.
func (e *Env) noteOrder(ctx context.Context, q catalog.Querier, builds []indexBuild) error {
	if !slices.ContainsFunc(builds, func(b indexBuild) bool { return b.IsBtree() && b.Size > cacheSortMemory }) {
		return nil
	}
	rows, err := q.Query(ctx, leadingSQL, e.Source.OID)
	if err != nil {
		return fmt.Errorf("read correlations of %s: %w", e.Source.Name, err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[leading])
	if err != nil {
		return fmt.Errorf("read correlations of %s: %w", e.Source.Name, err)
	}
	isOrdered := func(l leading) bool { return math.Abs(l.Correlation) >= orderedFrom }
	if e.OrderBy != "" {
		order, err := e.order(ctx)
		if err != nil {
			return err
		}
		isOrdered = orderedAs(order, all)
	}
	for i := range builds {
		builds[i].ordered = slices.ContainsFunc(all, func(l leading) bool { return l.Index == builds[i].Name && isOrdered(l) })
	}
	return nil
}

// orderedAs tells which indexes begin as an order does.
func orderedAs(order catalog.Order, all []leading) func(leading) bool {
	first := order.Column
	for _, l := range all {
		if l.Index == order.Index {
			first = l.Column
		}
	}
	return func(l leading) bool { return l.Index == order.Index || l.Column != "" && l.Column == first }
}
