// Package strategy is how writes to a table reach its copy: capture by
// triggers, the backfill of a range of blocks, and the replay of the change
// log. It knows two relations and a log between them, and nothing of stages.
package strategy

import "fmt"

// Names of the strategies, as the command line spells them.
const (
	ChangeLogName     = "change-log"
	DirectTriggerName = "direct-trigger"
)

// Strategy is what differs between the ways of keeping a shadow in step while
// it is being filled. From the building of the indexes on all are alike.
type Strategy interface {
	// Name is the strategy's name on the command line and in the registry.
	Name() string
	// KeyFirst reports whether the shadow needs its key before the backfill.
	KeyFirst() bool
	// Capture is what is in force during the backfill.
	Capture(l *Link) Capture
	// CopySQL copies the rows with TIDs from $1 up to but not including $2,
	// both as text; see TID.
	CopySQL(l *Link) string
}

// New returns the strategy of that name.
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

// ChangeLog notes the keys of changed rows while the backfill copies, without
// locks and without an index on the shadow.
type ChangeLog struct{}

// Name is "change-log".
func (ChangeLog) Name() string { return ChangeLogName }

// KeyFirst is false: the key is built in bulk when all rows are there.
func (ChangeLog) KeyFirst() bool { return false }

// Capture logs.
func (ChangeLog) Capture(l *Link) Capture { return l.LogCapture() }

// copySQL reads without locking: a row that changes while it is copied may
// come never, once or twice, with any of its values, but its key is in the log
// by the time the change is visible.
const copySQL = `
INSERT INTO %[1]s (%[2]s) OVERRIDING SYSTEM VALUE
SELECT %[3]s
FROM   %[4]s f
WHERE  f.ctid >= $1::text::tid
AND    f.ctid <  $2::text::tid`

// Blocks are numbers; COPY takes no parameters.
const copyOutSQL = `
COPY (
    SELECT %s
    FROM   %s f
    WHERE  f.ctid >= '(%d,0)'
    AND    f.ctid <  '(%d,0)'
) TO STDOUT (FORMAT binary)`

const copyInSQL = `COPY %s (%s) FROM STDIN (FORMAT binary)`

// PipeSQL is the two ends of a copy of the blocks from first up to but not
// including end that goes through the client. The server writes the rows it is
// given by COPY a page at a time, with less WAL than those of an INSERT. The
// first statement takes ACCESS SHARE on the source.
func (l *Link) PipeSQL(first, end int64) (out, in string) {
	return fmt.Sprintf(copyOutSQL, l.fromColumns("f"), l.From, first, end),
		fmt.Sprintf(copyInSQL, l.To, l.toColumns())
}

// CopySQL is one INSERT … SELECT over a range of TIDs. It takes ACCESS SHARE
// on the source.
func (ChangeLog) CopySQL(l *Link) string {
	return fmt.Sprintf(copySQL, l.To, l.toColumns(), l.fromColumns("f"), l.From)
}

const copyOrderedSQL = `
INSERT INTO %[1]s (%[2]s) OVERRIDING SYSTEM VALUE
SELECT   %[3]s
FROM     %[4]s f
ORDER BY %[5]s`

// CopyOrderedSQL copies all rows at once; order is over the alias f. Like
// CopySQL it is for a source that is being logged, and takes ACCESS SHARE on it.
func (l *Link) CopyOrderedSQL(order string) string {
	return fmt.Sprintf(copyOrderedSQL, l.To, l.toColumns(), l.fromColumns("f"), l.From, order)
}

// DirectTrigger writes each change through to the shadow while the backfill
// copies. Writers above READ COMMITTED, whose snapshot may be older than the
// rows of the shadow, log instead.
type DirectTrigger struct{}

// Name is "direct-trigger".
func (DirectTrigger) Name() string { return DirectTriggerName }

// KeyFirst is true: a write finds its row in the shadow by the key.
func (DirectTrigger) KeyFirst() bool { return true }

// Capture writes through, but for snapshots above READ COMMITTED.
func (DirectTrigger) Capture(l *Link) Capture { return l.WriteThrough("") }

// lockedCopySQL locks what it copies, so that a writer waits for the chunk, or
// is seen by it: FOR SHARE, since FOR KEY SHARE would let an UPDATE pass. It
// waits for no row, or it could deadlock with a transaction that waits for
// one of ours: rows locked by others are logged and come with the replay.
// A row that is already in the shadow was written through and is newer.
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

// CopySQL copies under FOR SHARE row locks. It takes ROW SHARE on the source.
func (DirectTrigger) CopySQL(l *Link) string {
	return fmt.Sprintf(lockedCopySQL, l.To, l.toColumns(), l.fromColumns("f"), l.From,
		l.Log, l.logColumns(""), l.fromKey("f"), l.fromKey("p"), l.toKey(""))
}
