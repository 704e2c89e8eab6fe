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

// maxBlock is higher than the number of any block that a relation can have.
const maxBlock = 1<<32 - 1

// Replayed counts what the replay of a part of the change log has done.
type Replayed struct {
	Logged int64 // rows taken from the log
	Aside  int64 // deferred keys: put back into the log, because their row was locked
	Copied int64 // rows written to the copy
}

// Add adds the counts of o to r.
func (r *Replayed) Add(o Replayed) {
	r.Logged += o.Logged
	r.Aside += o.Aside
	r.Copied += o.Copied
}

// Share is part N, counted from 0, of the Of parts into which the keys of the log are
// divided. All log rows of a key are in one part, and all rows that stand for TRUNCATE
// are in one part. The zero Share is the whole log. Use others only if Link.Divisible.
type Share struct{ N, Of int }

// shareSQL uses abs, because the remainder has the sign of the hash.
const shareSQL = `
    AND    abs(mod(hash_record_extended(ROW(%s), 0), %d)) = %d`

// inShare is the condition for log rows of a share. It is empty for the zero Share.
func (l *Link) inShare(log string, s Share) string {
	if s.Of == 0 {
		return ""
	}
	return fmt.Sprintf(shareSQL, l.logColumns(log), s.Of, s.N)
}

// batchSQL removes a range of the log and brings the rows of its keys up to date. It
// does so in one statement, and so in one snapshot: if the log row of a key is visible,
// its change is visible too.
//
// The deletes are counted before the first insert, so that unique values may move
// between the rows of a range. Keys are processed in order, because neighbouring keys
// share pages of the key's index.
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
    RETURNING %[11]s
), copied AS (
    INSERT INTO %[4]s (%[6]s) OVERRIDING SYSTEM VALUE
    SELECT %[7]s
    FROM   keys k, %[8]s f%[12]s
    WHERE  %[9]s AND (SELECT count(*) FROM gone) >= 0
    RETURNING 1
)
SELECT (SELECT count(*) FROM taken),
       0,
       (SELECT count(*) FROM copied),
       (SELECT count(*) FROM taken WHERE truncated)`

// concurrentBatchSQL is batchSQL for the time when the application writes through. It
// locks the current rows FOR SHARE, so that checks of foreign keys pass, and skips rows
// that other sessions have locked. The keys of those go back into the log.
//
// A key without a row in the table is deleted from the copy only in the row version
// that the same snapshot shows. Otherwise READ COMMITTED would follow the row to a
// newer version, which a writer may have made by inserting the key again.
//
// https://www.postgresql.org/docs/current/transaction-iso.html, "Read Committed Isolation Level"
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
    RETURNING %[11]s
), stale AS MATERIALIZED (
    SELECT k.*, t.xmin AS version FROM absent k, %[8]s t WHERE %[9]s
), gone AS (
    DELETE FROM %[8]s t USING stale k WHERE %[9]s AND t.xmin = k.version
    RETURNING 1
), copied AS (
    INSERT INTO %[8]s (%[10]s) OVERRIDING SYSTEM VALUE
    SELECT %[12]s FROM present p%[13]s
    WHERE  (SELECT count(*) FROM replaced) + (SELECT count(*) FROM gone) >= 0
    RETURNING 1
)
SELECT (SELECT count(*) FROM taken),
       (SELECT count(*) FROM aside),
       (SELECT count(*) FROM copied),
       (SELECT count(*) FROM taken WHERE truncated)`

// nestLoopsSQL makes every key find its rows by an index, however large the table is
// and however wrong the planner's estimates are.
const nestLoopsSQL = `
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_seqscan = off`

// ReplayRange replays the blocks of the log from first (inclusive) to end (exclusive)
// inside tx, which must be READ COMMITTED. Set concurrent if the application may write
// through at the same time.
//
// It takes ROW EXCLUSIVE on To and the log, and ACCESS SHARE on From, or ROW SHARE with
// row locks FOR SHARE if concurrent is set. tx holds them until it ends. An error for
// which Collision is true means that the rows of the range conflict with older rows of
// To.
func (l *Link) ReplayRange(ctx context.Context, tx pgx.Tx, first, end int64, concurrent bool) (Replayed, error) {
	return l.replay(ctx, tx, l.batchOf(concurrent), first, end)
}

func (l *Link) batchOf(concurrent bool) string {
	if concurrent {
		return l.concurrentBatch()
	}
	return l.batch(Share{})
}

// ReplaySQL returns the statements of ReplayRange and ReplayAll for a log without
// TRUNCATE. $1 and $2 of the last are the TIDs that bound the range.
func (l *Link) ReplaySQL(concurrent bool) []string {
	return []string{l.settingsSQL(), l.batchOf(concurrent)}
}

// ReplayShare replays a share of such a range. Transactions may replay the other shares
// at the same time: no two shares have a key in common. But a unique value can move
// from a row of one share to a row of another. Then the transactions may block each
// other, deadlock, or fail with a Collision.
func (l *Link) ReplayShare(ctx context.Context, tx pgx.Tx, first, end int64, share Share) (Replayed, error) {
	return l.replay(ctx, tx, l.batch(share), first, end)
}

// replay runs a batch statement, and then deletes truncated rows if the log asks for
// it.
func (l *Link) replay(ctx context.Context, tx pgx.Tx, sql string, first, end int64) (Replayed, error) {
	if _, err := tx.Exec(ctx, l.settingsSQL()); err != nil {
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

// batch is batchSQL for this link.
func (l *Link) batch(share Share) string {
	join := ""
	if l.Carries {
		join = " LEFT JOIN gone g ON " + l.toIsFrom("g", "f")
	}
	values := list(l.filled(), ", ", func(_ int, m Mapping) string { return l.carry(m, m.value("f")) })
	return fmt.Sprintf(batchSQL, l.Log, l.logColumns("l"), l.logColumns(""), l.To, l.toIsLog("t", "k"),
		l.toColumns(), values, l.From, l.fromIsLog("f", "k"), l.inShare("l", share), l.returning(), join)
}

// concurrentBatch is concurrentBatchSQL for this link.
func (l *Link) concurrentBatch() string {
	values, join := "p.*", ""
	if l.Carries {
		values = list(l.filled(), ", ", func(_ int, m Mapping) string { return l.carry(m, qualified("p", m.To)) })
		join = " LEFT JOIN replaced g ON " + l.toIsTo("g", "p")
	}
	return fmt.Sprintf(concurrentBatchSQL, l.Log, l.logColumns("l"), l.logColumns(""), l.fromColumnsAsTo("f"), l.From,
		l.fromIsLog("f", "k"), l.toKey("p"), l.To, l.toIsLog("t", "k"), l.toColumns(), l.returning(), values, join)
}

// returning is what the DELETE of a batch returns of the rows of To: their keys and the values
// that must survive.
func (l *Link) returning() string {
	if !l.Carries {
		return "1"
	}
	return l.toKey("t") + list(l.carried(), "", func(_ int, m Mapping) string { return ", " + qualified("t", m.To) })
}

// carry is the value of a column of To in a batch. If the value must survive, it is the one
// of the row g that the batch has deleted, if there was one.
func (l *Link) carry(m Mapping, value string) string {
	if !l.Carries || m.From != "" {
		return value
	}
	return fmt.Sprintf("CASE WHEN %s IS NOT DISTINCT FROM NULL THEN %s ELSE %s END",
		qualified("g", l.toName(l.Key[0].Name)), value, qualified("g", m.To))
}

// settingsSQL are the planner settings of a batch. A batch that carries values joins the rows
// that it has deleted, which have no index.
func (l *Link) settingsSQL() string {
	if !l.Carries {
		return nestLoopsSQL
	}
	return nestLoopsSQL + ";\nSET LOCAL enable_hashjoin = on"
}

// ReplayAll replays the whole log in one statement. If no session can write to From,
// the log is empty afterwards and the copy is equal to From. Locks and errors are those
// of ReplayRange.
func (l *Link) ReplayAll(ctx context.Context, tx pgx.Tx, concurrent bool) (Replayed, error) {
	// Rows from before a TRUNCATE could conflict with rows from after it.
	if err := l.replayTruncate(ctx, tx); err != nil {
		return Replayed{}, err
	}
	return l.ReplayRange(ctx, tx, 0, maxBlock, concurrent)
}

// deleteAbsentSQL deletes, like a batch, only row versions that its snapshot shows.
const deleteAbsentSQL = `
WITH stale AS MATERIALIZED (
    SELECT %[4]s, t.xmin AS version
    FROM   %[1]s t
    WHERE  NOT EXISTS (SELECT FROM %[2]s f WHERE %[3]s)
)
DELETE FROM %[1]s t
USING  stale k
WHERE  %[5]s AND t.xmin = k.version`

// deleteAbsent replays a TRUNCATE of From: it deletes the rows of To that From does not
// have. It looks at the current rows, so it may run at any time after the TRUNCATE.
func (l *Link) deleteAbsent(ctx context.Context, tx pgx.Tx) error {
	sql := "SET LOCAL enable_hashjoin = on;\nSET LOCAL enable_seqscan = on;" +
		fmt.Sprintf(deleteAbsentSQL, l.To, l.From, l.toIsFrom("t", "f"), l.toKeyAsLog("t"), l.toIsLog("t", "k"))
	if _, err := tx.Exec(ctx, sql); err != nil {
		return fmt.Errorf("delete truncated rows from %s: %w", l.To, err)
	}
	return nil
}

// truncatedSQL reports whether the log has a row that stands for TRUNCATE.
const truncatedSQL = `SELECT EXISTS (SELECT FROM %s WHERE truncated)`

// replayTruncate calls deleteAbsent if a TRUNCATE is in the log.
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

// removeLoggedSQL deletes the rows of all logged keys from the copy.
const removeLoggedSQL = `
DELETE FROM %[1]s t
USING (SELECT DISTINCT %[2]s FROM %[3]s WHERE truncated IS NULL) k
WHERE  %[4]s`

// RemoveLogged deletes from To the row of every key in the log, and returns how many
// rows it has deleted. The log does not change, so calling it again is safe.
//
// The rows that remain have not changed since capture began. They are a subset of one
// state of From, and so every unique constraint of From holds for them.
//
// It takes ROW EXCLUSIVE on To and ACCESS SHARE on the log, until tx ends.
func (l *Link) RemoveLogged(ctx context.Context, tx pgx.Tx) (int64, error) {
	if err := l.replayTruncate(ctx, tx); err != nil {
		return 0, err
	}
	tag, err := tx.Exec(ctx, l.RemoveLoggedSQL())
	if err != nil {
		return 0, fmt.Errorf("remove logged keys from %s: %w", l.To, err)
	}
	return tag.RowsAffected(), nil
}

// RemoveLoggedSQL returns the statement of RemoveLogged for a log without TRUNCATE.
func (l *Link) RemoveLoggedSQL() string {
	return fmt.Sprintf(removeLoggedSQL, l.To, l.logColumns(""), l.Log, l.toIsLog("t", "k"))
}

const pendingSQL = `SELECT count(*) FROM %s`

// Pending counts the rows of the change log. It reads the whole log.
func (l *Link) Pending(ctx context.Context, q catalog.Querier) (n int64, err error) {
	if err := q.QueryRow(ctx, fmt.Sprintf(pendingSQL, l.Log)).Scan(&n); err != nil {
		return 0, fmt.Errorf("count pending changes: %w", err)
	}
	return n, nil
}

const blocksSQL = `SELECT pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint`

// Blocks returns the number of blocks in the main fork of a relation. It takes ACCESS
// SHARE on the relation for a moment.
//
// https://www.postgresql.org/docs/current/functions-admin.html, "Database Object Size Functions"
func Blocks(ctx context.Context, q catalog.Querier, relation catalog.Name) (n int64, err error) {
	if err := q.QueryRow(ctx, blocksSQL, relation.String()).Scan(&n); err != nil {
		return 0, fmt.Errorf("measure %s: %w", relation, err)
	}
	return n, nil
}

// Collision reports whether err is the violation of a unique or exclusion constraint
// (SQLSTATE 23505 or 23P01). It happens when two rows of the copy come from different
// moments.
func Collision(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) &&
		(pgErr.Code == pgerrcode.UniqueViolation || pgErr.Code == pgerrcode.ExclusionViolation)
}
