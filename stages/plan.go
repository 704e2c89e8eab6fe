package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/neighbours"
	"github.com/repack-go/repack/stages/oids"
	"github.com/repack-go/repack/stages/signals"
	"github.com/repack-go/repack/stages/snapshots"
	"github.com/repack-go/repack/stages/steps"
)

// Plan is what Run would do with a table as it is now. Its statements come from
// the functions that Run uses.
type Plan struct {
	Table    string         `json:"table"` // as SQL writes it
	Schema   string         `json:"schema"`
	Name     string         `json:"name"`
	Strategy string         `json:"strategy"`
	Until    registry.Stage `json:"until"`
	// Job is the unfinished job of the table, or nil. If it is nil, the number of the job is
	// not known yet, and the names of artefacts have N in its place.
	Job *PlannedJob `json:"job"`
	// Refused lists the reasons to refuse. If there are any, everything after it is empty.
	Refused []Refusal `json:"refused"`
	// Alteration is what the job changes, one difference in each line.
	Alteration []string `json:"alteration"`
	Disk       Disk     `json:"disk"`
	// Signals says what is now of that by which work can be stopped: replicas, slots, sessions
	// and disks. What the role may not read is said, too.
	Signals  []signals.Reading `json:"signals"`
	WaitsFor []Session         `json:"waits_for"`
	// NotSearched lists the columns in which repack did not look for OIDs that change, and
	// the reasons.
	NotSearched []string `json:"not_searched_for_oids"`
	// Standbys are those that stream now. They replay the exclusive lock of the swap.
	Standbys []snapshots.Standby `json:"standbys"`
	// ServerRepack is nil before PostgreSQL 19, and if the table has a job.
	ServerRepack *ServerRepack `json:"server_repack"`
	Carried      []Carried     `json:"carried_over"`
	// ForeignKeys says how the keys between the table and other tables would be moved.
	ForeignKeys neighbours.PlannedKeys `json:"foreign_keys"`
	// If a lock is not acquired in time, repack tries again LockRetries times. It ends
	// sessions that have blocked it for KillAfter seconds, unless KillAfter is zero.
	LockRetries int            `json:"lock_retries"`
	KillAfter   float64        `json:"kill_blockers_after_seconds"`
	Stages      []PlannedStage `json:"stages"` // those that must still run
}

// PlannedJob says where the job stands that a run would continue.
type PlannedJob struct {
	Job       int64          `json:"job"`
	Stage     registry.Stage `json:"stage"` // the latest that has begun
	StageDone bool           `json:"stage_done"`
	Swapped   bool           `json:"swapped"`
	Running   bool           `json:"running"` // a process is working on it
}

// Refusal is one reason to refuse, and what to do about it.
type Refusal struct {
	Object string `json:"object"`
	Why    string `json:"why"`
	Remedy string `json:"remedy"`
}

// PlannedStage is a stage and its steps.
type PlannedStage struct {
	Stage registry.Stage `json:"stage"`
	Steps []steps.Step   `json:"steps"`
}

// NewPlan describes what Run would do up to and including until. Like Run, it returns
// *checks.RefusedError, together with a plan that lists the reasons, and *DriftError. running tells
// that a process is working on e.Job.
//
// It takes ACCESS SHARE on the table and changes nothing.
func NewPlan(ctx context.Context, e *Env, until registry.Stage, running bool) (*Plan, error) {
	plan := &Plan{
		Table: e.Source.Name.String(), Schema: e.Source.Name.Schema, Name: e.Source.Name.Name,
		Strategy: e.Strategy.Name(), Until: until, LockRetries: e.Locks.Retries, KillAfter: e.Locks.KillAfter.Seconds(),
		Refused: []Refusal{}, Alteration: []string{}, WaitsFor: []Session{}, Signals: []signals.Reading{}, NotSearched: []string{}, Standbys: []snapshots.Standby{}, Carried: []Carried{}, Stages: []PlannedStage{},
	}
	if e.Job == nil {
		if err := plan.check(ctx, e); err != nil {
			return plan, err
		}
	} else {
		plan.Job = &PlannedJob{
			Job: e.Job.ID, Stage: e.Job.Stage, StageDone: e.Job.StageDone, Swapped: e.Job.Swapped(), Running: running,
		}
		if err := e.planViews(ctx); err != nil {
			return plan, err
		}
	}
	p, err := newPlanner(ctx, e)
	if err != nil {
		return nil, err
	}
	if plan.Alteration, err = e.Alteration.Lines(); err != nil {
		return nil, err
	}
	if e.Alteration != nil {
		functions, err := e.Alteration.Mentioning(ctx, e.Pool, e.Source.Name)
		if err != nil {
			return nil, err
		}
		plan.Alteration = append(plan.Alteration, e.Alteration.Views.Lines()...)
		for _, f := range functions {
			plan.Alteration = append(plan.Alteration, fmt.Sprintf("function %s: names the table and the old type, and is not changed", f))
		}
	}
	if plan.Disk, err = p.disk(ctx); err != nil {
		return nil, err
	}
	if plan.WaitsFor, err = p.waitsFor(ctx); err != nil {
		return nil, err
	}
	if plan.Standbys, err = snapshots.Standbys(ctx, e.Pool); err != nil {
		return nil, err
	}
	if plan.ServerRepack, err = p.serverRepack(ctx, plan.Job); err != nil {
		return nil, err
	}
	plan.Carried = carriedOver(p.Source)
	plan.ForeignKeys = p.planKeys()
	plan.Stages, err = p.stages(ctx, until, e.finished)
	return plan, err
}

// check is pre_validate without its log messages and without the dry build, which writes. If
// the table is to be altered, a model of it is made all the same, and rolled back.
func (plan *Plan) check(ctx context.Context, e *Env) error {
	p := e.preflight()
	err := p.Look(ctx)
	if p.OIDs != nil {
		plan.NotSearched = p.OIDs.Unsearched()
	}
	if err == nil {
		err = p.Alter(ctx)
		e.bounded = p.Bounded
	}
	if err == nil {
		err = e.LimitsReady(ctx)
	}
	if err == nil {
		err = e.roomForCopy(ctx)
	}
	if err == nil {
		return nil
	}
	var refused *checks.RefusedError
	if errors.As(err, &refused) {
		for _, r := range refused.Reasons {
			plan.Refused = append(plan.Refused, Refusal(r))
		}
	}
	return fmt.Errorf("%s: %w", registry.PreValidate, err)
}

// planner is the environment of a run that does not happen.
type planner struct {
	*Env
	*steps.Planner
	shadow    *catalog.Table // as it is, or as setup would create it
	neighbour []neighbour
	oids      *oids.Rewriting
	joins     bool // keys are still to be joined to the copy one by one
}

// unnumbered stands for the number of a job that does not exist yet.
const unnumbered = "N"

func newPlanner(ctx context.Context, e *Env) (*planner, error) {
	base, err := steps.NewPlanner(ctx, e.Worker)
	if err != nil {
		return nil, err
	}
	p := &planner{Env: e.clone(), Planner: base}
	switch {
	case e.Job == nil:
		err = p.invent(ctx)
	case e.Job.Swapped():
		p.shadow = e.Source
	default:
		if err = p.refresh(ctx); err == nil {
			p.shadow, err = catalog.Read(ctx, p.Pool, *p.Job.Shadow)
		}
	}
	if err != nil {
		return nil, err
	}
	p.Schema = p.Job.ShadowSchema
	if p.oids, err = p.StoredOIDs().Rewriting(ctx, p.Pool, p.InUse()); err != nil {
		return nil, err
	}
	p.neighbour, err = p.neighbours(ctx)
	return p, err
}

// invent makes up the job and the shadow as setup would create them.
func (p *planner) invent(ctx context.Context) error {
	index, _ := p.Source.Key() // preValidate has refused a table without one
	key, err := catalog.ReadKey(ctx, p.Pool, p.Source.OID, index.Name)
	if err != nil {
		return err
	}
	p.Job = p.JobNumbered(unnumbered)
	if err := steps.CaptureOptions(ctx, p.Pool, &p.Job.Options); err != nil {
		return err
	}
	p.Job.KeyIndex, p.Job.Shadow = index.Name, new(uint32)
	p.SetLink(key)
	p.shadow = p.builder().Made()
	grants, err := p.DefaultGrants(ctx, "r", p.User, p.Job.ShadowSchema)
	for _, g := range grants {
		if g.Grantee == p.User { // the others are revoked, and the owner is changed
			g.Grantor, g.Grantee = p.Source.Owner, p.Source.Owner
			p.shadow.Grants = append(p.shadow.Grants, g)
		}
	}
	return err
}

// stages plans the stages that are not finished.
func (p *planner) stages(ctx context.Context, until registry.Stage, finished func(registry.Stage) bool) ([]PlannedStage, error) {
	planned := []PlannedStage{}
	for _, s := range order {
		if until.Before(s.name) {
			break
		}
		if finished(s.name) {
			continue
		}
		steps, err := s.plan(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("plan %s: %w", s.name, err)
		}
		planned = append(planned, PlannedStage{Stage: s.name, Steps: steps})
	}
	return planned, nil
}
