package strategy

import "fmt"

// Names of the strategies, as the command line spells them.
const (
	ChangeLogName     = "change-log"
	DirectTriggerName = "direct-trigger"
)

// Strategy is what differs between the ways to keep a shadow up to date during the
// backfill. From the index builds on, all strategies are alike.
type Strategy interface {
	// Name is the strategy's name on the command line and in the registry.
	Name() string
	// WritesThrough reports whether writes reach the shadow during the backfill. Then the
	// shadow has its key from the start, and its rows stay current.
	WritesThrough() bool
	// LocksRows reports whether CopySQL locks the rows that it copies. Then writers may
	// have to wait for it.
	LocksRows() bool
	// Capture returns the capture that is in force during the backfill.
	Capture(l *Link) Capture
	// CopySQL returns the statement that copies the rows with TIDs from $1 (inclusive)
	// to $2 (exclusive), both as text; see TID.
	CopySQL(l *Link) string
}

// New returns the strategy with that name, or an error if there is none.
func New(name string) (Strategy, error) {
	switch name {
	case ChangeLogName:
		return ChangeLog{}, nil
	case DirectTriggerName:
		return DirectTrigger{}, nil
	default:
		return nil, fmt.Errorf("unknown strategy %q: want %s or %s", name, ChangeLogName, DirectTriggerName)
	}
}

// ChangeLog logs the keys of changed rows while the backfill copies. It takes no row
// locks and needs no index on the shadow.
type ChangeLog struct{}

// Name returns "change-log".
func (ChangeLog) Name() string { return ChangeLogName }

// WritesThrough is false: the key index is built in bulk when all rows have been copied.
func (ChangeLog) WritesThrough() bool { return false }

// LocksRows is false: what changes meanwhile is in the log.
func (ChangeLog) LocksRows() bool { return false }

// Capture logs keys: see Link.LogCapture.
func (ChangeLog) Capture(l *Link) Capture { return l.LogCapture() }

// copySQL reads without row locks. A row that changes during the backfill may be copied
// never, once or twice, with any of its values. But its key is in the log by the time
// the change is visible.
const copySQL = `
INSERT INTO %[1]s (%[2]s) OVERRIDING SYSTEM VALUE
SELECT %[3]s
FROM   %[4]s f
WHERE  f.ctid >= $1::text::tid
AND    f.ctid <  $2::text::tid`

// copyOutSQL contains block numbers, because COPY takes no parameters.
const copyOutSQL = `
COPY (
    SELECT %s
    FROM   %s f
    WHERE  f.ctid >= '(%d,0)'
    AND    f.ctid <  '(%d,0)'
) TO STDOUT (FORMAT binary)`

// copyInSQL writes the rows of copyOutSQL into the copy.
const copyInSQL = `COPY %s (%s) FROM STDIN (FORMAT binary)`

// PipeSQL returns the two COPY statements that copy the blocks from first (inclusive)
// to end (exclusive) through the client. The server writes the rows of a COPY a page at
// a time, with less WAL than those of an INSERT.
//
// The first statement takes ACCESS SHARE on From, the second ROW EXCLUSIVE on To, until
// their transactions end.
func (l *Link) PipeSQL(first, end int64) (out, in string) {
	return fmt.Sprintf(copyOutSQL, l.fromColumns("f"), l.From, first, end),
		fmt.Sprintf(copyInSQL, l.To, l.toColumns())
}

// CopySQL returns one INSERT … SELECT over a range of TIDs. It takes ACCESS SHARE on
// From and ROW EXCLUSIVE on To until the transaction ends.
func (ChangeLog) CopySQL(l *Link) string {
	return fmt.Sprintf(copySQL, l.To, l.toColumns(), l.fromColumns("f"), l.From)
}

// copyAnySQL copies some rows.
const copyAnySQL = `
INSERT INTO %[1]s (%[2]s) OVERRIDING SYSTEM VALUE
SELECT %[3]s
FROM   ONLY %[4]s f
LIMIT  %[5]d`

// CopyAnySQL returns the statement that copies some rows, at most so many. It takes the locks of
// ChangeLog.CopySQL.
func (l *Link) CopyAnySQL(atMost int) string {
	return fmt.Sprintf(copyAnySQL, l.To, l.toColumns(), l.fromColumns("f"), l.From, atMost)
}

// copyOrderedSQL copies all rows in a given order.
const copyOrderedSQL = `
INSERT INTO %[1]s (%[2]s) OVERRIDING SYSTEM VALUE
SELECT   %[3]s
FROM     %[4]s f
ORDER BY %[5]s`

// CopyOrderedSQL returns the statement that copies all rows at once. order is the ORDER
// BY list and uses the alias f for From. Like ChangeLog.CopySQL it needs a source whose
// changes are logged, and takes the same locks.
func (l *Link) CopyOrderedSQL(order string) string {
	return fmt.Sprintf(copyOrderedSQL, l.To, l.toColumns(), l.fromColumns("f"), l.From, order)
}

// DirectTrigger writes each change through to the shadow while the backfill copies.
// Writers above READ COMMITTED log instead: their snapshot may be older than the rows
// of the shadow.
type DirectTrigger struct{}

// Name returns "direct-trigger".
func (DirectTrigger) Name() string { return DirectTriggerName }

// WritesThrough is true: a write finds its row in the shadow by the key.
func (DirectTrigger) WritesThrough() bool { return true }

// LocksRows is true: a writer waits for the chunk, or the chunk sees the writer.
func (DirectTrigger) LocksRows() bool { return true }

// Capture writes through, except for writers above READ COMMITTED, whose changes it
// logs.
func (DirectTrigger) Capture(l *Link) Capture { return l.WriteThrough("") }

// lockedCopySQL locks the rows that it copies, so that a writer waits for the chunk or
// the chunk sees the writer. It uses FOR SHARE, because FOR KEY SHARE would let an
// UPDATE pass.
//
// It waits for no row: it could deadlock with a transaction that waits for one of ours.
// Instead it logs the rows that other sessions have locked, and the replay copies them.
// A row that is already in the shadow was written through and is newer.
//
// https://www.postgresql.org/docs/current/explicit-locking.html, "Row-Level Locks"
const lockedCopySQL = `
WITH present AS MATERIALIZED (
    SELECT %[3]s
    FROM   %[4]s f
    WHERE  f.ctid >= $1::text::tid
    AND    f.ctid <  $2::text::tid
    FOR    SHARE SKIP LOCKED
), aside AS (
    INSERT INTO %[5]s (%[6]s)
    SELECT %[7]s
    FROM   %[4]s f
    WHERE  f.ctid >= $1::text::tid
    AND    f.ctid <  $2::text::tid
    EXCEPT ALL
    SELECT %[8]s
    FROM   present p
)
INSERT INTO %[1]s (%[2]s) OVERRIDING SYSTEM VALUE
SELECT p.*
FROM   present p
ON     CONFLICT (%[9]s) DO NOTHING`

// CopySQL returns the statement that copies rows under row locks FOR SHARE. It takes
// ROW SHARE on From and ROW EXCLUSIVE on To and the log, until the transaction ends.
func (DirectTrigger) CopySQL(l *Link) string {
	return fmt.Sprintf(lockedCopySQL, l.To, l.toColumns(), l.fromColumnsAsTo("f"), l.From,
		l.Log, l.logColumns(""), l.fromKey("f"), l.toKey("p"), l.toKey(""))
}
