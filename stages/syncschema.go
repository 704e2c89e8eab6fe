package stages

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/session"
	"github.com/repack-go/repack/stages/builds"
	"github.com/repack-go/repack/stages/steps"
)

// syncSchema makes the copied rows a table like the source. First it removes every row that
// has changed, so that the rest satisfies the source's keys. Then it builds indexes and
// constraints on the rest.
//
// From here on both strategies log. No other session writes to the shadow, so its indexes
// are built in bulk and wait for no session. With direct-trigger, switching from
// write-through to log takes SHARE ROW EXCLUSIVE on the source for an instant.
func syncSchema(ctx context.Context, e *Env) error {
	for _, t := range e.beforeBuilds() {
		if err := e.Perform(ctx, t); err != nil {
			return err
		}
	}
	if err := e.Step(ctx, steps.StepLoggedKeysRemoved); err != nil {
		return err
	}
	defer e.watchBuilds(ctx)()
	if err := e.buildIndexes(ctx); err != nil {
		return err
	}
	var shadow catalog.Table
	return e.Perform(ctx, e.builder().Completion(&shadow))
}

func planSyncSchema(ctx context.Context, p *planner) ([]steps.Step, error) {
	list, shadow := p.beforeBuilds(), p.shadow
	if len(p.builder().DropKeySQL()) > 0 {
		shadow = p.withoutKey()
	}
	lists, err := p.builds().Plan(ctx, p.Pool, p.builder().MissingIndexes(shadow))
	if err != nil {
		return nil, err
	}
	if len(lists) > 0 {
		list = append(list, steps.Transaction{
			Does: fmt.Sprintf("build indexes on the shadow, what takes longest first, %d at a time", p.Jobs),
			Actions: []steps.Action{steps.SendLate(func() (all []string) {
				for _, b := range slices.Concat(lists...) {
					all = append(all, p.buildSQL(b)...)
				}
				return all
			})},
		})
	}
	return p.Steps(ctx, append(list, p.builder().Completion(shadow))...)
}

// withoutKey returns the shadow as it is after its key has been dropped.
func (p *planner) withoutKey() *catalog.Table {
	shadow := *p.shadow
	key, _ := shadow.Index(p.Job.KeyIndex)
	shadow.Indexes = slices.DeleteFunc(slices.Clone(shadow.Indexes), func(i catalog.Index) bool { return i.Name == key.Name })
	shadow.Constraints = slices.DeleteFunc(slices.Clone(shadow.Constraints), func(c catalog.Constraint) bool { return c.Name == key.Constraint })
	return &shadow
}

// beforeBuilds leaves in the shadow only rows that have not changed since they were copied.
func (e *Env) beforeBuilds() []steps.Transaction {
	if e.Strategy.WritesThrough() {
		return []steps.Transaction{e.loggingOnly(), e.removal()}
	}
	return []steps.Transaction{e.removal()}
}

// loggingOnly switches the capture to log, under a lock that waits for writers: no
// statement of a writer may be under way.
func (e *Env) loggingOnly() steps.Transaction {
	return steps.Transaction{
		Does:    "log changes instead of writing them through",
		Locks:   (*steps.Planner).Stopping,
		Actions: append(e.StopWriters(), steps.Send(e.Link.LogCapture().SQL()...)),
	}
}

// removal removes the rows that have changed from the shadow, and its key if that was
// filled row by row.
func (e *Env) removal() steps.Transaction {
	does := "take rows that have changed out of the shadow"
	drops := e.builder().DropKeySQL()
	actions := e.replayer().RemoveLogged()
	if len(drops) > 0 {
		does += ", and drop its key, which is built anew"
		actions = slices.Concat([]steps.Action{steps.RoomForOurs(e.Link.To)}, actions, []steps.Action{steps.Send(drops...)})
	}
	return steps.Transaction{Does: does, Locks: (*steps.Planner).Reading, OfRows: true, Actions: actions}
}

// builds returns the planner of index builds for this job.
func (e *Env) builds() builds.Planner {
	planner := builds.Planner{Source: e.builder().Target(), Jobs: e.Jobs}
	if e.OrderBy != "" {
		planner.Order = e.Order
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
	lists, err := e.builds().Plan(ctx, e.Pool, e.builder().MissingIndexes(shadow))
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(e.Jobs)
	for _, list := range lists {
		group.Go(func() error {
			return e.WithConn(groupCtx, func(conn *pgxpool.Conn) error {
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

// buildSQL returns the statement of a build, after its settings.
func (e *Env) buildSQL(b builds.Build) []string {
	return append(e.buildSettings(b), e.builder().IndexSQL(b.Index)...)
}

// buildSettings returns the settings of a build.
func (e *Env) buildSettings(b builds.Build) []string {
	if e.MaintenanceWorkMem != "" {
		return append(e.builder().MemorySQL(), b.WorkersSQL())
	}
	return b.SettingsSQL()
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
	statements := e.buildSQL(b)
	last := len(statements) - 1
	err = pgx.BeginTxFunc(ctx, conn, session.Begin(statements[:last]...), func(tx pgx.Tx) error {
		if err := e.Registry.Fence(ctx, tx, e.Job.ID, e.Runner.Claim); err != nil {
			return err
		}
		return steps.ExecAll(ctx, tx, statements[last:])
	})
	if err != nil {
		return fmt.Errorf("build index %q: %w", b.Name, err)
	}
	return e.Step(ctx, steps.StepIndexBuilt)
}
