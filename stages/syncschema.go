package stages

import (
	"context"
	"fmt"
	"slices"

	"github.com/repack-go/repack/internal/catalog"
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
	defer e.builder().WatchBuilds(ctx)()
	if err := e.builder().BuildIndexes(ctx); err != nil {
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
	statements, err := p.builder().PlanIndexes(ctx, shadow)
	if err != nil {
		return nil, err
	}
	if len(statements) > 0 {
		list = append(list, steps.Transaction{
			Does:    fmt.Sprintf("build indexes on the shadow, what takes longest first, %d at a time", p.Jobs),
			Actions: []steps.Action{steps.Send(statements...)},
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
