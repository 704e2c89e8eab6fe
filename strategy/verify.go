package strategy

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// Kinds of mismatches.
const (
	Missing   = "missing"   // From has the row, To does not
	Extra     = "extra"     // To has a row that From does not have
	Different = "different" // both have the row, with different values
	Duplicate = "duplicate" // From has more than one row with the key
)

// Mismatch is a key whose rows in From and To are not equal, although no change of the
// key is pending. So the replay will not correct it.
type Mismatch struct {
	Kind    string
	Key     []string // the key's values as the server writes them
	Columns []string // columns of From that differ, if Kind is Different
}

// Compared is the result of one comparison.
type Compared struct {
	Rows       int64      // number of rows compared
	Pending    [][]string // keys of rows that differ and whose change is in the log
	Mismatches []Mismatch
}

// Comparison compares the rows of a Link's two relations. Call its methods in a
// transaction that began with BeginSQL, and so in one snapshot of both relations and
// the log. In that snapshot a change is in both relations, or its key is in the log.
// Therefore every difference without a log row is an error.
//
// Values are compared by their binary image, which is what is stored, after
// decompression: -0 is not 0, 1.0 is not 1.00, and text is compared by its bytes
// whatever its collation. Types need no equality operator.
//
// A generated column is not copied but computed again. Then a part of a composite value
// may be compressed that was not compressed before, or the reverse. Such a value counts
// as equal if its text is equal.
//
// https://www.postgresql.org/docs/current/functions-comparisons.html, "Composite Type Comparison"
type Comparison struct {
	*Link
	generated []Mapping
}

// NewComparison returns a Comparison of all columns of t that are stored, generated
// columns included. It does not query the server.
func NewComparison(l *Link, t *catalog.Table) *Comparison {
	c := &Comparison{Link: l}
	for _, column := range t.Columns {
		if column.Generated == "s" {
			c.generated = append(c.generated, Mapping{From: column.Name, To: column.Name})
		}
	}
	return c
}

// beginSQL takes the locks before the snapshot, which the first query takes: a TRUNCATE
// for which LOCK TABLE has waited must be visible.
const beginSQL = `
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
LOCK TABLE %[1]s, %[2]s, %[3]s IN ACCESS SHARE MODE`

// BeginSQL returns the first statements of a transaction that compares. It makes the
// transaction REPEATABLE READ and READ ONLY, sets the planner settings for lookups by
// key, and takes ACCESS SHARE on both relations and the log until the transaction ends.
func (c *Comparison) BeginSQL() string {
	return fmt.Sprintf(beginSQL, c.From, c.To, c.Log) + ";" + AloneSQL
}

// verdictsSQL reduces rows that have a key and a verdict to their number and the list
// of wrong rows. The verdict is null for correct rows. OFFSET 0 makes the server
// compute the verdict once per row.
const verdictsSQL = `
SELECT count(*),
       coalesce(array_agg(r.kind) FILTER (WHERE r.kind IS NOT NULL), '{}'),
       coalesce(array_agg(ARRAY[%[1]s]) FILTER (WHERE r.kind IS NOT NULL), '{}')
FROM   (%[2]s
        OFFSET 0) AS r`

// copyRangeSQL tells by the key, which is NOT NULL, whether the LEFT JOIN has found a
// row. It uses IS NOT DISTINCT FROM NULL, because IS NULL is also true for a composite
// value whose fields are all null.
//
// https://www.postgresql.org/docs/current/functions-comparison.html
const copyRangeSQL = `
        SELECT %[1]s,
               CASE WHEN %[2]s IS NOT DISTINCT FROM NULL THEN 'extra'
                    WHEN %[3]s THEN 'different'
               END AS kind
        FROM   %[4]s AS t
        LEFT   JOIN %[5]s AS f ON %[6]s
        WHERE  t.ctid >= $1::text::tid
        AND    t.ctid <  $2::text::tid`

// CopyRange compares the rows in the blocks of To from first (inclusive) to end
// (exclusive) with the rows of the same keys in From. It finds extra and different
// rows.
func (c *Comparison) CopyRange(ctx context.Context, tx pgx.Tx, first, end int64) (Compared, error) {
	rows := fmt.Sprintf(copyRangeSQL, c.keyAs("t", c.toName), qualified("f", c.Key[0].Name),
		c.differ(c.compared(), c.generated), c.To, c.From, c.toIsFrom("t", "f"))
	return c.compare(ctx, tx, rows, TID(first), TID(end))
}

// rangeSQL reads only the key of To, so that an index-only scan is enough.
const rangeSQL = `
        SELECT %[1]s,
               CASE WHEN %[2]s IS NOT DISTINCT FROM NULL THEN 'missing' END AS kind
        FROM   %[3]s AS f
        LEFT   JOIN %[4]s AS t ON %[5]s
        WHERE  f.ctid >= $1::text::tid
        AND    f.ctid <  $2::text::tid`

// Range looks up in To the keys of the rows in the blocks of From from first
// (inclusive) to end (exclusive). It finds missing rows.
func (c *Comparison) Range(ctx context.Context, tx pgx.Tx, first, end int64) (Compared, error) {
	rows := fmt.Sprintf(rangeSQL, c.keyAs("f", same), qualified("t", c.toName(c.Key[0].Name)),
		c.From, c.To, c.toIsFrom("t", "f"))
	return c.compare(ctx, tx, rows, TID(first), TID(end))
}

// keysSQL compares the rows of given keys.
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

// Keys compares the rows of the given keys, such as keys that were pending before. A
// key that neither relation has is correct.
func (c *Comparison) Keys(ctx context.Context, tx pgx.Tx, keys [][]string) (Compared, error) {
	rows := fmt.Sprintf(keysSQL, c.logColumns("k"), qualified("f", c.Key[0].Name),
		qualified("t", c.toName(c.Key[0].Name)), c.differ(c.compared(), c.generated), c.keysQuery(),
		c.From, c.fromIsLog("f", "k"), c.To, c.toIsLog("t", "k"))
	return c.compare(ctx, tx, rows, c.keyArguments(keys)...)
}

// AloneSQL are the planner settings of a transaction that looks up rows by their keys.
// PostgreSQL has no parallel TID range scan. With parallel workers the planner would
// rather read a whole index and filter it by TID.
const AloneSQL = nestLoopsSQL + `;
SET LOCAL max_parallel_workers_per_gather = 0`

// compare runs a query for rows with verdicts and asks the log about the wrong ones. It
// needs the settings of AloneSQL: with them every row finds its partner by an index,
// however large the tables are and however wrong the planner's estimates are.
func (c *Comparison) compare(ctx context.Context, tx pgx.Tx, rows string, args ...any) (Compared, error) {
	var found Compared
	var kinds []string
	var keys [][]string
	sql := fmt.Sprintf(verdictsSQL, c.keyTexts("r", true), rows)
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

// maxExplained is for how many mismatches of one comparison the columns are named.
const maxExplained = 10

// isPendingSQL reports for each key whether the log has a row of it. A TRUNCATE in the
// log makes all keys pending. ctid tells whether the LEFT JOIN has found a log row,
// because all other columns of a log row may be null. The log may be long and has no
// index, so the server should use a hash join.
const isPendingSQL = `
SELECT    bool_or(l.ctid IS NOT NULL) OR EXISTS (SELECT FROM %[1]s AS l WHERE l.truncated)
FROM      (%[2]s) AS k
LEFT JOIN %[1]s AS l ON %[3]s
GROUP BY  k.n
ORDER BY  k.n`

// hashJoinsSQL lets the planner use hash joins and sequential scans again.
const hashJoinsSQL = `
SET LOCAL enable_hashjoin = on;
SET LOCAL enable_seqscan = on`

// pending reports for each key whether a change of it is in the log.
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

// differingColumnsSQL names the columns in which the two rows of a key differ.
const differingColumnsSQL = `
SELECT array_remove(ARRAY[%[1]s], NULL)
FROM   (%[2]s) AS k
JOIN   %[3]s AS f ON %[4]s
JOIN   %[5]s AS t ON %[6]s`

// differingColumns returns the columns of From in which the two rows of a key differ.
func (c *Comparison) differingColumns(ctx context.Context, tx pgx.Tx, key []string) (columns []string, err error) {
	if _, err := tx.Exec(ctx, AloneSQL); err != nil {
		return nil, fmt.Errorf("set planner options: %w", err)
	}
	name := func(m Mapping, differs string) string {
		return fmt.Sprintf("CASE WHEN %s THEN %s END", differs, catalog.Literal(cmp.Or(m.From, m.To)))
	}
	names := list(c.compared(), ", ", func(_ int, m Mapping) string { return name(m, c.differ([]Mapping{m}, nil)) })
	if len(c.generated) > 0 {
		names += ", " + list(c.generated, ", ", func(_ int, m Mapping) string { return name(m, c.differ(nil, []Mapping{m})) })
	}
	sql := fmt.Sprintf(differingColumnsSQL, names, c.keysQuery(), c.From, c.fromIsLog("f", "k"), c.To, c.toIsLog("t", "k"))
	if err := tx.QueryRow(ctx, sql, c.keyArguments([][]string{key})...).Scan(&columns); err != nil {
		return nil, fmt.Errorf("compare columns of %s with %s: %w", c.To, c.From, err)
	}
	return columns, nil
}

// keysQuery is a query for keys that are passed as one text array per column; see
// keyArguments. Column n is the position of a key, from 1.
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

// keyArguments are the values of the parameters of keysQuery.
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

// same is the name function for a relation that has From's column names.
func same(name string) string { return name }

// keyAs lists the key columns of one of the relations under the names of the log's
// columns.
func (c *Comparison) keyAs(alias string, name func(from string) string) string {
	return list(c.Key, ", ", func(i int, k catalog.KeyColumn) string {
		return qualified(alias, name(k.Name)) + " AS " + logColumn(i)
	})
}

// keyTexts writes the key columns with the output functions of their types. A cast to
// text need not do that.
func (l *Link) keyTexts(alias string, asLog bool) string {
	return list(l.Key, ", ", func(i int, k catalog.KeyColumn) string {
		name := k.Name
		if asLog {
			name = logColumn(i)
		}
		return fmt.Sprintf("format('%%s', %s)", qualified(alias, name))
	})
}

// logIsLog compares the keys of two row sets that have the log's column names.
func (c *Comparison) logIsLog(a, b string) string {
	return list(c.Key, " AND ", func(i int, k catalog.KeyColumn) string {
		return qualified(a, logColumn(i)) + " " + k.Equal + " " + qualified(b, logColumn(i))
	})
}

// differ is true if the rows f of From and t of To differ: in the image of copied
// columns, or in both the image and the text of generated columns. Values are compared in the
// form that they have in the new table.
func (l *Link) differ(copied, generated []Mapping) string {
	from := func(m Mapping) string { return m.value("f") }
	to := func(m Mapping) string { return qualified("t", m.To) }
	if l.Wide {
		from = func(m Mapping) string { return qualified("f", m.From) }
		to = func(m Mapping) string { return m.back("t") }
	}
	image := func(columns []Mapping, from, to func(Mapping) string, cast string) string {
		return fmt.Sprintf("NOT record_image_eq(ROW(%s), ROW(%s))",
			list(columns, ", ", func(_ int, m Mapping) string { return from(m) + cast }),
			list(columns, ", ", func(_ int, m Mapping) string { return to(m) + cast }))
	}
	copies := image(copied, from, to, "")
	if l.Wide && slices.ContainsFunc(copied, func(m Mapping) bool { return m.Back != "" }) {
		// The way there and the way back need not be inverse, as with --set: then a row that has
		// been written back is right if it is what the way back makes of it.
		written := image(copied, func(m Mapping) string { return m.value("f") }, func(m Mapping) string { return qualified("t", m.To) }, "")
		copies = fmt.Sprintf("CASE WHEN %s THEN %s ELSE false END", copies, written)
	}
	if len(generated) == 0 {
		return copies
	}
	computed := image(generated, from, to, "") + " AND " + image(generated, from, to, "::text")
	if len(copied) == 0 {
		return computed
	}
	return copies + " OR " + computed
}
