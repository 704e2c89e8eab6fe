package shadow

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/stages/builds"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/stages/throttle"
)

// builds returns the planner of index builds for this job.
func (b *Builder) builds() builds.Planner {
	return builds.Planner{Source: b.Target(), Jobs: b.Jobs, Order: b.Order}
}

// BuildIndexes builds the missing indexes of the shadow, several at a time: see
// builds.Planner.
func (b *Builder) BuildIndexes(ctx context.Context) error {
	shadow, err := catalog.Read(ctx, b.Pool, *b.Job.Shadow)
	if err != nil {
		return err
	}
	lists, err := b.builds().Plan(ctx, b.Pool, b.missingIndexes(shadow))
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(b.Jobs)
	for _, list := range lists {
		group.Go(func() error {
			return b.WithConn(groupCtx, func(conn *pgxpool.Conn) error {
				for _, build := range list {
					if err := b.buildIndex(groupCtx, conn, build); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	return group.Wait()
}

// buildSQL returns the statement of a build, after its settings.
func (b *Builder) buildSQL(build builds.Build) []string {
	return append(b.buildSettings(build), b.indexSQL(build.Index)...)
}

// buildSettings returns the settings of a build.
func (b *Builder) buildSettings(build builds.Build) []string {
	if b.MaintenanceWorkMem != "" {
		return append(steps.MemorySQL(b.MaintenanceWorkMem), build.WorkersSQL())
	}
	return build.SettingsSQL()
}

// buildIndex takes SHARE on the shadow. Several builds can hold it at the same time.
func (b *Builder) buildIndex(ctx context.Context, conn *pgxpool.Conn, build builds.Build) error {
	if err := b.Throttle.Wait(ctx, throttle.Copying); err != nil {
		return err
	}
	if err := b.Throttle.Take(ctx); err != nil {
		return err
	}
	defer b.Throttle.End()
	busy, err := b.Throttle.Busy(ctx)
	if err != nil {
		return err
	}
	if busy {
		build.Helpers = 0
	}
	statements := b.buildSQL(build)
	last := len(statements) - 1
	err = pgx.BeginTxFunc(ctx, conn, session.Begin(statements[:last]...), func(tx pgx.Tx) error {
		if err := b.Registry.Fence(ctx, tx, b.Job.ID, b.Runner.Claim); err != nil {
			return err
		}
		return steps.ExecAll(ctx, tx, statements[last:])
	})
	err = b.Duplicates(ctx, err, func(work func(tx pgx.Tx) error) error {
		return b.TryBy(ctx, b.OfRows(), func(_ context.Context, tx *lock.Tx) error { return work(tx) })
	})
	if err != nil {
		return fmt.Errorf("build index %q: %w", build.Name, err)
	}
	return b.Step(ctx, steps.StepIndexBuilt)
}

// watchEvery is often enough for people who watch.
const watchEvery = 500 * time.Millisecond

// WatchBuilds calls Hooks.WhileBuilding until the returned function is called. That function
// waits until the last call has ended.
func (b *Builder) WatchBuilds(ctx context.Context) (stop func()) {
	if b.Hooks.WhileBuilding == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	job := *b.Job
	go func() {
		defer close(ended)
		ticker := time.NewTicker(watchEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			running, err := builds.Read(ctx, b.Pool, &job)
			switch {
			case err != nil: // the builds continue all the same
				b.Log.Debug("no progress of index builds", "job", job.ID, "error", err)
			case len(running) > 0:
				b.Hooks.WhileBuilding(ctx, running)
			}
		}
	}()
	return func() { cancel(); <-ended }
}

// PlanIndexes returns the statements of BuildIndexes for the shadow as its description shows
// it.
func (b *Builder) PlanIndexes(ctx context.Context, shadow *catalog.Table) (all []string, err error) {
	lists, err := b.builds().Plan(ctx, b.Pool, b.missingIndexes(shadow))
	if err != nil {
		return nil, err
	}
	for _, build := range slices.Concat(lists...) {
		all = append(all, b.buildSQL(build)...)
	}
	return all, nil
}
