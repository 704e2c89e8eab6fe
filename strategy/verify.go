package strategy

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// How the copy of a row can be wrong.
const (
	Missing   = "missing"   // From has the row, To has not
	Extra     = "extra"     // To has a row that From has not
	Different = "different" // both have it, with different values
	Duplicate = "duplicate" // From has more than one row of the key, To has one
)

// Mismatch is a row of To that is not the copy of a row of From, and is not
// going to be either: no change of its key is pending.
type Mismatch struct {
	Kind    string
	Key     []string // the key's values as the server writes them
	Columns []string // those of From that differ, where Kind is Different
}

// Compared is what one comparison has found.
type Compared struct {
	Rows       int64      // looked at
	Pending    [][]string // keys of rows that differ, with their change in the log
	Mismatches []Mismatch
}

// Comparison compares the rows of a Link's two relations. Its methods work in a
// transaction that began with BeginSQL, and so in one snapshot of both
// relations and the log between them. There a change is in both relations, or
// its key is in the log: nothing is left to chance or to time.
//
// Values are compared by their image, that is by what is stored, after
// decompression: -0 is not 0, 1.0 is not 1.00, and text is compared by its
// bytes whatever its collation; types need no equality operator. A generated
// column is not copied but computed again, and then a part of a composite value
// can be stored compressed that was not before, or the reverse: it is the same
// if its text is.
//
// https://www.postgresql.org/docs/current/functions-comparisons.html,
// "Composite Type Comparison"
type Comparison struct {
	*Link
	generated []Mapping
}

// NewComparison compares every column of t that is stored, generated ones
// included.
func NewComparison(l *Link, t *catalog.Table) *Comparison {
	c := &Comparison{Link: l}
	for _, column := range t.Columns {
		if column.Generated == "s" {
			c.generated = append(c.generated, Mapping{From: column.Name, To: column.Name})
		}
	}
	return c
}

// The locks come before the snapshot, which the first query takes: a TRUNCATE
// that was waited for must be visible.
const beginSQL = `
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
LOCK TABLE %[1]s, %[2]s, %[3]s IN ACCESS SHARE MODE`

// BeginSQL are the first statements of a transaction that compares, and looks up rows
// by their keys. They take ACCESS SHARE on both relations and the log.
func (c *Comparison) BeginSQL() string {
	return fmt.Sprintf(beginSQL, c.From, c.To, c.Log) + ";" + AloneSQL
}

// verdictsSQL reduces rows with a key and a verdict, which is null for rows that
// are right, to their number and what is wrong. OFFSET 0 has the verdict
// reached once a row.
const verdictsSQL = `
SELECT count(*),
       coalesce(array_agg(r.kind) FILTER (WHERE r.kind IS NOT NULL), '{}'),
       coalesce(array_agg(ARRAY[%[1]s]) FILTER (WHERE r.kind IS NOT NULL), '{}')
FROM   (%[2]s
        OFFSET 0) AS r`

// Whether there is a row at the other end of a LEFT JOIN is told by its key,
// which is NOT NULL. IS NULL would be true as well of a composite value that
// has only nulls in it.
const copyRangeSQL = `
        SELECT %[1]s,
               CASE WHEN %[2]s IS NOT DISTINCT FROM NULL THEN 'extra'
                    WHEN %[3]s THEN 'different'
               END AS kind
        FROM   %[4]s AS t
        LEFT   JOIN %[5]s AS f ON %[6]s
        WHERE  t.ctid >= $1::text::tid
        AND    t.ctid <  $2::text::tid`

// CopyRange compares the rows in a range of To's blocks, end exclusive, with
// those of the same keys in From.
func (c *Comparison) CopyRange(ctx context.Context, tx pgx.Tx, first, end int64) (Compared, error) {
	rows := fmt.Sprintf(copyRangeSQL, c.keyAs("t", c.toName), qualified("f", c.Key[0].Name),
		differ(c.Columns, c.generated), c.To, c.From, c.toIsFrom("t", "f"))
	return c.compare(ctx, tx, rows, TID(first), TID(end))
}

// Only the key of To is read, so that its index has to be read and no more.
const rangeSQL = `
        SELECT %[1]s,
               CASE WHEN %[2]s IS NOT DISTINCT FROM NULL THEN 'missing' END AS kind
        FROM   %[3]s AS f
        LEFT   JOIN %[4]s AS t ON %[5]s
        WHERE  f.ctid >= $1::text::tid
        AND    f.ctid <  $2::text::tid`

// Range looks in To for the keys of the rows in a range of From's blocks, end
// exclusive.
func (c *Comparison) Range(ctx context.Context, tx pgx.Tx, first, end int64) (Compared, error) {
	rows := fmt.Sprintf(rangeSQL, c.keyAs("f", same), qualified("t", c.toName(c.Key[0].Name)),
		c.From, c.To, c.toIsFrom("t", "f"))
	return c.compare(ctx, tx, rows, TID(first), TID(end))
}

const keysSQL = `
        SELECT %[1]s,
               CASE WHEN %[2]s IS NOT DISTINCT FROM NULL AND %[3]s IS NOT DISTINCT FROM NULL THEN NULL
                    WHEN %[2]s IS NOT DISTINCT FROM NULL THEN 'extra'
                    WHEN %[3]s IS NOT DISTINCT FROM NULL THEN 'missing'
                    WHEN %[4]s THEN 'different'
               END AS kind
        FROM   (%[5]s) AS k
        LEFT   JOIN %[6]s AS f ON %[7]s
        LEFT   JOIN %[8]s AS t ON %[9]s`

// Keys compares the rows of certain keys, such as were pending before.
func (c *Comparison) Keys(ctx context.Context, tx pgx.Tx, keys [][]string) (Compared, error) {
	rows := fmt.Sprintf(keysSQL, c.logColumns("k"), qualified("f", c.Key[0].Name),
		qualified("t", c.toName(c.Key[0].Name)), differ(c.Columns, c.generated), c.keysQuery(),
		c.From, c.fromIsLog("f", "k"), c.To, c.toIsLog("t", "k"))
	return c.compare(ctx, tx, rows, c.keyArguments(keys)...)
}

// AloneSQL are the settings of a transaction that looks up rows by their keys. In
// parallel the server would rather read the whole of an index, and filter it
// by TID, than a range of TIDs: there is no parallel scan of those.
const AloneSQL = nestLoopsSQL + `;
SET LOCAL max_parallel_workers_per_gather = 0`

// find, under AloneSQL, runs a query for rows with verdicts, and asks the log about those that
// are wrong. Every row finds its partner by an index, however large the tables
// and however wrong the estimates.
func (c *Comparison) compare(ctx context.Context, tx pgx.Tx, rows string, args ...any) (Compared, error) {
	var found Compared
	var kinds []string
	var keys [][]string
	sql := fmt.Sprintf(verdictsSQL, c.keyTexts("r"), rows)
	if err := tx.QueryRow(ctx, sql, args...).Scan(&found.Rows, &kinds, &keys); err != nil {
		return Compared{}, fmt.Errorf("compare %s with %s: %w", c.To, c.From, err)
	}
	if len(keys) == 0 {
		return found, nil
	}
	pending, err := c.pending(ctx, tx, keys)
	if err != nil {
		return Compared{}, err
	}
	for i, key := range keys {
		if pending[i] {
			found.Pending = append(found.Pending, key)
			continue
		}
		m := Mismatch{Kind: kinds[i], Key: key}
		if len(found.Mismatches) < maxExplained && m.Kind == Different {
			if m.Columns, err = c.differingColumns(ctx, tx, key); err != nil {
				return Compared{}, err
			}
		}
		found.Mismatches = append(found.Mismatches, m)
	}
	return found, nil
}

// maxExplained is how many mismatches of one comparison say which columns differ.
const maxExplained = 10

// A TRUNCATE explains everything. A row of the log that was not found has no
// ctid; what else it has not, one that was found may lack as well. The log may
// be long and has no index: it is hashed.
const isPendingSQL = `
SELECT    bool_or(l.ctid IS NOT NULL) OR EXISTS (SELECT FROM %[1]s AS l WHERE l.truncated)
FROM      (%[2]s) AS k
LEFT JOIN %[1]s AS l ON %[3]s
GROUP BY  k.n
ORDER BY  k.n`

const hashJoinsSQL = `
SET LOCAL enable_hashjoin = on;
SET LOCAL enable_seqscan = on`

// pending tells, key by key, which have a change in the log.
func (c *Comparison) pending(ctx context.Context, tx pgx.Tx, keys [][]string) ([]bool, error) {
	if _, err := tx.Exec(ctx, hashJoinsSQL); err != nil {
		return nil, fmt.Errorf("set planner options: %w", err)
	}
	sql := fmt.Sprintf(isPendingSQL, c.Log, c.keysQuery(), c.logIsLog("l", "k"))
	rows, err := tx.Query(ctx, sql, c.keyArguments(keys)...)
	if err != nil {
		return nil, fmt.Errorf("look for pending changes: %w", err)
	}
	pending, err := pgx.CollectRows(rows, pgx.RowTo[bool])
	if err == nil && len(pending) != len(keys) {
		err = fmt.Errorf("%d answers for %d keys", len(pending), len(keys))
	}
	if err != nil {
		return nil, fmt.Errorf("look for pending changes: %w", err)
	}
	return pending, nil
}

const differingColumnsSQL = `
SELECT array_remove(ARRAY[%[1]s], NULL)
FROM   (%[2]s) AS k
JOIN   %[3]s AS f ON %[4]s
JOIN   %[5]s AS t ON %[6]s`

// differingColumns names the columns of From in which the two rows of a key differ.
func (c *Comparison) differingColumns(ctx context.Context, tx pgx.Tx, key []string) (columns []string, err error) {
	if _, err := tx.Exec(ctx, AloneSQL); err != nil {
		return nil, fmt.Errorf("set planner options: %w", err)
	}
	name := func(m Mapping, differs string) string {
		return fmt.Sprintf("CASE WHEN %s THEN %s END", differs, catalog.Literal(m.From))
	}
	names := list(c.Columns, ", ", func(_ int, m Mapping) string { return name(m, differ([]Mapping{m}, nil)) })
	if len(c.generated) > 0 {
		names += ", " + list(c.generated, ", ", func(_ int, m Mapping) string { return name(m, differ(nil, []Mapping{m})) })
	}
	sql := fmt.Sprintf(differingColumnsSQL, names, c.keysQuery(), c.From, c.fromIsLog("f", "k"), c.To, c.toIsLog("t", "k"))
	if err := tx.QueryRow(ctx, sql, c.keyArguments([][]string{key})...).Scan(&columns); err != nil {
		return nil, fmt.Errorf("compare columns of %s with %s: %w", c.To, c.From, err)
	}
	return columns, nil
}

// keysQuery is a query for keys handed over as one array of texts a column; see
// arguments. n is the place of a key, from 1.
func (c *Comparison) keysQuery() string {
	columns := list(c.Key, ", ", func(i int, k catalog.KeyColumn) string {
		value := fmt.Sprintf("u.%s::%s", logColumn(i), k.Type)
		if k.Collation != "" {
			value += " COLLATE " + k.Collation
		}
		return value + " AS " + logColumn(i)
	})
	arrays := list(c.Key, ", ", func(i int, _ catalog.KeyColumn) string { return fmt.Sprintf("$%d::text[]", i+1) })
	return fmt.Sprintf("SELECT u.n, %s FROM unnest(%s) WITH ORDINALITY AS u(%s, n)", columns, arrays, c.logColumns(""))
}

// keyArguments are what the parameters of given stand for.
func (c *Comparison) keyArguments(keys [][]string) []any {
	args := make([]any, len(c.Key))
	for i := range c.Key {
		column := make([]string, len(keys))
		for n, key := range keys {
			column[n] = key[i]
		}
		args[i] = column
	}
	return args
}

func same(name string) string { return name }

// keyAs are the key's columns in one of the relations, called as in the log.
func (c *Comparison) keyAs(alias string, name func(from string) string) string {
	return list(c.Key, ", ", func(i int, k catalog.KeyColumn) string {
		return qualified(alias, name(k.Name)) + " AS " + logColumn(i)
	})
}

// keyTexts writes the key's columns through their types' output functions,
// which a cast to text need not.
func (c *Comparison) keyTexts(alias string) string {
	return list(c.Key, ", ", func(i int, _ catalog.KeyColumn) string {
		return fmt.Sprintf("format('%%s', %s)", qualified(alias, logColumn(i)))
	})
}

// logIsLog compares the keys of two row sets that are called as in the log.
func (c *Comparison) logIsLog(a, b string) string {
	return list(c.Key, " AND ", func(i int, k catalog.KeyColumn) string {
		return qualified(a, logColumn(i)) + " " + k.Equal + " " + qualified(b, logColumn(i))
	})
}

// differ is true where the rows f and t of From and To differ, in columns that
// are copied or in the text as well of those that are generated.
func differ(copied, generated []Mapping) string {
	image := func(columns []Mapping, cast string) string {
		from := list(columns, ", ", func(_ int, m Mapping) string { return qualified("f", m.From) + cast })
		to := list(columns, ", ", func(_ int, m Mapping) string { return qualified("t", m.To) + cast })
		return fmt.Sprintf("NOT record_image_eq(ROW(%s), ROW(%s))", from, to)
	}
	if len(generated) == 0 {
		return image(copied, "")
	}
	computed := image(generated, "") + " AND " + image(generated, "::text")
	if len(copied) == 0 {
		return computed
	}
	return image(copied, "") + " OR " + computed
}
