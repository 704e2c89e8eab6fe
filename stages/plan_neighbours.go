package stages

import (
	"context"
	"time"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/neighbours"
	"github.com/repack-go/repack/stages/steps"
)

// swappedEnv returns the environment as it will be after the exchange.
func (p *planner) swappedEnv() *Env {
	after := p.clone()
	after.Link = p.Reverse()
	if !p.Job.Swapped() {
		job, now := *p.Job, time.Now()
		job.SwappedAt = &now
		after.Job = &job
	}
	return after
}

// planMover is mover for a plan.
func (p *planner) planMover(e *Env) *neighbours.Mover {
	m := e.mover()
	m.Partitions = func(table catalog.Name) (partitions []catalog.Name) {
		for _, n := range p.neighbour {
			if n.Step == byForeignKey && table == (catalog.Name{Schema: n.OfSchema, Name: n.OfName}) {
				partitions = append(partitions, catalog.Name{Schema: n.SchemaName, Name: n.RelationName})
			}
		}
		return partitions
	}
	return m
}

// planKeys decides as a run does, and lets the planner's job do the same.
func (p *planner) planKeys() neighbours.PlannedKeys {
	keys, rows := p.mover().Planned()
	if rows != "" {
		job := *p.Job
		job.Options.RowByRow = rows
		p.Job, p.joins = &job, true
	}
	return keys
}

// planJoin plans what Join has still to do.
func (p *planner) planJoin(ctx context.Context) ([]steps.Transaction, error) {
	if p.Job.Options.RowByRow == "" {
		return nil, nil
	}
	return p.planMover(p.Env).PlanJoin(ctx, !p.joins)
}

// planHandOver plans endOneByOne.
func (p *planner) planHandOver(ctx context.Context) ([]steps.Transaction, error) {
	if p.Job.Options.RowByRow == "" {
		return nil, nil
	}
	after := p.swappedEnv()
	list, err := p.planMover(p.Env).PlanHandOver(ctx, p.planMover(after))
	return append(list, after.unfollow()), err
}
