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
	if err := e.step(ctx, "sync_schema: logged keys removed"); err != nil {
		return err
	}
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
		_, err := tx.Exec(ctx, e.Link.LogCaptureSQL())
		return err
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

func (e *Env) removeLogged(ctx context.Context) error {
	return e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		n, err := e.Link.RemoveLogged(ctx, tx)
		if err == nil {
			e.Log.Debug("logged keys removed from shadow", "job", e.Job.ID, "rows", n)
		}
		return err
	})
}

// buildIndexes builds what the shadow lacks, largest first, several at a time.
func (e *Env) buildIndexes(ctx context.Context) error {
	shadow, err := catalog.Read(ctx, e.Pool, *e.Job.Shadow)
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(slices.Clone(e.Source.Indexes), func(i catalog.Index) bool {
		_, there := shadow.Index(i.Name)
		c, constrained := e.Source.Constraint(i.Constraint)
		return there || constrained && !c.FromIndex()
	})
	slices.SortFunc(missing, func(a, b catalog.Index) int { return cmp.Compare(b.Size, a.Size) })
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(e.Jobs)
	for _, index := range missing {
		group.Go(func() error {
			return e.withConn(groupCtx, func(conn *pgxpool.Conn) error { return e.buildIndex(groupCtx, conn, index) })
		})
	}
	return group.Wait()
}

// buildIndex takes SHARE on the shadow, which several builds can share.
func (e *Env) buildIndex(ctx context.Context, conn *pgxpool.Conn, index catalog.Index) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := e.Registry.Fence(ctx, tx, e.Job.ID, e.Runner.Claim); err != nil {
			return err
		}
		return execAll(ctx, tx, []string{
			"SET LOCAL default_tablespace = " + catalog.Literal(index.Tablespace),
			index.CreateSQL(e.Job.ShadowTable()),
		})
	})
	if err != nil {
		return fmt.Errorf("build index %q: %w", index.Name, err)
	}
	return e.step(ctx, "sync_schema: index built")
}

// addConstraints adds the key, unique and exclusion constraints that the shadow
// lacks, those with a finished index from it.
func (e *Env) addConstraints(ctx context.Context, tx pgx.Tx) error {
	shadow, err := catalog.Read(ctx, tx, *e.Job.Shadow)
	if err != nil {
		return err
	}
	for _, c := range e.Source.Constraints {
		if _, there := shadow.Constraint(c.Name); there || c.Type == "c" || c.Type == "n" {
			continue
		}
		index, _ := e.Source.Index(c.Name)
		err := execAll(ctx, tx, []string{
			"SET LOCAL default_tablespace = " + catalog.Literal(index.Tablespace),
			c.AddSQL(e.Job.ShadowTable()),
		})
		if err != nil {
			return err
		}
	}
	return execAll(ctx, tx, []string{"SET LOCAL default_tablespace = ''"})
}

// addStatistics creates the extended statistics objects that the shadow lacks,
// before it is analysed.
func (e *Env) addStatistics(ctx context.Context, tx pgx.Tx) error {
	shadow, err := catalog.Read(ctx, tx, *e.Job.Shadow)
	if err != nil {
		return err
	}
	for _, s := range e.Source.Statistics {
		if slices.ContainsFunc(shadow.Statistics, func(o catalog.Statistics) bool { return o.Name.Name == s.Name.Name }) {
			continue
		}
		if err := execAll(ctx, tx, s.CreateSQL(e.Job.ShadowTable())); err != nil {
			return err
		}
	}
	return nil
}
