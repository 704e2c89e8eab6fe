package repack

import (
	"context"
	"errors"
	"time"

	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
	"github.com/repack-go/repack/stages/compare"
	"github.com/repack-go/repack/strategy"
)

// Verification is the result of the comparison of a table and its copy.
type Verification struct {
	Job  int64      `json:"job"`
	Mode VerifyMode `json:"mode"`
	// Table is the table in use. Copy is its shadow, or after the swap the old table.
	// Both are written as SQL writes them.
	Table   string `json:"table"`
	Copy    string `json:"copy"`
	Swapped bool   `json:"swapped"`
	// Rows is the number of the table's rows that were looked up in the copy. CopyRows
	// is the number of the copy's rows that were compared with the table.
	Rows     int64 `json:"rows"`
	CopyRows int64 `json:"copy_rows"`
	// Pending is the number of differences that a change explains which has not been
	// replayed yet.
	Pending int64 `json:"pending"`
	// Mismatches are the other differences, at most ten.
	Mismatches []Mismatch `json:"mismatches"`
	Seconds    float64    `json:"seconds"`
}

// Equal reports whether all rows that were compared are equal, apart from pending
// changes.
func (v Verification) Equal() bool { return len(v.Mismatches) == 0 }

// Mismatch is a row of the copy that differs from the table.
type Mismatch struct {
	Kind    string            `json:"kind"` // missing in the copy, extra there, or different
	Key     map[string]string `json:"key"`
	Columns []string          `json:"columns"` // the columns that differ
	Text    string            `json:"-"`       // everything on one line
}

// Verify compares the table with its copy, row by row: between post_sync_update and the
// swap source and shadow, between the swap and clean_up the new table and the old one.
// Options.Verify says how many rows; VerifyOff is not allowed.
//
// It returns *VerifyError, together with the result, if rows differ. It returns
// ErrNoJob or ErrNothingToVerify if there is nothing to compare, and *BusyError while
// another process works on the table. It changes neither table, replays nothing, and
// may be called again.
//
// It takes ACCESS SHARE on both tables, for one chunk at a time.
func (r *Repack) Verify(ctx context.Context) (v Verification, err error) {
	if r.options.Verify == VerifyOff {
		return v, &UsageError{errors.New("verify: want sample or full")}
	}
	err = r.persist(ctx, func(ctx context.Context, r *Repack) error {
		at, err := r.visit(ctx)
		if err != nil {
			return err
		}
		return r.hold(ctx, at, r.noJobHere, func(ctx context.Context, e *stages.Env) error {
			began := time.Now()
			result, err := stages.Verify(ctx, e, r.options.Verify)
			if result != nil {
				v = verification(e.Job, result)
				v.Seconds = time.Since(began).Seconds()
			}
			return err
		})
	})
	return v, err
}

func verification(job *registry.Job, r *compare.Result) Verification {
	v := Verification{
		Job: job.ID, Mode: r.Mode, Table: r.Table.String(), Copy: r.Copy.String(), Swapped: job.Swapped(),
		Rows: r.Rows, CopyRows: r.CopyRows, Pending: r.Pending, Mismatches: []Mismatch{},
	}
	for _, m := range r.Mismatches {
		v.Mismatches = append(v.Mismatches, mismatch(r.KeyColumns, m))
	}
	return v
}

func mismatch(keyColumns []string, m strategy.Mismatch) Mismatch {
	key := map[string]string{}
	for i, value := range m.Key {
		key[keyColumns[i]] = value
	}
	return Mismatch{Kind: m.Kind, Key: key, Columns: m.Columns, Text: compare.Describe(keyColumns, m)}
}
