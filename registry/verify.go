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

// The modes, as the command line spells them.
const (
	VerifyOff    VerifyMode = "off"
	VerifySample VerifyMode = "sample"
	VerifyFull   VerifyMode = "full"
)

// ParseVerifyMode returns the mode with that name, or an error if there is none.
func ParseVerifyMode(name string) (VerifyMode, error) {
	switch mode := VerifyMode(name); mode {
	case VerifyOff, VerifySample, VerifyFull:
		return mode, nil
	default:
		return "", fmt.Errorf("unknown verification %q: want %s, %s or %s", name, VerifyOff, VerifySample, VerifyFull)
	}
}

// Verification is the result of a completed comparison of source and shadow.
type Verification struct {
	Mode       VerifyMode
	Rows       int64 // rows of the shadow that were compared
	Mismatches int64 // 0 if the verification has passed
}

// addVerificationSQL records a verification. Only the process that holds the job does so:
// no other can take the same id.
const addVerificationSQL = `
INSERT INTO %[1]s (job_id, id, mode, rows, mismatches)
SELECT $1, coalesce(max(v.id), 0) + 1, $2, $3, $4
FROM   %[1]s v
WHERE  v.job_id = $1`

// AddVerification records the result of a comparison for job id inside tx.
func (r *Registry) AddVerification(ctx context.Context, tx pgx.Tx, id int64, v Verification) error {
	_, err := tx.Exec(ctx, fmt.Sprintf(addVerificationSQL, r.verification()), id, v.Mode, v.Rows, v.Mismatches)
	if err != nil {
		return fmt.Errorf("record verification of job %d: %w", id, err)
	}
	return nil
}

// lastVerificationSQL reads the latest verification of a job.
const lastVerificationSQL = `
SELECT   mode, rows, mismatches
FROM     %[1]s
WHERE    job_id = $1
ORDER BY id DESC
LIMIT    1`

// LastVerification returns the latest verification of job id. It returns nil if there
// is none, or if the registry is of an older version that has no such table.
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

// verification is the qualified and quoted name of the table of verifications.
func (r *Registry) verification() string { return pgx.Identifier{r.schema, "verification"}.Sanitize() }
