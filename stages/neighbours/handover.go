package neighbours

import (
	"context"
	"fmt"
	"slices"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/steps"
)

// HandOver leaves every neighbour joined to one table only. It drops the key that leads to
// or from the copy. It gives the key of the table in use the properties of the application's
// key. It reads from the catalog what there is before and what must be there after. So it
// serves the swap, revert and reset, and may be called again.
//
// It takes ACCESS EXCLUSIVE on the neighbour and the copy, in a transaction for each key. To
// change when a key of the table is checked, it takes ACCESS EXCLUSIVE on the table alone.
func (m *Mover) HandOver(ctx context.Context) error {
	if m.Job.Options.RowByRow == "" {
		return nil
	}
	for {
		if err := m.validateMade(ctx); err != nil {
			return err
		}
		if err := m.perJoint(ctx, steps.StepKeyHandedOver, outgoingFirst, m.handOverSQL); err != nil {
			return err
		}
		list, err := m.joints(ctx, m.Pool)
		if err != nil || !slices.ContainsFunc(list, joint.joined) {
			return err
		}
	}
}

// outgoingFirst puts the keys of the table first. A cascade from a neighbour reaches the
// old table before the table in use, but writers reach them in the opposite order.
func outgoingFirst(list []joint) {
	slices.SortStableFunc(list, func(a, b joint) int {
		switch {
		case a.outgoing == b.outgoing:
			return 0
		case a.outgoing:
			return -1
		default:
			return 1
		}
	})
}

func (m *Mover) handOverSQL(ctx context.Context, j joint) (pairOf, error) {
	switch {
	case j.own == nil || j.main == nil && j.outgoing:
		return m.dropSQL(j), nil
	case j.stale() && j.own == j.other, j.of != nil && j.own == j.other:
		return m.addSQL(ctx, j)
	case j.own == j.main:
		if j.other == nil {
			return pairOf{}, nil
		}
		return m.dropSQL(j), nil
	case j.main == nil:
		return m.addSQL(ctx, j)
	case j.unvalidated(): // it has just been added
		return pairOf{}, nil
	}
	if !j.outgoing {
		p := m.dropSQL(j)
		p.what = "hand over " + j.String()
		p.sql = slices.Concat(m.knownSQL(j), p.sql, m.becomeSQL(j), m.becomePartsSQL(j))
		return p, nil
	}
	if become := m.becomeSQL(j); len(become) > 0 {
		return pairOf{mode: "ACCESS EXCLUSIVE", alone: j.main.Table, sql: become, what: "hand over " + j.String()}, nil
	}
	return m.dropSQL(j), nil
}

// becomeSQL returns the statements that give the key of the table in use, which we have
// made, the properties of the application's key.
func (m *Mover) becomeSQL(j joint) []string {
	var statements []string
	if j.main.Deferrable != j.own.Deferrable || j.main.Deferred != j.own.Deferred {
		statements = append(statements, j.main.AlterSQL(*j.own))
	}
	named := *j.main
	if named.Name != j.own.Name {
		statements = append(statements, j.main.RenameSQL(j.own.Name))
		named.Name = j.own.Name
	}
	if j.main.Comment != j.own.Comment {
		named.Comment = j.own.Comment
		statements = append(statements, named.SetCommentSQL())
	}
	return statements
}

// dropSQL drops the key of or to the copy. If the application has dropped its own key, it
// drops the key that is left. With a key of a neighbour, it also drops the trigger that
// locks the referenced rows.
func (m *Mover) dropSQL(j joint) pairOf {
	p := pairOf{mode: "ACCESS EXCLUSIVE", what: "drop the second of " + j.String()}
	key := j.other
	if key == nil { // the key leads to the table in use, and DROP takes the lock on that table
		key = j.main
	}
	p.sql = []string{key.DropSQL()}
	if !j.outgoing && j.of == nil {
		for _, k := range []*catalog.ForeignKey{j.main, j.other} {
			if k != nil && m.isTemporary(k.Name) {
				p.sql = append(p.sql, fmt.Sprintf("DROP TRIGGER IF EXISTS %s ON %s", catalog.Quote(m.lockTriggerOf(*k)), key.Table))
			}
		}
	}
	return p
}
