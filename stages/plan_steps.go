package stages

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/strategy"
)

// plans has a function for each stage that returns its steps. The statements come from the
// same functions as in the stage. The tests compare the two.
var plans = map[registry.Stage]func(context.Context, *planner) ([]Step, error){
	registry.PreValidate:    planPreValidate,
	registry.Setup:          planSetup,
	registry.Backfill:       planBackfill,
	registry.SyncSchema:     planSyncSchema,
	registry.PostSyncUpdate: planPostSyncUpdate,
	registry.Swap:           planSwap,
	registry.CleanUp:        planCleanUp,
}

func planPreValidate(ctx context.Context, p *planner) ([]Step, error) {
	s, err := p.record(ctx, "look for what cannot be carried over and for missing privileges", p.reading(), nil)
	return []Step{s}, err
}

func planSetup(ctx context.Context, p *planner) ([]Step, error) {
	s, err := p.record(ctx, "create the registry where it is missing, the shadow and the change log; capture what is written from now on",
		p.stopping(), func(ctx context.Context, t *transcript) error {
			if err := p.createSchemas(ctx, t); err != nil {
				return err
			}
			late := p.Source.Verbatim()
			if !late {
				if err := p.planShadow(ctx, t); err != nil {
					return err
				}
			}
			if err := p.createCapture(ctx, t); err != nil {
				return err
			}
			if err := p.stopWriters(ctx, t.bounded()); err != nil {
				return err
			}
			if late {
				if err := p.planShadow(ctx, t); err != nil {
					return err
				}
			}
			return execAll(ctx, t, p.Strategy.Capture(p.Link).Triggers)
		})
	return []Step{s}, err
}

// planShadow plans createShadow.
func (p *planner) planShadow(ctx context.Context, t *transcript) error {
	shadow := p.Job.ShadowTable()
	if err := execAll(ctx, t, p.shadowSQL()); err != nil {
		return err
	}
	if err := catalog.RevokeAll(ctx, t, catalog.Made{Kind: "TABLE", Name: shadow.String()}); err != nil {
		return err
	}
	if err := execAll(ctx, t, p.identifySQL(shadow)); err != nil || p.mine {
		return err
	}
	return execAll(ctx, t, giveSQL(shadow, p.Source.Owner))
}

func planBackfill(ctx context.Context, p *planner) ([]Step, error) {
	does, locks := fmt.Sprintf("copy the rows, range of blocks by range of blocks, %d at a time", p.Jobs), p.reading()
	if p.Strategy.KeyFirst() {
		does += ", locking those of a range FOR SHARE and skipping locked ones"
		locks = []Lock{p.lock("ROW SHARE", p.Source.Name)}
	}
	statements := []string{readRangesSQL, p.Strategy.CopySQL(p.Link)}
	piped, err := p.piped(ctx)
	if err != nil {
		return nil, err
	}
	if p.OrderBy != "" {
		order, err := p.order(ctx)
		if err != nil {
			return nil, err
		}
		does = fmt.Sprintf("copy the rows with one statement, in the order of %s; interrupted, it begins again", p.OrderBy)
		statements = append(p.sortSQL(), p.Link.CopyOrderedSQL(order.SQL))
	}
	if piped {
		does += ", through this process; the first range is shown"
		out, in := p.Link.PipeSQL(0, firstChunkBlocks)
		statements = []string{readRangesSQL, out, in}
	}
	s, err := p.record(ctx, does, locks, sending(statements))
	return []Step{s}, err
}

func planSyncSchema(ctx context.Context, p *planner) ([]Step, error) {
	var r steps
	if p.Strategy.KeyFirst() {
		r.add(p.record(ctx, "log changes instead of writing them through", p.stopping(), func(ctx context.Context, t *transcript) error {
			if err := p.stopWriters(ctx, t.bounded()); err != nil {
				return err
			}
			return execAll(ctx, t, p.Link.LogCapture().SQL())
		}))
	}
	shadow, removes := p.shadow, "take rows that have changed out of the shadow"
	if p.Strategy.KeyFirst() {
		shadow, removes = p.withoutKey(), removes+", and drop its key, which is built anew"
	}
	r.add(p.record(ctx, removes, p.reading(), func(ctx context.Context, t *transcript) error {
		if _, err := p.Link.RemoveLogged(ctx, t); err != nil {
			return err
		}
		return execAll(ctx, t, p.dropKeySQL())
	}))
	lists, err := p.builds().Plan(ctx, p.Pool, missingIndexes(p.Source, shadow))
	if err != nil {
		return nil, err
	}
	var build []string
	for _, b := range slices.Concat(lists...) {
		build = slices.Concat(build, p.buildSettings(b), indexSQL(b.Index, p.Job.ShadowTable()))
	}
	if len(lists) > 0 {
		r.add(p.record(ctx, fmt.Sprintf("build indexes on the shadow, what takes longest first, %d at a time", p.Jobs), nil, sending(build)))
	}
	r.add(p.record(ctx, "give the shadow its constraints and statistics objects", nil, sending(slices.Concat(
		p.constraintsSQL(shadow), p.marksSQL(p.Job.ShadowTable()), p.statisticsSQL(shadow)))))
	return r.list, r.err
}

// withoutKey returns the shadow as it is after its key has been dropped.
func (p *planner) withoutKey() *catalog.Table {
	shadow := *p.shadow
	key, _ := shadow.Index(p.Job.KeyIndex)
	shadow.Indexes = slices.DeleteFunc(slices.Clone(shadow.Indexes), func(i catalog.Index) bool { return i.Name == key.Name })
	shadow.Constraints = slices.DeleteFunc(slices.Clone(shadow.Constraints), func(c catalog.Constraint) bool { return c.Name == key.Constraint })
	return &shadow
}

func planPostSyncUpdate(ctx context.Context, p *planner) ([]Step, error) {
	var r steps
	r.add(p.replayStep(ctx, "replay the change log, batch by batch, until little is left", false))
	r.add(p.record(ctx, "vacuum and analyse the shadow", nil, sending(p.vacuumSQL(false))))
	if p.Verify != registry.VerifyOff {
		r.add(p.record(ctx, fmt.Sprintf("compare shadow and table (%s), and end if they differ", p.Verify), p.reading(), nil))
	}
	return r.list, r.err
}

func (p *planner) replayStep(ctx context.Context, does string, concurrent bool) (Step, error) {
	locks := p.reading()
	if concurrent {
		locks = []Lock{p.lock("ROW SHARE", p.Source.Name)}
	}
	return p.record(ctx, does, locks, func(ctx context.Context, t *transcript) error {
		_, err := p.Link.ReplayAll(ctx, t, concurrent)
		return err
	})
}

func planSwap(ctx context.Context, p *planner) ([]Step, error) {
	var r steps
	if !p.Job.Swapped() {
		if !p.concurrent() {
			r.add(p.replayStep(ctx, "replay what has been changed since", false))
			r.add(p.record(ctx, "replay the last changes and write through from now on; before that, where the log has become long, begin a new one under the same lock", p.stopping(), p.switchOver))
		}
		r.add(p.replayStep(ctx, fmt.Sprintf("wait for transactions with older snapshots, at most %s, and replay what they have changed, "+
			"locking its rows FOR SHARE and skipping locked ones", p.SnapshotWait), true))
		p.planJoin(ctx, &r)
		r.add(p.record(ctx, "exchange the tables, or go back to the replay where changes have been logged in between"+p.checked(), p.exchangeLocks(), p.exchange))
	}
	if err := p.planHandOver(ctx, &r); err != nil {
		return nil, err
	}
	keys := p.moving(p.Source).AllForeignKeys()
	if p.Source.Partition != nil {
		keys = append(keys, p.Source.Partition.ForeignKeys...)
	}
	for _, key := range keys {
		if !key.Validated || !key.Enforced || key.ValidAbove {
			continue
		}
		locks := []Lock{p.settling(key.Table)}
		if !key.SelfReference() && key.Referenced == p.Source.Name {
			locks = append(locks, p.lock("ROW SHARE", key.Referenced))
		}
		r.add(p.record(ctx, fmt.Sprintf("validate foreign key %s of %s", catalog.Quote(key.Name), key.Table), locks,
			func(ctx context.Context, t *transcript) error {
				if err := t.bounded().Settle(ctx, key.Table.String()); err != nil {
					return err
				}
				return execAll(ctx, t, []string{key.ValidateSQL()})
			}))
	}
	p.planMatviews(ctx, &r)
	return r.list, r.err
}

// planMatviews plans rebuildMatviews, as if no view had been exchanged yet.
func (p *planner) planMatviews(ctx context.Context, r *steps) {
	matviews := p.Source.Matviews
	if len(matviews) == 0 {
		return
	}
	built, parked := p.Job.ShadowSchema, p.Job.OldSchema
	var hidden, all []Lock
	for _, m := range matviews {
		l := p.strong("ACCESS EXCLUSIVE", m.Relation.Name)
		if all = append(all, l); m.Read {
			hidden = append(hidden, l)
		}
	}
	r.add(p.record(ctx, "create the materialized views anew, without rows, to read the new table", hidden, func(ctx context.Context, t *transcript) error {
		if err := execAll(ctx, t, dropMatviewsSQL(matviews, built)); err != nil {
			return err
		}
		for _, m := range matviews {
			as := m.Relation.Name.In(built)
			if err := execAll(ctx, t, m.CreateSQL(as)); err != nil {
				return err
			}
			if err := catalog.RevokeAll(ctx, t, catalog.Made{Kind: "TABLE", Name: as.String()}); err != nil {
				return err
			}
			if m.Relation.Owner != p.user {
				if err := execAll(ctx, t, giveSQL(as, m.Relation.Owner)); err != nil {
					return err
				}
			}
			names, err := readers(ctx, p.Pool, m, matviews)
			if err != nil {
				return err
			}
			if err := execAll(ctx, t, append(letReadSQL(as, names), hideSQL(m, built, parked)...)); err != nil {
				return err
			}
		}
		return execAll(ctx, t, unhideSQL(matviews, built, parked))
	}))
	for _, m := range matviews {
		r.add(p.record(ctx, fmt.Sprintf("fill the new materialized view %s and build its indexes", m.Relation.Name), p.reading(),
			sending(fillMatviewSQL(m, m.Relation.Name.In(built)))))
	}
	r.add(p.record(ctx, "exchange the materialized views, or build them again where one was refreshed in between", all, func(ctx context.Context, t *transcript) error {
		if err := lockMatviews(ctx, t.bounded(), matviews); err != nil {
			return err
		}
		var grants []string
		for _, m := range matviews {
			if err := execAll(ctx, t, catalog.ReplaceMatviewSQL(m.Relation, built, parked)); err != nil {
				return err
			}
			have, err := defaultGrants(ctx, p.Pool, "r", m.Relation.Owner, built)
			if err != nil {
				return err
			}
			names, err := readers(ctx, p.Pool, m, matviews)
			if err != nil {
				return err
			}
			for _, name := range names {
				have = append(have, catalog.Grant{Grantor: m.Relation.Owner, Grantee: name, Privilege: "SELECT"})
			}
			grants = append(grants, catalog.GrantsSQL("TABLE "+m.Relation.Name.String(), m.Relation.Owner, have, m.Relation.Grants)...)
		}
		return execAll(ctx, t, append(grants, dropMatviewsSQL(matviews, parked)...))
	}))
	r.add(p.record(ctx, "log changes from now on, instead of writing them through", p.stopping(), func(ctx context.Context, t *transcript) error {
		if err := p.stopWriters(ctx, t.bounded()); err != nil {
			return err
		}
		return execAll(ctx, t, p.reverse().LogCapture().SQL())
	}))
}

// checked names the foreign keys for which the server checks every row in the exchange.
func (p *planner) checked() string {
	if p.Source.Partition == nil {
		return ""
	}
	keys := names(p.Source.Partition.ForeignKeys, func(k catalog.ForeignKey) string { return when(k.Enforced, catalog.Quote(k.Name)) })
	if len(keys) == 0 {
		return ""
	}
	return "; every row is checked meanwhile by foreign key " + strings.Join(keys, ", ")
}

func (p *planner) switchOver(ctx context.Context, t *transcript) error {
	if err := p.stopWriters(ctx, t.bounded()); err != nil {
		return err
	}
	if err := p.drainLocked(ctx, t.bounded()); err != nil {
		return err
	}
	return execAll(ctx, t, p.Link.WriteThrough(unnumbered).SQL())
}

// exchange plans Env.exchange.
func (p *planner) exchange(ctx context.Context, t *transcript) error {
	source, tx := p.Source, t.bounded()
	for _, table := range append(slices.Clone(p.oids.others), source.Name) {
		if err := tx.Settle(ctx, table.String()); err != nil {
			return err
		}
	}
	if err := settleNeighbours(ctx, tx, p.moving(source)); err != nil {
		return err
	}
	if err := lockAll(ctx, tx, p.moving(source)); err != nil {
		return err
	}
	if err := p.oids.lock(ctx, tx); err != nil {
		return err
	}
	grants, err := p.grantsSQL(ctx)
	if err != nil {
		return err
	}
	recompile, err := source.RecompileSQL(ctx, p.Pool, p.Job.ShadowSchema)
	if err != nil {
		return err
	}
	return execAll(ctx, t, slices.Concat(dropKeysSQL(p.moving(source)),
		source.DetachSQL(), p.retireRowByRowSQL(source), retireSQL(source, p.Job.OldTable()), source.BoundSQL(p.Job.OldTable(), true), p.dressSQL(source), grants,
		source.AttachSQL(), installSQL(p.moving(source), p.Job.OldTable()), followSQL(p.reverse(), p.followed()), recompile,
		p.oids.sql(func(changing) string { return unnumbered })))
}

// grantsSQL plans Env.grant. It starts from the grants that default privileges give the
// identity sequences.
func (p *planner) grantsSQL(ctx context.Context) ([]string, error) {
	statements := catalog.GrantsSQL("TABLE "+p.Source.Name.String(), p.Source.Owner, p.shadow.Grants, p.Source.Grants)
	for _, s := range p.Source.Sequences {
		if !s.Identity {
			continue
		}
		have, err := defaultGrants(ctx, p.Pool, "S", p.Source.Owner, p.Source.Name.Schema)
		if err != nil {
			return nil, err
		}
		statements = append(statements, catalog.GrantsSQL("SEQUENCE "+s.Name.String(), p.Source.Owner, have, s.Grants)...)
	}
	return statements, nil
}

// followed stands for the transaction ID that followedBy returns.
func (p *planner) followed() string {
	if len(p.Source.Matviews) == 0 {
		return ""
	}
	return unnumbered
}

// reverse returns the link from the table in use to the old table.
func (p *planner) reverse() *strategy.Link {
	if p.Job.Swapped() {
		return p.Link
	}
	link := *p.Link
	link.Rows = p.Job.Options.RowByRow
	return p.beforeKeys(link.Reverse(p.Job.Table(), p.Job.OldTable()))
}

func planCleanUp(ctx context.Context, p *planner) ([]Step, error) {
	var r steps
	keep, does := "", "drop the old table and every artefact"
	if p.Job.Options.KeepOld {
		keep, does = p.Job.OldSchema, "drop every artefact but the old table"
	}
	release := func(ctx context.Context, t *transcript) error {
		tx, table := t.bounded(), p.Source.Name.String()
		if err := tx.Settle(ctx, table); err != nil {
			return err
		}
		if err := tx.Lock(ctx, table, "ACCESS EXCLUSIVE"); err != nil {
			return err
		}
		if keep != "" {
			after := *p.Env
			after.Link = p.reverse()
			if err := after.drainLocked(ctx, tx); err != nil {
				return err
			}
		}
		return execAll(ctx, t, strategy.DropTriggersSQL(p.Source.Name))
	}
	if p.Job.State != registry.Finishing {
		r.add(p.record(ctx, "end the capture", []Lock{p.strong("ACCESS EXCLUSIVE", p.Source.Name)}, release))
	}
	r.add(p.record(ctx, does, nil, func(ctx context.Context, t *transcript) error {
		return p.dropArtefacts(ctx, t, keep, p.disposeSQL()...)
	}))
	return r.list, r.err
}

// steps collects steps up to the first error.
type steps struct {
	list []Step
	err  error
}

func (r *steps) add(s Step, err error) {
	if r.err == nil {
		r.list, r.err = append(r.list, s), err
	}
}
