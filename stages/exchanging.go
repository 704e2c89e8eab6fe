package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/stages/checks"
	"github.com/repack-go/repack/stages/oids"
	"github.com/repack-go/repack/stages/snapshots"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/strategy"
)

// exchanging is what an exchange must know.
type exchanging struct {
	*Env

	out, in   uint32         // OIDs of the table in use, and of the one that takes its place
	table     *catalog.Table // the one in use, as lookAt has read it
	is        *catalog.Table // the one in place, as parity has read it
	reasons   []checks.Reason
	recompile []string       // see catalog.Table.RecompileSQL
	pending   error          // ErrPutOff if the log is not empty
	xid       string         // ID of the transaction
	noted     bool           // see snapshots.QueueNotedReads
	owner     string         // of the table that takes its place
	granted   *catalog.Table // the privileges on the latter, and on its sequences
	views     alter.Views    // those that cannot be replaced
	made      []catalog.View // those that have been created again
	oids      *oids.Rewriting
}

// lookAt reads all that is known from table to noted, in one round trip, because every
// session that wants the table waits for it. It runs before the lock and again under it.
// Each time, it returns an error that ends the exchange: if the table does not exist any
// more, a *steps.DriftError, or strategy.ErrNotCapturing.
func (x *exchanging) lookAt(ctx context.Context, tx *lock.Tx) error {
	x.reasons, x.pending = nil, nil
	like := x.table
	if like == nil {
		like = x.Source
	}
	b := &pgx.Batch{}
	x.table = catalog.Queue(b, x.out, like)
	x.queueChecks(b, &x.reasons, x.out, like)
	catalog.QueueRecompile(b, x.Job.Table(), x.Job.ShadowSchema, &x.recompile)
	b.Queue(steps.CurrentXIDSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&x.xid) })
	snapshots.QueueNotedReads(b, x.out, &x.noted)
	x.Link.QueueEmpty(b, func(empty bool, err error) error {
		var pgErr *pgconn.PgError
		switch {
		case errors.As(err, &pgErr) && pgErr.Code == pgerrcode.QueryCanceled && ctx.Err() == nil:
			// The server's error is left out. Otherwise Transact would try the same
			// again.
			return fmt.Errorf("%w: the log could not be read in time under the lock (%s)", steps.ErrPutOff, pgErr.Message)
		case err == nil && !empty:
			x.pending = fmt.Errorf("changes are pending that were not written through: %w", steps.ErrPutOff)
		}
		return err
	})
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return x.GoneOr(err)
	}
	if err := catalog.Complete(ctx, tx, x.table, like); err != nil {
		return err
	}
	if err := x.checkAgain(ctx, tx, x.table, like, x.reasons); err != nil {
		return err
	}
	return x.lookAtViews(ctx, tx)
}

const ownerSQL = `SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = $1`

// readOwner reads the owner of the shadow. The owner in Source may be another one, because
// each stage begins with a new description of the source.
func (x *exchanging) readOwner(ctx context.Context, tx *lock.Tx) error {
	if err := tx.QueryRow(ctx, ownerSQL, x.in).Scan(&x.owner); err != nil {
		return fmt.Errorf("look up the owner of the shadow: %w", err)
	}
	return nil
}

// readGrants reads the privileges on the table that takes the place, and on the functions of
// its row type.
func (x *exchanging) readGrants(ctx context.Context, tx *lock.Tx) (err error) {
	if x.granted, err = catalog.ReadGrants(ctx, tx, x.in); err != nil || len(x.table.Typed) == 0 {
		return err
	}
	x.granted.Typed, err = catalog.ReadTyped(ctx, tx, x.in)
	return err
}

// follow returns link as the exchange leaves it. followed is the ID of the exchange's
// transaction if writes must reach the replaced table at once, because materialized views
// read it or foreign keys lead to it. Otherwise it is empty.
func (x *exchanging) follow(link *strategy.Link) (after *strategy.Link, followed string) {
	if len(x.table.Matviews) > 0 || link.Rows != "" {
		followed = x.xid
	}
	if !x.noted {
		return link, followed
	}
	mirrored := *link
	mirrored.MirrorSince = x.xid
	return &mirrored, followed
}

// exchanging plans what an exchange would know.
func (p *planner) exchanging(ctx context.Context) (*exchanging, error) {
	x := &exchanging{Env: p.Env, out: p.Job.Source, table: p.Source, xid: unnumbered, oids: p.oids, granted: &catalog.Table{Grants: p.shadow.Grants}}
	for _, s := range p.Source.Sequences {
		if !s.Identity {
			continue
		}
		grants, err := p.DefaultGrants(ctx, "S", p.Source.Owner, p.Source.Name.Schema)
		if err != nil {
			return nil, err
		}
		x.granted.Sequences = append(x.granted.Sequences, catalog.Sequence{Name: s.Name, Grants: grants})
	}
	var err error
	if x.granted.Typed, err = p.typedAsMade(ctx); err != nil {
		return nil, err
	}
	if p.Alteration != nil {
		x.views = p.Alteration.Views
	}
	for _, v := range x.views.Stack.Views {
		grants, err := p.DefaultGrants(ctx, "r", p.User, v.Relation.Name.Schema)
		if err != nil {
			return nil, err
		}
		for i, g := range grants { // the view is given to its owner
			if g.Grantor == p.User {
				grants[i].Grantor = v.Relation.Owner
			}
			if g.Grantee == p.User {
				grants[i].Grantee = v.Relation.Owner
			}
		}
		x.made = append(x.made, catalog.View{Relation: &catalog.Table{Grants: grants}})
	}
	x.recompile, err = p.Source.RecompileSQL(ctx, p.Pool, p.Job.ShadowSchema)
	return x, err
}
