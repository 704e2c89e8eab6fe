package registry

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
)

// VerifyMode says how much of source and shadow is compared before the swap.
type VerifyMode string

// The modes in the spelling of the command line.
const (
	VerifyOff    VerifyMode = "off"
	VerifySample VerifyMode = "sample"
	VerifyFull   VerifyMode = "full"
)

// ParseVerifyMode returns the mode of that name.
func ParseVerifyMode(name string) (VerifyMode, error) {
	switch mode := VerifyMode(name); mode {
	case VerifyOff, VerifySample, VerifyFull:
		return mode, nil
	default:
		return "", fmt.Errorf("unknown verification %q: want %s, %s or %s", name, VerifyOff, VerifySample, VerifyFull)
	}
}

// Verification is a comparison of source and shadow that has ended.
type Verification struct {
	Mode       VerifyMode
	Rows       int64 // of the shadow, compared
	Mismatches int64 // 0: passed
}

const addVerificationSQL = `
INSERT INTO %[1]s (job_id, mode, rows, mismatches)
VALUES ($1, $2, $3, $4)`

// AddVerification records inside tx how a comparison has ended.
func (r *Registry) AddVerification(ctx context.Context, tx pgx.Tx, id int64, v Verification) error {
	_, err := tx.Exec(ctx, fmt.Sprintf(addVerificationSQL, r.verification()), id, v.Mode, v.Rows, v.Mismatches)
	if err != nil {
		return fmt.Errorf("record verification of job %d: %w", id, err)
	}
	return nil
}

const lastVerificationSQL = `
SELECT   mode, rows, mismatches
FROM     %[1]s
WHERE    job_id = $1
ORDER BY id DESC
LIMIT    1`

// LastVerification returns the latest comparison of a job, or nil.
func (r *Registry) LastVerification(ctx context.Context, q catalog.Querier, id int64) (*Verification, error) {
	var v Verification
	err := q.QueryRow(ctx, fmt.Sprintf(lastVerificationSQL, r.verification()), id).Scan(&v.Mode, &v.Rows, &v.Mismatches)
	var pgErr *pgconn.PgError
	if errors.Is(err, pgx.ErrNoRows) || errors.As(err, &pgErr) && pgErr.Code == pgerrcode.UndefinedTable { // an older registry
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read verification of job %d: %w", id, err)
	}
	return &v, nil
}

func (r *Registry) verification() string { return pgx.Identifier{r.schema, "verification"}.Sanitize() }
