package neighbours

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/stages/steps"
	"github.com/repack-go/repack/strategy"
)

// Join makes every change apply row by row, and joins every neighbour to the copy
// by a valid key. The copy must be in step. It may be called again.
//
// It takes these locks:
//   - SHARE ROW EXCLUSIVE on the table in use, once, to stop writers;
//   - for each key, in a transaction of its own, SHARE ROW EXCLUSIVE on the neighbour and
//     the copy;
//   - SHARE UPDATE EXCLUSIVE on the table of the key, while the key is validated.
func (m *Mover) Join(ctx context.Context) error {
	if m.Job.Options.RowByRow == "" {
		if err := m.beginRowByRow(ctx); err != nil {
			return err
		}
		if err := m.Step(ctx, steps.StepRowByRow); err != nil {
			return err
		}
	}
	for {
		if err := m.perJoint(ctx, steps.StepKeyAdded, func([]joint) {}, m.addSQL); err != nil {
			return err
		}
		if err := m.validateMade(ctx); err != nil {
			return err
		}
		list, err := m.joints(ctx, m.Pool)
		if err != nil || !slices.ContainsFunc(list, joint.unadopted) {
			return err
		}
	}
}

const mayUseSQL = `
SELECT NOT EXISTS (
    SELECT FROM pg_namespace n
    WHERE  n.nspname = ANY ($1::text[]) AND NOT has_schema_privilege($2::name, n.oid, 'USAGE'))`

// letInSQL lets owner use the job's schemas. The server needs this when it checks foreign
// keys: it looks for the referenced rows as the owner of their table.
func (m *Mover) letInSQL(owner string) string {
	return fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s", catalog.QuoteAll([]string{m.Job.ShadowSchema, m.Job.OldSchema}), catalog.Quote(owner))
}

// letOwnerIn lets owner use the job's schemas.
func (m *Mover) letOwnerIn(owner func() string) steps.Action {
	return steps.Action{
		Run: func(ctx context.Context, tx *lock.Tx) error { return m.tryToLetIn(ctx, tx, owner()) },
		SQL: func(_ context.Context, p *steps.Planner) ([]string, error) {
			if owner() == p.User {
				return nil, nil
			}
			return []string{m.letInSQL(owner())}, nil
		},
	}
}

func (m *Mover) tryToLetIn(ctx context.Context, tx pgx.Tx, owner string) error {
	may := func() (ok bool, err error) {
		if err := tx.QueryRow(ctx, mayUseSQL, []string{m.Job.ShadowSchema, m.Job.OldSchema}, owner).Scan(&ok); err != nil {
			return false, fmt.Errorf("look at privileges of %q: %w", owner, err)
		}
		return ok, nil
	}
	if ok, err := may(); err != nil || ok {
		return err
	}
	if err := steps.ExecAll(ctx, tx, []string{m.letInSQL(owner)}); err != nil {
		return err
	}
	if ok, err := may(); err != nil || ok {
		return err
	}
	// GRANT has only warned that it granted nothing.
	return fmt.Errorf("foreign keys cannot be moved one by one, nothing has been changed: have an administrator run %s; "+
		"or run again with --foreign-keys %s", m.letInSQL(owner), ForeignKeysTogether)
}

// beginRowByRow switches the capture to row-by-row changes, when nothing is pending. All
// transactions that have written before have written through, and no snapshot is older than
// the copy.
func (m *Mover) beginRowByRow(ctx context.Context) error {
	err := m.ChangeJob(ctx, m.Locks, func(ctx context.Context, tx *lock.Tx, job *steps.JobRow) error {
		now, err := catalog.Read(ctx, tx, m.InUse())
		if err != nil {
			return m.GoneOr(err)
		}
		job.Options.RowByRow = m.rows(now)
		return m.rowByRow(now.Owner, job.Options.RowByRow).Do(ctx, tx)
	})
	if err == nil {
		m.SetLink(m.Link.Key)
	}
	return err
}

// rows says when changes are made row by row. After the swap, this may end without another
// exchange.
func (m *Mover) rows(t *catalog.Table) registry.RowByRow {
	if !m.Job.Swapped() && strategy.MayBeLate(t) {
		return registry.AfterKeys
	}
	return registry.BeforeKeys
}

// rowByRow is the transaction of beginRowByRow.
func (m *Mover) rowByRow(owner string, rows registry.RowByRow) steps.Transaction {
	link := *m.Link
	link.Rows = rows
	return steps.Transaction{
		Does:  "make every change to the copy as well, row by row, from now on",
		Locks: (*steps.Planner).Stopping,
		Actions: slices.Concat(
			[]steps.Action{m.letOwnerIn(func() string { return owner })},
			m.StopWriters(),
			[]steps.Action{
				steps.Unplanned(m.NothingPending),
				steps.Send(append(link.RowByRow().SQL(), m.IdentitySQL(false)...)...),
				steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error { return m.SameTables(ctx, tx) }),
			},
		),
	}
}

// IdentitySQL makes the GENERATED ALWAYS identity columns of the old table writable, or, if
// always is set, makes them GENERATED ALWAYS again. The shadow has no identity columns
// before the swap.
func (m *Mover) IdentitySQL(always bool) []string {
	if !m.Job.Swapped() {
		return nil
	}
	return identitySQL(m.Source, m.Job.OldTable(), always)
}

func identitySQL(t *catalog.Table, on catalog.Name, always bool) []string {
	generated := "BY DEFAULT"
	if always {
		generated = "ALWAYS"
	}
	var statements []string
	for _, c := range t.Columns {
		if c.Identity == "a" {
			statements = append(statements, fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s SET GENERATED %s", on, catalog.Quote(c.Name), generated))
		}
	}
	return statements
}

// pairOf is the work for one key. If sql is empty, there is nothing to do.
type pairOf struct {
	mode string // of both locks
	sql  []string
	// alone is set if only the table of the key must be locked, and not the neighbour too.
	alone catalog.Name
	what  string
}

// addSQL joins a neighbour to the copy. If the application has dropped its key, it removes
// the key that is left of it.
func (m *Mover) addSQL(ctx context.Context, j joint) (pairOf, error) {
	switch {
	case j.own == nil || j.main == nil && j.outgoing:
		return m.dropSQL(j), nil
	case j.stale():
		return m.dropSQL(j.withoutOwn()), nil
	case j.joined() || j.waits:
		return pairOf{}, nil
	}
	to := m.Link.To
	if j.own == j.other { // the table in use has no key yet
		to = m.Link.From
	}
	p := pairOf{mode: "SHARE ROW EXCLUSIVE", what: "add the second of " + j.String()}
	made := *j.own
	if made.Enforced {
		made = made.AtCommit()
	}
	if j.outgoing {
		made.Comment = m.marker()
		t, err := catalog.Read(ctx, m.Pool, m.InUse())
		if err != nil {
			return p, err
		}
		p.sql = t.AddKeyOnSQL(made, to)
		return p, nil
	}
	made.Referenced, made.Name, made.Comment = to, m.temporaryName(j.own.Name), ""
	switch p.sql = []string{made.AddSQL()}; {
	case j.of != nil:
		return p, nil
	case j.partitioned():
		if p = m.adoptSQL(j, made); len(p.sql) == 0 {
			return p, nil
		}
	}
	if made.Enforced && !made.Period {
		p.sql = append(p.sql, m.Link.LockReferredSQL(*j.own, m.lockFunction(*j.own), m.lockTriggerOf(made))...)
	}
	return p, nil
}

// lockTrigger names the trigger that belongs to the neighbour's key with the temporary name.
func lockTrigger(temporary string) string {
	name := "00_" + temporary
	for name = name[:min(len(name), maxName)]; !utf8.ValidString(name); {
		name = name[:len(name)-1]
	}
	return name
}

const lockFunctionPrefix = "repack_refer_"

func (m *Mover) lockFunction(key catalog.ForeignKey) catalog.Name {
	hash := sha256.Sum256([]byte(key.Table.String() + " " + key.Name))
	return catalog.Name{Schema: m.Job.ShadowSchema, Name: fmt.Sprintf("%s%x", lockFunctionPrefix, hash[:8])}
}

const lockFunctionsSQL = `
SELECT p.proname::text
FROM   pg_proc p
JOIN   pg_namespace n ON n.oid = p.pronamespace
WHERE  n.nspname = $1 AND starts_with(p.proname, $2)
ORDER  BY 1`

// DropLockFunctions drops the functions of LockReferredSQL, whose triggers are gone.
func (m *Mover) DropLockFunctions() steps.Action {
	dropsSQL := func(names []string) (statements []string) {
		for _, name := range names {
			statements = append(statements, steps.DropSQL("FUNCTION", catalog.Name{Schema: m.Job.ShadowSchema, Name: name}.String()+"()"))
		}
		return statements
	}
	return steps.Action{
		Run: func(ctx context.Context, tx *lock.Tx) error {
			names, err := m.lockFunctions(ctx, tx)
			if err != nil {
				return err
			}
			return steps.ExecAll(ctx, tx, dropsSQL(names))
		},
		SQL: func(ctx context.Context, p *steps.Planner) ([]string, error) {
			made, err := m.lockFunctions(ctx, m.Pool) // of keys that have been dropped, too
			if err != nil || p.Exchanged {
				return dropsSQL(made), err
			}
			for _, j := range withoutPieces(m.plannedJoints()) {
				if !j.outgoing && j.own.Enforced && !j.own.Period {
					made = append(made, m.lockFunction(*j.own).Name)
				}
			}
			slices.Sort(made)
			return dropsSQL(slices.Compact(made)), nil
		},
	}
}

// lockFunctions lists the functions of LockReferredSQL.
func (m *Mover) lockFunctions(ctx context.Context, q catalog.Querier) ([]string, error) {
	rows, err := q.Query(ctx, lockFunctionsSQL, m.Job.ShadowSchema, lockFunctionPrefix)
	if err != nil {
		return nil, fmt.Errorf("look for functions of foreign keys: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for functions of foreign keys: %w", err)
	}
	return names, nil
}

const (
	// roundTakes is about how long a round takes, and leastTry how long a key is tried in it
	// at least, before the next key is tried.
	roundTakes = 2 * time.Second
	leastTry   = 150 * time.Millisecond
	// patience is how long perJoint continues without having moved any key. No session waits
	// behind us in this time, and everything else continues.
	patience = 15 * time.Minute
	// roundPause is the pause when the holders of a lock will probably not release it soon.
	roundPause = 2 * time.Second
)

// waits says how long an attempt waits for its first lock, round after round. Mostly the
// wait is so short that applications hardly notice it.
var waits = []time.Duration{
	8 * time.Millisecond, 25 * time.Millisecond, 25 * time.Millisecond, 60 * time.Millisecond,
	8 * time.Millisecond, 25 * time.Millisecond, 25 * time.Millisecond, 150 * time.Millisecond,
}

// perJoint does for each key, one by one, what the state of the key requires. If the locks
// for a key are not acquired, it tries that key again after the others. It ends when no key
// requires anything. It returns *lock.TimeoutError if it has moved no key for the time
// patience.
func (m *Mover) perJoint(ctx context.Context, step string, arrange func([]joint), state func(context.Context, joint) (pairOf, error)) error {
	return m.WithConn(ctx, func(conn *pgxpool.Conn) error {
		policy := m.Locks
		policy.Held = m.NoteLocked
		pairs, err := lock.NewPairs(ctx, conn, policy)
		if err != nil {
			return err
		}
		for last, round := time.Now(), 0; ; round++ {
			list, err := m.joints(ctx, m.Pool)
			if err != nil {
				return err
			}
			arrange(list)
			had, denied, err := m.tryJoints(ctx, conn, pairs, list, state, step, waits[round%len(waits)])
			if err != nil {
				return err
			}
			if had > 0 {
				last = time.Now()
				continue // the work done may make more work necessary
			}
			if denied == nil {
				return nil
			}
			m.Log.Warn("keys of neighbours have still to be moved", "job", m.Job.ID, "reason", denied)
			if time.Since(last) > patience {
				return denied
			}
			if !errors.Is(denied, lock.ErrHeld) {
				continue
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(roundPause):
			}
		}
	})
}

// tryJoints makes one round: it tries each key once.
func (m *Mover) tryJoints(ctx context.Context, conn *pgxpool.Conn, pairs *lock.Pairs, list []joint,
	state func(context.Context, joint) (pairOf, error), step string, wait time.Duration,
) (had int, denied, err error) {
	transactions, err := eachTransaction(list, func(j joint) (pairOf, error) { return state(ctx, j) })
	if err != nil {
		return had, denied, err
	}
	long := max(roundTakes/time.Duration(max(len(transactions), 1)), leastTry)
	for _, x := range transactions {
		err = m.tryJoint(ctx, conn, pairs, x.joint, x.pairOf, wait, long)
		switch {
		case err == nil:
			had++
			if err := m.Step(ctx, step); err != nil {
				return had, denied, err
			}
		case lock.Denied(err) || steps.IsTimeout(err) || keyGone(err) || nameTaken(err):
			denied = err
		default:
			return had, denied, err
		}
	}
	return had, denied, nil
}

// keyWork is the work of one transaction for a key, or for several of the same partition.
type keyWork struct {
	joint
	pairOf
	keys []string
}

// eachTransaction returns what there is to do for the keys.
func eachTransaction(list []joint, state func(joint) (pairOf, error)) (work []keyWork, err error) {
	for _, j := range list {
		p, err := state(j)
		if err != nil {
			return nil, err
		}
		if len(p.sql) == 0 {
			continue
		}
		if n := slices.IndexFunc(work, func(x keyWork) bool { return x.mode == p.mode && sameTransaction(x.joint, j) }); n >= 0 {
			work[n].sql, work[n].keys = append(work[n].sql, p.sql...), append(work[n].keys, j.String())
			continue
		}
		work = append(work, keyWork{j, p, []string{j.String()}})
	}
	return work, nil
}

// keyGone reports whether a key, or its table, has been dropped since the keys were read. A
// partition that has been added has the same effect: see catalog.KnownSQL.
func keyGone(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == pgerrcode.UndefinedTable || pgErr.Code == pgerrcode.UndefinedObject)
}

// nameTaken reports whether another key has the name that ours would get. That key is
// dropped, or gets another name, when it is handed over.
func nameTaken(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == pgerrcode.DuplicateObject
}

// wantsOf returns the locks of p. A partitioned neighbour is locked with its partitions.
func (m *Mover) wantsOf(j joint, p pairOf) lock.Pair {
	pair := lock.Pair{What: p.what, SQL: p.sql}
	if (p.alone != catalog.Name{}) {
		pair.A = lock.Want{Relation: "ONLY " + p.alone.String(), Mode: p.mode}
		return pair
	}
	pair.A = lock.Want{Relation: j.neighbour().String(), Mode: p.mode}
	if !j.outgoing && !j.partitioned() {
		pair.A.Relation = "ONLY " + pair.A.Relation
	}
	pair.Also = j.treeLocks(p.mode)
	copied := m.Link.To
	for _, key := range []*catalog.ForeignKey{j.main, j.other} { // the table that the key to be dropped belongs or leads to
		if j.own == nil && key != nil {
			copied = key.Referenced
			if j.outgoing {
				copied = key.Table
			}
		}
	}
	pair.B = lock.Want{Relation: "ONLY " + copied.String(), Mode: p.mode}
	return pair
}

func (m *Mover) tryJoint(ctx context.Context, conn *pgxpool.Conn, pairs *lock.Pairs, j joint, p pairOf, wait, long time.Duration) error {
	if err := m.StillHeld(ctx); err != nil {
		return err
	}
	pair := m.wantsOf(j, p)
	pair.Before = func(ctx context.Context, tx pgx.Tx) error {
		return m.Registry.Fence(ctx, tx, m.Job.ID, m.Runner.Claim)
	}
	// The server cancels an autovacuum only for a session that waits for
	// deadlock_timeout. The waits of a Pair are shorter, so Settle comes first.
	settled := m.Locks
	settled.Retries, settled.Held = 0, nil
	err := lock.Transact(ctx, conn, settled, pair.A.Relation, nil, func(ctx context.Context, tx *lock.Tx) error {
		return steps.Do(ctx, tx, steps.Settle(func() []string { return settledBefore(pair) }))
	})
	if err != nil {
		return err
	}
	return pairs.Try(ctx, conn, pair, wait, long)
}

// validateMade validates the keys that we have made, if the application's own key is valid.
// The keys of the copy come first, then the keys of neighbours; of both, the smallest
// neighbour comes first.
func (m *Mover) validateMade(ctx context.Context) error {
	list, err := m.joints(ctx, m.Pool)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(j joint) bool { return !j.unvalidated() })
	if err := m.smallestFirst(ctx, list); err != nil {
		return err
	}
	for _, j := range list {
		err := m.validate(ctx, *j.made())
		if keyGone(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("validate the second of %s: %w", j, err)
		}
		if err := m.Step(ctx, steps.StepKeyValidated); err != nil {
			return err
		}
	}
	return nil
}

const pagesSQL = `
SELECT   coalesce((SELECT relpages FROM pg_class WHERE oid = to_regclass(t.name)::oid), 0)
FROM     unnest($1::text[]) WITH ORDINALITY t (name, n)
ORDER BY t.n`

func (m *Mover) smallestFirst(ctx context.Context, list []joint) error {
	tables := make([]string, len(list))
	for i, j := range list {
		tables[i] = j.neighbour().String()
	}
	rows, err := m.Pool.Query(ctx, pagesSQL, tables)
	if err != nil {
		return fmt.Errorf("look at the sizes of neighbours: %w", err)
	}
	pages, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		return fmt.Errorf("look at the sizes of neighbours: %w", err)
	}
	size := map[string]int32{}
	for i, table := range tables {
		size[table] = pages[i]
	}
	slices.SortStableFunc(list, func(a, b joint) int {
		return int(size[a.neighbour().String()]) - int(size[b.neighbour().String()])
	})
	outgoingFirst(list)
	return nil
}

// AllJoined makes sure, under the lock of the exchange, that no key has been added or
// changed since the neighbours were joined.
func (m *Mover) AllJoined(ctx context.Context, tx *lock.Tx) error {
	if m.Job.Options.RowByRow == "" {
		return nil
	}
	tables, err := catalog.JoiningKeysOnly(ctx, tx, m.InUse(), m.Copied())
	if err != nil {
		return err
	}
	for _, j := range m.pairs(tables[0], tables[1]) {
		if !j.joined() || j.unvalidated() {
			return fmt.Errorf("%s has changed: %w", j, steps.ErrPutOff)
		}
	}
	return nil
}
