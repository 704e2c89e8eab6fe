package stages

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
	"github.com/repack-go/repack/internal/lock"
)

// errTrialOver rolls the trial back.
var errTrialOver = errors.New("the trial is over")

// trial makes a shadow with one row and with all that sync_schema will give it,
// looks at what has come of it, and rolls back: what the server would not make,
// or would make otherwise, is refused before rows without number are copied.
//
// A row is what it takes for the functions of checks, generated columns and
// indexes to be called, some of which rely on the application's search_path.
//
// checks are those of which there may be rows that have outlived them.
func (e *Env) trial(ctx context.Context) (reasons []Reason, checks []mutableCheck, err error) {
	trial := *e
	err = pgx.BeginFunc(ctx, e.Pool, func(tx pgx.Tx) error {
		trial.Job = e.jobNumbered(fmt.Sprintf("trial_%d", tx.Conn().PgConn().PID()))
		index, _ := e.Source.Key()
		trial.Job.KeyIndex = index.Name
		if reasons, err = trial.tryOut(ctx, tx, &checks); err != nil {
			return err
		}
		return errTrialOver
	})
	var refused *RefusedError
	var pgErr *pgconn.PgError
	switch {
	case errors.Is(err, errTrialOver):
		return reasons, checks, nil
	case errors.As(err, &refused):
		return refused.Reasons, checks, nil
	case errors.As(err, &pgErr) && ofTable(pgErr.Code) && !lock.Denied(err):
		return []Reason{unmade(err, pgErr)}, checks, nil
	default:
		return nil, nil, fmt.Errorf("try to make a copy of %s: %w", e.Source.Name, err)
	}
}

// ofTable reports whether an error is about what the table is made of, and not
// about the state of the server or the connection.
func ofTable(code string) bool {
	return pgerrcode.IsSyntaxErrororAccessRuleViolation(code) || pgerrcode.IsFeatureNotSupported(code) ||
		pgerrcode.IsDataException(code) || pgerrcode.IsIntegrityConstraintViolation(code) ||
		pgerrcode.IsPLpgSQLError(code) || pgerrcode.IsObjectNotInPrerequisiteState(code) || pgerrcode.IsProgramLimitExceeded(code)
}

func unmade(err error, pgErr *pgconn.PgError) Reason {
	r := Reason{Object: "a copy of the table", Why: "cannot be made: " + err.Error()}
	if where, _, _ := strings.Cut(pgErr.Where, "\n"); where != "" {
		r.Why += " in " + where
	}
	if pgErr.Code == pgerrcode.UndefinedFunction || pgErr.Code == pgerrcode.UndefinedTable || pgErr.Code == pgerrcode.UndefinedObject {
		r.Remedy = "qualify what the function names, or ALTER FUNCTION … SET search_path: pg_restore could not make the table either"
	}
	return r
}

// tryOut builds what trial looks at.
func (e *Env) tryOut(ctx context.Context, tx pgx.Tx, checks *[]mutableCheck) (reasons []Reason, err error) {
	shadow := e.Job.ShadowTable()
	if err := e.createSchemas(ctx, tx); err != nil {
		return nil, err
	}
	if err := e.createShadow(ctx, tx); err != nil {
		return nil, err
	}
	if *checks, err = e.mutableChecks(ctx, tx, shadow); err != nil {
		return nil, err
	}
	stored := catalog.QuoteAll(e.Source.Stored())
	row := fmt.Sprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %[2]s FROM ONLY %[3]s LIMIT 1", shadow, stored, e.Source.Name)
	if err := copyOne(ctx, tx, row, *checks); err != nil {
		return nil, err
	}
	is, err := catalog.Read(ctx, tx, *e.Job.Shadow)
	if err != nil {
		return nil, err
	}
	var statements []string
	for _, index := range missingIndexes(e.Source, is) {
		statements = append(statements, indexSQL(index, shadow)...)
	}
	statements = slices.Concat(statements, e.constraintsSQL(is), e.Source.MarksSQL(shadow), e.statisticsSQL(is),
		notValidSQL(e.Source, shadow))
	if err := execAll(ctx, tx, statements); err != nil {
		return nil, err
	}
	if is, err = catalog.Read(ctx, tx, *e.Job.Shadow); err != nil {
		return nil, err
	}
	reasons, err = obstacles(ctx, tx, e.Source.OID, e.rebuilds())
	if err != nil {
		return nil, err
	}
	for i := range reasons { // there were none before
		reasons[i].Object, reasons[i].Remedy = reasons[i].Object+", as a part of a copy", "drop it on the table for the time of the repack"
	}
	differences, err := catalog.Diff(e.Source.Structure(), e.inPlace(is).Structure())
	if err != nil {
		return nil, err
	}
	for _, d := range differences {
		reasons = append(reasons, Reason{Object: "a copy of the table", Why: "would differ from it: " + d.String()})
	}
	return reasons, nil
}

// copyOne runs the statement that copies a row. One that has outlived one of the
// checks is left out: the search for such rows names it.
func copyOne(ctx context.Context, tx pgx.Tx, sql string, checks []mutableCheck) error {
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return execAll(ctx, tx, []string{sql}) })
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.CheckViolation &&
		slices.ContainsFunc(checks, func(c mutableCheck) bool { return c.Name == pgErr.ConstraintName }) {
		return nil
	}
	return err
}

// inPlace is the description of a shadow as it will be when the swap has put it
// in the source's place.
func (e *Env) inPlace(shadow *catalog.Table) *catalog.Table {
	is := *shadow
	is.Name, is.Partition = e.Source.Name, e.Source.Partition
	is.Constraints = slices.DeleteFunc(slices.Clone(is.Constraints), func(c catalog.Constraint) bool {
		return e.Source.Partition != nil && c.Name == catalog.BoundName
	})
	is.Statistics = slices.Clone(is.Statistics)
	for i, s := range is.Statistics {
		for _, was := range e.Source.Statistics {
			if was.Name.Name == s.Name.Name {
				is.Statistics[i].Name, is.Statistics[i].Owner = was.Name, was.Owner
			}
		}
	}
	return &is
}
