package strategy

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
)

// Unfit is a row of From that To cannot take, because a value cannot be converted, or because
// a constraint of To does not allow it.
type Unfit struct {
	Key    []string // the key's values as the server writes them
	Column string   // of From, whose value cannot be converted; or empty
	Value  string   // of that column
	Why    string   // what the server says
}

// offsets is more than any block has rows, for block sizes up to 32 kB. A place is the number
// of a block times offsets, plus the offset of a row in it.
const offsets = 1 << 12

func place(p int64) string { return fmt.Sprintf("(%d,%d)", p/offsets, p%offsets) }

// tryCopySQL copies a range of rows that may be in the copy already.
const tryCopySQL = `
INSERT INTO %[1]s (%[2]s) OVERRIDING SYSTEM VALUE
SELECT %[3]s
FROM   %[4]s f
WHERE  f.ctid >= $1::text::tid
AND    f.ctid <  $2::text::tid
ON     CONFLICT DO NOTHING`

// scratchSQL makes a table with the columns and checks of the copy.
const scratchSQL = `CREATE TABLE %[1]s (LIKE %[2]s INCLUDING CONSTRAINTS INCLUDING GENERATED)`

// UnfitRows returns rows in the blocks of From from first (inclusive) to end (exclusive) that
// To cannot take, atMost of them. It tries smaller and smaller ranges with a table like To,
// which the caller must roll back with tx. It takes ACCESS SHARE on From and To.
func (l *Link) UnfitRows(ctx context.Context, tx pgx.Tx, first, end int64, atMost int) ([]Unfit, error) {
	scratch := catalog.Name{Schema: l.To.Schema, Name: "repack_unfit_rows"}
	if _, err := tx.Exec(ctx, fmt.Sprintf(scratchSQL, scratch, l.To)); err != nil {
		return nil, fmt.Errorf("make a table for rows that do not fit: %w", err)
	}
	copied := fmt.Sprintf(tryCopySQL, scratch, l.toColumns(), l.fromColumns("f"), l.From)
	s := search{tx: tx, atMost: atMost, try: func(tx pgx.Tx, from, to string) error {
		_, err := tx.Exec(ctx, copied, from, to)
		return err
	}, one: func(at string, cause *pgconn.PgError) (*Unfit, error) {
		return l.unfit(ctx, tx, fmt.Sprintf(unfitRowSQL, l.keyTexts("f", false), l.From), at, cause)
	}}
	err := s.within(ctx, first*offsets, end*offsets)
	return s.found, err
}

// UnfitChanges returns rows of From whose keys are in the log and that To cannot take, atMost
// of them. Like UnfitRows, it tries and rolls back. It takes the locks of ReplayRange.
func (l *Link) UnfitChanges(ctx context.Context, tx pgx.Tx, atMost int, concurrent bool) ([]Unfit, error) {
	blocks, err := Blocks(ctx, tx, l.Log)
	if err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, l.settingsSQL()); err != nil {
		return nil, fmt.Errorf("set planner options: %w", err)
	}
	sql := l.batchOf(concurrent)
	seen := map[string]bool{}
	s := search{tx: tx, atMost: atMost, try: func(tx pgx.Tx, from, to string) error {
		var counts [4]int64
		return tx.QueryRow(ctx, sql, from, to).Scan(&counts[0], &counts[1], &counts[2], &counts[3])
	}, one: func(at string, cause *pgconn.PgError) (*Unfit, error) {
		u, err := l.unfit(ctx, tx, fmt.Sprintf(unfitChangeSQL, l.keyTexts("f", false), l.From, l.Log, l.fromIsLog("f", "l")), at, cause)
		if u == nil || seen[fmt.Sprint(u.Key)] {
			return nil, err
		}
		seen[fmt.Sprint(u.Key)] = true
		return u, err
	}}
	err = s.within(ctx, 0, blocks*offsets)
	return s.found, err
}

// search finds rows that cannot be written by halving a range.
type search struct {
	tx     pgx.Tx
	atMost int
	try    func(tx pgx.Tx, from, to string) error
	one    func(at string, cause *pgconn.PgError) (*Unfit, error) // describes one row; nil: it is gone
	found  []Unfit
}

func (s *search) within(ctx context.Context, from, to int64) error {
	if len(s.found) >= s.atMost || from >= to {
		return nil
	}
	err := catalog.Undone(ctx, s.tx, func(tx pgx.Tx) error { return s.try(tx, place(from), place(to)) })
	var cause *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &cause) || !IsUnfit(err):
		return fmt.Errorf("look for rows that do not fit: %w", err)
	case to-from == 1:
		u, err := s.one(place(from), cause)
		if err == nil && u != nil {
			s.found = append(s.found, *u)
		}
		return err
	}
	middle := from + (to-from)/2
	if middle/offsets > from/offsets { // whole blocks first
		middle = middle / offsets * offsets
	}
	if err := s.within(ctx, from, middle); err != nil {
		return err
	}
	return s.within(ctx, middle, to)
}

// unfitRowSQL and unfitChangeSQL read the key of a row of From: of the one at a place, and of
// the one whose key is at a place of the log.
const (
	unfitRowSQL    = `SELECT ARRAY[%[1]s], f.ctid::text FROM %[2]s f WHERE f.ctid = $1::text::tid`
	unfitChangeSQL = `SELECT ARRAY[%[1]s], f.ctid::text FROM %[3]s l JOIN %[2]s f ON %[4]s WHERE l.ctid = $1::text::tid`
)

const valueTextSQL = `SELECT coalesce((%[1]s)::text, 'NULL') FROM %[2]s f WHERE f.ctid = $1::text::tid`

// unfit describes the row whose key a query returns. cause is why it does not fit.
func (l *Link) unfit(ctx context.Context, tx pgx.Tx, keySQL, at string, cause *pgconn.PgError) (*Unfit, error) {
	u := &Unfit{Why: cause.Message, Column: cause.ColumnName}
	if cause.Detail != "" && Collision(cause) { // otherwise it shows the whole row
		u.Why += "; " + cause.Detail
	}
	var row string
	err := tx.QueryRow(ctx, keySQL, at).Scan(&u.Key, &row)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up a row that does not fit: %w", err)
	}
	for _, m := range l.filled() {
		if m.Value == "" || m.From == "" {
			continue
		}
		var text string
		failed := catalog.Undone(ctx, tx, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, fmt.Sprintf(valueTextSQL, m.value("f"), l.From), row).Scan(&text)
		})
		var pgErr *pgconn.PgError
		if !errors.As(failed, &pgErr) {
			continue
		}
		u.Column, u.Why = m.From, pgErr.Message
		err := tx.QueryRow(ctx, fmt.Sprintf(valueTextSQL, qualified("f", m.From), l.From), row).Scan(&u.Value)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, fmt.Errorf("look up a row that does not fit: %w", err)
		}
		break
	}
	return u, nil
}

// IsUnfit reports whether err says that To cannot take a row: SQLSTATE class 22 (a value) or 23
// (a constraint).
func IsUnfit(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && len(pgErr.Code) == 5 && (pgErr.Code[:2] == "22" || pgErr.Code[:2] == "23")
}
