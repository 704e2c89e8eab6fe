package stages

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
)

// syncSchema makes of the heap of copied rows a table like the source: first
// every row that has changed is taken out, so that what remains can bear the
// source's keys, then indexes and constraints are built on it.
//
// From here on both strategies log: nothing but this process writes to the
// shadow, its indexes are built in bulk and wait for nobody. With
// direct-trigger the change from write-through to log takes SHARE ROW
// EXCLUSIVE on the source for an instant.
func syncSchema(ctx context.Context, e *Env) error {
	if e.Strategy.KeyFirst() {
		if err := e.logOnly(ctx); err != nil {
			return err
		}
	}
	if err := e.removeLogged(ctx); err != nil {
		return err
	}
	if e.Strategy.KeyFirst() {
		if err := e.dropKey(ctx); err != nil {
			return err
		}
	}
	if err := e.step(ctx, "sync_schema: logged keys removed"); err != nil {
		return err
	}
	defer e.watchBuilds(ctx)()
	if err := e.buildIndexes(ctx); err != nil {
		return err
	}
	return e.write(ctx, func(tx pgx.Tx) error {
		if err := e.addConstraints(ctx, tx); err != nil {
			return err
		}
		shadow := e.Job.ShadowTable()
		if err := execAll(ctx, tx, e.Source.MarksSQL(shadow)); err != nil {
			return err
		}
		if err := e.addStatistics(ctx, tx); err != nil {
			return err
		}
		return e.endStage(ctx, tx, registry.SyncSchema)
	})
}

// logOnly turns capture into logging, under a lock that no writer is in the
// middle of a statement of.
func (e *Env) logOnly(ctx context.Context) error {
	return e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		if err := e.stopWriters(ctx, tx); err != nil {
			return err
		}
		return execAll(ctx, tx, e.Link.LogCapture().SQL())
	})
}

// stopWriters takes SHARE ROW EXCLUSIVE on the table that is written to: every
// transaction that has written to it is over, and none can until tx ends.
func (e *Env) stopWriters(ctx context.Context, tx *lock.Tx) error {
	table := e.Link.From.String()
	if err := tx.Settle(ctx, table); err != nil {
		return err
	}
	return tx.Lock(ctx, table, "SHARE ROW EXCLUSIVE")
}

// dropKey drops the key that was filled row by row, half empty as such an index
// comes to be, for one built in bulk like the others.
func (e *Env) dropKey(ctx context.Context) error {
	return e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		shadow, err := catalog.Read(ctx, tx, *e.Job.Shadow)
		if err != nil {
			return err
		}
		return execAll(ctx, tx, e.dropKeySQL(shadow))
	})
}

// dropKeySQL is nothing where shadow, as it is described, has no key.
func (e *Env) dropKeySQL(shadow *catalog.Table) []string {
	index, there := shadow.Index(e.Job.KeyIndex)
	switch {
	case !there:
		return nil
	case index.Constraint != "":
		return []string{fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT %s", shadow.Name, catalog.Quote(index.Constraint))}
	default:
		return []string{"DROP INDEX " + catalog.Name{Schema: shadow.Name.Schema, Name: index.Name}.String()}
	}
}

func (e *Env) removeLogged(ctx context.Context) error {
	return e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		n, err := e.Link.RemoveLogged(ctx, tx)
		if err != nil {
			return err
		}
		e.Log.Debug("logged keys removed from shadow", "job", e.Job.ID, "rows", n)
		return e.named(ctx, tx)
	})
}

// buildIndexes builds what the shadow lacks, largest first, several at a time.
func (e *Env) buildIndexes(ctx context.Context) error {
	shadow, err := catalog.Read(ctx, e.Pool, *e.Job.Shadow)
	if err != nil {
		return err
	}
	missing := missingIndexes(e.Source, shadow)
	settings := e.buildSettings(len(missing))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(e.Jobs)
	for _, index := range missing {
		group.Go(func() error {
			return e.withConn(groupCtx, func(conn *pgxpool.Conn) error { return e.buildIndex(groupCtx, conn, settings, index) })
		})
	}
	return group.Wait()
}

// buildSettings shares the workers that the server allows one build between
// those that run at the same time.
func (e *Env) buildSettings(builds int) []string {
	return append(e.memorySQL(), fmt.Sprintf("SELECT set_config('max_parallel_maintenance_workers', "+
		"(current_setting('max_parallel_maintenance_workers')::int / %d)::text, true)", max(min(e.Jobs, builds), 1)))
}

// memorySQL gives what is built in the same transaction the memory that was
// asked for.
func (e *Env) memorySQL() []string {
	if e.MaintenanceWorkMem == "" {
		return nil
	}
	return []string{"SET LOCAL maintenance_work_mem = " + catalog.Literal(e.MaintenanceWorkMem)}
}

// missingIndexes are those of the source that are to be built, largest first.
// Exclusion and temporal constraints make their own.
func missingIndexes(source, shadow *catalog.Table) []catalog.Index {
	missing := slices.DeleteFunc(slices.Clone(source.Indexes), func(i catalog.Index) bool {
		_, there := shadow.Index(i.Name)
		c, constrained := source.Constraint(i.Constraint)
		return there || constrained && !c.FromIndex()
	})
	slices.SortFunc(missing, func(a, b catalog.Index) int { return cmp.Compare(b.Size, a.Size) })
	return missing
}

// buildIndex takes SHARE on the shadow, which several builds can share.
func (e *Env) buildIndex(ctx context.Context, conn *pgxpool.Conn, settings []string, index catalog.Index) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := e.Registry.Fence(ctx, tx, e.Job.ID, e.Runner.Claim); err != nil {
			return err
		}
		return execAll(ctx, tx, slices.Concat(settings, indexSQL(index, e.Job.ShadowTable())))
	})
	if err != nil {
		return fmt.Errorf("build index %q: %w", index.Name, err)
	}
	return e.step(ctx, "sync_schema: index built")
}

func indexSQL(index catalog.Index, shadow catalog.Name) []string {
	return []string{
		"SET LOCAL default_tablespace = " + catalog.Literal(index.Tablespace),
		index.CreateSQL(shadow),
	}
}

// addConstraints adds the key, unique and exclusion constraints that the shadow
// lacks, those with a finished index from it.
func (e *Env) addConstraints(ctx context.Context, tx pgx.Tx) error {
	shadow, err := catalog.Read(ctx, tx, *e.Job.Shadow)
	if err != nil {
		return err
	}
	return execAll(ctx, tx, e.constraintsSQL(shadow))
}

// constraintsSQL adds what shadow, as it is described, has not.
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

// addStatistics creates the extended statistics objects that the shadow lacks,
// before it is analysed.
func (e *Env) addStatistics(ctx context.Context, tx pgx.Tx) error {
	shadow, err := catalog.Read(ctx, tx, *e.Job.Shadow)
	if err != nil {
		return err
	}
	return execAll(ctx, tx, e.statisticsSQL(shadow))
}

// statisticsSQL creates those objects that shadow, as it is described, has not.
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
