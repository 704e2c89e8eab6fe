package stages

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

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
	var reread []string
	if err := e.learn(ctx, e.Job.Source); err != nil {
		return err
	}
	err := e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		oids, err := e.beginRewrite(ctx, tx, e.Job.Source)
		if err != nil {
			return err
		}
		if err := e.makeRoom(ctx, tx, e.Job.ShadowTable(), e.Job.Table()); err != nil {
			return err
		}
		owner, err := ownerOf(ctx, tx, *e.Job.Shadow)
		if err != nil {
			return err
		}
		if source, err = e.lockForExchange(ctx, tx, e.Job.Source); err != nil {
			return err
		}
		if err := oids.lock(ctx, tx); err != nil {
			return err
		}
		if err := e.drift(source); err != nil {
			return err
		}
		if err := e.learned(source); err != nil {
			return err
		}
		if owner != source.Owner { // which is altered while the shadow is filled
			if err := e.giveToOwner(ctx, tx, e.Job.ShadowTable(), source.Owner); err != nil {
				return err
			}
		}
		if err := doAll(ctx, tx, source.DetachSQL()); err != nil {
			return err
		}
		if err := doAll(ctx, tx, slices.Concat(retireSQL(source, e.Job.OldTable()),
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
		if err := e.install(ctx, tx, source, e.Job.OldTable()); err != nil {
			return err
		}
		recompile, err := source.RecompileSQL(ctx, tx, e.Job.ShadowSchema)
		if err != nil {
			return err
		}
		if err := doAll(ctx, tx, append(followSQL(reverse, xid), recompile...)); err != nil {
			return err
		}
		if err := e.rewriteOIDs(ctx, tx, oids, *e.Job.Shadow); err != nil {
			return err
		}
		if reread, err = e.parity(ctx, tx, source, *e.Job.Shadow); err != nil {
			return err
		}
		now := time.Now()
		description, err := catalog.Encode(source)
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
	e.tellReread(source.Name, reread)
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
WHERE  r.oid = (SELECT reltype FROM pg_class WHERE oid = to_regclass($1))
AND    x.oid <> (SELECT l.typarray FROM pg_type l WHERE l.oid = leave.reltype)`

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

// Planning the queries of the catalogs takes several times as long as running
// them, and under the lock they are run up to four times.
const keepPlansSQL = `SET LOCAL plan_cache_mode = force_generic_plan`

// lockForExchange takes ACCESS EXCLUSIVE on what the exchange changes, makes
// sure that the copy is equal to the table in every snapshot, and drops the
// foreign keys from and to it. It returns the table's description from before.
//
// What takes long to plan of what is asked under the lock has been asked before it
// once.
func (e *Env) lockForExchange(ctx context.Context, tx *lock.Tx, oid uint32) (*catalog.Table, error) {
	if err := execAll(ctx, tx, []string{keepPlansSQL}); err != nil {
		return nil, err
	}
	before, err := catalog.Read(ctx, tx, oid)
	if err != nil {
		return nil, e.goneOr(err)
	}
	if err := e.noObstacles(ctx, tx, oid); err != nil {
		return nil, err
	}
	if _, err := before.RecompileSQL(ctx, tx, e.Job.ShadowSchema); err != nil {
		return nil, err
	}
	if err := tx.Settle(ctx, e.Link.From.String()); err != nil {
		return nil, err
	}
	if err := settleNeighbours(ctx, tx, before); err != nil {
		return nil, err
	}
	if err := e.roomToExchange(ctx, tx, oid); err != nil {
		return nil, err
	}
	works(tx, before)
	if err := lockAll(ctx, tx, before); err != nil {
		return nil, err
	}
	if before, err = catalog.Read(ctx, tx, oid); err != nil {
		return nil, err
	}
	tx.Done(exchangeSteps / 4)
	// Before foreign keys are dropped, of which some are in the way.
	if err := e.noObstacles(ctx, tx, oid); err != nil {
		return nil, err
	}
	if err := doAll(ctx, tx, dropKeysSQL(before)); err != nil {
		return nil, err
	}
	tx.Done(len(before.AllForeignKeys()))
	if err := e.Link.Capturing(ctx, tx, oid); err != nil {
		return nil, err
	}
	return before, e.quiet(ctx, tx)
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
		return fmt.Errorf("%d sessions wait for a number of the identity: %w", waiting, ErrPutOff)
	}
	return nil
}

// settleNeighbours settles what is locked with t, t itself being settled.
func settleNeighbours(ctx context.Context, tx *lock.Tx, t *catalog.Table) error {
	tables := lockedWith(t)
	for _, name := range tables[:len(tables)-1] {
		if err := tx.Settle(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// lockAll locks what is locked for t before it is looked at once more. The
// sequences that go over to another table are among it: an INSERT comes to a
// sequence after its table, but a transaction may draw the number before.
func lockAll(ctx context.Context, tx *lock.Tx, t *catalog.Table) error {
	if err := lockDependents(ctx, tx, t); err != nil {
		return err
	}
	var statements []string
	for _, name := range lockedWith(t) {
		statements = append(statements, lock.SQL(name, "ACCESS EXCLUSIVE"))
	}
	for _, s := range t.Sequences {
		statements = append(statements, s.LockSQL())
	}
	if err := tx.LockAll(ctx, lock.Vary(tx, statements)); err != nil {
		return err
	}
	tx.Done(len(t.AllForeignKeys()))
	return nil
}

// exchangeSteps is about how many statements and queries an exchange takes under
// its locks apart from those for foreign keys, which it locks, drops, and adds, which
// takes three times as long.
const exchangeSteps = 40

// works tells tx what an exchange of t is.
func works(tx *lock.Tx, t *catalog.Table) {
	keys := len(t.AllForeignKeys())
	tx.Works(lock.Work{What: "the exchange of " + t.Name.String(), Keys: keys, Steps: exchangeSteps + 5*keys})
}

// lockedWith are the tables that are locked for an exchange of t, t as the last,
// in the order in which most statements take their locks: a table before those
// that its foreign keys refer to, a partitioned table before its partitions. A
// cascade takes the former the other way round: see lock.Vary.
func lockedWith(t *catalog.Table) []string {
	var tables []string
	for _, key := range t.Referencing {
		if name := "ONLY " + key.Table.String(); !slices.Contains(tables, name) {
			tables = append(tables, name)
		}
	}
	return append(append(tables, t.Above()...), "ONLY "+t.Name.String())
}

func dropKeysSQL(t *catalog.Table) []string {
	var statements []string
	for _, key := range t.AllForeignKeys() {
		statements = append(statements, key.DropSQL())
	}
	return statements
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
	return e.underLock(ctx, tx, func() error {
		empty, err := e.Link.Empty(ctx, tx)
		if err != nil || empty {
			return err
		}
		return fmt.Errorf("changes are pending that were not written through: %w", ErrPutOff)
	})
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
	statements := []string{moveSQL(e.Job.ShadowTable(), source.Name)}
	for _, s := range source.Statistics {
		statements = append(statements, s.MoveSQL(e.Job.ShadowSchema, s.Name.Schema), s.OwnerSQL())
	}
	statements = append(statements, notValidSQL(source, source.Name)...)
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

// notValidSQL adds to table on those of t's checks that are not valid, and so would
// have been in the way of rows that were there before them.
func notValidSQL(t *catalog.Table, on catalog.Name) []string {
	var statements []string
	for _, c := range t.Constraints {
		if (c.Type == "c" || c.Type == "n") && !c.Validated {
			statements = append(statements, c.AddSQL(on))
		}
	}
	return statements
}

const ownerSQL = `SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = $1`

// ownerOf is asked of the shadow before the locks are taken: nobody but us alters
// what it belongs to. What the source belonged to at an earlier moment does not
// tell, since each stage begins with a new description of it.
func ownerOf(ctx context.Context, tx pgx.Tx, oid uint32) (owner string, err error) {
	if err := tx.QueryRow(ctx, ownerSQL, oid).Scan(&owner); err != nil {
		return "", fmt.Errorf("look up the owner of the shadow: %w", err)
	}
	return owner, nil
}

// grant gives the new table and its identity sequences the source's exact
// grants.
func (e *Env) grant(ctx context.Context, tx *lock.Tx, source *catalog.Table) error {
	statements, err := e.grantsSQLOf(ctx, tx, source)
	if err != nil {
		return err
	}
	return doAll(ctx, tx, statements)
}

// grantsSQLOf turns the privileges that the shadow has into the source's.
func (e *Env) grantsSQLOf(ctx context.Context, q catalog.Querier, source *catalog.Table) ([]string, error) {
	have, err := catalog.ReadGrants(ctx, q, *e.Job.Shadow)
	if err != nil {
		return nil, err
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
	return statements, nil
}

// install gives the table that now bears t's name the place of the partition that
// t was, and then foreign keys, in the order in which they were made.
func (e *Env) install(ctx context.Context, tx *lock.Tx, t *catalog.Table, retired catalog.Name) error {
	if err := doAll(ctx, tx, t.AttachSQL()); err != nil {
		return err
	}
	if err := doAll(ctx, tx, installSQL(t, retired)); err != nil {
		return err
	}
	tx.Done(exchangeSteps/2 + 3*len(t.AllForeignKeys()))
	return nil
}

// installSQL gives it what retireSQL has taken from the retired one, the values of
// identity sequences, and the objects that depended on it.
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
		statements = append(statements, t.AddKeySQL(key)...)
	}
	statements = append(statements, t.PublishSQL()...)
	for _, d := range t.Dependents {
		statements = append(statements, d.Replace)
	}
	return statements
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

// ParityError reports that the table, or the materialized view, that would be
// swapped in is not like the one in use. The exchange of it has been rolled back.
type ParityError struct {
	Table       catalog.Name
	Differences []catalog.Difference
}

func (e *ParityError) Error() string {
	msg := fmt.Sprintf("the shadow of %s differs from it:", e.Table)
	for _, d := range e.Differences {
		msg += "\n  " + d.Text()
	}
	return msg + "\nit has not been exchanged; please report this"
}

// parity compares the table in place with what the other was, but for foreign
// keys that have still to be validated. reread names the definitions that the
// server prints otherwise than before, though they are what they were.
func (e *Env) parity(ctx context.Context, tx *lock.Tx, was *catalog.Table, oid uint32) (reread []string, err error) {
	is, err := catalog.Read(ctx, tx, oid)
	if err != nil {
		return nil, err
	}
	differences, err := e.reprints.Diff(was.Unvalidated(), is.Unvalidated())
	if err != nil {
		return nil, err
	}
	if len(differences) > 0 {
		return nil, &ParityError{Table: was.Name, Differences: differences}
	}
	return catalog.Reread(was, is), nil
}
