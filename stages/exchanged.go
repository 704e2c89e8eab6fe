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
	"github.com/repack-go/repack/strategy"
)

// exchanged is what an exchange must know about the table that it replaces. It is read in
// one round trip, because every session that wants the table waits for it.
type exchanged struct {
	table     *catalog.Table
	reasons   []Reason
	recompile []string // see catalog.Table.RecompileSQL
	pending   error    // ErrPutOff if the log is not empty
	xid       string   // ID of the transaction
	noted     bool     // see notedReads
}

// lookAt reads all of this. It runs before the lock and again under it. Each time, it
// returns an error that ends the exchange: if the table does not exist any more, a
// *DriftError, or strategy.ErrNotCapturing.
func (e *Env) lookAt(ctx context.Context, tx *lock.Tx, oid uint32) (*exchanged, error) {
	x := &exchanged{}
	b := &pgx.Batch{}
	x.table = catalog.Queue(b, oid)
	e.queueChecks(b, &x.reasons, oid)
	catalog.QueueRecompile(b, e.Job.Table(), e.Job.ShadowSchema, &x.recompile)
	b.Queue(currentXIDSQL).QueryRow(func(row pgx.Row) error { return row.Scan(&x.xid) })
	queueNotedReads(b, oid, &x.noted)
	e.Link.QueueEmpty(b, func(empty bool, err error) error {
		var pgErr *pgconn.PgError
		switch {
		case errors.As(err, &pgErr) && pgErr.Code == pgerrcode.QueryCanceled && ctx.Err() == nil:
			// The server's error is left out. Otherwise Transact would try the same
			// again.
			return fmt.Errorf("%w: the log could not be read in time under the lock (%s)", ErrPutOff, pgErr.Message)
		case err == nil && !empty:
			x.pending = fmt.Errorf("changes are pending that were not written through: %w", ErrPutOff)
		}
		return err
	})
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return nil, e.goneOr(err)
	}
	if err := catalog.ReadMatviews(ctx, tx, x.table.Matviews); err != nil {
		return nil, err
	}
	return x, e.checkAgain(ctx, tx, x.table, x.reasons)
}

// followedBy returns link as the exchange leaves it. followed is the ID of the exchange's
// transaction if writes must reach the replaced table at once, because materialized views
// read it or foreign keys lead to it. Otherwise it is empty.
func (x *exchanged) followedBy(link *strategy.Link) (after *strategy.Link, followed string) {
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
