package neighbours

import (
	"context"
	"fmt"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/steps"
)

// PlannedKeys says how foreign keys between the table and other tables would be moved: see
// ForeignKeys.
type PlannedKeys struct {
	Keys int         `json:"keys"`
	Way  ForeignKeys `json:"way"`
	Why  string      `json:"why"`
}

// Planned returns how the keys of the source would be moved. If they will be moved one by
// one and that has not begun, rows says when changes will be made row by row.
func (m *Mover) Planned() (keys PlannedKeys, rows registry.RowByRow) {
	way, why := m.wayOfKeys(m.Source)
	if way == ForeignKeysOneByOne && m.Job.Options.RowByRow == "" {
		rows = m.rows(m.Source)
	}
	return PlannedKeys{Keys: neighbourKeys(m.Source), Way: way, Why: why}, rows
}

// plannedJoints returns the keys as they are before the copy is joined to any neighbour.
func (m *Mover) plannedJoints() []joint {
	var list []joint
	for _, key := range m.Source.AllForeignKeys() {
		if !key.SelfReference() {
			list = append(list, joint{outgoing: key.Table == m.Source.Name, main: &key, own: &key})
		}
	}
	return m.inTrees(list, m.Source)
}

// PlanJoin plans what Join has still to do. begun tells that changes are already made row by
// row, so that keys may have been joined.
func (m *Mover) PlanJoin(ctx context.Context, begun bool) (list []steps.Transaction, err error) {
	joints := m.plannedJoints()
	if !begun {
		list = append(list, m.rowByRow(m.Source.Owner, m.Job.Options.RowByRow))
	} else if joints, err = m.joints(ctx, m.Pool); err != nil {
		return nil, err
	}
	for ; ; joints = m.inTrees(withoutPieces(joints), m.Source) {
		added, err := m.planAdded(ctx, joints)
		if err != nil {
			return nil, err
		}
		if len(added) == 0 {
			return list, nil
		}
		list = append(list, added...)
	}
}

// planAdded plans one round of Join: the second keys that can be added, those that must be
// dropped, and the validation of those that are there. It notes in joints what will then be
// there.
func (m *Mover) planAdded(ctx context.Context, joints []joint) (list []steps.Transaction, err error) {
	var validated []joint
	i := -1
	work, err := eachTransaction(joints, func(j joint) (pairOf, error) {
		i++
		pair, err := m.addSQL(ctx, j)
		if err != nil || len(pair.sql) == 0 {
			if j.unvalidated() {
				validated = append(validated, j)
			}
			return pair, err
		}
		if j.own == nil || j.stale() {
			joints[i].other = nil
			return pair, nil
		}
		made := m.madeFor(j)
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
		list = append(list, m.joining(does, x.joint, x.pairOf))
	}
	for _, j := range validated {
		made := *j.other
		j.other.Validated = true
		t := m.Validation(fmt.Sprintf("validate the second key: %s", j), made)
		if j.outgoing { // both tables are ours
			t.Locks = nil
		}
		list = append(list, t)
	}
	return list, nil
}

// madeFor returns the key that is made for a joint before the swap.
func (m *Mover) madeFor(j joint) catalog.ForeignKey {
	made := j.own.On(m.Source.Name, m.Job.ShadowTable())
	if made.Enforced {
		made = made.AtCommit()
	}
	if j.outgoing {
		made.Comment = m.marker()
	} else {
		made.Name, made.Comment = m.temporaryName(made.Name), ""
	}
	return made
}

// PlanHandOver plans HandOver after the swap. It plans nothing for keys that have been handed
// over. after is the mover as it will be then.
func (m *Mover) PlanHandOver(ctx context.Context, after *Mover) ([]steps.Transaction, error) {
	joints, err := m.swappedJoints(ctx)
	if err != nil {
		return nil, err
	}
	outgoingFirst(joints)
	var list []steps.Transaction
	for _, j := range joints {
		for j.other != nil || j.own == nil {
			pair, err := m.handOverSQL(ctx, j)
			if err != nil {
				return nil, err
			}
			list = append(list, after.joining(fmt.Sprintf("hand over %s", j), j, pair))
			if (pair.alone == catalog.Name{}) {
				break
			}
			became := *j.own
			became.Table = j.main.Table
			j.main = &became
		}
	}
	return list, nil
}

// swappedJoints returns the keys as they are, or will be, after the exchange.
func (m *Mover) swappedJoints(ctx context.Context) ([]joint, error) {
	if m.Job.Swapped() {
		return m.joints(ctx, m.Pool)
	}
	list := withoutPieces(m.plannedJoints())
	for i, j := range list {
		main := m.madeFor(j).On(m.Job.ShadowTable(), m.Source.Name)
		main.Validated = true
		other := j.own.On(m.Source.Name, m.Job.OldTable())
		list[i].main, list[i].other, list[i].own = &main, &other, &other
	}
	return m.inTrees(list, m.Source), nil
}

// pairLocks returns the locks of tryJoint that are not on the job's own tables.
func (m *Mover) pairLocks(p *steps.Planner, j joint, pair pairOf) []steps.Lock {
	if (pair.alone != catalog.Name{}) {
		return []steps.Lock{p.Strong(pair.mode, pair.alone)}
	}
	locks := []steps.Lock{p.Strong(pair.mode, j.neighbour())}
	for _, part := range j.parts {
		locks = append(locks, p.Strong(pair.mode, part.Table))
	}
	if j.outgoing {
		for _, partition := range m.Partitions(j.neighbour()) {
			locks = append(locks, p.Strong(pair.mode, partition))
		}
	}
	return locks
}

// joining is the transaction of tryJoint, for a plan. A run leaves it to package lock, which
// tries the locks in either order.
func (m *Mover) joining(does string, j joint, pair pairOf) steps.Transaction {
	wants := m.wantsOf(j, pair)
	return steps.Transaction{
		Does:  does,
		Locks: func(p *steps.Planner) []steps.Lock { return m.pairLocks(p, j, pair) },
		Actions: []steps.Action{
			steps.Settle(func() []string { return settledBefore(wants) }),
			steps.Send(wants.Statements()...),
		},
	}
}
