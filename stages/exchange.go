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
	"github.com/repack-go/repack/strategy"
)

// swapTables makes the exchange of the swap, in one transaction. If repack does not know yet
// how the server prints some definitions once they have been parsed again, it finds out
// first.
func (e *Env) swapTables(ctx context.Context) error {
	return e.learning(ctx, e.Job.Source, e.swapKnown)
}

// swapKnown makes the exchange. It returns errUnlearned if repack does not know yet how the
// server prints some of the definitions.
func (e *Env) swapKnown(ctx context.Context) error {
	var x *exchanging
	var reread []string
	reverse := e.reverse()
	err := e.changeJob(ctx, e.exchangePolicy(), func(ctx context.Context, tx *lock.Tx, job *jobRow) error {
		x = &exchanging{out: e.Job.Source, in: *e.Job.Shadow}
		if err := e.exchange(x).do(ctx, tx); err != nil {
			return err
		}
		now := time.Now()
		description, err := catalog.Encode(x.table)
		if err != nil {
			return err
		}
		link, xid := x.follow(reverse)
		job.SwappedAt, job.CompletedBy, job.Description, job.Options.RowByRow = &now, completedBy(xid), description, link.Rows
		b := &pgx.Batch{}
		e.queueJob(b, job)
		reread, err = e.parity(ctx, tx, b, x.table, x.in, e.Job.OldTable())
		return err
	})
	if err != nil {
		return err
	}
	e.tellReread(x.table.Name, reread)
	e.Source = x.table
	e.Link = reverse
	return nil
}

// exchange puts the shadow in the place of the source. What it gives to the new table is
// read under the lock, so that nothing that changed during the job is lost.
//
// These are its statements for a plain table app.t, as `repack plan --sql` prints them:
//
//	LOCK TABLE "app"."t" IN SHARE UPDATE EXCLUSIVE MODE;  -- in a savepoint: see lock.Tx.Settle
//	LOCK TABLE ONLY "app"."t" IN ACCESS EXCLUSIVE MODE;
//	DROP TRIGGER IF EXISTS "00_repack_insert" ON "app"."t";  -- and the other four
//	ALTER TABLE "app"."t" SET SCHEMA "repack_job_N_old";
//	ALTER TABLE "repack_job_N"."t" SET SCHEMA "app";
//	CREATE OR REPLACE FUNCTION "repack_job_N"."repack_capture_N"() …;  -- for the old table
//	CREATE OR REPLACE TRIGGER "00_repack_insert" AFTER INSERT ON "app"."t" …;
//
// Between LOCK and DROP, it reads the description of the table, runs the checks and reads
// the change log. Before COMMIT, swapKnown compares the new table with that description. For
// a table with more objects, there are more statements, as the lists below show.
func (e *Env) exchange(x *exchanging) transaction {
	old := e.Job.OldTable()
	locked := slices.Concat([]action{unplanned(x.readOwner)}, e.lockForExchange(x, e.Job.ShadowTable()), []action{unplanned(func(ctx context.Context, tx *lock.Tx) error {
		if err := e.drift(x.table); err != nil {
			return err
		}
		if err := e.learned(x.table); err != nil {
			return err
		}
		return e.followOwner(ctx, tx, x)
	})})
	return transaction{
		does:  "exchange the tables, or go back to the replay where changes have been logged in between" + e.checked(),
		locks: (*planner).exchangeLocks,
		actions: append(locked,
			sendBounded(func() []string {
				return slices.Concat(
					dropKeysSQL(e.moving(x.table)),
					x.table.DetachSQL(), // a partition
					e.retireRowByRowSQL(x.table),
					retireSQL(x.table, old),
					x.table.BoundSQL(old, true),
					e.dressSQL(x.table),
				)
			}),
			e.done(x, exchangeSteps/4, 1),
			unplanned(x.readGrants), // a new sequence has default privileges
			sendBounded(func() []string {
				link, xid := x.follow(e.reverse())
				return slices.Concat(
					grantsSQL(x.granted, x.table),
					x.table.AttachSQL(), // a partition
					installSQL(e.moving(x.table), old),
					followSQL(link, xid),
					x.recompile,
				)
			}),
			e.done(x, exchangeSteps/4, 3),
			e.rewriteOIDs(x),
		),
	}
}

// checked names the foreign keys for which the server checks every row in the exchange.
func (e *Env) checked() string {
	if e.Source.Partition == nil {
		return ""
	}
	keys := names(e.Source.Partition.ForeignKeys, func(k catalog.ForeignKey) string { return when(k.Enforced, catalog.Quote(k.Name)) })
	if len(keys) == 0 {
		return ""
	}
	return "; every row is checked meanwhile by foreign key " + strings.Join(keys, ", ")
}

// reverse returns the link from the table in use to the old table, as it is after the
// exchange of the swap.
func (e *Env) reverse() *strategy.Link {
	if e.Job.Swapped() {
		return e.Link
	}
	link := *e.Link
	link.Rows = e.Job.Options.RowByRow
	return e.beforeKeys(link.Reverse(e.Job.Table(), e.Job.OldTable()))
}

// followOwner makes the owner of the table the owner of the shadow, if the table has got
// another owner since the shadow was created.
func (e *Env) followOwner(ctx context.Context, tx *lock.Tx, x *exchanging) error {
	if x.owner == x.table.Owner {
		return nil
	}
	if err := do(ctx, tx, giveToOwner(e.Job.ShadowTable(), func() string { return x.table.Owner }, nil)); err != nil {
		return err
	}
	return e.letNewOwnerIn(ctx, tx, x.table.Owner)
}

const arrayTypeTakenSQL = `
SELECT a.typname::text
FROM   pg_type r
JOIN   pg_type a      ON a.oid = r.typarray
JOIN   pg_class leave ON leave.oid = to_regclass($2)
JOIN   pg_type x      ON x.typname = a.typname AND x.typnamespace = leave.relnamespace
WHERE  r.oid = (SELECT reltype FROM pg_class WHERE oid = to_regclass($1))
AND    x.oid <> (SELECT l.typarray FROM pg_type l WHERE l.oid = leave.reltype)`

// makeRoom makes sure that the array type of table has a name that is free in the schema
// of leaving, because table is about to take the place of leaving. The array type of a
// table t is usually called _t, but not always. The server chooses another name if there
// is a table called _t. It also does so if t has 63 bytes and another table's name
// differs from t only in the last byte, because _t is cut to 63 bytes. When a type is
// created with the name of an array type, the server gives the array type another name.
// So makeRoom creates such a type, and drops it again.
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

// lockForExchange takes ACCESS EXCLUSIVE on what the exchange changes, makes sure that
// the copy is equal to the table in every snapshot, and reads what x has of the table.
// place is the table that is put in place.
//
// The table is read once before the lock, so that the queries are already planned when they
// run under the lock.
func (e *Env) lockForExchange(x *exchanging, place catalog.Name) []action {
	moving := func() *catalog.Table { return e.moving(x.table) }
	return []action{
		unplanned(func(ctx context.Context, tx *lock.Tx) (err error) {
			x.oids, err = e.storedOIDs().Rewriting(ctx, tx, x.out)
			return err
		}),
		settle(func() []string { return x.oids.Tables() }),
		unplanned(func(ctx context.Context, tx *lock.Tx) error {
			if err := e.makeRoom(ctx, tx, place, e.Job.Table()); err != nil {
				return err
			}
			if err := e.lookAt(ctx, tx, x); err != nil {
				return err
			}
			if !e.reprints.Knows(x.table) {
				return errUnlearned
			}
			return e.mayBeTogether(x.table)
		}),
		settle(func() []string {
			neighbours := lockedWith(moving())
			return append([]string{e.Link.From.String()}, neighbours[:len(neighbours)-1]...)
		}),
		unplanned(func(ctx context.Context, tx *lock.Tx) error {
			works(tx, moving())
			return e.roomToExchange(ctx, tx, x.out)
		}),
		{
			run: func(ctx context.Context, tx *lock.Tx) error {
				dependents, tables := locksSQL(moving())
				if err := tx.LockAll(ctx, slices.Concat(dependents, lock.Vary(tx, tables))); err != nil {
					return alteredMeanwhile(err)
				}
				tx.Done(len(moving().AllForeignKeys()))
				return nil
			},
			sql: func(context.Context, *planner) ([]string, error) {
				dependents, tables := locksSQL(moving())
				return slices.Concat(dependents, tables), nil
			},
		},
		unplanned(func(ctx context.Context, tx *lock.Tx) error {
			if err := e.lookAt(ctx, tx, x); err != nil {
				return err
			}
			if err := e.mayBeTogether(x.table); err != nil {
				return err
			}
			if err := e.allJoined(ctx, tx); err != nil {
				return err
			}
			tx.Done(exchangeSteps / 4)
			return x.pending
		}),
		acquire("SHARE ROW EXCLUSIVE", func() []string { return x.oids.Tables() }),
	}
}

// done tells the transaction that steps of the exchange are done, and so many for each
// foreign key.
func (e *Env) done(x *exchanging, steps, perKey int) action {
	return unplanned(func(_ context.Context, tx *lock.Tx) error {
		tx.Done(steps + perKey*len(e.moving(x.table).AllForeignKeys()))
		return nil
	})
}

const drawingSQL = `
SELECT count(*)
FROM   pg_locks
WHERE  locktype = 'relation' AND NOT granted
AND    database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND    relation = ANY ($1::text[]::regclass[])`

// queueNoneDraws makes sure, as a part of b, that no session waits for a lock on an
// identity's sequence that has just been retired. No session may be waiting in nextval()
// on the old sequence: it would get a value that currval() on the new one does not know.
// This is the last query of the exchange, so that hardly any session can come after it.
func queueNoneDraws(b *pgx.Batch, t *catalog.Table, retired catalog.Name) {
	sequences := []string{}
	for _, s := range t.Sequences {
		if s.Identity {
			sequences = append(sequences, s.Name.In(retired.Schema).String())
		}
	}
	if len(sequences) == 0 {
		return
	}
	b.Queue(drawingSQL, sequences).QueryRow(func(row pgx.Row) error {
		var waiting int64
		if err := row.Scan(&waiting); err != nil {
			return fmt.Errorf("look for who waits for a sequence: %w", err)
		}
		if waiting > 0 {
			return fmt.Errorf("%d sessions wait for a number of the identity: %w", waiting, ErrPutOff)
		}
		return nil
	})
}

// locksSQL returns the statements that take all locks for an exchange of t; the description
// of t is read again under them. The sequences that move to the other table are locked as
// well. An INSERT locks the table first and then the sequence, but a transaction may have
// called nextval() before. The tables may be locked in any order: see lock.Vary.
func locksSQL(t *catalog.Table) (dependents, tables []string) {
	for _, name := range lockedWith(t) {
		tables = append(tables, lock.SQL(name, "ACCESS EXCLUSIVE"))
	}
	for _, s := range t.Sequences {
		tables = append(tables, s.LockSQL())
	}
	return lockDependentsSQL(t), tables
}

// exchangeSteps is about how many statements and queries an exchange runs under its
// locks, without those for foreign keys. Foreign keys are locked, dropped and added, and
// adding takes three times as long.
const exchangeSteps = 40

// works tells tx how much work an exchange of t is.
func works(tx *lock.Tx, t *catalog.Table) {
	keys := len(t.AllForeignKeys())
	tx.Works(lock.Work{What: "the exchange of " + t.Name.String(), Keys: keys, Steps: exchangeSteps + 5*keys})
}

// lockedWith returns the tables that are locked for an exchange of t; t is the last. They
// are in the order in which most statements acquire their locks: a table comes before the
// tables that its foreign keys refer to, and a partitioned table before its partitions. A
// cascade locks the tables of a foreign key in the opposite order: see lock.Vary.
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

// lockDependentsSQL locks the objects that depend on t and are replaced.
func lockDependentsSQL(t *catalog.Table) []string {
	var statements []string
	for _, d := range t.Dependents {
		if d.Lock != "" {
			statements = append(statements, d.Lock)
		}
	}
	return append(statements, t.LockTypedSQL()...)
}

// retireSQL moves table t out of the way, to parked, and removes what joins it to other
// objects. A serial sequence stays where it is, with its value and grants. An identity
// sequence is moved along, and no longer published. The user
// triggers and rules of the parked table are disabled: the only writes to it keep it in
// step.
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
	statements = append(statements, t.ParkTypedSQL(parked.Schema)...)
	return append(append(statements, moveSQL(t.Name, parked)), hideSequencesSQL(t, parked)...)
}

func moveSQL(table, to catalog.Name) string {
	return fmt.Sprintf("ALTER TABLE %s SET SCHEMA %s", table, catalog.Quote(to.Schema))
}

// dressSQL moves the shadow into place and gives it what only a table in use may have,
// except grants.
func (e *Env) dressSQL(source *catalog.Table) []string {
	statements := append([]string{moveSQL(e.Job.ShadowTable(), source.Name)}, source.CreateTypedSQL()...)
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

// notValidSQL adds to table on the checks of t that are not valid. They could not be
// added earlier: rows that are older than such a check may violate it, and the copy must
// take these rows.
func notValidSQL(t *catalog.Table, on catalog.Name) []string {
	var statements []string
	for _, c := range t.Constraints {
		if (c.Type == "c" || c.Type == "n") && !c.Validated {
			statements = append(statements, c.AddSQL(on))
		}
	}
	return statements
}

// grantsSQL returns the statements that turn the privileges on has into those on table.
func grantsSQL(has, table *catalog.Table) []string {
	statements := catalog.GrantsSQL("TABLE "+table.Name.String(), table.Owner, has.Grants, table.Grants)
	for _, want := range table.Sequences {
		if !want.Identity {
			continue
		}
		for _, s := range has.Sequences {
			if s.Name == want.Name {
				statements = append(statements, catalog.GrantsSQL("SEQUENCE "+s.Name.String(), table.Owner, s.Grants, want.Grants)...)
			}
		}
	}
	return append(statements, table.TypedGrantsSQL(has.Typed)...)
}

// installSQL is for the table that now has t's name, and t's place as a partition. It
// gives this table what retireSQL has removed from the retired one, the values of
// identity sequences, the foreign keys in the order in which they were created, and the
// objects that depended on t.
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
		statements = append(statements, d.ReplaceSQL()...)
	}
	return statements
}

func completedBy(xid string) *string {
	if xid == "" {
		return nil
	}
	return &xid
}

// ParityError reports that a table or materialized view is not like the one that it would
// replace. Its exchange has been rolled back.
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

// parity compares the table in place with was, the description of the table that it
// replaces, which has been moved to retired. It leaves out foreign keys that have still
// to be validated. It also makes sure that no session waits for a value of a retired
// sequence. reread names the definitions that have not changed, but that the server now
// prints differently. The queries that are already in b are sent together with those of
// parity.
func (e *Env) parity(ctx context.Context, tx *lock.Tx, b *pgx.Batch, was *catalog.Table, oid uint32, retired catalog.Name) (reread []string, err error) {
	is := catalog.Queue(b, oid, was)
	queueNoneDraws(b, was, retired)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return nil, err
	}
	if err := catalog.Complete(ctx, tx, is, was); err != nil {
		return nil, err
	}
	differences, err := e.reprints.Diff(e.moving(was).Unvalidated(), e.moving(is).Unvalidated())
	if err != nil {
		return nil, err
	}
	if len(differences) > 0 {
		return nil, &ParityError{Table: was.Name, Differences: differences}
	}
	return catalog.Reread(was, is), nil
}
