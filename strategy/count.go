package strategy

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// seqScanSQL forbids index scans. A damaged index may lack rows, such as the second row
// of a duplicate key, so rows are counted in the tables themselves.
const seqScanSQL = `
SET LOCAL enable_hashjoin = on;
SET LOCAL enable_mergejoin = on;
SET LOCAL enable_seqscan = on;
SET LOCAL enable_indexscan = off;
SET LOCAL enable_indexonlyscan = off;
SET LOCAL enable_bitmapscan = off`

// countsSQL does not look up keys when nothing is pending: a lookup takes longer than
// counting the row. The server runs only the subqueries whose result it needs.
const countsSQL = `
SELECT EXISTS (SELECT FROM %[3]s AS l WHERE l.truncated),
       CASE WHEN EXISTS (SELECT FROM %[3]s)
            THEN (SELECT count(*) FROM %[1]s AS f WHERE NOT EXISTS (SELECT FROM %[3]s AS l WHERE %[4]s))
            ELSE (SELECT count(*) FROM %[1]s)
       END,
       CASE WHEN EXISTS (SELECT FROM %[3]s)
            THEN (SELECT count(*) FROM %[2]s AS t WHERE NOT EXISTS (SELECT FROM %[3]s AS l WHERE %[5]s))
            ELSE (SELECT count(*) FROM %[2]s)
       END`

// Counts counts the rows of From and of To whose keys are not pending. In one snapshot
// both numbers must be equal. Only a count notices several rows with the same key,
// because a lookup by the key finds one of them. If a TRUNCATE is pending, both numbers
// are zero.
//
// Counts turns index scans off in tx: call other methods in another transaction. It
// reads both tables completely and relies on the locks of BeginSQL.
func (c *Comparison) Counts(ctx context.Context, tx pgx.Tx) (from, to int64, err error) {
	if _, err := tx.Exec(ctx, seqScanSQL); err != nil {
		return 0, 0, fmt.Errorf("set planner options: %w", err)
	}
	var truncated bool
	sql := fmt.Sprintf(countsSQL, c.From, c.To, c.Log, c.fromIsLog("f", "l"), c.toIsLog("t", "l"))
	if err := tx.QueryRow(ctx, sql).Scan(&truncated, &from, &to); err != nil {
		return 0, 0, fmt.Errorf("count rows of %s and %s: %w", c.From, c.To, err)
	}
	if truncated {
		return 0, 0, nil
	}
	return from, to, nil
}

// duplicatesSQL lists keys that more than one row of From has.
const duplicatesSQL = `
SELECT   ARRAY[%[1]s]
FROM    (SELECT   %[2]s
         FROM     %[3]s AS f
         GROUP BY %[4]s
         HAVING   count(*) > 1) r
ORDER BY 1
LIMIT    %[5]d`

// Duplicates returns up to limit keys that more than one row of From has, as mismatches
// of kind Duplicate. Call it in the transaction in which Counts was called: it needs
// the same planner settings.
func (c *Comparison) Duplicates(ctx context.Context, tx pgx.Tx, limit int) ([]Mismatch, error) {
	rows, err := tx.Query(ctx, fmt.Sprintf(duplicatesSQL,
		c.keyTexts("r", true), c.keyAs("f", same), c.From, c.fromKey("f"), limit))
	if err != nil {
		return nil, fmt.Errorf("look for duplicate keys in %s: %w", c.From, err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[[]string])
	if err != nil {
		return nil, fmt.Errorf("look for duplicate keys in %s: %w", c.From, err)
	}
	var found []Mismatch
	for _, key := range keys {
		found = append(found, Mismatch{Kind: Duplicate, Key: key})
	}
	return found, nil
}
