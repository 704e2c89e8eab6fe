package steps

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/checks"
)

// DriftError reports DDL on the table since setup that the shadow does not have. repack has
// not changed the table itself.
type DriftError struct {
	Table   catalog.Name
	Changes []catalog.Difference
	// Reasons are what preValidate would have refused.
	Reasons []checks.Reason
	// Swapped is set if the table is gone since the swap. Then there is no way back, and a
	// run removes what is left of the job.
	Swapped bool
}

func (e *DriftError) Error() string {
	if e.Swapped {
		return fmt.Sprintf("%s has been dropped or renamed away since the swap; remove what is left of the job with: repack run --table '%s'", e.Table, e.Table)
	}
	if len(e.Changes)+len(e.Reasons) == 0 { // the table is gone
		return fmt.Sprintf("%s has been dropped or renamed away; remove what is left of the job with: repack reset --table '%s'", e.Table, e.Table)
	}
	msg := fmt.Sprintf("%s has been changed since the job began:", e.Table)
	for _, c := range e.Changes {
		msg += "\n  " + c.Text()
	}
	for _, o := range e.Reasons {
		msg += "\n  " + o.String()
	}
	return msg + fmt.Sprintf("\nundo the change and run again, or start afresh with: repack reset --table '%s'", e.Table)
}

// GoneOr returns a DriftError if the table is gone, and otherwise err.
func (w *Worker) GoneOr(err error) error {
	if errors.Is(err, catalog.ErrNotFound) {
		return &DriftError{Table: w.Source.Name, Swapped: w.Job != nil && w.Job.Swapped()}
	}
	return err
}

// Drift compares the parts of the table that the shadow is built from. Grants, comments,
// triggers and the like may change during a job: the exchange reads them again.
func (w *Worker) Drift(now *catalog.Table) error {
	changes, err := w.Reprints.Diff(w.Source.Structure(), now.Structure())
	if err != nil {
		return err
	}
	if len(changes) > 0 {
		return &DriftError{Table: w.Source.Name, Changes: changes}
	}
	return nil
}

// CheckDrift compares the source with what it was at setup.
func (w *Worker) CheckDrift(ctx context.Context, q catalog.Querier) error {
	now, err := catalog.ReadLike(ctx, q, w.Job.Source, w.Source)
	if err != nil {
		return w.GoneOr(err)
	}
	return w.Drift(now)
}

const sameTablesSQL = `
SELECT coalesce(to_regclass($1)::oid = $2, false) AND coalesce(to_regclass($3)::oid = $4, false)`

// SameTables makes sure that the names that a statement has just used are those of the
// job's tables. Run it after the statement: the locks of the statement keep the names.
func (w *Worker) SameTables(ctx context.Context, q catalog.Querier) error {
	return w.areSameTables(q.QueryRow(ctx, sameTablesSQL, w.names()...))
}

// QueueSameTables does what SameTables does, as a part of b.
func (w *Worker) QueueSameTables(b *pgx.Batch) {
	b.Queue(sameTablesSQL, w.names()...).QueryRow(w.areSameTables)
}

// names returns the arguments of sameTablesSQL.
func (w *Worker) names() []any {
	return []any{w.Link.From.String(), w.InUse(), w.Link.To.String(), w.Copied()}
}

func (w *Worker) areSameTables(row pgx.Row) error {
	var ok bool
	if err := row.Scan(&ok); err != nil {
		return fmt.Errorf("look up %s: %w", w.Link.From, err)
	}
	if !ok {
		return &DriftError{Table: w.Source.Name}
	}
	return nil
}
