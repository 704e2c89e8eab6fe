package stages

import (
	"context"
	"fmt"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/strategy"
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
		if job.Options.RowByRow = registry.BeforeKeys; !job.Swapped() && strategy.MayBeLate(p.Source) {
			job.Options.RowByRow = registry.AfterKeys
		}
		p.Job, p.rowByRow = &job, job.Options.RowByRow
	}
	return PlannedKeys{Keys: neighbourKeys(p.Source), Way: way, Why: why}
}

// plannedJoints returns the keys as they are before the copy is joined to any neighbour.
func (p *planner) plannedJoints() []joint {
	var list []joint
	for _, key := range p.Source.AllForeignKeys() {
		if !key.SelfReference() {
			list = append(list, joint{outgoing: key.Table == p.Source.Name, main: &key, own: &key})
		}
	}
	return p.inTrees(list, p.Source)
}

// planJoin plans joinNeighbours.
func (p *planner) planJoin(ctx context.Context, r *steps) {
	if p.rowByRow == "" {
		return
	}
	link := *p.Link
	link.Rows = p.rowByRow
	r.add(p.record(ctx, "make every change to the copy as well, row by row, from now on", p.stopping(), func(ctx context.Context, t *transcript) error {
		if !p.mine {
			if err := execAll(ctx, t, []string{p.letInSQL(p.Source.Owner)}); err != nil {
				return err
			}
		}
		if err := p.stopWriters(ctx, t.bounded()); err != nil {
			return err
		}
		return execAll(ctx, t, link.RowByRow().SQL())
	}))
	for list := p.plannedJoints(); ; list = p.inTrees(withoutPieces(list), p.Source) {
		added, err := p.planAdded(ctx, r, list)
		if err != nil {
			r.add(Step{}, err)
			return
		}
		if added == 0 {
			return
		}
	}
}

// planAdded plans one round of joinNeighbours: the second keys that can be added, and their
// validation. It notes in list what will then be there.
func (p *planner) planAdded(ctx context.Context, r *steps, list []joint) (added int, err error) {
	var validated []joint
	i := -1
	work, err := eachTransaction(list, func(j joint) (pairOf, error) {
		i++
		pair, err := p.addSQL(ctx, j)
		if err != nil || len(pair.sql) == 0 {
			return pair, err
		}
		made := p.madeFor(j)
		list[i].other = &made
		if j.own.Validated && j.own.Enforced && !j.partitioned() {
			validated = append(validated, list[i])
		} else {
			made.Validated = j.own.Validated
		}
		return pair, nil
	})
	if err != nil {
		return 0, err
	}
	for _, x := range work {
		r.add(p.record(ctx, fmt.Sprintf("join %s to the copy by a second key: %s", x.neighbour(), strings.Join(x.keys, ", ")), p.pairLocks(x.joint, x.pairOf), p.sendPair(x.joint, x.pairOf)))
	}
	for _, j := range validated {
		made := *j.other
		j.other.Validated = true
		var locks []Lock
		if !j.outgoing {
			locks = append(locks, p.settling(made.Table))
		}
		r.add(p.record(ctx, fmt.Sprintf("validate the second key: %s", j), locks, func(ctx context.Context, t *transcript) error {
			if err := t.bounded().Settle(ctx, made.Table.String()); err != nil {
				return err
			}
			return execAll(ctx, t, []string{made.ValidateSQL()})
		}))
	}
	return len(work), nil
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
func (p *planner) planHandOver(ctx context.Context, r *steps) error {
	if p.Job.Options.RowByRow == "" {
		return nil
	}
	list, err := p.swappedJoints(ctx)
	if err != nil {
		return err
	}
	outgoingFirst(list)
	after := *p.Env
	after.Link = p.reverse()
	for _, j := range list {
		for j.other != nil {
			pair, err := p.handOverSQL(ctx, j)
			if err != nil {
				return err
			}
			r.add(p.record(ctx, fmt.Sprintf("hand over %s", j), p.pairLocks(j, pair), after.sendPair(j, pair)))
			if (pair.alone == catalog.Name{}) {
				break
			}
			became := *j.own
			became.Table = j.main.Table
			j.main = &became
		}
	}
	r.add(p.record(ctx, "log changes from now on, instead of making them to the old table", p.stopping(), func(ctx context.Context, t *transcript) error {
		if err := p.stopWriters(ctx, t.bounded()); err != nil {
			return err
		}
		statements := append(p.reverse().LogCapture().SQL(), identitySQL(p.Source, p.Job.OldTable(), true)...)
		return execAll(ctx, t, append(statements, p.plannedLockFunctions(list)...))
	}))
	return nil
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

// plannedLockFunctions returns the statements that drop the functions with the last key.
func (p *planner) plannedLockFunctions(list []joint) []string {
	var statements []string
	for _, j := range list {
		if !j.outgoing && j.own.Enforced && !j.own.Period {
			statements = append(statements, "DROP FUNCTION IF EXISTS "+p.lockFunction(*j.own).String()+"()")
		}
	}
	return statements
}

// pairLocks returns the locks of tryJoint that are not on the job's own tables.
func (p *planner) pairLocks(j joint, pair pairOf) []Lock {
	if (pair.alone != catalog.Name{}) {
		return []Lock{p.strong(pair.mode, pair.alone)}
	}
	locks := []Lock{p.strong(pair.mode, j.neighbour())}
	for _, part := range j.parts {
		locks = append(locks, p.strong(pair.mode, part.Table))
	}
	if j.outgoing {
		for _, n := range p.neighbour {
			if n.Step == byForeignKey && j.neighbour() == (catalog.Name{Schema: n.OfSchema, Name: n.OfName}) {
				locks = append(locks, p.strong(pair.mode, catalog.Name{Schema: n.SchemaName, Name: n.RelationName}))
			}
		}
	}
	return locks
}

func (e *Env) sendPair(j joint, pair pairOf) func(context.Context, *transcript) error {
	return func(ctx context.Context, t *transcript) error {
		wants := e.wantsOf(j, pair)
		if err := settlePair(ctx, t.bounded(), wants); err != nil {
			return err
		}
		statements := []string{lock.SQL(wants.A.Relation, wants.A.Mode)}
		if wants.B.Relation != "" {
			statements = append(statements, lock.SQL(wants.B.Relation, wants.B.Mode)+" NOWAIT")
		}
		return execAll(ctx, t, append(statements, pair.sql...))
	}
}
