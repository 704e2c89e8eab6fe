package repack

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/bloat"
	"github.com/repack-go/repack/internal/session"
)

// Bloat is how much of a table and of its indexes is empty.
type Bloat struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	BloatSpace
	// Indexes are its btree indexes together. Needed is at least what they would need: by
	// statistics, equal keys count one by one.
	Indexes BloatSpace `json:"indexes"`
	// AnalyzedAt is the time of the last ANALYZE, or nil.
	AnalyzedAt *time.Time `json:"analyzed_at"`
	// By is statistics, or pgstattuple if the table was read.
	By string `json:"by"`
}

// BloatSpace is a size, and the part of it that a repack would free. The three figures are nil if
// they are not known; then UnknownBecause says why, and Remedy what would make them known: analyze
// (ANALYZE), measure (Repack.Bloat with measure set), or nothing.
type BloatSpace struct {
	SizeBytes      int64    `json:"size_bytes"`
	NeededBytes    *int64   `json:"needed_bytes"`
	WastedBytes    *int64   `json:"wasted_bytes"`
	WastedPercent  *float64 `json:"wasted_percent"`
	UnknownBecause *string  `json:"unknown_because"`
	Remedy         string   `json:"-"`
}

// MeasureError names the statements that allow Repack.Bloat to measure tables.
type MeasureError = bloat.MeasureError

// Bloat estimates the bloat of the tables of a selection, or of all tables of the database if it
// chooses none, those that waste most first. Partitions are listed one by one. It reads the
// catalogs only, unless measure is set: then it reads the tables and indexes with the extension
// pgstattuple, and calls before with the number of bytes that it will read at most. before may be
// nil.
//
// It returns *MeasureError if tables cannot be measured, and *NoMatchError. It changes nothing and
// takes ACCESS SHARE on the tables at most.
func (r *Repack) Bloat(ctx context.Context, s Selection, measure bool, before func(bytes int64)) ([]Bloat, error) {
	limits, err := s.limits()
	if err != nil {
		return nil, err
	}
	conn, err := session.ConnectAsIs(ctx, r.config)
	if err != nil {
		return nil, err
	}
	defer session.Close(ctx, conn)
	if len(s.Tables)+len(s.Schemas) == 0 {
		s.All = true
	}
	chosen, err := r.choose(ctx, conn, s)
	if err != nil {
		return nil, err
	}
	if err := session.Configure(ctx, conn); err != nil {
		return nil, err
	}
	if chosen, err = s.filter(ctx, conn, chosen, limits); err != nil || len(chosen) == 0 {
		return []Bloat{}, err
	}
	leaves, err := leavesOf(ctx, conn, chosen)
	if err != nil {
		return nil, err
	}
	found, err := bloat.Read(ctx, conn, leaves)
	if err == nil && measure {
		found, err = measured(ctx, conn, found, before)
	}
	if err != nil {
		return nil, err
	}
	list := make([]Bloat, len(found))
	for i, e := range found {
		list[i] = Bloat{Schema: e.Name.Schema, Name: e.Name.Name, BloatSpace: spaceOf(e.Heap), Indexes: spaceOf(e.Indexes), AnalyzedAt: e.AnalyzedAt, By: e.By}
	}
	slices.SortStableFunc(list, func(a, b Bloat) int { return compareWasted(b, a) })
	return list, nil
}

// compareWasted orders by what is wasted; what is not known comes first.
func compareWasted(a, b Bloat) int {
	wasted := func(l Bloat) (sum int64) {
		for _, w := range []*int64{l.WastedBytes, l.Indexes.WastedBytes} {
			if w != nil {
				sum += *w
			}
		}
		return sum
	}
	switch {
	case wasted(a) < wasted(b):
		return -1
	case wasted(a) > wasted(b):
		return 1
	}
	return 0
}

func spaceOf(s bloat.Space) BloatSpace {
	space := BloatSpace{SizeBytes: s.Size, NeededBytes: s.Needed, WastedBytes: s.Wasted(), WastedPercent: s.Percent(), Remedy: s.Remedy}
	if s.Unknown != "" {
		space.UnknownBecause = &s.Unknown
	}
	return space
}

// measured reads tables instead of estimating them. A table that has been dropped meanwhile is left
// out.
func measured(ctx context.Context, conn *pgx.Conn, found []bloat.Estimate, before func(int64)) ([]bloat.Estimate, error) {
	schema, err := bloat.May(ctx, conn)
	if err != nil {
		return nil, err
	}
	bytes := int64(0)
	for _, e := range found {
		bytes += e.Heap.Size + e.Indexes.Size
	}
	if before != nil {
		before(bytes)
	}
	list := []bloat.Estimate{}
	for _, e := range found {
		m, err := bloat.Measure(ctx, conn, schema, e)
		if bloat.Gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}
