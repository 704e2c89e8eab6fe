// Package bloat estimates how much of a table and of its indexes is empty: from the catalogs and
// the statistics that ANALYZE keeps, or from what the extension pgstattuple reads.
package bloat

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Estimate is what is known of a table and of its indexes.
type Estimate struct {
	OID  uint32
	Name catalog.Name
	Heap Space
	// Indexes are its btree indexes together. Of other indexes nothing is known.
	Indexes    Space
	AnalyzedAt *time.Time
	By         string // Statistics or Measured
}

// How an estimate was made.
const (
	Statistics = "statistics"
	Measured   = "pgstattuple"
)

// relationsSQL lists the tables $1 and their indexes. It reads no table. OFFSET 0 makes the server
// look each of them up, and not read whole catalogs.
const relationsSQL = `
WITH tables AS (
    SELECT c.oid
    FROM   unnest($1::oid[]) o (oid)
    CROSS  JOIN LATERAL (SELECT * FROM pg_class WHERE oid = o.oid AND relkind = 'r' AND relpersistence <> 't' OFFSET 0) c
), relations AS (
    SELECT oid, oid AS main, true AS heap FROM tables
    UNION ALL
    SELECT i.indexrelid, i.indrelid, false
    FROM   tables t
    CROSS  JOIN LATERAL (SELECT * FROM pg_index WHERE indrelid = t.oid AND indisvalid OFFSET 0) i
)
SELECT   c.oid                                                                        AS oid,
         r.main                                                                       AS main,
         r.heap                                                                       AS heap,
         n.nspname::text                                                              AS schema,
         c.relname::text                                                              AS name,
         coalesce(am.amname, '')::text                                                AS method,
         c.reltuples::float8                                                          AS rows,
         pg_relation_size(c.oid)                                                      AS size,
         coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0)                    AS toast,
         coalesce((SELECT o.option_value::int FROM pg_options_to_table(c.reloptions) o
                   WHERE  o.option_name = 'fillfactor'), 0)                           AS fillfactor,
         coalesce(s.n_mod_since_analyze, 0)                                           AS changed,
         greatest(s.last_analyze, s.last_autoanalyze)                                 AS analyzed
FROM     relations r
CROSS    JOIN LATERAL (SELECT * FROM pg_class WHERE oid = r.oid OFFSET 0) c
CROSS    JOIN LATERAL (SELECT * FROM pg_namespace WHERE oid = c.relnamespace OFFSET 0) n
LEFT     JOIN pg_am am   ON am.oid = c.relam
LEFT     JOIN LATERAL (SELECT pg_stat_get_mod_since_analyze(r.main) AS n_mod_since_analyze,
                              pg_stat_get_last_analyze_time(r.main) AS last_analyze,
                              pg_stat_get_last_autoanalyze_time(r.main) AS last_autoanalyze) s ON true
ORDER BY n.nspname, c.relname, c.oid`

type relation struct {
	OID, Main    uint32
	Heap         bool
	Schema, Name string
	Method       string
	Rows         float64
	Size, Toast  int64
	Fillfactor   int
	Changed      int64
	Analyzed     *time.Time
	columns      []column
}

// columnsSQL reads the width of columns. An index has statistics of its own for expressions, and
// otherwise those of the table's columns.
const columnsSQL = `
SELECT    a.attrelid                                                        AS relation,
          a.attname::text                                                   AS name,
          a.attlen::int                                                     AS length,
          CASE a.attalign WHEN 'd' THEN 8 WHEN 'i' THEN 4 WHEN 's' THEN 2 ELSE 1 END AS align,
          s.null_frac::float8                                               AS nulls,
          s.avg_width::float8                                               AS width,
          coalesce(has_column_privilege(o.attrelid, o.attnum, 'SELECT') OR coalesce(o.attrelid = i.indexrelid, false), true) AS readable
FROM      unnest($1::oid[]) r (oid)
JOIN      LATERAL (SELECT * FROM pg_attribute WHERE attrelid = r.oid AND attnum > 0 AND NOT attisdropped OFFSET 0) a ON true
LEFT JOIN LATERAL (SELECT * FROM pg_index WHERE indexrelid = a.attrelid OFFSET 0) i ON true
LEFT JOIN LATERAL (SELECT i.indkey[a.attnum - 1] AS attnum) k ON i.indexrelid IS NOT NULL
LEFT JOIN LATERAL (SELECT * FROM pg_class WHERE oid = coalesce(CASE WHEN k.attnum > 0 THEN i.indrelid END, a.attrelid) OFFSET 0) t ON true
LEFT JOIN LATERAL (SELECT * FROM pg_namespace WHERE oid = t.relnamespace OFFSET 0) n ON true
LEFT JOIN LATERAL (SELECT * FROM pg_attribute
                   WHERE  attrelid = t.oid AND attnum = CASE WHEN k.attnum > 0 THEN k.attnum ELSE a.attnum END OFFSET 0) o ON true
LEFT JOIN LATERAL (SELECT min(null_frac) AS null_frac, min(avg_width) AS avg_width
                   FROM   pg_stats
                   WHERE  schemaname = n.nspname AND tablename = t.relname AND attname = o.attname AND NOT inherited) s ON true
ORDER BY  a.attrelid, a.attnum`

type column struct {
	Relation      uint32
	Name          string
	Length, Align int
	Nulls, Width  *float64
	Readable      bool
}

// ReadIndexes estimates the indexes of tables by statistics, each by itself.
func ReadIndexes(ctx context.Context, q catalog.Querier, tables []uint32) (map[uint32]Space, error) {
	relations, err := read(ctx, q, tables)
	if err != nil {
		return nil, err
	}
	spaces := map[uint32]Space{}
	for _, i := range relations {
		n := slices.IndexFunc(relations, func(t relation) bool { return t.Heap && t.OID == i.Main })
		if !i.Heap && n >= 0 {
			spaces[i.OID] = i.index(relations[n])
		}
	}
	return spaces, nil
}

// Read estimates tables by statistics. It sends two
// queries to the catalogs and reads no block of a table.
func Read(ctx context.Context, q catalog.Querier, oids []uint32) ([]Estimate, error) {
	relations, err := read(ctx, q, oids)
	if err != nil {
		return nil, err
	}
	return estimates(relations), nil
}

// read reads tables and their indexes, with their columns.
func read(ctx context.Context, q catalog.Querier, oids []uint32) ([]relation, error) {
	rows, err := q.Query(ctx, relationsSQL, oids)
	if err != nil {
		return nil, fmt.Errorf("list tables and indexes: %w", err)
	}
	relations, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[relation])
	if err != nil {
		return nil, fmt.Errorf("list tables and indexes: %w", err)
	}
	all := make([]uint32, len(relations))
	for i, r := range relations {
		all[i] = r.OID
	}
	if rows, err = q.Query(ctx, columnsSQL, all); err != nil {
		return nil, fmt.Errorf("read statistics: %w", err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByName[column])
	if err != nil {
		return nil, fmt.Errorf("read statistics: %w", err)
	}
	for i := range relations {
		for _, c := range columns {
			if c.Relation == relations[i].OID {
				relations[i].columns = append(relations[i].columns, c)
			}
		}
	}
	return relations, nil
}

// estimates puts the indexes to their tables.
func estimates(relations []relation) []Estimate {
	list := []Estimate{}
	for _, t := range relations {
		if !t.Heap {
			continue
		}
		e := Estimate{OID: t.OID, Name: catalog.Name{Schema: t.Schema, Name: t.Name}, Heap: t.heap(), AnalyzedAt: t.Analyzed, By: Statistics}
		needed := int64(0)
		e.Indexes.Needed = &needed
		for _, i := range relations {
			if i.Heap || i.Main != t.OID {
				continue
			}
			e.Indexes.Size += i.Size
			space := i.index(t)
			if space.Needed == nil {
				e.Indexes.Needed, e.Indexes.Unknown = nil, fmt.Sprintf("index %s: %s", catalog.Quote(i.Name), space.Unknown)
			} else if e.Indexes.Needed != nil {
				needed += *space.Needed
			}
		}
		list = append(list, e)
	}
	return list
}

// The layout of a page: see "Database Page Layout" in the manual. An index page has a special
// space at its end, and its leaf pages are filled to 90 % by default.
const (
	page           = 8192 // as PostgreSQL is built nearly everywhere
	pageHeader     = 24
	itemPointer    = 4
	heapHeader     = 23
	btreeSpecial   = 16
	indexHeader    = 8
	btreeFill      = 90
	maxAlign       = 8
	staleShare     = 5 // of the rows: a fifth
	shortVarlena   = 127
	fewestPerPages = 1
)

// unknown says why nothing can be said of r by statistics, and what would make it known, or returns
// empty texts.
func (r relation) unknown() (why, remedy string) {
	switch {
	case r.Heap && r.Method != "heap" || !r.Heap && r.Method != "btree":
		return "access method " + r.Method, ""
	case r.Rows < 0:
		return "it has never been analyzed", ByAnalyze
	case r.Heap && r.Toast > 0:
		return "it has TOASTed values, whose size statistics do not know", ByMeasuring
	}
	for _, c := range r.columns {
		switch {
		case !c.Readable:
			return "the role may not read the statistics of column " + catalog.Quote(c.Name), ByMeasuring
		case c.Width == nil && r.Rows > 0:
			return "there are no statistics of column " + catalog.Quote(c.Name), ByAnalyze
		}
	}
	return "", ""
}

// stale reports whether the statistics are too old.
func (r relation) stale() bool {
	return float64(r.Changed)*staleShare > max(r.Rows, 0) && r.Changed > 0
}

const staleText = "more than a fifth of the rows has changed since ANALYZE"

// space is the size of r, and why more is not known of it: r is table t or an index of it.
func (r relation) space(t relation) Space {
	s := Space{Size: r.Size}
	s.Unknown, s.Remedy = r.unknown()
	if s.Unknown == "" && t.stale() {
		s.Unknown, s.Remedy = staleText, ByAnalyze
	}
	return s
}

// heap estimates a table.
func (r relation) heap() Space {
	s := r.space(r)
	if s.Unknown != "" {
		return s
	}
	header := heapHeader
	if r.anyNulls() {
		header += (len(r.columns) + 7) / 8
	}
	length := float64(align(float64(header), maxAlign)) + r.width(r.columns)
	fill := r.Fillfactor
	if fill == 0 {
		fill = 100
	}
	usable := float64(page - pageHeader - page*(100-fill)/100)
	needed := pages(r.Rows, align(length, maxAlign)+itemPointer, usable, r.fixed())
	s.Needed = &needed
	return s
}

// index estimates a btree index of t. Equal keys are stored once, which is not guessed.
func (r relation) index(t relation) Space {
	s := r.space(t)
	if s.Unknown != "" {
		return s
	}
	header := float64(indexHeader)
	if r.anyNulls() {
		header = maxAlign * 2
	}
	fill := r.Fillfactor
	if fill == 0 {
		fill = btreeFill
	}
	usable := float64(page-pageHeader-btreeSpecial) * float64(fill) / 100
	length := align(header+r.width(r.columns), maxAlign) + itemPointer
	leaves := pages(r.Rows, length, usable, r.fixed())
	// The pages above hold a key for each page below, and the first page is the metapage.
	needed, above := leaves+page, float64(leaves/page)
	for above > 1 {
		level := pages(above, length, usable, true)
		needed += level
		above = float64(level / page)
	}
	s.Needed = &needed
	return s
}

// pages returns the bytes of the pages for so many rows of that length. Rows of different length
// leave about half a row free at the end of a page.
func pages(rows, length, usable float64, fixed bool) int64 {
	if rows <= 0 {
		return 0
	}
	perPage := usable/length - 0.5
	if fixed {
		perPage = float64(int64(usable / length))
	}
	perPage = max(perPage, fewestPerPages)
	n := int64(rows / perPage)
	if float64(n)*perPage < rows {
		n++
	}
	return n * page
}

func (r relation) anyNulls() bool {
	return slices.ContainsFunc(r.columns, func(c column) bool { return c.Nulls != nil && *c.Nulls > 0 })
}

// fixed reports whether all rows have the same length.
func (r relation) fixed() bool {
	return !r.anyNulls() && !slices.ContainsFunc(r.columns, func(c column) bool { return c.Length < 0 })
}

// width is the average length of the columns in a row, with the space between them.
func (r relation) width(columns []column) float64 {
	at := 0.0
	for _, c := range columns {
		if c.Width == nil {
			continue
		}
		there := 1 - *c.Nulls
		padding := 0.0
		switch {
		case c.Length >= 0: // a value begins at a multiple of its alignment
			padding = align(at, c.Align) - at
		case *c.Width >= shortVarlena:
			padding = float64(c.Align-1) / 2
		}
		at += there * (*c.Width + padding)
	}
	return at
}

// align rounds up to a multiple. A length that is an average stays one.
func align(length float64, to int) float64 {
	whole := int64(length)
	if float64(whole) == length {
		return float64((whole + int64(to) - 1) / int64(to) * int64(to))
	}
	return length + float64(to-1)/2
}
