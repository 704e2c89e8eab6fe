// Package matviews rebuilds the materialized views on a table that has been exchanged.
package matviews

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/steps"
)

// A materialized view stays tied to the table that it was created on, and CREATE OR
// REPLACE does not exist for it. So after the exchange of the tables, each materialized
// view is built again in a schema of the job. Then all of them are exchanged as the table
// was. Until then, the old materialized views answer queries. They read the replaced
// table: the source after a swap, the new table after a revert. From the commit of the
// exchange on, writes go through to the replaced table, so a REFRESH by the application
// finds every row.
//
// The successors are created by the queries that the exchange has recorded, because by
// now the queries of the old ones name the replaced table. Everything else is read again.
// The catalog tells what is left to do, so a run that was killed can continue.

// Rebuilder rebuilds the materialized views on the table.
type Rebuilder struct{ *steps.Worker }

// errRefreshed reports that a materialized view was refreshed or altered while its
// successor was being built. The successor may then have older rows.
var errRefreshed = errors.New("materialized views are refreshed or altered all the time")

// Rebuild rebuilds the materialized views that read the replaced table, so that
// they read the one in use. It may be called again.
//
// While they are filled, no session is blocked. Then one transaction takes ACCESS
// EXCLUSIVE on all of them and on the views that read them, and exchanges them. The
// transaction that creates them takes ACCESS EXCLUSIVE on those that another materialized
// view reads.
func (r *Rebuilder) Rebuild(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		left, err := r.left(ctx)
		if err != nil || len(left) == 0 {
			return err
		}
		err = r.rebuild(ctx, left)
		if errors.Is(err, errRefreshed) && attempt < r.Locks.Retries {
			r.Log.Debug("materialized views are built again", "job", r.Job.ID, "reason", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("rebuild materialized views: %w", err)
		}
	}
}

// rebuild builds and exchanges them. It returns errRefreshed if this has to be done
// again.
func (r *Rebuilder) rebuild(ctx context.Context, matviews []catalog.Matview) error {
	versions, err := r.createMatviews(ctx, matviews)
	if err != nil {
		return err
	}
	if err := r.Step(ctx, steps.StepMatviewsCreated); err != nil {
		return err
	}
	built, _ := r.Places()
	for _, m := range matviews {
		began, as := time.Now(), m.Relation.Name.In(built)
		err := r.Write(ctx, func(tx pgx.Tx) error { return steps.ExecAll(ctx, tx, fillMatviewSQL(m, as)) })
		if err != nil {
			return fmt.Errorf("fill the successor of %s: %w", m.Relation.Name, err)
		}
		r.Log.Info("materialized view rebuilt", "job", r.Job.ID, "matview", m.Relation.Name.String(), "populated", m.Populated,
			"took", time.Since(began).Round(time.Millisecond))
		if err := r.Step(ctx, steps.StepMatviewBuilt); err != nil {
			return err
		}
	}
	locked, err := r.exchangeMatviews(ctx, matviews, versions)
	if err != nil {
		return err
	}
	r.Log.Info("materialized views exchanged", "job", r.Job.ID, "matviews", len(matviews), "locked", locked.Round(time.Millisecond))
	return r.Step(ctx, steps.StepMatviewsExchanged)
}

// A REFRESH, with or without CONCURRENTLY, writes the relation's row in pg_class, to
// record that it is populated.
const matviewVersionSQL = `SELECT xmin::text, relispopulated FROM pg_class WHERE oid = $1`

const matviewQuerySQL = `SELECT rtrim(pg_get_viewdef($1::text::regclass), ';')`

// createMatviews creates the successors, without rows, and returns the versions of the old
// ones from before any row is read.
func (r *Rebuilder) createMatviews(ctx context.Context, matviews []catalog.Matview) ([]string, error) {
	versions := make([]string, len(matviews))
	return versions, r.Perform(ctx, r.succession(matviews, versions))
}

// succession is the transaction of createMatviews. It notes in matviews the present
// properties of the old ones.
//
// A query may name another materialized view. During the transaction, this name means the
// successor of that one.
func (r *Rebuilder) succession(matviews []catalog.Matview, versions []string) steps.Transaction {
	built, parked := r.Places()
	actions := []steps.Action{
		steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error {
			if err := catalog.ReadMatviews(ctx, tx, matviews); err != nil {
				return err
			}
			var hidden []string
			for _, m := range matviews {
				if m.Read {
					hidden = append(hidden, m.Relation.Name.String())
				}
			}
			return steps.RoomFor(ctx, tx, hidden...)
		}),
		steps.SendLate(func() []string { return dropSQL(matviews, built) }), // what an earlier run has built
		steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error { return r.LearnMatviews(ctx, tx, built, matviews) }),
	}
	for i := range matviews {
		actions = append(actions, r.createMatview(matviews, i, built, parked)...)
	}
	actions = append(actions,
		steps.SendBounded(func() []string { return unhideSQL(matviews, built, parked) }),
		steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error {
			for i := range matviews { // hideSQL and unhideSQL have changed the version
				m := &matviews[i]
				if err := tx.QueryRow(ctx, matviewVersionSQL, m.OID).Scan(&versions[i], &m.Populated); err != nil {
					return fmt.Errorf("look up materialized view %s: %w", m.Relation.Name, err)
				}
			}
			return nil
		}),
	)
	return steps.Transaction{
		Does: "create the materialized views anew, without rows, to read the new table",
		Locks: func(p *steps.Planner) (locks []steps.Lock) {
			for _, m := range matviews {
				if m.Read {
					locks = append(locks, p.Strong("ACCESS EXCLUSIVE", m.Relation.Name))
				}
			}
			return locks
		},
		Actions: actions,
	}
}

// createMatview creates the successor of one of matviews, and lets the successors of the
// others read it.
func (r *Rebuilder) createMatview(matviews []catalog.Matview, i int, built, parked string) []steps.Action {
	m := &matviews[i]
	as := func() catalog.Name { return m.Relation.Name.In(built) }
	var owners []string // of the others that are filled from it
	opened := steps.Statements(func() []string { return append(letReadSQL(as(), owners), hideSQL(*m, built, parked)...) })
	return append(CreateAs(m, as()),
		steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error {
			var query string
			if err := tx.QueryRow(ctx, matviewQuerySQL, as().String()).Scan(&query); err != nil {
				return fmt.Errorf("read the query of the successor of %s: %w", m.Relation.Name, err)
			}
			if err := r.SameQuery(ctx, tx, *m, built, query); err != nil {
				return err
			}
			return steps.MakeRoom(ctx, tx, as(), m.Relation.Name)
		}),
		steps.Action{
			Run: func(ctx context.Context, tx *lock.Tx) (err error) {
				if owners, err = readers(ctx, tx, *m, matviews); err != nil {
					return err
				}
				return steps.DoAll(ctx, tx, opened())
			},
			SQL: func(ctx context.Context, p *steps.Planner) (list []string, err error) {
				owners, err = readers(ctx, r.Pool, *m, matviews)
				return opened(), err
			},
		},
	)
}

// CreateAs creates the successor of m, without rows, under the name as. Only m's
// owner has privileges on it.
func CreateAs(m *catalog.Matview, as catalog.Name) []steps.Action {
	return []steps.Action{
		steps.SendLate(func() []string { return m.CreateSQL(as) }),
		steps.RevokeAll(catalog.Made{Kind: "TABLE", Name: as.String()}),
		steps.GiveToOwner(as, func() string { return m.Relation.Owner }, nil),
	}
}

const mayReadSQL = `
SELECT   DISTINCT r.name
FROM     unnest($1::text[]) r(name)
WHERE    has_any_column_privilege(r.name, $2::oid, 'SELECT')
ORDER BY r.name`

// readers returns the owners of the others that are filled from m, if they may read m.
func readers(ctx context.Context, q catalog.Querier, m catalog.Matview, matviews []catalog.Matview) ([]string, error) {
	owners := []string{}
	for _, o := range matviews {
		if m.Read && o.Relation.Owner != m.Relation.Owner {
			owners = append(owners, o.Relation.Owner)
		}
	}
	rows, err := q.Query(ctx, mayReadSQL, owners, m.OID)
	if err != nil {
		return nil, fmt.Errorf("ask who may read %s: %w", m.Relation.Name, err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("ask who may read %s: %w", m.Relation.Name, err)
	}
	return names, nil
}

// letReadSQL lets readers read the successor, in order to fill their own. The real grants
// come with the exchange, because a grantor need not have a privilege on a schema of the
// job.
func letReadSQL(as catalog.Name, readers []string) []string {
	var statements []string
	for _, name := range readers {
		statements = append(statements, fmt.Sprintf("GRANT SELECT ON TABLE %s TO %s", as, catalog.Quote(name)))
	}
	return statements
}

// hideSQL puts the successor of m in m's place, if other materialized views read m.
// unhideSQL undoes this for all of them.
func hideSQL(m catalog.Matview, built, parked string) []string {
	if !m.Read {
		return nil
	}
	name := m.Relation.Name
	return []string{catalog.MoveMatviewSQL(name, parked), catalog.MoveMatviewSQL(name.In(built), name.Schema)}
}

func unhideSQL(matviews []catalog.Matview, built, parked string) []string {
	var statements []string
	for _, m := range matviews {
		if name := m.Relation.Name; m.Read {
			statements = append(statements, catalog.MoveMatviewSQL(name, built), catalog.MoveMatviewSQL(name.In(parked), name.Schema))
		}
	}
	return statements
}

// dropSQL drops the materialized views with their names in a schema of the job.
func dropSQL(matviews []catalog.Matview, schema string) []string {
	var statements []string
	for _, m := range slices.Backward(matviews) { // a materialized view before those that it reads
		statements = append(statements, "DROP MATERIALIZED VIEW IF EXISTS "+m.Relation.Name.In(schema).String())
	}
	return statements
}

// fillMatviewSQL fills the successor as a REFRESH by its owner would fill it. The rows
// may depend on search_path and on row-level security.
func fillMatviewSQL(m catalog.Matview, as catalog.Name) []string {
	var statements []string
	if m.Populated {
		statements = []string{
			"SET LOCAL search_path TO DEFAULT",
			"SET LOCAL row_security = on",
			"REFRESH MATERIALIZED VIEW " + as.String(),
			"SET LOCAL row_security = off",
			"SET LOCAL search_path = pg_catalog",
		}
	}
	statements = append(statements, m.FinishSQL(as)...)
	if m.Populated {
		statements = append(statements, "ANALYZE "+as.String())
	}
	return statements
}

// exchangeMatviews puts the successors in place and drops the old ones, unless one of
// these has changed since its successor was built. locked is how long they could not be
// read.
func (r *Rebuilder) exchangeMatviews(ctx context.Context, matviews []catalog.Matview, versions []string) (locked time.Duration, err error) {
	var began time.Time
	err = r.Perform(ctx, r.matviewExchange(matviews, versions, &began))
	return time.Since(began), err
}

// matviewExchange is the transaction of exchangeMatviews. It sets began when it has the
// locks.
func (r *Rebuilder) matviewExchange(matviews []catalog.Matview, versions []string, began *time.Time) steps.Transaction {
	built, parked := r.Places()
	was := make([]*catalog.Table, len(matviews)) // under the locks
	for i, m := range matviews {
		was[i] = m.Relation
	}
	successors := make([]uint32, len(matviews))
	actions := append(lockMatviews(matviews), steps.Unplanned(func(ctx context.Context, tx *lock.Tx) (err error) {
		*began = time.Now()
		for i, m := range matviews {
			if was[i], err = r.matviewAsBuilt(ctx, tx, m, versions[i]); err != nil {
				return err
			}
			if successors[i], err = steps.OIDOf(ctx, tx, was[i].Name.In(built)); err != nil {
				return err
			}
		}
		return nil
	}))
	for i := range matviews {
		actions = append(actions, steps.SendBounded(func() []string { return catalog.ReplaceMatviewSQL(was[i], built, parked) }))
	}
	for i := range matviews {
		actions = append(actions, r.grantMatview(matviews, i, built, func() (*catalog.Table, uint32) { return was[i], successors[i] }))
	}
	return steps.Transaction{
		Does: "exchange the materialized views, or build them again where one was refreshed in between",
		Locks: func(p *steps.Planner) (locks []steps.Lock) {
			for _, m := range matviews {
				locks = append(locks, p.Strong("ACCESS EXCLUSIVE", m.Relation.Name))
			}
			return locks
		},
		Actions: append(actions, steps.SendBounded(func() []string { return dropSQL(matviews, parked) })),
	}
}

// lockMatviews takes ACCESS EXCLUSIVE on them and on the views that read them. A view is
// locked before what it reads. A query may lock the materialized views in any order, so
// the attempts vary their order.
func lockMatviews(matviews []catalog.Matview) []steps.Action {
	locks := func(m catalog.Matview) []string {
		return append(m.Relation.LockDependentsSQL(), catalog.LockMatviewSQL(m.Relation))
	}
	return []steps.Action{
		{
			Run: func(ctx context.Context, tx *lock.Tx) error {
				var relations []string
				for _, m := range matviews {
					if err := tx.SettleBy(ctx, catalog.SettleMatviewSQL(m.Relation)); err != nil {
						return err
					}
					relations = append(relations, m.Relation.Name.String())
				}
				return steps.RoomFor(ctx, tx, relations...)
			},
			SQL: func(context.Context, *steps.Planner) (list []string, err error) {
				for _, m := range matviews {
					list = append(list, lock.SettleBySQL(catalog.SettleMatviewSQL(m.Relation)))
				}
				return list, nil
			},
		},
		{
			Run: func(ctx context.Context, tx *lock.Tx) error {
				var statements []string
				for _, m := range lock.Vary(tx, matviews) {
					statements = append(statements, locks(m)...)
				}
				return tx.LockAll(ctx, statements)
			},
			SQL: func(context.Context, *steps.Planner) (list []string, err error) {
				for _, m := range matviews {
					list = append(list, locks(m)...)
				}
				return list, nil
			},
		},
	}
}

// matviewAsBuilt describes m under its lock. It returns errRefreshed if m has changed
// since its successor was built, except for grants and comments.
func (r *Rebuilder) matviewAsBuilt(ctx context.Context, tx *lock.Tx, m catalog.Matview, version string) (*catalog.Table, error) {
	var now string
	var populated bool
	err := tx.QueryRow(ctx, matviewVersionSQL, m.OID).Scan(&now, &populated)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errRefreshed
	}
	if err != nil {
		return nil, fmt.Errorf("look up materialized view %s: %w", m.Relation.Name, err)
	}
	is, err := catalog.ReadMatview(ctx, tx, m.OID, m.Relation)
	if err != nil {
		return nil, err
	}
	changes, err := catalog.Diff(m.Relation.Structure(), is.Structure())
	if err != nil {
		return nil, err
	}
	if now != version || len(changes) > 0 || !r.Reprints.Knows(is) || m.Relation.Owner != is.Owner || m.Relation.Name != is.Name {
		return nil, errRefreshed
	}
	return is, nil
}

// grantMatview gives the successor its grants, the last thing that it lacks, and compares
// it with the materialized view that it replaces.
func (r *Rebuilder) grantMatview(matviews []catalog.Matview, i int, built string, locked func() (was *catalog.Table, successor uint32)) steps.Action {
	return steps.Action{
		Run: func(ctx context.Context, tx *lock.Tx) error {
			was, successor := locked()
			has, err := catalog.ReadGrants(ctx, tx, successor)
			if err != nil {
				return err
			}
			if err := steps.DoAll(ctx, tx, catalog.GrantsSQL("TABLE "+was.Name.String(), was.Owner, has.Grants, was.Grants)); err != nil {
				return err
			}
			is, err := catalog.ReadMatview(ctx, tx, successor, was)
			if err != nil {
				return err
			}
			differences, err := r.Reprints.Diff(was, is)
			if err == nil && len(differences) > 0 {
				err = &steps.ParityError{Table: was.Name, Differences: differences}
			}
			r.TellReread(was.Name, catalog.Reread(was, is))
			return err
		},
		SQL: func(ctx context.Context, p *steps.Planner) ([]string, error) {
			m := matviews[i]
			has, err := p.DefaultGrants(ctx, "r", m.Relation.Owner, built)
			if err != nil {
				return nil, err
			}
			owners, err := readers(ctx, r.Pool, m, matviews)
			for _, name := range owners {
				has = append(has, catalog.Grant{Grantor: m.Relation.Owner, Grantee: name, Privilege: "SELECT"})
			}
			return catalog.GrantsSQL("TABLE "+m.Relation.Name.String(), m.Relation.Owner, has, m.Relation.Grants), err
		},
	}
}

const matviewThereSQL = `SELECT EXISTS (SELECT FROM pg_class WHERE oid = $1 AND relkind = 'm')`

// left returns those that still read the replaced table. They are exchanged and
// dropped together, so all of them are left or none, except those that the application
// has dropped.
func (r *Rebuilder) left(ctx context.Context) ([]catalog.Matview, error) {
	var left []catalog.Matview
	for _, m := range r.Source.Matviews {
		var there bool
		if err := r.Pool.QueryRow(ctx, matviewThereSQL, m.OID).Scan(&there); err != nil {
			return nil, fmt.Errorf("look for materialized view %s: %w", m.Relation.Name, err)
		}
		if there {
			left = append(left, m)
		}
	}
	return left, nil
}

// Plan plans Rebuild, as if no materialized view had been exchanged yet.
func (r *Rebuilder) Plan() []steps.Transaction {
	matviews := r.Source.Matviews
	versions, began := make([]string, len(matviews)), time.Now()
	list := []steps.Transaction{r.succession(matviews, versions)}
	built, _ := r.Places()
	for _, m := range matviews {
		list = append(list, steps.Transaction{
			Does:    fmt.Sprintf("fill the new materialized view %s and build its indexes", m.Relation.Name),
			Locks:   (*steps.Planner).Reading,
			Actions: []steps.Action{steps.Send(fillMatviewSQL(m, m.Relation.Name.In(built))...)},
		})
	}
	return append(list, r.matviewExchange(matviews, versions, &began))
}

// Leave drops what Rebuild has built and not exchanged, for a revert. The old materialized
// views still read the old table, and follow it into its place. left tells whether there
// are such views.
func (r *Rebuilder) Leave(ctx context.Context) (left bool, err error) {
	matviews, err := r.left(ctx)
	if err != nil || len(matviews) == 0 {
		return false, err
	}
	built, _ := r.Places()
	return true, r.Transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		if err := catalog.ReadMatviews(ctx, tx, matviews); err != nil {
			return err
		}
		return steps.ExecAll(ctx, tx, dropSQL(matviews, built))
	})
}
