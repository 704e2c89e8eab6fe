package repack

import (
	"context"
	"errors"
	"time"

	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages"
	"github.com/repack-go/repack/strategy"
)

// Verification is what the comparison of a table and its copy has come to.
type Verification struct {
	Job  int64      `json:"job"`
	Mode VerifyMode `json:"mode"`
	// Table is the table in use; Copy is its shadow, or after the swap the old
	// table. Both are written as SQL writes them.
	Table   string `json:"table"`
	Copy    string `json:"copy"`
	Swapped bool   `json:"swapped"`
	// Rows of the table were looked for in the copy, CopyRows of the copy
	// compared with the table's.
	Rows     int64 `json:"rows"`
	CopyRows int64 `json:"copy_rows"`
	// Pending counts differences explained by a change that has not been
	// replayed.
	Pending int64 `json:"pending"`
	// Mismatches are the others, ten at most.
	Mismatches []Mismatch `json:"mismatches"`
	Seconds    float64    `json:"seconds"`
}

// Equal reports whether every row that was compared and is not about to be
// replayed is the same in both tables.
func (v Verification) Equal() bool { return len(v.Mismatches) == 0 }

// Mismatch is a row of the copy that is not like the table's.
type Mismatch struct {
	Kind    string            `json:"kind"` // missing in the copy, extra there, or different
	Key     map[string]string `json:"key"`
	Columns []string          `json:"columns"` // those that differ
	Text    string            `json:"-"`       // all of it on one line
}

// Verify compares the table with its copy, from post_sync_update to clean_up:
// before the swap source and shadow, after it the new table and the old one.
// Options.Verify says how much. It changes neither, and replays nothing. It
// returns *VerifyError together with the result where rows differ; ErrNoJob or
// ErrNothingToVerify; and *BusyError while another process is at work on the
// table.
//
// It takes ACCESS SHARE on both tables, chunk by chunk.
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

func verification(job *registry.Job, r *stages.VerifyResult) Verification {
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
	return Mismatch{Kind: m.Kind, Key: key, Columns: m.Columns, Text: stages.DescribeMismatch(keyColumns, m)}
}
