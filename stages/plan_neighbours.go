package stages

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/steps"
)

// PlannedKeys says how foreign keys between the table and other tables would be moved: see
// ForeignKeys.
type PlannedKeys struct {
	Keys int         `json:"keys"`
	Way  ForeignKeys `json:"way"`
	Why  string      `json:"why"`
}

// planKeys decides as a run does, and lets the planner's job do the same.
func (p *planner) planKeys() PlannedKeys {
	way, why := p.wayOfKeys(p.Source)
	if way == ForeignKeysOneByOne && p.Job.Options.RowByRow == "" {
		job := *p.Job
		job.Options.RowByRow = p.rows(p.Source)
		p.Job, p.joins = &job, true
	}
	return PlannedKeys{Keys: neighbourKeys(p.Source), Way: way, Why: why}
}

// plannedJoints returns the keys as they are before the copy is joined to any neighbour.
func (e *Env) plannedJoints() []joint {
	var list []joint
	for _, key := range e.Source.AllForeignKeys() {
		if !key.SelfReference() {
			list = append(list, joint{outgoing: key.Table == e.Source.Name, main: &key, own: &key})
		}
	}
	return e.inTrees(list, e.Source)
}

// planJoin plans joinNeighbours.
func (p *planner) planJoin(ctx context.Context) ([]steps.Transaction, error) {
	if !p.joins {
		return nil, nil
	}
	list := []steps.Transaction{p.Env.rowByRow(p.Source.Owner, p.Job.Options.RowByRow)}
	for joints := p.plannedJoints(); ; joints = p.inTrees(withoutPieces(joints), p.Source) {
		added, err := p.planAdded(ctx, joints)
		if err != nil {
			return nil, err
		}
		if len(added) == 0 {
			return list, nil
		}
		list = append(list, added...)
	}
}

// planAdded plans one round of joinNeighbours: the second keys that can be added, and their
// validation. It notes in joints what will then be there.
func (p *planner) planAdded(ctx context.Context, joints []joint) (list []steps.Transaction, err error) {
	var validated []joint
	i := -1
	work, err := eachTransaction(joints, func(j joint) (pairOf, error) {
		i++
		pair, err := p.addSQL(ctx, j)
		if err != nil || len(pair.sql) == 0 {
			return pair, err
		}
		made := p.madeFor(j)
		joints[i].other = &made
		if j.own.Validated && j.own.Enforced && !j.partitioned() {
			validated = append(validated, joints[i])
		} else {
			made.Validated = j.own.Validated
		}
		return pair, nil
	})
	if err != nil {
		return nil, err
	}
	for _, x := range work {
		does := fmt.Sprintf("join %s to the copy by a second key: %s", x.neighbour(), strings.Join(x.keys, ", "))
		list = append(list, p.joining(p.Env, does, x.joint, x.pairOf))
	}
	for _, j := range validated {
		made := *j.other
		j.other.Validated = true
		t := p.validation(fmt.Sprintf("validate the second key: %s", j), made)
		if j.outgoing { // both tables are ours
			t.Locks = nil
		}
		list = append(list, t)
	}
	return list, nil
}

// madeFor returns the key that is made for a joint before the swap.
func (p *planner) madeFor(j joint) catalog.ForeignKey {
	made := j.own.On(p.Source.Name, p.Job.ShadowTable())
	if made.Enforced {
		made = made.AtCommit()
	}
	if j.outgoing {
		made.Comment = p.marker()
	} else {
		made.Name, made.Comment = p.temporaryName(made.Name), ""
	}
	return made
}

// planHandOver plans endOneByOne. It plans nothing for keys that have been handed over.
func (p *planner) planHandOver(ctx context.Context) ([]steps.Transaction, error) {
	if p.Job.Options.RowByRow == "" {
		return nil, nil
	}
	joints, err := p.swappedJoints(ctx)
	if err != nil {
		return nil, err
	}
	outgoingFirst(joints)
	after := p.swappedEnv()
	var list []steps.Transaction
	for _, j := range joints {
		for j.other != nil || j.own == nil {
			pair, err := p.handOverSQL(ctx, j)
			if err != nil {
				return nil, err
			}
			list = append(list, p.joining(after, fmt.Sprintf("hand over %s", j), j, pair))
			if (pair.alone == catalog.Name{}) {
				break
			}
			became := *j.own
			became.Table = j.main.Table
			j.main = &became
		}
	}
	return append(list, after.unfollow()), nil
}

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

// swappedJoints returns the keys as they are, or will be, after the exchange.
func (p *planner) swappedJoints(ctx context.Context) ([]joint, error) {
	if p.Job.Swapped() {
		return p.joints(ctx, p.Pool)
	}
	list := withoutPieces(p.plannedJoints())
	for i, j := range list {
		main := p.madeFor(j).On(p.Job.ShadowTable(), p.Source.Name)
		main.Validated = true
		other := j.own.On(p.Source.Name, p.Job.OldTable())
		list[i].main, list[i].other, list[i].own = &main, &other, &other
	}
	return p.inTrees(list, p.Source), nil
}

// pairLocks returns the locks of tryJoint that are not on the job's own tables.
func (p *planner) pairLocks(j joint, pair pairOf) []steps.Lock {
	if (pair.alone != catalog.Name{}) {
		return []steps.Lock{p.Strong(pair.mode, pair.alone)}
	}
	locks := []steps.Lock{p.Strong(pair.mode, j.neighbour())}
	for _, part := range j.parts {
		locks = append(locks, p.Strong(pair.mode, part.Table))
	}
	if j.outgoing {
		for _, n := range p.neighbour {
			if n.Step == byForeignKey && j.neighbour() == (catalog.Name{Schema: n.OfSchema, Name: n.OfName}) {
				locks = append(locks, p.Strong(pair.mode, catalog.Name{Schema: n.SchemaName, Name: n.RelationName}))
			}
		}
	}
	return locks
}

// joining is the transaction of tryJoint, for a plan. A run leaves it to package lock, which
// tries the locks in either order.
func (p *planner) joining(e *Env, does string, j joint, pair pairOf) steps.Transaction {
	wants := e.wantsOf(j, pair)
	return steps.Transaction{
		Does:  does,
		Locks: func(*steps.Planner) []steps.Lock { return p.pairLocks(j, pair) },
		Actions: []steps.Action{
			steps.Settle(func() []string { return settledBefore(wants) }),
			steps.Send(wants.Statements()...),
		},
	}
}
