package repack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/bloat"
	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/pattern"
	"github.com/repack-go/repack/internal/size"
)

// Selection says which tables to work on. Names and patterns are those of psql and pg_dump: *
// stands for any characters, ? for one, names in double quotes are taken as they are, and a name
// without a schema is looked up in the role's search_path.
type Selection struct {
	// Tables are names or patterns of tables. Schemas are those of schemas, all of whose tables
	// are chosen; All chooses all tables. A partitioned table stands for its partitions.
	Tables  []string `json:"tables,omitempty"`
	Schemas []string `json:"schemas,omitempty"`
	All     bool     `json:"all,omitempty"`
	// Exclude and ExcludeSchemas are patterns of tables and schemas that are left out.
	Exclude        []string `json:"exclude,omitempty"`
	ExcludeSchemas []string `json:"exclude_schemas,omitempty"`
	// MinSize and MaxSize leave out smaller and larger tables, such as "100MB", with indexes and
	// TOAST. MinBloat leaves out tables that waste less: "30%" of the table, or "500MB"; tables of
	// which that is not known are left out, too.
	MinSize  string `json:"min_size,omitempty"`
	MaxSize  string `json:"max_size,omitempty"`
	MinBloat string `json:"min_bloat,omitempty"`
	// Order is OrderGiven, OrderSmallest, OrderWasted or OrderPercent. Default: as given if all
	// are names, and otherwise the smallest first. Tables with unfinished jobs always come first.
	Order string `json:"order,omitempty"`
}

// The values of Selection.Order: as the names are given; the smallest table first; the one that
// wastes most bytes, or the greatest part, first.
const (
	OrderGiven    = "given"
	OrderSmallest = "smallest"
	OrderWasted   = "wasted"
	OrderPercent  = "percent"
)

// Single returns the name of the table if the selection is a name and nothing else.
func (s Selection) Single() (name string, single bool) {
	if len(s.Tables) != 1 || len(s.Schemas)+len(s.Exclude)+len(s.ExcludeSchemas) > 0 || s.All || s.MinSize+s.MaxSize+s.MinBloat != "" {
		return "", false
	}
	p, err := pattern.Table(s.Tables[0])
	return s.Tables[0], err != nil || !p.Wild // a name that is not valid is reported as such
}

// Chosen is a table of a selection.
type Chosen struct {
	OID   uint32
	Name  catalog.Name
	Bytes int64 // with indexes and TOAST, and with partitions
	Named bool  // by its name, and not by a pattern

	partitioned bool
	place       int // of the first name or pattern that matches
	begun       bool
	estimate    *bloat.Estimate
}

// limits are the sizes of a selection.
type limits struct{ minSize, maxSize, minBytes, minPercent float64 }

func (s Selection) limits() (l limits, err error) {
	read := func(flag, text string) float64 {
		if text == "" || err != nil {
			return 0
		}
		n, parseErr := size.Parse(text)
		if parseErr != nil {
			err = &UsageError{fmt.Errorf("%s: %w", flag, parseErr)}
		}
		return float64(n)
	}
	l.minSize, l.maxSize = read("minimum size", s.MinSize), read("maximum size", s.MaxSize)
	if text, isPercent := strings.CutSuffix(s.MinBloat, "%"); isPercent {
		percent, parseErr := strconv.ParseFloat(text, 64)
		if parseErr != nil || percent < 0 || percent > 100 {
			return l, &UsageError{fmt.Errorf("minimum bloat %q is not a part or a size, such as 30%% or 500MB", s.MinBloat)}
		}
		l.minPercent = percent
	} else {
		l.minBytes = read("minimum bloat", s.MinBloat)
	}
	if !slices.Contains([]string{"", OrderGiven, OrderSmallest, OrderWasted, OrderPercent}, s.Order) {
		return l, &UsageError{fmt.Errorf("unknown order %q: want %s, %s, %s or %s", s.Order, OrderGiven, OrderSmallest, OrderWasted, OrderPercent)}
	}
	if err == nil {
		_, err = s.patterns()
	}
	return l, err
}

// patterns are those of a selection, as arrays for the server. The kind is t, T, n or N.
type patterns struct{ kinds, schemas, names, texts []string }

func (s Selection) patterns() (p patterns, err error) {
	add := func(kind string, read func(string) (pattern.Pattern, error), texts []string) {
		for _, text := range texts {
			one, readErr := read(text)
			if readErr != nil && err == nil {
				err = &UsageError{fmt.Errorf("pattern: %w", readErr)}
			}
			p.kinds, p.schemas = append(p.kinds, kind), append(p.schemas, one.Schema)
			p.names, p.texts = append(p.names, one.Name), append(p.texts, text)
		}
	}
	add("t", pattern.Table, s.Tables)
	add("n", pattern.Schema, s.Schemas)
	add("T", pattern.Table, s.Exclude)
	add("N", pattern.Schema, s.ExcludeSchemas)
	return p, err
}

// chooseSQL runs with the role's own search_path, like resolveSQL. It lists the tables that a
// selection may mean, each with the pattern by which it was chosen, and patterns that match no
// table. A partition of a table that is chosen too is left out: it is repacked with that. A
// partitioned table of which a partition is excluded is replaced by its other partitions.
//
// Tables of the system, of extensions, of registries and of jobs are not meant.
const chooseSQL = `
WITH candidate AS (
    SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition
    FROM   pg_catalog.pg_class c
    JOIN   pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE  c.relkind IN ('r', 'p') AND c.relpersistence OPERATOR(pg_catalog.<>) 't'
    AND    n.nspname OPERATOR(pg_catalog.!~) '^(pg_|information_schema$|repack_job_)' AND n.nspname OPERATOR(pg_catalog.<>) $5
    AND    NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                       WHERE  d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                       AND    d.objid OPERATOR(pg_catalog.=) c.oid AND d.deptype OPERATOR(pg_catalog.=) 'e')
), pattern AS (
    SELECT p.kind, p.schema, p.name, p.n
    FROM   ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]), pg_catalog.unnest($3::pg_catalog.text[]))
           WITH ORDINALITY p (kind, schema, name, n)
), matches AS (
    SELECT p.kind, p.n, c.oid
    FROM   pattern p
    JOIN   candidate c ON CASE
           WHEN p.kind IN ('n', 'N') THEN c.nspname OPERATOR(pg_catalog.~) p.schema
           WHEN p.schema OPERATOR(pg_catalog.=) '' THEN c.relname OPERATOR(pg_catalog.~) p.name AND pg_catalog.pg_table_is_visible(c.oid)
           ELSE c.nspname OPERATOR(pg_catalog.~) p.schema AND c.relname OPERATOR(pg_catalog.~) p.name END
), chosen AS (
    SELECT c.*, (SELECT pg_catalog.min(m.n) FROM matches m WHERE m.oid OPERATOR(pg_catalog.=) c.oid AND m.kind OPERATOR(pg_catalog.=) 't') AS n
    FROM   candidate c
    WHERE  EXISTS (SELECT FROM matches m WHERE m.oid OPERATOR(pg_catalog.=) c.oid
                   AND (m.kind OPERATOR(pg_catalog.=) 't' OR m.kind OPERATOR(pg_catalog.=) 'n' AND NOT c.relispartition))
    OR     $4 AND NOT c.relispartition
), excluded AS (
    SELECT DISTINCT m.oid
    FROM   matches m
    WHERE  m.kind IN ('T', 'N')
), divided AS (
    SELECT c.oid, c.n
    FROM   chosen c
    WHERE  c.relkind OPERATOR(pg_catalog.=) 'p' AND c.oid NOT IN (SELECT e.oid FROM excluded e)
    AND    EXISTS (SELECT FROM pg_catalog.pg_partition_tree(c.oid) t JOIN excluded e ON e.oid OPERATOR(pg_catalog.=) t.relid)
), whole AS (
    SELECT c.*
    FROM   chosen c
    WHERE  c.oid NOT IN (SELECT d.oid FROM divided d)
    UNION  ALL
    SELECT c.*, pg_catalog.min(d.n)
    FROM   divided d
    CROSS  JOIN LATERAL pg_catalog.pg_partition_tree(d.oid) t
    JOIN   candidate c ON c.oid OPERATOR(pg_catalog.=) t.relid
    WHERE  t.isleaf AND c.oid NOT IN (SELECT o.oid FROM chosen o)
    AND    NOT EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(c.oid) a JOIN excluded e ON e.oid OPERATOR(pg_catalog.=) a.relid)
    GROUP  BY c.oid, c.nspname, c.relname, c.relkind, c.relispartition
), kept AS (
    SELECT c.*
    FROM   whole c
    WHERE  c.oid NOT IN (SELECT e.oid FROM excluded e)
    AND    NOT EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(c.oid) a
                       JOIN   whole o ON o.oid OPERATOR(pg_catalog.=) a.relid
                       WHERE  c.relispartition AND o.oid OPERATOR(pg_catalog.<>) c.oid)
)
SELECT   k.oid, k.nspname::pg_catalog.text, k.relname::pg_catalog.text, k.relkind OPERATOR(pg_catalog.=) 'p', coalesce(k.n, 0)::pg_catalog.int4,
         CASE WHEN k.relkind OPERATOR(pg_catalog.=) 'p'
              THEN (SELECT coalesce(pg_catalog.sum(pg_catalog.pg_total_relation_size(t.relid)), 0)::pg_catalog.int8 FROM pg_catalog.pg_partition_tree(k.oid) t WHERE t.isleaf)
              ELSE pg_catalog.pg_total_relation_size(k.oid) END
FROM     kept k
UNION ALL
SELECT   0, '', '', false, p.n::pg_catalog.int4, 0
FROM     pattern p
WHERE    NOT EXISTS (SELECT FROM matches m WHERE m.n OPERATOR(pg_catalog.=) p.n)
ORDER BY 2, 3`

// choose finds the tables of a selection. It returns *NoMatchError if a name or pattern matches
// nothing.
func (r *Repack) choose(ctx context.Context, conn *pgx.Conn, s Selection) ([]Chosen, error) {
	p, err := s.patterns()
	if err != nil {
		return nil, err
	}
	rows, err := conn.Query(ctx, chooseSQL, p.kinds, p.schemas, p.names, s.All, r.options.RegistrySchema)
	if err != nil {
		return nil, fmt.Errorf("look up tables: %w", err)
	}
	var list []Chosen
	missing := &NoMatchError{}
	var one Chosen
	_, err = pgx.ForEachRow(rows, []any{&one.OID, &one.Name.Schema, &one.Name.Name, &one.partitioned, &one.place, &one.Bytes}, func() error {
		if one.OID == 0 {
			missing.Patterns = append(missing.Patterns, p.texts[one.place-1])
			return nil
		}
		one.Named = one.place > 0 && !wild(p.texts[one.place-1])
		list = append(list, one)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up tables: %w", err)
	}
	if len(missing.Patterns) == 0 {
		return list, nil
	}
	for _, text := range missing.Patterns {
		parts := strings.Split(strings.ReplaceAll(text, `"`, ""), ".")
		near, err := catalog.Near(ctx, conn, catalog.Name{Name: parts[len(parts)-1]})
		if err != nil {
			return nil, err
		}
		missing.Near = append(missing.Near, near...)
	}
	return nil, missing
}

func wild(text string) bool {
	p, err := pattern.Table(text)
	return err == nil && p.Wild
}

// NoMatchError reports names or patterns that match no table. Nothing was changed.
type NoMatchError struct {
	Patterns []string
	// Near are tables with similar names.
	Near []catalog.Name
}

// Error names the patterns, and similar tables.
func (e *NoMatchError) Error() string {
	return fmt.Sprintf("no table matches %s: nothing has been changed; %s", strings.Join(e.Patterns, ", "), notFound(e.Near))
}

// ErrNothingChosen reports that all tables of a selection have been excluded.
var ErrNothingChosen = errors.New("all tables of the selection are excluded: nothing has been changed")

// filter leaves out tables by their sizes, and orders the rest.
func (s Selection) filter(ctx context.Context, conn *pgx.Conn, list []Chosen, l limits) ([]Chosen, error) {
	if s.MinBloat != "" || s.Order == OrderWasted || s.Order == OrderPercent {
		if err := estimate(ctx, conn, list); err != nil {
			return nil, err
		}
	}
	list = slices.DeleteFunc(list, func(c Chosen) bool {
		wasted, percent := c.wasted()
		return float64(c.Bytes) < l.minSize || l.maxSize > 0 && float64(c.Bytes) > l.maxSize || s.MinBloat != "" && (c.estimate == nil || wasted < l.minBytes || percent < l.minPercent)
	})
	order := s.Order
	if order == "" && !slices.ContainsFunc(list, func(c Chosen) bool { return !c.Named }) {
		order = OrderGiven
	}
	slices.SortStableFunc(list, func(a, b Chosen) int {
		if a.begun != b.begun {
			return map[bool]int{true: -1, false: 1}[a.begun]
		}
		aWasted, aPercent := a.wasted()
		bWasted, bPercent := b.wasted()
		switch order {
		case OrderGiven:
			return cmp.Compare(a.place, b.place)
		case OrderWasted:
			return cmp.Compare(bWasted, aWasted)
		case OrderPercent:
			return cmp.Compare(bPercent, aPercent)
		}
		return cmp.Compare(a.Bytes, b.Bytes)
	})
	return list, nil
}

// wasted returns the bytes that the table and its indexes waste, and the part of the table; zero
// if that is not known.
func (c Chosen) wasted() (bytes, percent float64) {
	if c.estimate == nil {
		return 0, 0
	}
	if p := c.estimate.Heap.Percent(); p != nil {
		percent = *p
	}
	for _, w := range []*int64{c.estimate.Heap.Wasted(), c.estimate.Indexes.Wasted()} {
		if w != nil {
			bytes += float64(*w)
		}
	}
	return bytes, percent
}

const leavesSQL = `
SELECT p.oid, t.relid::oid
FROM   unnest($1::oid[]) p (oid), pg_partition_tree(p.oid) t
WHERE  t.isleaf`

// leavesWithOwners lists the tables that have the rows of the chosen ones, and for each the chosen one.
func leavesWithOwners(ctx context.Context, conn *pgx.Conn, list []Chosen) (oids []uint32, owner map[uint32]uint32, err error) {
	chosen := make([]uint32, len(list))
	owner = map[uint32]uint32{}
	for i, c := range list {
		chosen[i] = c.OID
		if !c.partitioned {
			oids, owner[c.OID] = append(oids, c.OID), c.OID
		}
	}
	rows, err := conn.Query(ctx, leavesSQL, chosen)
	if err != nil {
		return nil, nil, fmt.Errorf("list partitions: %w", err)
	}
	var root, leaf uint32
	_, err = pgx.ForEachRow(rows, []any{&root, &leaf}, func() error {
		if _, there := owner[leaf]; !there {
			oids, owner[leaf] = append(oids, leaf), root
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list partitions: %w", err)
	}
	return oids, owner, nil
}

// leavesOf is leavesWithOwners without the owners.
func leavesOf(ctx context.Context, conn *pgx.Conn, list []Chosen) ([]uint32, error) {
	oids, _, err := leavesWithOwners(ctx, conn, list)
	return oids, err
}

// estimate reads the bloat of tables. That of a partitioned table is the sum of its partitions, as
// far as it is known.
func estimate(ctx context.Context, conn *pgx.Conn, list []Chosen) error {
	oids, owner, err := leavesWithOwners(ctx, conn, list)
	if err != nil {
		return err
	}
	found, err := bloat.Read(ctx, conn, oids)
	if err != nil {
		return err
	}
	for _, e := range found {
		i := slices.IndexFunc(list, func(c Chosen) bool { return c.OID == owner[e.OID] })
		if i < 0 || e.Heap.Needed == nil {
			continue
		}
		if list[i].estimate == nil {
			list[i].estimate = &bloat.Estimate{}
		}
		sum := list[i].estimate
		sum.Heap, sum.Indexes = sum.Heap.Plus(e.Heap), sum.Indexes.Plus(e.Indexes)
	}
	return nil
}
