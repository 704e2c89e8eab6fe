package strategy

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
)

// maxBlock is beyond the last block a relation can have.
const maxBlock = 1<<32 - 1

// Replayed counts what one batch of the change log came to.
type Replayed struct {
	Logged int64 // rows taken from the log
	Aside  int64 // keys put back, because their row was locked
	Copied int64 // rows written to the copy
}

// Add sums up two counts.
func (r *Replayed) Add(o Replayed) {
	r.Logged += o.Logged
	r.Aside += o.Aside
	r.Copied += o.Copied
}

// Share is the part N, from 0, of Of parts into which the keys of the log are
// divided: all rows of a key are in one of them, as are all that stand for
// TRUNCATE. The zero Share is everything. Only where Link.Divisible.
type Share struct{ N, Of int }

// The remainder has the sign of the hash.
const shareSQL = `
    AND    abs(mod(hash_record_extended(ROW(%s), 0), %d)) = %d`

// inShare is the condition for a row of the log, or nothing.
func (l *Link) inShare(log string, s Share) string {
	if s.Of == 0 {
		return ""
	}
	return fmt.Sprintf(shareSQL, l.logColumns(log), s.Of, s.N)
}

// batchSQL takes a range of the log and brings the rows of its keys up to date,
// in one statement and so in one snapshot: a key whose log row is visible has
// its change visible. The deletes are counted before the first insert, so that
// unique values may move between the rows of a batch. Keys are taken in order,
// since neighbours share pages of the key's index.
const batchSQL = `
WITH taken AS (
    DELETE FROM %[1]s l
    WHERE  l.ctid >= $1::text::tid AND l.ctid < $2::text::tid%[10]s
    RETURNING %[2]s, l.truncated
), keys AS MATERIALIZED (
    SELECT   DISTINCT %[3]s
    FROM     taken
    WHERE    truncated IS NULL
    ORDER BY %[3]s
), gone AS (
    DELETE FROM %[4]s t USING keys k WHERE %[5]s
    RETURNING 1
), copied AS (
    INSERT INTO %[4]s (%[6]s) OVERRIDING SYSTEM VALUE
    SELECT %[7]s
    FROM   keys k, %[8]s f
    WHERE  %[9]s AND (SELECT count(*) FROM gone) >= 0
    RETURNING 1
)
SELECT (SELECT count(*) FROM taken),
       0,
       (SELECT count(*) FROM copied),
       (SELECT count(*) FROM taken WHERE truncated)`

// concurrentBatchSQL is for when the application writes through at the same
// time. The current rows are locked FOR SHARE (foreign-key checks pass) without
// waiting. A row that is locked by others is put back into the log. A key
// without a row is deleted from the copy in the version that the same snapshot
// shows: READ COMMITTED would follow it to one that a writer, who has inserted
// the key again, has made of it since.
const concurrentBatchSQL = `
WITH taken AS (
    DELETE FROM %[1]s l
    WHERE  l.ctid >= $1::text::tid AND l.ctid < $2::text::tid
    RETURNING %[2]s, l.truncated
), keys AS MATERIALIZED (
    SELECT DISTINCT %[3]s FROM taken WHERE truncated IS NULL
), present AS MATERIALIZED (
    SELECT %[4]s
    FROM   keys k, %[5]s f
    WHERE  %[6]s
    FOR    SHARE OF f SKIP LOCKED
), absent AS MATERIALIZED (
    SELECT k.* FROM keys k
    WHERE  NOT EXISTS (SELECT FROM %[5]s f WHERE %[6]s)
), settled (%[3]s) AS MATERIALIZED (
    SELECT %[7]s FROM present p UNION ALL SELECT * FROM absent
), aside AS (
    INSERT INTO %[1]s (%[3]s)
    SELECT * FROM keys EXCEPT SELECT * FROM settled
    RETURNING 1
), replaced AS (
    DELETE FROM %[8]s t USING (SELECT %[7]s FROM present p) AS k (%[3]s) WHERE %[9]s
    RETURNING 1
), stale AS MATERIALIZED (
    SELECT k.*, t.xmin AS version FROM absent k, %[8]s t WHERE %[9]s
), gone AS (
    DELETE FROM %[8]s t USING stale k WHERE %[9]s AND t.xmin = k.version
    RETURNING 1
), copied AS (
    INSERT INTO %[8]s (%[10]s) OVERRIDING SYSTEM VALUE
    SELECT p.* FROM present p
    WHERE  (SELECT count(*) FROM replaced) + (SELECT count(*) FROM gone) >= 0
    RETURNING 1
)
SELECT (SELECT count(*) FROM taken),
       (SELECT count(*) FROM aside),
       (SELECT count(*) FROM copied),
       (SELECT count(*) FROM taken WHERE truncated)`

// Every key finds its rows by an index, however large the table and however
// wrong the estimates.
const nestLoopsSQL = `
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_seqscan = off`

// ReplayRange replays the log's blocks from first up to but not including end
// inside tx, which must be READ COMMITTED. concurrent says that the application
// may write through at the same time.
func (l *Link) ReplayRange(ctx context.Context, tx pgx.Tx, first, end int64, concurrent bool) (Replayed, error) {
	sql := l.batch(Share{})
	if concurrent {
		sql = l.concurrentBatch()
	}
	return l.replay(ctx, tx, sql, first, end)
}

// ReplayShare replays the share's part of such a range. The transactions of
// other shares may run at the same time: no two of them have a key in common.
// But a unique value can move from one's row to the other's, so they may wait
// for each other, be in a deadlock, or collide.
func (l *Link) ReplayShare(ctx context.Context, tx pgx.Tx, first, end int64, share Share) (Replayed, error) {
	return l.replay(ctx, tx, l.batch(share), first, end)
}

func (l *Link) replay(ctx context.Context, tx pgx.Tx, sql string, first, end int64) (Replayed, error) {
	if _, err := tx.Exec(ctx, nestLoopsSQL); err != nil {
		return Replayed{}, fmt.Errorf("set planner options: %w", err)
	}
	var r Replayed
	var truncated int64
	err := tx.QueryRow(ctx, sql, TID(first), TID(end)).Scan(&r.Logged, &r.Aside, &r.Copied, &truncated)
	if err != nil {
		return Replayed{}, fmt.Errorf("replay change log: %w", err)
	}
	if truncated > 0 {
		return r, l.deleteAbsent(ctx, tx)
	}
	return r, nil
}

func (l *Link) batch(share Share) string {
	return fmt.Sprintf(batchSQL, l.Log, l.logColumns("l"), l.logColumns(""), l.To, l.toIsLog("t", "k"),
		l.toColumns(), l.fromColumns("f"), l.From, l.fromIsLog("f", "k"), l.inShare("l", share))
}

func (l *Link) concurrentBatch() string {
	return fmt.Sprintf(concurrentBatchSQL, l.Log, l.logColumns("l"), l.logColumns(""), l.fromColumns("f"), l.From,
		l.fromIsLog("f", "k"), l.fromKey("p"), l.To, l.toIsLog("t", "k"), l.toColumns())
}

// ReplayAll replays the whole log in one statement. When nobody can write to
// From it leaves the log empty and the copy in step.
func (l *Link) ReplayAll(ctx context.Context, tx pgx.Tx, concurrent bool) (Replayed, error) {
	// Rows of before a TRUNCATE would be in the way of rows of after it.
	if err := l.replayTruncate(ctx, tx); err != nil {
		return Replayed{}, err
	}
	return l.ReplayRange(ctx, tx, 0, maxBlock, concurrent)
}

// Like a batch, it deletes only the versions its snapshot shows.
const deleteAbsentSQL = `
WITH stale AS MATERIALIZED (
    SELECT %[4]s, t.xmin AS version
    FROM   %[1]s t
    WHERE  NOT EXISTS (SELECT FROM %[2]s f WHERE %[3]s)
)
DELETE FROM %[1]s t
USING  stale k
WHERE  %[5]s AND t.xmin = k.version`

// deleteAbsent makes up for a TRUNCATE of From. It looks at what is there now,
// so it may run at any time after it.
func (l *Link) deleteAbsent(ctx context.Context, tx pgx.Tx) error {
	sql := "SET LOCAL enable_hashjoin = on;\nSET LOCAL enable_seqscan = on;" +
		fmt.Sprintf(deleteAbsentSQL, l.To, l.From, l.toIsFrom("t", "f"), l.toKeyAsLog("t"), l.toIsLog("t", "k"))
	if _, err := tx.Exec(ctx, sql); err != nil {
		return fmt.Errorf("delete truncated rows from %s: %w", l.To, err)
	}
	return nil
}

const truncatedSQL = `SELECT EXISTS (SELECT FROM %s WHERE truncated)`

// replayTruncate deletes what a TRUNCATE that is in the log has deleted.
func (l *Link) replayTruncate(ctx context.Context, tx pgx.Tx) error {
	var truncated bool
	if err := tx.QueryRow(ctx, fmt.Sprintf(truncatedSQL, l.Log)).Scan(&truncated); err != nil {
		return fmt.Errorf("look for TRUNCATE in the change log: %w", err)
	}
	if !truncated {
		return nil
	}
	return l.deleteAbsent(ctx, tx)
}

const removeLoggedSQL = `
DELETE FROM %[1]s t
USING (SELECT DISTINCT %[2]s FROM %[3]s WHERE truncated IS NULL) k
WHERE  %[4]s`

// RemoveLogged deletes from the copy the row of every key in the log, which
// stays as it is. What is left are rows that have not changed since capture
// began: a subset of one state of From, on which every unique constraint of
// From holds. It returns the number of rows deleted.
func (l *Link) RemoveLogged(ctx context.Context, tx pgx.Tx) (int64, error) {
	if err := l.replayTruncate(ctx, tx); err != nil {
		return 0, err
	}
	tag, err := tx.Exec(ctx, fmt.Sprintf(removeLoggedSQL, l.To, l.logColumns(""), l.Log, l.toIsLog("t", "k")))
	if err != nil {
		return 0, fmt.Errorf("remove logged keys from %s: %w", l.To, err)
	}
	return tag.RowsAffected(), nil
}

const pendingSQL = `SELECT count(*) FROM %s`

// Pending counts the rows of the change log.
func (l *Link) Pending(ctx context.Context, q catalog.Querier) (n int64, err error) {
	if err := q.QueryRow(ctx, fmt.Sprintf(pendingSQL, l.Log)).Scan(&n); err != nil {
		return 0, fmt.Errorf("count pending changes: %w", err)
	}
	return n, nil
}

const blocksSQL = `SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint`

// Blocks is the number of blocks of a relation's main fork.
func Blocks(ctx context.Context, q catalog.Querier, relation catalog.Name) (n int64, err error) {
	if err := q.QueryRow(ctx, blocksSQL, relation.String()).Scan(&n); err != nil {
		return 0, fmt.Errorf("measure %s: %w", relation, err)
	}
	return n, nil
}

// Collision reports whether err is the violation of a unique or exclusion
// constraint: two rows of the copy were taken at different moments.
func Collision(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) &&
		(pgErr.Code == pgerrcode.UniqueViolation || pgErr.Code == pgerrcode.ExclusionViolation)
}
