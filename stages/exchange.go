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

// exchange makes the exchange of the swap: one transaction puts the shadow in the place
// of the source. What it gives to the new table is read under the lock, so that nothing
// that changed during the job is lost.
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
// the change log. Before COMMIT, it compares the new table with that description. For a
// table with more objects, there are more statements. Foreign keys are dropped first and
// added last. Identities and grants are given when the new table is in place. Then views
// are replaced.
func (e *Env) exchange(ctx context.Context) error {
	return e.learning(ctx, e.Job.Source, e.exchangeKnown)
}

// exchangeKnown makes the exchange. It returns errUnlearned if repack does not know yet
// how the server prints some of the definitions once they have been parsed again.
func (e *Env) exchangeKnown(ctx context.Context) error {
	var source *catalog.Table
	var reread []string
	err := e.changeJob(ctx, e.exchangePolicy(), func(ctx context.Context, tx *lock.Tx, job *jobRow) error {
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
		x, err := e.lockForExchange(ctx, tx, e.Job.Source)
		if err != nil {
			return err
		}
		source = x.table
		if err := oids.lock(ctx, tx); err != nil {
			return err
		}
		if err := e.drift(source); err != nil {
			return err
		}
		if err := e.learned(source); err != nil {
			return err
		}
		if owner != source.Owner { // the source's owner was changed after the shadow was created
			if _, _, err := e.giveToOwner(ctx, tx, e.Job.ShadowTable(), source.Owner); err != nil {
				return err
			}
			if err := e.letNewOwnerIn(ctx, tx, source.Owner); err != nil {
				return err
			}
		}
		if err := doAll(ctx, tx, slices.Concat(dropKeysSQL(e.moving(source)), source.DetachSQL(), e.retireRowByRowSQL(source), retireSQL(source, e.Job.OldTable()),
			source.BoundSQL(e.Job.OldTable(), true), e.dressSQL(source))); err != nil {
			return err
		}
		tx.Done(exchangeSteps/4 + len(e.moving(source).AllForeignKeys()))
		grants, err := e.grantsSQLOf(ctx, tx, source)
		if err != nil {
			return err
		}
		reverse, xid := x.followedBy(e.beforeKeys(e.Link.Reverse(e.Job.Table(), e.Job.OldTable())))
		if err := doAll(ctx, tx, slices.Concat(grants, source.AttachSQL(), installSQL(e.moving(source), e.Job.OldTable()), followSQL(reverse, xid), x.recompile)); err != nil {
			return err
		}
		tx.Done(exchangeSteps/4 + 3*len(e.moving(source).AllForeignKeys()))
		if err := e.rewriteOIDs(ctx, tx, oids, *e.Job.Shadow); err != nil {
			return err
		}
		now := time.Now()
		description, err := catalog.Encode(source)
		if err != nil {
			return err
		}
		job.SwappedAt, job.CompletedBy, job.Description, job.Options.RowByRow = &now, completedBy(xid), description, reverse.Rows
		b := &pgx.Batch{}
		e.queueJob(b, job)
		reread, err = e.parity(ctx, tx, b, source, *e.Job.Shadow, e.Job.OldTable())
		return err
	})
	if err != nil {
		return err
	}
	e.tellReread(source.Name, reread)
	e.Source = source
	e.Link = e.beforeKeys(e.Link.Reverse(e.Job.Table(), e.Job.OldTable()))
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
// the copy is equal to the table in every snapshot, and returns what lookAt reads of the
// table.
//
// lookAt runs once before the lock, so that its queries are already planned when it runs
// under the lock.
func (e *Env) lockForExchange(ctx context.Context, tx *lock.Tx, oid uint32) (*exchanged, error) {
	before, err := e.lookAt(ctx, tx, oid)
	if err != nil {
		return nil, err
	}
	if !e.reprints.Knows(before.table) {
		return nil, errUnlearned
	}
	if err := e.mayBeTogether(before.table); err != nil {
		return nil, err
	}
	if err := tx.Settle(ctx, e.Link.From.String()); err != nil {
		return nil, err
	}
	if err := settleNeighbours(ctx, tx, e.moving(before.table)); err != nil {
		return nil, err
	}
	if err := e.roomToExchange(ctx, tx, oid); err != nil {
		return nil, err
	}
	works(tx, e.moving(before.table))
	if err := lockAll(ctx, tx, e.moving(before.table)); err != nil {
		return nil, err
	}
	x, err := e.lookAt(ctx, tx, oid)
	if err != nil {
		return nil, err
	}
	if err := e.mayBeTogether(x.table); err != nil {
		return nil, err
	}
	if err := e.allJoined(ctx, tx); err != nil {
		return nil, err
	}
	tx.Done(exchangeSteps / 4)
	return x, x.pending
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

// settleNeighbours calls Settle on the tables that are locked together with t. The caller
// has already done so for t itself.
func settleNeighbours(ctx context.Context, tx *lock.Tx, t *catalog.Table) error {
	tables := lockedWith(t)
	for _, name := range tables[:len(tables)-1] {
		if err := tx.Settle(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// lockAll takes all locks for an exchange of t; the caller reads the description of t
// again under them. The sequences that move to the other table are locked as well. An
// INSERT locks the table first and then the sequence, but a transaction may have called
// nextval() before.
func lockAll(ctx context.Context, tx *lock.Tx, t *catalog.Table) error {
	var statements []string
	for _, name := range lockedWith(t) {
		statements = append(statements, lock.SQL(name, "ACCESS EXCLUSIVE"))
	}
	for _, s := range t.Sequences {
		statements = append(statements, s.LockSQL())
	}
	if err := tx.LockAll(ctx, slices.Concat(lockDependentsSQL(t), lock.Vary(tx, statements))); err != nil {
		return err
	}
	tx.Done(len(t.AllForeignKeys()))
	return nil
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
	return statements
}

// retireSQL moves table t out of the way, to parked, and removes what joins it to other
// objects. A serial sequence stays where it is, with its value and grants. The user
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
	return append(statements, moveSQL(t.Name, parked))
}

func moveSQL(table, to catalog.Name) string {
	return fmt.Sprintf("ALTER TABLE %s SET SCHEMA %s", table, catalog.Quote(to.Schema))
}

// dressSQL moves the shadow into place and gives it what only a table in use may have,
// except grants.
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

const ownerSQL = `SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE oid = $1`

// ownerOf reads the owner of the shadow before the locks are acquired. It cannot change
// afterwards: only repack changes the owner of the shadow. The owner in e.Source may be
// another one, because each stage begins with a new description of the source.
func ownerOf(ctx context.Context, tx pgx.Tx, oid uint32) (owner string, err error) {
	if err := tx.QueryRow(ctx, ownerSQL, oid).Scan(&owner); err != nil {
		return "", fmt.Errorf("look up the owner of the shadow: %w", err)
	}
	return owner, nil
}

// grantsSQLOf returns the statements that turn the privileges on the shadow into those on
// the source.
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

// doAll sends statements together, because every round trip is time under the lock.
func doAll(ctx context.Context, tx *lock.Tx, statements []string) error {
	if len(statements) == 0 {
		return nil
	}
	if err := tx.Do(ctx, strings.Join(statements, ";\n")); err != nil {
		return fmt.Errorf("exchange tables: %w", err)
	}
	return nil
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
	is := catalog.Queue(b, oid)
	queueNoneDraws(b, was, retired)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return nil, err
	}
	if err := catalog.ReadMatviews(ctx, tx, is.Matviews); err != nil {
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
