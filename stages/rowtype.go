package stages

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/steps"
)

// typedAsMade returns the functions of the row type with the privileges that default
// privileges of the current role give a function, once its owner has it.
func (p *planner) typedAsMade(ctx context.Context) ([]catalog.Typed, error) {
	var made []catalog.Typed
	for _, o := range p.Source.Typed {
		if !o.IsRoutine() {
			continue
		}
		have, err := p.DefaultGrants(ctx, "f", p.User, o.Schema)
		if err != nil {
			return nil, err
		}
		given := func(role string) string {
			if role == p.User {
				return o.Owner
			}
			return role
		}
		o.Grants = nil
		for _, g := range have {
			g.Grantor, g.Grantee = given(g.Grantor), given(g.Grantee)
			if !slices.Contains(o.Grants, g) {
				o.Grants = append(o.Grants, g)
			}
		}
		made = append(made, o)
	}
	return made, nil
}

// dropTyped drops the functions of the row type of a table that no description is known
// of. It does nothing if there is no such table.
func dropTyped(ctx context.Context, q catalog.Querier, name catalog.Name) error {
	var oid uint32
	if err := q.QueryRow(ctx, oidOfSQL, name.String()).Scan(&oid); err != nil {
		return fmt.Errorf("look up %s: %w", name, err)
	}
	if oid == 0 {
		return nil
	}
	t, err := catalog.Read(ctx, q, oid)
	if err != nil {
		return err
	}
	return steps.ExecAll(ctx, q, t.DropTypedSQL(name))
}

// callsWait bounds the wait of awaitCalls. The exchange has waited for older snapshots, so
// the calls that it met are young.
const callsWait = 10 * time.Second

// awaitCalls waits, before the functions of the replaced table's row type are dropped,
// until the snapshots that exist now are gone: a statement that began before the exchange
// may be in the middle of such a function. It does not wait for long, because most
// snapshots belong to other statements.
func (e *Env) awaitCalls(ctx context.Context) error {
	if len(e.Source.Typed) == 0 {
		return nil
	}
	e.Log.Debug(awaitingCalls, "job", e.Job.ID, "at_most", callsWait)
	left, err := e.Snapshots().Present(ctx, min(callsWait, e.SnapshotWait))
	if len(left) > 0 {
		e.Log.Warn("functions of the replaced table are dropped while older statements run", "job", e.Job.ID, "holders", left)
	}
	return err
}

const awaitingCalls = "waiting for statements that may call functions of the replaced table"
