package preflight

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/strategy"
)

// A check is evaluated when a row is written. If its value depends on more than the row (the
// time, or another table), a row that passed once may fail now. Then the row cannot be
// written to a copy. So repack looks for such checks, and for rows that have outlived them.
// A generated column may also have another value by now.

// mutableCheck is a check whose value may depend on more than the row.
type mutableCheck struct {
	Name       string
	Expression string
	// Generated is set for a generated column. Then the check is that the column has the
	// value that the server would compute now.
	Generated bool
	// Trusted is false if the check calls a function in SQL or in a procedural language.
	// That such a function is immutable is only what its owner says.
	Trusted bool
}

// The query also asks for the language of the function behind an operator. Before PostgreSQL
// 15, the server records the dependencies of a generated column with the column; since then,
// with its expression.
const checksSQL = `
WITH checks AS (
    SELECT 'pg_constraint'::regclass::oid AS class, c.oid AS id, 0 AS attnum, false AS generated,
           c.conname AS name, pg_get_expr(c.conbin, c.conrelid) AS expression
    FROM   pg_constraint c
    WHERE  c.conrelid = $1 AND c.contype = 'c' AND c.convalidated
    UNION ALL
    SELECT 'pg_attrdef'::regclass, d.oid, a.attnum, true, a.attname,
           format('(%I)::text IS NOT DISTINCT FROM ((%s)::%s)::text', a.attname, pg_get_expr(d.adbin, d.adrelid),
                  format_type(a.atttypid, a.atttypmod))
    FROM   pg_attribute a
    JOIN   pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE  a.attrelid = $1 AND a.attgenerated = 's' AND NOT a.attisdropped
)
SELECT   c.name::text, c.expression, c.generated,
         NOT EXISTS (
             SELECT FROM pg_depend d
             LEFT   JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
             JOIN   pg_proc p          ON p.oid = CASE d.refclassid WHEN 'pg_proc'::regclass THEN d.refobjid ELSE o.oprcode END
             JOIN   pg_language l      ON l.oid = p.prolang
             WHERE (d.classid = c.class AND d.objid = c.id
                    OR d.classid = 'pg_class'::regclass AND d.objid = $1 AND d.objsubid = c.attnum AND c.attnum > 0)
             AND    l.lanname NOT IN ('internal', 'c')) AS trusted
FROM     checks c
ORDER BY c.generated, c.name`

// mutableChecks returns the source's valid checks that are not immutable, or of which only
// the owner of a function says so. It asks the server: the condition of an index must be
// immutable (otherwise SQLSTATE 42P17). Any other error that is about the table counts as
// mutable too: see ofTable. It tries this on table on, which is ours, and rolls it back.
func (p *Inspector) mutableChecks(ctx context.Context, tx pgx.Tx, on catalog.Name) ([]mutableCheck, error) {
	rows, err := tx.Query(ctx, checksSQL, p.Source.OID)
	if err != nil {
		return nil, fmt.Errorf("read checks of %s: %w", p.Source.Name, err)
	}
	checks, err := pgx.CollectRows(rows, pgx.RowToStructByName[mutableCheck])
	if err != nil {
		return nil, fmt.Errorf("read checks of %s: %w", p.Source.Name, err)
	}
	var mutable []mutableCheck
	for _, c := range checks {
		if !c.Trusted {
			mutable = append(mutable, c)
			continue
		}
		if c.Generated { // the server has made sure that the expression is immutable
			continue
		}
		err := catalog.Undone(ctx, tx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, fmt.Sprintf("CREATE INDEX ON %s ((true)) WHERE %s", on, c.Expression))
			return err
		})
		var pgErr *pgconn.PgError
		switch {
		case errors.As(err, &pgErr) && ofTable(pgErr.Code):
			mutable = append(mutable, c)
		case err != nil:
			return nil, fmt.Errorf("try whether check %q is immutable: %w", c.Name, err)
		}
	}
	return mutable, nil
}

const (
	// longestSearch bounds the search for rows that have outlived a check.
	longestSearch = 30 * time.Second
	// searchBlocks is how many blocks one statement reads. Its snapshot keeps VACUUM from
	// removing rows.
	searchBlocks = 4096
)

// The query names a row by its key. Column names are not qualified, because they are not
// qualified in the expression either.
const outlivedSQL = `
SELECT CASE %[1]s END, ARRAY[%[2]s]
FROM   ONLY %[3]s
WHERE  ctid >= $1::text::tid AND ctid < $2::text::tid
AND   (%[4]s)
LIMIT  1`

// outlivedRow is a row that does not satisfy a check.
type outlivedRow struct {
	check      mutableCheck
	keyColumns []string
	key        []string
}

func (r outlivedRow) String() string {
	parts := make([]string, len(r.key))
	for i := range r.key {
		parts[i] = fmt.Sprintf("%s = %q", r.keyColumns[i], r.key[i])
	}
	return strings.Join(parts, ", ")
}

// outlived looks for a row of table t that does not satisfy one of the checks. It reads
// ranges of blocks, each in a transaction of its own, under ACCESS SHARE. After the time
// bound, it stops and logs what it has not read.
func (p *Inspector) outlived(ctx context.Context, t catalog.Name, checks []mutableCheck, bound time.Duration) (*outlivedRow, error) {
	if len(checks) == 0 {
		return nil, nil
	}
	blocks, err := strategy.Blocks(ctx, p.Pool, t)
	if err != nil {
		return nil, err
	}
	sql, columns := p.outlivedSQL(t, checks)
	for first, deadline := int64(0), time.Now().Add(bound); first < blocks; first += searchBlocks {
		left := time.Until(deadline)
		row, err := p.outlivedIn(ctx, sql, first, left)
		var pgErr *pgconn.PgError
		if left <= 0 || ctx.Err() == nil && errors.As(err, &pgErr) && pgErr.Code == pgerrcode.QueryCanceled {
			p.Log.Warn("not all rows were looked at for checks that are not immutable: a row that has outlived one ends the backfill",
				"table", t.String(), "blocks_looked_at", first, "blocks", blocks)
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("look for rows of %s that have outlived a check: %w", t, err)
		}
		if row != nil {
			row.keyColumns, row.check = columns, checks[row.number]
			return &row.outlivedRow, nil
		}
	}
	return nil, nil
}

func (p *Inspector) outlivedSQL(t catalog.Name, checks []mutableCheck) (sql string, columns []string) {
	var cases, conditions, keys []string
	for i, c := range checks {
		cases = append(cases, fmt.Sprintf("WHEN (%s) IS FALSE THEN %d", c.Expression, i))
		conditions = append(conditions, fmt.Sprintf("(%s) IS FALSE", c.Expression))
	}
	index, _ := p.Source.Key()
	for _, column := range index.KeyColumns {
		keys = append(keys, fmt.Sprintf("format('%%s', %s)", catalog.Quote(column)))
	}
	return fmt.Sprintf(outlivedSQL, strings.Join(cases, " "), strings.Join(keys, ", "), t, strings.Join(conditions, " OR ")), index.KeyColumns
}

type numberedRow struct {
	outlivedRow
	number int
}

func (p *Inspector) outlivedIn(ctx context.Context, sql string, first int64, limit time.Duration) (*numberedRow, error) {
	var row numberedRow
	err := pgx.BeginTxFunc(ctx, p.Pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		settings := []string{session.CustomPlansSQL, steps.ReadRangesSQL, fmt.Sprintf("SET LOCAL statement_timeout = %d", max(limit.Milliseconds(), 1))}
		if err := steps.ExecAll(ctx, tx, settings); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sql, strategy.TID(first), strategy.TID(first+searchBlocks)).Scan(&row.number, &row.key)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &row, nil
}

// reason is the refusal for a row that was found before anything was changed.
func (r *outlivedRow) reason() checks.Reason {
	if r.check.Generated {
		return checks.Reason{
			Object: "column " + catalog.Quote(r.check.Name),
			Why:    fmt.Sprintf("is generated, and has another value in the row with %s than a copy of that row would be given", r),
			Remedy: "have the server compute it again (UPDATE of such rows), or drop the column for the time of the repack",
		}
	}
	return checks.Reason{
		Object: "check " + catalog.Quote(r.check.Name) + ", " + r.check.Expression,
		Why:    fmt.Sprintf("is not satisfied any more by the row with %s, which could not be written to a copy", r),
		Remedy: "change or delete such rows, or drop the check, or make it NOT VALID, for the time of the repack",
	}
}

// outlivedReasons looks for rows of the source that have outlived a check. It uses the
// result of the dry build.
func (p *Inspector) outlivedReasons(ctx context.Context, t dryBuilt) ([]checks.Reason, error) {
	row, err := p.outlived(ctx, p.Source.Name, t.checks, longestSearch)
	if reason, refused := reasonOf(ctx, p.Pool, "a check or generated column", "cannot be evaluated for every row: ", err); refused {
		return []checks.Reason{reason}, nil
	}
	switch {
	case err != nil:
		return nil, err
	case row != nil:
		return []checks.Reason{row.reason()}, nil
	case t.uncopied != nil: // a check that only the row in the table satisfies
		return []checks.Reason{{Object: "a copy of the table", Why: "cannot be made: " + t.uncopied.Error()}}, nil
	}
	return nil, nil
}

// OutlivedError reports that a row could not be copied, because it no longer satisfies a
// check that it satisfied when it was written.
type OutlivedError struct {
	Table   catalog.Name
	Check   string // the check belongs to the table, or to the domain that Domain names
	Domain  string // empty for a check of the table
	Row     string // names such a row, if one was found
	Swapped bool
	Err     error // the *pgconn.PgError, SQLSTATE 23514
}

func (e *OutlivedError) Error() string {
	what := "check " + catalog.Quote(e.Check)
	if e.Domain != "" {
		what += " of domain " + catalog.Quote(e.Domain)
	}
	row := "a row"
	if e.Row != "" {
		row = "the row with " + e.Row
	}
	msg := fmt.Sprintf("%s of %s does not satisfy %s any more, though it did when it was written, so it cannot be copied (%s). ", row, e.Table, what, e.Err)
	if e.Swapped {
		return msg + "The table in use is unharmed. Change or delete such rows, or drop the check on both tables, and run the same command again"
	}
	return msg + "Nothing has been exchanged, and the table is as the application left it. Change or delete such rows and run the same command again, " +
		fmt.Sprintf("or begin afresh without the check: repack reset --table '%s', then drop the check or make it NOT VALID", e.Table)
}

// Unwrap returns the server's error.
func (e *OutlivedError) Unwrap() error { return e.Err }

// Expired returns *OutlivedError if a copied row has violated a check. It returns other
// errors as they are.
func (p *Inspector) Expired(ctx context.Context, err error) error {
	var pgErr *pgconn.PgError
	var known *OutlivedError
	if p.Job == nil || errors.As(err, &known) || !errors.As(err, &pgErr) || pgErr.Code != pgerrcode.CheckViolation {
		return err
	}
	told := &OutlivedError{Table: p.Source.Name, Check: pgErr.ConstraintName, Domain: pgErr.DataTypeName, Swapped: p.Job.Swapped(), Err: err}
	if row := p.nameExpired(ctx, pgErr.ConstraintName); row != nil {
		told.Row = row.String()
	}
	return told
}

// nameExpired finds a row for the message. If it finds none, or the search fails, the error
// is reported without a row.
func (p *Inspector) nameExpired(ctx context.Context, check string) *outlivedRow {
	rows, err := p.Pool.Query(ctx, checksSQL, p.InUse())
	if err != nil {
		return nil
	}
	checks, err := pgx.CollectRows(rows, pgx.RowToStructByName[mutableCheck])
	if err != nil {
		return nil
	}
	for _, c := range checks {
		if c.Name != check || c.Generated {
			continue
		}
		row, err := p.outlived(ctx, p.Job.Table(), []mutableCheck{c}, steps.RecordingTime/2)
		if err != nil {
			p.Log.Debug("row that violates a check not found", "job", p.Job.ID, "check", check, "error", err)
			return nil
		}
		return row
	}
	return nil
}
