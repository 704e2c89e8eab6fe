package stages

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/strategy"
)

// exchange is the swap itself, in one transaction. What it gives to the new
// table is read under the lock, so that nothing changed during the job is lost.
func (e *Env) exchange(ctx context.Context) error {
	var job *registry.Job
	var source *catalog.Table
	err := e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		err := e.makeRoom(ctx, tx, e.Job.ShadowTable(), e.Job.Table())
		if err != nil {
			return err
		}
		if source, err = e.lockForExchange(ctx, tx, e.Job.Source); err != nil {
			return err
		}
		if err := e.drift(source); err != nil {
			return err
		}
		if err := e.noObstacles(ctx, tx, e.Job.Source); err != nil {
			return err
		}
		if err := doAll(ctx, tx, slices.Concat(source.DetachSQL(), retireSQL(source, e.Job.OldTable()),
			source.BoundSQL(e.Job.OldTable(), true), e.dressSQL(source))); err != nil {
			return err
		}
		if err := e.grant(ctx, tx, source); err != nil {
			return err
		}
		reverse, xid, err := follow(ctx, tx, source, e.Link.Reverse(e.Job.Table(), e.Job.OldTable()))
		if err != nil {
			return err
		}
		if err := doAll(ctx, tx, installSQL(source, e.Job.OldTable())); err != nil {
			return err
		}
		if err := e.attach(ctx, tx, source); err != nil {
			return err
		}
		recompile, err := source.RecompileSQL(ctx, tx, e.Job.ShadowSchema)
		if err != nil {
			return err
		}
		if err := doAll(ctx, tx, append(followSQL(reverse, xid), recompile...)); err != nil {
			return err
		}
		if err := parity(ctx, tx, source, *e.Job.Shadow); err != nil {
			return err
		}
		now := time.Now()
		description, err := describe(source)
		if err != nil {
			return err
		}
		if err := noneDraws(ctx, tx, source, e.Job.OldTable()); err != nil {
			return err
		}
		job, err = e.update(ctx, tx, func(j *registry.Job) {
			j.SwappedAt, j.CompletedBy, j.Description = &now, completedBy(xid), description
		})
		return err
	})
	if err != nil {
		return err
	}
	e.Job, e.Source = job, source
	e.Link = e.Link.Reverse(e.Job.Table(), e.Job.OldTable())
	return nil
}

const arrayTypeTakenSQL = `
SELECT a.typname::text
FROM   pg_type r
JOIN   pg_type a      ON a.oid = r.typarray
JOIN   pg_class leave ON leave.oid = to_regclass($2)
JOIN   pg_type x      ON x.typname = a.typname AND x.typnamespace = leave.relnamespace
WHERE  r.typrelid = to_regclass($1)
AND    x.oid <> (SELECT l.typarray FROM pg_type l WHERE l.typrelid = leave.oid)`

// makeRoom has the array type of a table that is about to take the place of
// leaving bear a name that is free there: the server gives one to the table t
// that may not be _t where there is a table of that name, or, with 63 bytes, one
// that differs in the last only. It gives another when a type is created that
// is called so.
func (e *Env) makeRoom(ctx context.Context, tx *lock.Tx, table, leaving catalog.Name) error {
	var created []string
	for {
		var name string
		err := tx.QueryRow(ctx, arrayTypeTakenSQL, table.String(), leaving.String()).Scan(&name)
		if errors.Is(err, pgx.ErrNoRows) {
			break
		}
		if err != nil {
			return fmt.Errorf("look for the array type of %s: %w", table, err)
		}
		instead := catalog.Name{Schema: table.Schema, Name: name}.String()
		if err := execAll(ctx, tx, []string{"CREATE TYPE " + instead + " AS ENUM ()"}); err != nil {
			return err
		}
		created = append(created, "DROP TYPE "+instead)
	}
	return execAll(ctx, tx, created)
}

// lockForExchange takes ACCESS EXCLUSIVE on what the exchange changes, makes
// sure that the copy is equal to the table in every snapshot, and drops the
// foreign keys from and to it. It returns the table's description from before.
// Of a partition the table that it is in comes first, as in a query.
//
// The order is that in which most statements take their locks: a view before
// its tables, a table before those that its foreign keys refer to. A cascade
// takes the latter two the other way round: see lock.Vary.
func (e *Env) lockForExchange(ctx context.Context, tx *lock.Tx, oid uint32) (*catalog.Table, error) {
	table := e.Link.From.String()
	if err := tx.Settle(ctx, table); err != nil {
		return nil, err
	}
	before, err := catalog.Read(ctx, tx, oid)
	if err != nil {
		return nil, e.goneOr(err)
	}
	if err := settleDefault(ctx, tx, before); err != nil {
		return nil, err
	}
	if err := lockDependents(ctx, tx, before); err != nil {
		return nil, err
	}
	for _, sql := range lock.Vary(tx, lockTablesSQL(before)) {
		if err := tx.Do(ctx, sql); err != nil {
			return nil, fmt.Errorf("%s: %w", sql, err)
		}
	}
	if before, err = catalog.Read(ctx, tx, oid); err != nil {
		return nil, err
	}
	for _, key := range before.AllForeignKeys() {
		if err := tx.Do(ctx, key.DropSQL()); err != nil {
			return nil, fmt.Errorf("drop foreign key %q of %s: %w", key.Name, key.Table, err)
		}
	}
	if err := e.Link.Capturing(ctx, tx, oid); err != nil {
		return nil, err
	}
	return before, e.quiet(ctx, tx)
}

// lockTablesSQL takes ACCESS EXCLUSIVE on the tables that are exchanged or joined
// to them, and on the sequences that go over to another: an INSERT comes to a
// sequence after its table, but a transaction may draw the number before.
func lockTablesSQL(t *catalog.Table) []string {
	tables := t.Above()
	for _, key := range slices.Backward(t.Referencing) {
		tables = append(tables, key.Table.String())
	}
	var statements []string
	for _, name := range append(tables, t.Name.String()) {
		statements = append(statements, lock.SQL(name, "ACCESS EXCLUSIVE"))
	}
	for _, s := range t.Sequences {
		statements = append(statements, s.LockSQL())
	}
	return statements
}

const drawingSQL = `
SELECT count(*)
FROM   pg_locks
WHERE  locktype = 'relation' AND NOT granted
AND    database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND    relation = ANY ($1::text[]::regclass[])`

// noneDraws makes sure that nobody waits for a number of an identity's sequence,
// which has just been retired: he would be given those of the retired one, and
// find none with currval. It is asked last, so that hardly anybody comes after.
func noneDraws(ctx context.Context, tx pgx.Tx, t *catalog.Table, retired catalog.Name) error {
	sequences := []string{}
	for _, s := range t.Sequences {
		if s.Identity {
			sequences = append(sequences, s.Name.In(retired.Schema).String())
		}
	}
	if len(sequences) == 0 {
		return nil
	}
	var waiting int64
	if err := tx.QueryRow(ctx, drawingSQL, sequences).Scan(&waiting); err != nil {
		return fmt.Errorf("look for who waits for a sequence: %w", err)
	}
	if waiting > 0 {
		return fmt.Errorf("%d sessions wait for a number of the identity: %w", waiting, errNotQuiet)
	}
	return nil
}

// settleDefault is for the default partition that is locked with a partition.
func settleDefault(ctx context.Context, tx *lock.Tx, t *catalog.Table) error {
	if t.Partition == nil || t.Partition.Default == nil {
		return nil
	}
	return tx.Settle(ctx, t.Partition.Default.String())
}

// lockDependents locks the objects that are replaced.
func lockDependents(ctx context.Context, tx *lock.Tx, t *catalog.Table) error {
	for _, d := range t.Dependents {
		if d.Lock == "" {
			continue
		}
		if err := tx.Do(ctx, d.Lock); err != nil {
			return fmt.Errorf("lock %s %s: %w", d.Kind, d.Name, err)
		}
	}
	return nil
}

// quiet makes sure that nothing is pending. It replays nothing itself: what it
// wrote, a snapshot that is taken before the exchange commits would not see.
func (e *Env) quiet(ctx context.Context, tx *lock.Tx) error {
	pending, err := e.Link.Pending(ctx, tx)
	if err != nil || pending == 0 {
		return err
	}
	return fmt.Errorf("%d changes are pending that were not written through: %w", pending, errNotQuiet)
}

// retireSQL moves table t out of the way, to parked, and takes from it what joins
// it to other objects. A serial sequence stays where it is, with its value and
// grants. User triggers and rules of the parked table are off: it is written
// to only to keep it in step.
func retireSQL(t *catalog.Table, parked catalog.Name) []string {
	statements := append(strategy.DropTriggersSQL(t.Name), t.DisableSQL()...)
	statements = append(statements, t.UnpublishSQL()...)
	for _, s := range t.Sequences {
		if !s.Identity {
			statements = append(statements, fmt.Sprintf("ALTER SEQUENCE %s OWNED BY NONE", s.Name))
		}
	}
	for _, s := range t.Statistics {
		statements = append(statements, s.MoveSQL(s.Name.Schema, parked.Schema))
	}
	statements = append(statements, t.DefaultsSQL(t.Name, true)...)
	return append(statements, moveSQL(t.Name, parked))
}

func moveSQL(table, to catalog.Name) string {
	return fmt.Sprintf("ALTER TABLE %s SET SCHEMA %s", table, catalog.Quote(to.Schema))
}

// dressSQL moves the shadow into place and gives it what only a table in use
// may have, but for grants.
func (e *Env) dressSQL(source *catalog.Table) []string {
	statements := append([]string{moveSQL(e.Job.ShadowTable(), source.Name)}, ownerSQL(e.Source, source)...)
	for _, s := range source.Statistics {
		statements = append(statements, s.MoveSQL(e.Job.ShadowSchema, s.Name.Schema), s.OwnerSQL())
	}
	for _, c := range source.Constraints {
		if (c.Type == "c" || c.Type == "n") && !c.Validated {
			statements = append(statements, c.AddSQL(source.Name))
		}
	}
	for _, s := range source.Sequences {
		if s.Identity {
			column, _ := source.Column(s.Column)
			statements = append(statements, s.IdentitySQL(source.Name, column.Identity == "a")...)
			statements = append(statements, s.CommentSQL()...)
		}
	}
	statements = append(statements, source.CommentsSQL()...)
	return append(statements, source.AddBehaviourSQL()...)
}

// ownerSQL follows a change of owner since the shadow was made.
func ownerSQL(was, is *catalog.Table) []string {
	if was.Owner == is.Owner {
		return nil
	}
	return []string{fmt.Sprintf("ALTER TABLE %s OWNER TO %s", is.Name, catalog.Quote(is.Owner))}
}

// grant gives the new table and its identity sequences the source's exact
// grants.
func (e *Env) grant(ctx context.Context, tx *lock.Tx, source *catalog.Table) error {
	have, err := catalog.Read(ctx, tx, *e.Job.Shadow)
	if err != nil {
		return err
	}
	statements := catalog.GrantsSQL("TABLE "+source.Name.String(), source.Owner, have.Grants, source.Grants)
	for _, want := range source.Sequences {
		if !want.Identity {
			continue
		}
		for _, s := range have.Sequences {
			if s.Name == want.Name {
				statements = append(statements, catalog.GrantsSQL("SEQUENCE "+s.Name.String(), source.Owner, s.Grants, want.Grants)...)
			}
		}
	}
	return doAll(ctx, tx, statements)
}

// installSQL gives the table that now bears t's name what retireSQL has taken from
// the retired one, the values of identity sequences, and the objects that
// depended on it.
func installSQL(t *catalog.Table, retired catalog.Name) []string {
	statements := t.DefaultsSQL(t.Name, false)
	for _, s := range t.Sequences {
		if s.Identity {
			statements = append(statements, s.TakeValueSQL(s.Name.In(retired.Schema)))
		} else {
			statements = append(statements, fmt.Sprintf("ALTER SEQUENCE %s OWNED BY %s.%s", s.Name, t.Name, catalog.Quote(s.Column)))
		}
	}
	for _, key := range t.AllForeignKeys() {
		statements = append(statements, key.AddSQL())
		statements = append(statements, key.CommentSQL()...)
	}
	statements = append(statements, t.PublishSQL()...)
	for _, d := range t.Dependents {
		statements = append(statements, d.Replace)
	}
	return statements
}

// attach puts the table that now bears source's name in the place of the
// partition that source was. There is nothing to scan; should the server find
// something, it ends within the time that the application may be held up.
func (e *Env) attach(ctx context.Context, tx *lock.Tx, source *catalog.Table) error {
	if source.Partition == nil {
		return nil
	}
	limit := fmt.Sprintf("SET LOCAL statement_timeout = %d", max(e.Locks.Timeout.Milliseconds(), 1))
	if err := execAll(ctx, tx, []string{limit}); err != nil {
		return err
	}
	err := doAll(ctx, tx, source.AttachSQL())
	var pgErr *pgconn.PgError
	if ctx.Err() == nil && errors.As(err, &pgErr) && pgErr.Code == pgerrcode.QueryCanceled {
		return fmt.Errorf("to attach %s takes the server longer than the lock timeout, nothing has been exchanged: %w", source.Name, err)
	}
	if err != nil {
		return err
	}
	return execAll(ctx, tx, []string{"SET LOCAL statement_timeout = 0"})
}

func completedBy(xid string) *string {
	if xid == "" {
		return nil
	}
	return &xid
}

// doAll sends statements together, as every round trip is time under the lock.
func doAll(ctx context.Context, tx *lock.Tx, statements []string) error {
	if len(statements) == 0 {
		return nil
	}
	if err := tx.Do(ctx, strings.Join(statements, ";\n")); err != nil {
		return fmt.Errorf("exchange tables: %w", err)
	}
	return nil
}

// ParityError reports that the table that would be swapped in is not like the
// source. The swap has been rolled back.
type ParityError struct {
	Table       catalog.Name
	Differences []catalog.Difference
}

func (e *ParityError) Error() string {
	msg := fmt.Sprintf("the shadow of %s differs from it:", e.Table)
	for _, d := range e.Differences {
		msg += "\n  " + d.String()
	}
	return msg + "\nthe swap was not made; please report this"
}

// parity compares the table in place with what the other was, but for foreign
// keys that have still to be validated.
func parity(ctx context.Context, tx *lock.Tx, was *catalog.Table, oid uint32) error {
	is, err := catalog.Read(ctx, tx, oid)
	if err != nil {
		return err
	}
	differences, err := catalog.Diff(was.Unvalidated(), is.Unvalidated())
	if err != nil {
		return err
	}
	if len(differences) > 0 {
		return &ParityError{Table: was.Name, Differences: differences}
	}
	return nil
}
