package preflight

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/strategy"
)

// errDryBuildOver rolls back the transaction of the dry build.
var errDryBuildOver = errors.New("the dry build is over")

// dryBuild creates a shadow with one row and with everything that sync_schema will give
// it. It compares this copy with the table, and rolls back. So if the server would not
// create something, or would create it otherwise, the table is refused before many rows
// are copied.
//
// One row is enough for the server to call the functions of checks, generated columns and
// indexes. Some of these functions rely on the application's search_path.
//
// Then the dry build does with the copy what the swap does with the shadow: see drySwap.
func (p *Inspector) dryBuild(ctx context.Context) (tried dryBuilt, err error) {
	dry := *p
	dry.Request = p.Clone()
	err = pgx.BeginFunc(ctx, p.Pool, func(tx pgx.Tx) (err error) {
		dry.Job = p.JobNumbered(fmt.Sprintf("trial_%d", tx.Conn().PgConn().PID()))
		index, _ := p.Source.Key()
		if p.Key, err = catalog.ReadKey(ctx, tx, p.Source.OID, index.Name); err != nil {
			return err
		}
		if err := steps.CaptureOptions(ctx, tx, &p.Capture); err != nil {
			return err
		}
		dry.Job.Options.RowTriggers, dry.Job.Options.CountRows = p.Capture.RowTriggers, p.Capture.CountRows
		dry.Key, dry.Job.KeyIndex = p.Key, index.Name
		dry.SetLink(p.Key)
		if err := dry.buildDry(ctx, tx, &tried); err != nil {
			return err
		}
		return errDryBuildOver
	})
	p.Reprints = dry.Reprints // the definitions of the copy are those of the table
	p.Alteration = dry.Alteration
	var refused *checks.RefusedError
	var unfit *alter.UnfitError
	switch {
	case errors.As(err, &unfit):
		return tried, unfit
	case errors.Is(err, errDryBuildOver):
		return tried, nil
	case errors.As(err, &refused):
		tried.reasons = append(tried.reasons, refused.Reasons...)
		return tried, nil
	}
	reason, isReason := reasonOf(ctx, p.Pool, "a copy of the table", "cannot be made: ", err)
	if !isReason {
		return tried, fmt.Errorf("try to make a copy of %s: %w", p.Source.Name, err)
	}
	tried.reasons = append(tried.reasons, reason)
	return tried, nil
}

// dryBuilt is the result of a dry build.
type dryBuilt struct {
	reasons []checks.Reason
	checks  []mutableCheck // checks that are not immutable: rows may violate them by now
	// uncopied is why the row was not copied: it violates one of the checks.
	uncopied error
}

// ofTable reports whether an error comes from what the table is made of, or is raised,
// with a code of its own, by a function that the table or an event trigger calls. Errors
// about the state of the server, the transaction or the connection are excluded.
func ofTable(code string) bool {
	return !(pgerrcode.IsConnectionException(code) || pgerrcode.IsInvalidTransactionState(code) ||
		pgerrcode.IsTransactionRollback(code) || pgerrcode.IsInsufficientResources(code) ||
		pgerrcode.IsOperatorIntervention(code) || pgerrcode.IsSystemError(code) || pgerrcode.IsInternalError(code))
}

// unmade makes a Reason of an error of the server. It gives only the beginning of the
// statement, because some statements are long.
func unmade(object, what string, err error, pgErr *pgconn.PgError) checks.Reason {
	statement := strings.TrimSuffix(err.Error(), pgErr.Error())
	if lines := strings.SplitAfterN(strings.TrimSpace(statement), "\n", 2); len(lines) == 2 {
		statement = strings.TrimSpace(lines[0]) + " …: "
	}
	r := checks.Reason{Object: object, Why: what + statement + pgErr.Error()}
	if where, _, _ := strings.Cut(pgErr.Where, "\n"); where != "" {
		r.Why += " in " + where
	}
	if pgErr.Code == pgerrcode.UndefinedFunction || pgErr.Code == pgerrcode.UndefinedTable || pgErr.Code == pgerrcode.UndefinedObject {
		r.Remedy = "qualify what the function names, or ALTER FUNCTION … SET search_path: pg_restore could not make the table either"
	}
	return r
}

// buildDry builds the copy, and fills in what dryBuild reports.
func (p *Inspector) buildDry(ctx context.Context, tx pgx.Tx, t *dryBuilt) (err error) {
	shadow := p.Job.ShadowTable()
	if err := steps.Do(ctx, tx, p.builder().CreateSchemas()...); err != nil {
		return err
	}
	if p.Job.OwnSchemas {
		if t.reasons, err = p.admit(ctx, tx); err != nil || len(t.reasons) > 0 {
			return err
		}
	}
	if t.reasons, err = p.alter(ctx, tx); err != nil || len(t.reasons) > 0 {
		return err
	}
	if err := steps.Do(ctx, tx, slices.Concat(p.builder().CreateCapture(p.Strategy.Capture(p.Link)), p.builder().CreateShadow())...); err != nil {
		return err
	}
	if t.checks, err = p.mutableChecks(ctx, tx, shadow); err != nil {
		return err
	}
	if err := p.copyRow(ctx, tx, t); err != nil {
		return err
	}
	if err := p.complete(ctx, tx); err != nil {
		return err
	}
	look := func(tx pgx.Tx) (err error) { t.reasons, err = p.unlike(ctx, tx); return err }
	if notValid := p.builder().NotValidSQL(); len(notValid) > 0 {
		err = catalog.Undone(ctx, tx, func(tx pgx.Tx) error { // only the swap adds these checks
			if err := steps.ExecEach(ctx, tx, notValid); err != nil {
				return err
			}
			return look(tx)
		})
	} else {
		err = look(tx)
	}
	if err != nil || len(t.reasons) > 0 {
		return err
	}
	if t.reasons, err = p.computedOtherwise(ctx, tx); err != nil || len(t.reasons) > 0 {
		return err
	}
	t.reasons, err = p.trySwap(ctx, tx)
	return err
}

// complete gives the copy its indexes and constraints. If the table is altered, the copy has a
// sample of its rows: those that are not unique are named.
func (p *Inspector) complete(ctx context.Context, tx pgx.Tx) error {
	complete := func(tx pgx.Tx) error { return steps.ExecEach(ctx, tx, p.builder().CompleteSQL()) }
	if p.Alteration == nil {
		return complete(tx)
	}
	err := p.Duplicates(ctx, pgx.BeginFunc(ctx, tx, complete), func(work func(tx pgx.Tx) error) error {
		return catalog.Undone(ctx, tx, work)
	})
	var unfit *alter.UnfitError
	if errors.As(err, &unfit) {
		unfit.Unbegun = true
	}
	return err
}

// unlike returns the differences between the table and the shadow, as sync_schema would
// leave it.
func (p *Inspector) unlike(ctx context.Context, tx pgx.Tx) ([]checks.Reason, error) {
	is, err := catalog.Read(ctx, tx, *p.Job.Shadow)
	if err != nil {
		return nil, err
	}
	reasons, err := checks.Find(ctx, tx, p.Source, p.Allowed(), false)
	if err != nil {
		return nil, err
	}
	for i := range reasons { // the table itself has none of these
		reasons[i].Object, reasons[i].Remedy = reasons[i].Object+", as a part of a copy", "drop it on the table for the time of the repack"
	}
	if err := p.Reprints.Learn(ctx, tx, p.Job.OldSchema, p.Source, p.Source.OID); err != nil {
		return nil, err
	}
	if p.Alteration != nil {
		if err := p.Reprints.Learn(ctx, tx, p.Job.OldSchema, p.builder().Target(), p.Source.OID); err != nil {
			return nil, err
		}
	}
	if err := p.LearnMatviews(ctx, tx, p.Job.OldSchema, p.Source.Matviews); err != nil {
		return nil, err
	}
	others, err := p.Source.Unattachable(ctx, tx, is)
	if err != nil {
		return nil, err
	}
	for _, name := range others {
		reasons = append(reasons, checks.Reason{
			Object: name, Why: "reads otherwise once it has been parsed again, and PostgreSQL attaches no partition whose text is not the partitioned table's",
			Remedy: "drop it on the partitioned table and create it anew with the text that pg_dump prints, or validate it if it is NOT VALID",
		})
	}
	differences, err := p.Reprints.Diff(p.builder().Target().Structure(), p.inPlace(is).Structure())
	if err != nil {
		return nil, err
	}
	for _, d := range differences {
		reason, err := withEventTriggers(ctx, tx, checks.Reason{Object: "a copy of the table", Why: "would differ from it: " + d.String()}, "")
		if err != nil {
			return nil, err
		}
		reasons = append(reasons, reason)
	}
	return reasons, nil
}

// copyRow copies a row. A row that violates a check that is not immutable is not copied:
// the search for rows that have outlived a check names it.
func (p *Inspector) copyRow(ctx context.Context, tx pgx.Tx, t *dryBuilt) error {
	if p.Alteration != nil {
		return p.copySample(ctx, tx)
	}
	err := steps.ExecEach(ctx, tx, []string{p.Link.CopyAnySQL(1)})
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.CheckViolation &&
		slices.ContainsFunc(t.checks, func(c mutableCheck) bool { return c.Name == pgErr.ConstraintName }) {
		t.uncopied = err
		return nil
	}
	return err
}

// computedOtherwise returns a Reason for each generated column that has another value in
// the copied row. If the application has changed the row in the meantime, other columns
// differ as well. Such a row is ignored.
func (p *Inspector) computedOtherwise(ctx context.Context, tx pgx.Tx) ([]checks.Reason, error) {
	computed := *p.Alteration.Comparable(p.Source)
	if !slices.ContainsFunc(computed.Columns, func(c catalog.Column) bool { return c.Generated != "" }) {
		return nil, nil
	}
	computed.Columns = slices.Clone(computed.Columns)
	for i, c := range computed.Columns {
		if c.Generated == "v" { // compare it as if it were stored
			computed.Columns[i].Generated = "s"
		}
	}
	var found strategy.Compared
	err := catalog.Undone(ctx, tx, func(tx pgx.Tx) (err error) { // this also undoes the settings
		if err := steps.ExecAll(ctx, tx, []string{session.CustomPlansSQL, strategy.AloneSQL}); err != nil {
			return err
		}
		found, err = strategy.NewComparison(p.Link, &computed).CopyRange(ctx, tx, 0, 1)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) { // the row has been deleted in the meantime
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var reasons []checks.Reason
	for _, m := range found.Mismatches {
		stored := func(name string) bool { c, _ := p.Source.Column(name); return c.Generated == "" }
		if m.Kind != strategy.Different || slices.ContainsFunc(m.Columns, stored) {
			continue
		}
		row := outlivedRow{key: m.Key, keyColumns: p.Link.KeyNames()}
		for _, name := range m.Columns {
			reasons = append(reasons, checks.Reason{
				Object: "column " + catalog.Quote(name), Why: "is generated, and its value would be another in a copy of the row with " + row.String(),
				Remedy: "have its expression depend on nothing but the row, or drop the column for the time of the repack",
			})
		}
	}
	return reasons, nil
}

// inPlace returns the description that a shadow will have when the swap has put it in the
// source's place.
func (p *Inspector) inPlace(shadow *catalog.Table) *catalog.Table {
	is := *shadow
	is.Name, is.Partition = p.Source.Name, p.Source.Partition
	is.Constraints = slices.DeleteFunc(slices.Clone(is.Constraints), func(c catalog.Constraint) bool {
		return p.Source.Partition != nil && c.Name == catalog.BoundName
	})
	is.Statistics = slices.Clone(is.Statistics)
	for i, s := range is.Statistics {
		for _, was := range p.Source.Statistics {
			if was.Name.Name == s.Name.Name {
				is.Statistics[i].Name, is.Statistics[i].Owner = was.Name, was.Owner
			}
		}
	}
	return &is
}
