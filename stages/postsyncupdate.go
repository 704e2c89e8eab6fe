package stages

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/compare"
	"github.com/repack-go/repack/stages/steps"
)

// postSyncUpdate replays the change log until little is left. Then it prepares the shadow
// for queries (visibility map and statistics), and compares it with the source meanwhile.
//
// It takes ACCESS SHARE on the source.
func postSyncUpdate(ctx context.Context, e *Env) error {
	if err := e.replayer().CatchUp(ctx); err != nil {
		return err
	}
	if err := e.Step(ctx, steps.StepCaughtUp); err != nil {
		return err
	}
	var compared *compare.Result
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return e.vacuum(groupCtx) })
	group.Go(func() (err error) {
		compared, err = e.compareBeforeSwap(groupCtx)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	return e.concludeComparison(ctx, compared, func(tx pgx.Tx) error { return e.EndStage(ctx, tx, registry.PostSyncUpdate) })
}

func planPostSyncUpdate(ctx context.Context, p *planner) ([]steps.Step, error) {
	list := []steps.Transaction{
		p.replayer().Replaying("replay the change log, batch by batch, until little is left", false, nil),
		{Does: "vacuum and analyse the shadow", Actions: []steps.Action{steps.Send(p.vacuumSQL(false)...)}},
	}
	if p.Verify != registry.VerifyOff {
		list = append(list, steps.Transaction{Does: fmt.Sprintf("compare shadow and table (%s), and end if they differ", p.Verify), Locks: (*steps.Planner).Reading})
	}
	return p.Steps(ctx, list...)
}

// vacuum makes the first queries after the swap fast. VACUUM cannot run in a transaction,
// so it cannot be fenced. It changes no row.
func (e *Env) vacuum(ctx context.Context) error {
	busy, err := e.Throttle.Busy(ctx)
	if err != nil {
		return err
	}
	err = e.WithConn(ctx, func(conn *pgxpool.Conn) error {
		for _, sql := range e.vacuumSQL(busy) { // sent together, they would be one transaction
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("vacuum and analyse the shadow: %w", err)
	}
	return nil
}

// While the application is at work, VACUUM rests after it has changed about a hundred
// pages: "Cost-based Vacuum Delay" in the manual. Then it also has no parallel workers.
var (
	restSQL   = []string{"SET vacuum_cost_delay = '2ms'", "SET vacuum_cost_limit = 2000"}
	noRestSQL = []string{"RESET vacuum_cost_delay", "RESET vacuum_cost_limit"}
)

// vacuumSQL returns VACUUM between its settings. They are set for the session, because
// there is no transaction. If VACUUM fails, the session ends with the run.
func (e *Env) vacuumSQL(busy bool) []string {
	var before, after []string
	options := "ANALYZE"
	if e.MaintenanceWorkMem != "" {
		before = append(before, "SET maintenance_work_mem = "+catalog.Literal(e.MaintenanceWorkMem))
		after = append(after, "RESET maintenance_work_mem")
	}
	if busy {
		before, after = append(before, restSQL...), append(after, noRestSQL...)
		options += ", PARALLEL 0"
	}
	vacuum := fmt.Sprintf("VACUUM (%s) %s", options, e.Link.To)
	return slices.Concat(before, []string{vacuum}, after)
}
