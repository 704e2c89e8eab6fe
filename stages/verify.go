package stages

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/strategy"
)

// ErrNothingToVerify reports that the job has no two tables that are equal except for
// pending changes. The job has not reached post_sync_update, or is being reverted, or
// clean_up has begun.
var ErrNothingToVerify = errors.New("there is nothing to verify: only from post_sync_update to clean_up does a copy follow the table")

// VerifyError reports rows of the copy that differ from the table, and no pending change
// explains the difference. Nothing has been exchanged, and the table is as the application
// left it.
type VerifyError struct {
	Table      catalog.Name
	Copy       catalog.Name
	KeyColumns []string
	Mismatches []strategy.Mismatch // up to maxMismatches
	Swapped    bool
}

func (e *VerifyError) Error() string {
	what := "its shadow"
	if e.Swapped {
		what = "the old table"
	}
	many := fmt.Sprintf("%d rows", len(e.Mismatches))
	switch len(e.Mismatches) {
	case 1:
		many = "1 row"
	case maxMismatches:
		many = "at least " + many
	}
	lines := []string{fmt.Sprintf("%s and %s (%s) differ in %s without a pending change:", e.Table, what, e.Copy, many)}
	for _, m := range e.Mismatches {
		lines = append(lines, "  "+DescribeMismatch(e.KeyColumns, m))
	}
	if e.Swapped {
		return strings.Join(append(lines, "the table in use is unharmed; do not revert to the old one"), "\n")
	}
	return strings.Join(append(lines, fmt.Sprintf(
		"nothing was swapped, and this job will not swap before a full comparison has passed; begin afresh with: repack reset --table '%s'",
		e.Table)), "\n")
}

// DescribeMismatch returns a mismatch as one line.
func DescribeMismatch(keyColumns []string, m strategy.Mismatch) string {
	parts := make([]string, len(m.Key))
	for i, value := range m.Key {
		parts[i] = fmt.Sprintf("%s = %q", keyColumns[i], value)
	}
	s := m.Kind + ": " + strings.Join(parts, ", ")
	if len(m.Columns) > 0 {
		s += " in " + strings.Join(m.Columns, ", ")
	}
	return s
}

// VerifyResult is the result of a comparison of a table and its copy.
type VerifyResult struct {
	Mode        registry.VerifyMode
	Table, Copy catalog.Name
	KeyColumns  []string
	Rows        int64 // rows of the table, looked for in the copy
	CopyRows    int64 // rows of the copy, compared with the table's
	Pending     int64 // differences that a change still in the log explains
	Mismatches  []strategy.Mismatch
}

// err returns *VerifyError if there are mismatches, and otherwise nil.
func (r *VerifyResult) err(swapped bool) error {
	if len(r.Mismatches) == 0 {
		return nil
	}
	return &VerifyError{
		Table: r.Table, Copy: r.Copy, KeyColumns: r.KeyColumns, Mismatches: r.Mismatches, Swapped: swapped,
	}
}

// Verify compares the table in use with its copy. Before the swap, these are source and
// shadow; after it, the new table and the old one. It replays nothing, and leaves out rows
// with a pending change. It returns ErrNothingToVerify, or *VerifyError, whose mismatches
// are in the result too. Before the swap, it records a mismatch, and then the swap requires
// a full comparison.
//
// It takes ACCESS SHARE on both tables and the change log, chunk by chunk.
func Verify(ctx context.Context, e *Env, mode registry.VerifyMode) (*VerifyResult, error) {
	stage := e.Job.Stage
	if e.Job.State != registry.Active || stage != registry.PostSyncUpdate && stage != registry.Swap {
		return nil, ErrNothingToVerify
	}
	if err := e.checkNames(ctx); err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	result, err := e.compare(ctx, mode, nil)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	found := result.err(e.Job.Swapped())
	if found != nil && !e.Job.Swapped() {
		if err := e.recordVerification(ctx, result, nil); err != nil {
			e.Log.Warn("mismatch not recorded", "job", e.Job.ID, "error", err)
		}
	}
	return result, found
}

// checkNames makes sure that the names in the comparison are those of the job's tables.
func (e *Env) checkNames(ctx context.Context) error {
	table, copied := e.Job.Source, *e.Job.Shadow
	if e.Job.Swapped() {
		table, copied = copied, table
	}
	for oid, want := range map[uint32]catalog.Name{table: e.Link.From, copied: e.Link.To} {
		have, ok, err := nameOf(ctx, e.Pool, oid)
		if err != nil {
			return err
		}
		if !ok || have != want {
			return fmt.Errorf("%s has been dropped or renamed since the job began", want)
		}
	}
	return nil
}

// compareBeforeSwap compares source and shadow as far as the options, and what was compared
// before, require it. The result is nil if nothing is required.
func (e *Env) compareBeforeSwap(ctx context.Context) (*VerifyResult, error) {
	mode, err := e.verifyMode(ctx)
	if err != nil || mode == registry.VerifyOff {
		return nil, err
	}
	result, err := e.compare(ctx, mode, e.catchUp)
	if err != nil {
		return nil, fmt.Errorf("compare shadow and source: %w", err)
	}
	return result, nil
}

// concludeComparison records what compareBeforeSwap has found. It returns a mismatch as
// *VerifyError. A comparison that passes is recorded together with what complete does,
// which may be nil.
func (e *Env) concludeComparison(ctx context.Context, result *VerifyResult, complete func(tx pgx.Tx) error) error {
	if result == nil && complete == nil {
		return nil
	}
	if result == nil {
		return e.write(ctx, complete)
	}
	if found := result.err(false); found != nil {
		return errors.Join(found, e.recordVerification(ctx, result, nil))
	}
	return e.recordVerification(ctx, result, complete)
}

func (e *Env) recordVerification(ctx context.Context, r *VerifyResult, complete func(tx pgx.Tx) error) error {
	verified := registry.Verification{Mode: r.Mode, Rows: r.CopyRows, Mismatches: int64(len(r.Mismatches))}
	err := e.write(ctx, func(tx pgx.Tx) error {
		err := e.Registry.AddVerification(ctx, tx, e.Job.ID, verified)
		if err != nil || complete == nil {
			return err
		}
		return complete(tx)
	})
	if err == nil {
		e.verified = &verified
	}
	return err
}

// verifyMode returns what must still be compared before the swap. After a mismatch, a full
// comparison must pass, whatever the options say. So running the job again cannot make it
// swap.
func (e *Env) verifyMode(ctx context.Context) (registry.VerifyMode, error) {
	last := e.verified
	if last == nil {
		var err error
		if last, err = e.Registry.LastVerification(ctx, e.Pool, e.Job.ID); err != nil {
			return "", err
		}
	}
	switch {
	case last != nil && last.Mismatches > 0:
		return registry.VerifyFull, nil
	case last != nil && (last.Mode == registry.VerifyFull || e.Verify == registry.VerifySample):
		return registry.VerifyOff, nil
	default:
		return e.Verify, nil
	}
}
