package stages

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/builds"
)

// syncSchema makes the copied rows a table like the source. First it removes every row that
// has changed, so that the rest satisfies the source's keys. Then it builds indexes and
// constraints on the rest.
//
// From here on both strategies log. No other session writes to the shadow, so its indexes
// are built in bulk and wait for no session. With direct-trigger, switching from
// write-through to log takes SHARE ROW EXCLUSIVE on the source for an instant.
func syncSchema(ctx context.Context, e *Env) error {
	if e.Strategy.KeyFirst() {
		if err := e.logOnly(ctx); err != nil {
			return err
		}
	}
	if err := e.removeLogged(ctx, e.dropKeySQL()...); err != nil {
		return err
	}
	if err := e.step(ctx, StepLoggedKeysRemoved); err != nil {
		return err
	}
	defer e.watchBuilds(ctx)()
	if err := e.buildIndexes(ctx); err != nil {
		return err
	}
	return e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		shadow := e.Job.ShadowTable()
		if err := roomFor(ctx, tx, shadow.String()); err != nil {
			return err
		}
		built, err := catalog.Read(ctx, tx, *e.Job.Shadow)
		if err != nil {
			return err
		}
		// Create statistics objects before the shadow is analysed.
		statements := slices.Concat(e.constraintsSQL(built), e.marksSQL(shadow), e.statisticsSQL(built))
		if err := e.execBuilds(ctx, tx, statements); err != nil {
			return err
		}
		return e.endStage(ctx, tx, registry.SyncSchema)
	})
}

// logOnly switches the capture to log, under a lock that waits for writers: no statement
// of a writer may be under way.
func (e *Env) logOnly(ctx context.Context) error {
	return e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		if err := e.stopWriters(ctx, tx); err != nil {
			return err
		}
		return execAll(ctx, tx, e.Link.LogCapture().SQL())
	})
}

// stopWriters takes SHARE ROW EXCLUSIVE on the table that the application writes to. Every
// transaction that has written to it has ended, and no transaction can write until tx ends.
func (e *Env) stopWriters(ctx context.Context, tx *lock.Tx) error {
	table := e.Link.From.String()
	if err := tx.Settle(ctx, table); err != nil {
		return err
	}
	return tx.Lock(ctx, table, "SHARE ROW EXCLUSIVE")
}

// dropKeySQL drops the key of the shadow if it was filled row by row. Such an index ends up
// half empty, so a key built in bulk like the others replaces it. dropKeySQL returns no
// statement if the rows were copied without a key.
func (e *Env) dropKeySQL() []string {
	index, _ := e.Source.Index(e.Job.KeyIndex)
	switch {
	case !e.Strategy.KeyFirst():
		return nil
	case index.Constraint != "":
		return []string{fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s", e.Job.ShadowTable(), catalog.Quote(index.Constraint))}
	default:
		return []string{dropSQL("INDEX", catalog.Name{Schema: e.Job.ShadowSchema, Name: index.Name}.String())}
	}
}

// removeLogged removes the rows of the keys in the log from the copy. After that it runs the
// statements in then.
func (e *Env) removeLogged(ctx context.Context, then ...string) error {
	return e.transactBy(ctx, e.ofRows(), func(ctx context.Context, tx *lock.Tx) error {
		if len(then) > 0 {
			if err := roomFor(ctx, tx, e.Link.To.String()); err != nil {
				return err
			}
		}
		n, err := e.Link.RemoveLogged(ctx, tx)
		if err != nil {
			return err
		}
		e.Log.Debug("logged keys removed from shadow", "job", e.Job.ID, "rows", n)
		if err := e.sameTables(ctx, tx); err != nil {
			return err
		}
		return execAll(ctx, tx, then)
	})
}

// builds returns the planner of index builds for this job.
func (e *Env) builds() builds.Planner {
	planner := builds.Planner{Source: e.Source, Jobs: e.Jobs}
	if e.OrderBy != "" {
		planner.Order = e.order
	}
	return planner
}

// buildIndexes builds the missing indexes of the shadow, several at a time: see
// builds.Planner.
func (e *Env) buildIndexes(ctx context.Context) error {
	shadow, err := catalog.Read(ctx, e.Pool, *e.Job.Shadow)
	if err != nil {
		return err
	}
	lists, err := e.builds().Plan(ctx, e.Pool, missingIndexes(e.Source, shadow))
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(e.Jobs)
	for _, list := range lists {
		group.Go(func() error {
			return e.withConn(groupCtx, func(conn *pgxpool.Conn) error {
				for _, b := range list {
					if err := e.buildIndex(groupCtx, conn, b); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	return group.Wait()
}

// buildSettings returns the settings of a build.
func (e *Env) buildSettings(b builds.Build) []string {
	if e.MaintenanceWorkMem != "" {
		return append(e.memorySQL(), b.WorkersSQL())
	}
	return b.SettingsSQL()
}

// memorySQL gives builds in the same transaction the memory that was asked for.
func (e *Env) memorySQL() []string {
	if e.MaintenanceWorkMem == "" {
		return nil
	}
	return []string{"SET LOCAL maintenance_work_mem = " + catalog.Literal(e.MaintenanceWorkMem)}
}

// missingIndexes returns the source's indexes that are still to be built. Exclusion and
// temporal constraints create their own indexes.
func missingIndexes(source, shadow *catalog.Table) []catalog.Index {
	return slices.DeleteFunc(slices.Clone(source.Indexes), func(i catalog.Index) bool {
		_, there := shadow.Index(i.Name)
		c, constrained := source.Constraint(i.Constraint)
		return there || constrained && !c.FromIndex()
	})
}

// buildIndex takes SHARE on the shadow. Several builds can hold it at the same time.
func (e *Env) buildIndex(ctx context.Context, conn *pgxpool.Conn, b builds.Build) error {
	if err := e.Throttle.Take(ctx); err != nil {
		return err
	}
	defer e.Throttle.End()
	busy, err := e.Throttle.Busy(ctx)
	if err != nil {
		return err
	}
	if busy {
		b.Helpers = 0
	}
	statements := append(e.buildSettings(b), indexSQL(b.Index, e.Job.ShadowTable())...)
	last := len(statements) - 1
	err = pgx.BeginTxFunc(ctx, conn, session.Begin(statements[:last]...), func(tx pgx.Tx) error {
		if err := e.Registry.Fence(ctx, tx, e.Job.ID, e.Runner.Claim); err != nil {
			return err
		}
		return execAll(ctx, tx, statements[last:])
	})
	if err != nil {
		return fmt.Errorf("build index %q: %w", b.Name, err)
	}
	return e.step(ctx, StepIndexBuilt)
}

// execBuilds runs execAll, but sends a statement that builds an index on its own. Then the
// statement of the session tells Builds which index is being built.
func (e *Env) execBuilds(ctx context.Context, tx pgx.Tx, statements []string) error {
	builds := func(sql string) bool {
		return slices.ContainsFunc(e.Source.Constraints, func(c catalog.Constraint) bool {
			return !c.FromIndex() && c.AddSQL(e.Job.ShadowTable()) == sql
		})
	}
	for len(statements) > 0 {
		n := slices.IndexFunc(statements, builds)
		if n < 0 {
			n = len(statements)
		}
		next := min(n+1, len(statements))
		if err := execAll(ctx, tx, statements[:n]); err != nil {
			return err
		}
		if err := execAll(ctx, tx, statements[n:next]); err != nil {
			return err
		}
		statements = statements[next:]
	}
	return nil
}

func indexSQL(index catalog.Index, shadow catalog.Name) []string {
	return []string{
		"SET LOCAL default_tablespace = " + catalog.Literal(index.Tablespace),
		index.CreateSQL(shadow),
	}
}

// constraintsSQL adds the key, unique and exclusion constraints that shadow lacks, as its
// description shows. A finished index of shadow becomes the index of its constraint.
func (e *Env) constraintsSQL(shadow *catalog.Table) []string {
	var statements []string
	for _, c := range e.Source.Constraints {
		if _, there := shadow.Constraint(c.Name); there || c.Type == "c" || c.Type == "n" {
			continue
		}
		if !c.FromIndex() {
			statements = append(statements, e.memorySQL()...)
		}
		index, _ := e.Source.Index(c.Name)
		statements = append(statements,
			"SET LOCAL default_tablespace = "+catalog.Literal(index.Tablespace),
			c.AddSQL(e.Job.ShadowTable()))
	}
	return append(statements, "SET LOCAL default_tablespace = ''")
}

// statisticsSQL creates the extended statistics objects that shadow lacks, as its
// description shows.
func (e *Env) statisticsSQL(shadow *catalog.Table) []string {
	var statements []string
	for _, s := range e.Source.Statistics {
		if slices.ContainsFunc(shadow.Statistics, func(o catalog.Statistics) bool { return o.Name.Name == s.Name.Name }) {
			continue
		}
		statements = append(statements, s.CreateSQL(e.Job.ShadowTable())...)
	}
	return statements
}
