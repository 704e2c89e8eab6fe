package stages

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/stages/alter"
	"github.com/repack-go/repack/stages/shadow"
	"github.com/repack-go/repack/stages/steps"
)

// swapTables makes the exchange of the swap, in one transaction. If repack does not know yet
// how the server prints some definitions once they have been parsed again, it finds out
// first.
func (e *Env) swapTables(ctx context.Context) error {
	return e.Learning(ctx, e.Job.Source, e.swapKnown)
}

// swapKnown makes the exchange. It returns steps.ErrUnlearned if repack does not know yet how the
// server prints some of the definitions.
func (e *Env) swapKnown(ctx context.Context) error {
	var x *exchanging
	var reread []string
	var altered *alter.Alteration
	reverse := e.Reverse()
	err := e.ChangeJob(ctx, e.mover().ExchangePolicy(), func(ctx context.Context, tx *lock.Tx, job *steps.JobRow) error {
		x = &exchanging{Env: e, out: e.Job.Source, in: *e.Job.Shadow, views: e.views}
		return x.exchange(func(ctx context.Context, tx *lock.Tx) error {
			now := time.Now()
			description, err := catalog.Encode(x.table)
			if err != nil {
				return err
			}
			link, xid := x.follow(reverse)
			job.SwappedAt, job.CompletedBy, job.Description, job.Options.RowByRow = &now, completedBy(xid), description, link.Rows
			b := &pgx.Batch{}
			if e.Alteration == nil {
				e.QueueJob(b, job)
			}
			if reread, err = x.parity(ctx, tx, b, e.Job.OldTable()); err != nil || e.Alteration == nil {
				return err
			}
			altered = e.Alteration.Reread(x.table, x.is, x.recreated())
			job.Alteration, err = altered.Encode()
			return err
		}).Do(ctx, tx)
	})
	if err != nil {
		return err
	}
	e.Alteration = altered
	e.TellReread(x.table.Name, reread)
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
//	ALTER TABLE "app"."t" ENABLE ALWAYS TRIGGER "00_repack_insert";  -- and the other triggers
//
// finish records the exchange and compares the new table with what it must be. Columns get new
// names after that, and then also the functions that name them.
//
// Between LOCK and DROP, it reads the description of the table, runs the checks and reads
// the change log. Before COMMIT, finish compares the new table with that description. For
// a table with more objects, there are more statements, as the lists below show.
func (x *exchanging) exchange(finish func(context.Context, *lock.Tx) error) steps.Transaction {
	old := x.Job.OldTable()
	locked := slices.Concat([]steps.Action{steps.Unplanned(x.readOwner)}, x.lockForExchange(x.Job.ShadowTable()), []steps.Action{steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error {
		if err := x.Drift(x.table); err != nil {
			return err
		}
		if err := x.Learned(x.table); err != nil {
			return err
		}
		return x.followOwner(ctx, tx)
	})})
	return steps.Transaction{
		Does: "exchange the tables, or go back to the replay where changes have been logged in between" + x.checked(),
		Actions: slices.Concat(locked, []steps.Action{
			steps.SendBounded(func() []string {
				return slices.Concat(
					shadow.DropKeysSQL(x.Moving(x.table)),
					x.table.DetachSQL(), // a partition
					x.mover().RetireRowByRowSQL(x.table),
					shadow.RetireSQL(x.table, old),
					x.table.BoundSQL(old, true),
					x.builder().DressSQL(x.becomes()),
				)
			}),
			x.done(exchangeSteps/4, 1),
			steps.Unplanned(x.readGrants), // a new sequence has default privileges
			steps.SendBounded(func() []string {
				statements := slices.Concat(
					shadow.GrantsSQL(x.granted, x.becomes()),
					x.table.AttachSQL(), // a partition
					shadow.InstallSQL(x.Moving(x.views.Installed(x.becomes())), old),
					x.Alteration.SequencesSQL(x.table),
				)
				if !x.Alteration.RenamesColumns() {
					statements = append(statements, x.followingSQL()...)
				}
				return statements
			}),
		}, x.recreateViews(), []steps.Action{
			x.done(exchangeSteps/4, 3),
			x.rewriteOIDs(),
			steps.Unplanned(finish),
			steps.SendBounded(func() []string { // with the names that all else has from now on
				if !x.Alteration.RenamesColumns() {
					return nil
				}
				return slices.Concat(x.Alteration.RenameSQL(x.table.Name), x.followingSQL())
			}),
		}),
	}
}

// followingSQL makes writes reach the old table from now on.
func (x *exchanging) followingSQL() []string {
	link, xid := x.follow(x.Reverse())
	return slices.Concat(x.followSQL(link, xid), x.recompile)
}

// checked names the foreign keys for which the server checks every row in the exchange.
func (x *exchanging) checked() string {
	if x.Source.Partition == nil {
		return ""
	}
	keys := names(x.Source.Partition.ForeignKeys, func(k catalog.ForeignKey) string { return when(k.Enforced, catalog.Quote(k.Name)) })
	if len(keys) == 0 {
		return ""
	}
	return "; every row is checked meanwhile by foreign key " + strings.Join(keys, ", ")
}

// followOwner makes the owner of the table the owner of the shadow, if the table has got
// another owner since the shadow was created.
func (x *exchanging) followOwner(ctx context.Context, tx *lock.Tx) error {
	if x.owner == x.table.Owner {
		return nil
	}
	if err := steps.Do(ctx, tx, steps.GiveToOwner(x.Job.ShadowTable(), func() string { return x.table.Owner }, nil)); err != nil {
		return err
	}
	return x.mover().LetNewOwnerIn(ctx, tx, x.table.Owner)
}

// lockForExchange takes ACCESS EXCLUSIVE on what the exchange changes, makes sure that
// the copy is equal to the table in every snapshot, and reads what x has of the table.
// place is the table that is put in place.
//
// The table is read once before the lock, so that the queries are already planned when they
// run under the lock.
func (x *exchanging) lockForExchange(place catalog.Name) []steps.Action {
	moving := func() *catalog.Table { return x.Moving(x.table) }
	return []steps.Action{
		steps.Unplanned(func(ctx context.Context, tx *lock.Tx) (err error) {
			x.oids, err = x.StoredOIDs().Rewriting(ctx, tx, x.out)
			return err
		}),
		steps.Settle(func() []string { return x.oids.Tables() }),
		steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error {
			if err := steps.MakeRoom(ctx, tx, place, x.Job.Table()); err != nil {
				return err
			}
			if err := x.lookAt(ctx, tx); err != nil {
				return err
			}
			if x.reverting() && x.Alteration.RenamesColumns() { // the texts are others under the lock
				return x.mover().MayBeTogether(x.table)
			}
			if !x.Knows(x.table, x.out) {
				return steps.ErrUnlearned
			}
			return x.mover().MayBeTogether(x.table)
		}),
		steps.Settle(func() []string {
			neighbours := lockedWith(moving())
			return append([]string{x.Link.From.String()}, neighbours[:len(neighbours)-1]...)
		}),
		steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error {
			works(tx, moving(), len(x.views.Stack.Views))
			return x.roomToExchange(ctx, tx)
		}),
		{
			Run: func(ctx context.Context, tx *lock.Tx) error {
				dependents, tables := locksSQL(moving())
				if err := tx.LockAll(ctx, slices.Concat(catalog.LockStackSQL(x.views.Stack.Views), dependents, lock.Vary(tx, tables))); err != nil {
					return steps.AlteredMeanwhile(err)
				}
				tx.Done(len(moving().AllForeignKeys()))
				return nil
			},
			SQL: func(context.Context, *steps.Planner) ([]string, error) {
				dependents, tables := locksSQL(moving())
				return slices.Concat(catalog.LockStackSQL(x.views.Stack.Views), dependents, tables), nil
			},
		},
		steps.Unplanned(func(ctx context.Context, tx *lock.Tx) error {
			if x.reverting() && x.Alteration.RenamesColumns() {
				if err := steps.DoAll(ctx, tx, x.Alteration.RenameBackSQL(x.table.Name)); err != nil {
					return err
				}
			}
			if err := x.lookAt(ctx, tx); err != nil {
				return err
			}
			if err := x.mover().MayBeTogether(x.table); err != nil {
				return err
			}
			if err := x.mover().AllJoined(ctx, tx); err != nil {
				return err
			}
			tx.Done(exchangeSteps / 4)
			return x.pending
		}),
		steps.Acquire("SHARE ROW EXCLUSIVE", func() []string { return x.oids.Tables() }),
	}
}

// done tells the transaction that steps of the exchange are done, and so many for each
// foreign key.
func (x *exchanging) done(fixed, perKey int) steps.Action {
	return steps.Unplanned(func(_ context.Context, tx *lock.Tx) error {
		tx.Done(fixed + perKey*len(x.Moving(x.table).AllForeignKeys()))
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
			return fmt.Errorf("%d sessions wait for a number of the identity: %w", waiting, steps.ErrPutOff)
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
	return t.LockDependentsSQL(), tables
}

// exchangeSteps is about how many statements and queries an exchange runs under its
// locks, without those for foreign keys. Foreign keys are locked, dropped and added, and
// adding takes three times as long.
const exchangeSteps = 40

// viewSteps is how many of these steps a view is that is dropped and created again.
const viewSteps = 2

// works tells tx how much work an exchange of t is, with so many views that are created again.
func works(tx *lock.Tx, t *catalog.Table, views int) {
	keys := len(t.AllForeignKeys())
	tx.Works(lock.Work{What: "the exchange of " + t.Name.String(), Keys: keys, Steps: exchangeSteps + 5*keys + viewSteps*views})
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

func completedBy(xid string) *string {
	if xid == "" {
		return nil
	}
	return &xid
}

// reverting reports whether the old table takes the place of the new one.
func (x *exchanging) reverting() bool { return x.in == x.Job.Source }

// becomes is the description that the table which is put in place must have: that of the table
// that it replaces, with what the job changes.
func (x *exchanging) becomes() *catalog.Table { return x.Becomes(x.table, x.out) }

// parity compares the table in place with what it must have become. The table that it replaces
// has been moved to retired. It leaves out foreign keys that have still
// to be validated. It also makes sure that no session waits for a value of a retired
// sequence. reread names the definitions that have not changed, but that the server now
// prints differently. The queries that are already in b are sent together with those of
// parity.
func (x *exchanging) parity(ctx context.Context, tx *lock.Tx, b *pgx.Batch, retired catalog.Name) (reread []string, err error) {
	is := catalog.Queue(b, x.in, x.table)
	x.is = is
	queueNoneDraws(b, x.table, retired)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return nil, err
	}
	if err := catalog.Complete(ctx, tx, is, x.table); err != nil {
		return nil, err
	}
	becomes := x.becomes()
	if x.Alteration != nil { // what depends on the table was made from its own text, and may read otherwise with other types
		becomes = becomes.WithDependentsAs(is)
	}
	differences, err := x.Reprints.Diff(x.Moving(becomes).Unvalidated(), x.Moving(is).Unvalidated())
	if err != nil {
		return nil, err
	}
	if len(differences) > 0 {
		return nil, &steps.ParityError{Table: x.table.Name, Differences: differences}
	}
	return catalog.Reread(x.becomes(), is), nil
}
