package stages

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
	"github.com/repack-go/repack/registry"
	"github.com/repack-go/repack/strategy"
)

// swap puts the shadow in the source's place. First writers are switched from
// log to write-through, so that source and shadow are equal in every snapshot
// taken from then on; snapshots older than that are waited for; then one
// transaction exchanges the tables and has foreign keys lead to the new one.
//
// It takes SHARE ROW EXCLUSIVE on the source to switch, and later, in one
// transaction, ACCESS EXCLUSIVE on the source, its shadow and the tables joined
// to it by foreign keys. All waits of a transaction together are bounded by
// the lock timeout. Afterwards the foreign keys are validated, each under
// SHARE UPDATE EXCLUSIVE on its table.
func swap(ctx context.Context, e *Env) error {
	if !e.Job.Swapped() {
		if err := e.inStep(ctx, e.exchange); err != nil {
			return err
		}
		if err := e.step(ctx, "swap: exchanged"); err != nil {
			return err
		}
	}
	if err := e.validateForeignKeys(ctx); err != nil {
		return err
	}
	return e.write(ctx, func(tx pgx.Tx) error { return e.endStage(ctx, tx, registry.Swap) })
}

// errNotQuiet reports that changes were logged since the last drain, or that a
// snapshot is older than their replay: the exchange must wait.
var errNotQuiet = errors.New("changes are pending that were not written through")

// inStep brings the copy in step with the table in use for every snapshot, and
// runs exchange, again when a change has come between.
func (e *Env) inStep(ctx context.Context, exchange func(context.Context) error) error {
	pauses := backoff.NewExponentialBackOff()
	for attempt := 0; ; attempt++ {
		if !e.concurrent() {
			if err := e.catchUp(ctx); err != nil {
				return err
			}
			if err := e.writeThrough(ctx); err != nil {
				return err
			}
			if err := e.step(ctx, "swap: writing through"); err != nil {
				return err
			}
		}
		if err := e.drain(ctx); err != nil {
			return err
		}
		if err := e.step(ctx, "swap: drained"); err != nil {
			return err
		}
		err := exchange(ctx)
		if !errors.Is(err, errNotQuiet) || attempt >= e.Locks.Retries {
			return err
		}
		e.Log.Debug("exchange put off", "job", e.Job.ID, "attempt", attempt, "reason", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pauses.NextBackOff()):
		}
	}
}

const currentXIDSQL = `SELECT pg_current_xact_id()::text`

// writeThrough drains the log and turns capture into write-through in one
// transaction, while no writer can be in between. Its commit completes the
// copy: a snapshot that sees it sees all of the copy's rows.
func (e *Env) writeThrough(ctx context.Context) error {
	var job *registry.Job
	err := e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		if err := e.stopWriters(ctx, tx); err != nil {
			return err
		}
		if _, err := e.Link.ReplayAll(ctx, tx, false); err != nil {
			return err
		}
		var xid string
		if err := tx.QueryRow(ctx, currentXIDSQL).Scan(&xid); err != nil {
			return fmt.Errorf("read transaction id: %w", err)
		}
		if _, err := tx.Exec(ctx, e.Link.WriteThroughSQL(xid)); err != nil {
			return fmt.Errorf("switch capture to write-through: %w", err)
		}
		var err error
		job, err = e.update(ctx, tx, func(j *registry.Job) { j.CompletedBy = &xid })
		return err
	})
	if err == nil {
		e.Job = job
	}
	return err
}

// drain waits until writers with older snapshots, who log, are gone; replays
// what they have logged; and waits for the snapshots older than that replay.
func (e *Env) drain(ctx context.Context) error {
	for deadline := time.Now().Add(e.SnapshotWait); ; {
		if err := e.awaitSnapshots(ctx); err != nil {
			return err
		}
		pending, err := e.Link.Pending(ctx, e.Pool)
		if err != nil || pending == 0 {
			return err
		}
		r, err := e.pass(ctx)
		if err != nil {
			return err
		}
		if r.Aside > 0 && time.Now().After(deadline) {
			return fmt.Errorf("rows stay locked by the application (%d keys): %w", r.Aside, errNotQuiet)
		}
	}
}

// exchange is the swap itself.
func (e *Env) exchange(ctx context.Context) error {
	var job *registry.Job
	err := e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		before, err := e.lockForExchange(ctx, tx)
		if err != nil {
			return err
		}
		if err := e.drift(before); err != nil {
			return err
		}
		if err := e.retire(ctx, tx, e.Job.OldTable()); err != nil {
			return err
		}
		if err := e.dress(ctx, tx); err != nil {
			return err
		}
		if err := e.install(ctx, tx, e.Job.ShadowTable(), e.Job.OldTable()); err != nil {
			return err
		}
		reverse := e.Link.Reverse(e.Job.Table(), e.Job.OldTable())
		if err := execAll(ctx, tx, append([]string{reverse.LogCaptureSQL()}, reverse.CreateTriggersSQL()...)); err != nil {
			return err
		}
		if err := e.parity(ctx, tx, *e.Job.Shadow); err != nil {
			return err
		}
		now := time.Now()
		job, err = e.update(ctx, tx, func(j *registry.Job) { j.SwappedAt, j.CompletedBy = &now, nil })
		return err
	})
	if err != nil {
		return err
	}
	e.Link = e.Link.Reverse(e.Job.Table(), e.Job.OldTable())
	e.Job = job
	return nil
}

// lockForExchange takes ACCESS EXCLUSIVE on the table in use, makes sure that
// the copy is equal to it in every snapshot, and drops the foreign keys from
// and to it, which locks the tables at their other end. It returns the
// table's description from before.
func (e *Env) lockForExchange(ctx context.Context, tx *lock.Tx) (*catalog.Table, error) {
	table := e.Link.From.String()
	if err := tx.Settle(ctx, table); err != nil {
		return nil, err
	}
	if err := tx.Lock(ctx, table, "ACCESS EXCLUSIVE"); err != nil {
		return nil, err
	}
	if err := e.quiet(ctx, tx); err != nil {
		return nil, err
	}
	oid := e.Job.Source
	if e.Job.Swapped() {
		oid = *e.Job.Shadow
	}
	before, err := catalog.Read(ctx, tx, oid)
	if err != nil {
		return nil, err
	}
	for _, key := range before.AllForeignKeys() {
		if err := tx.Do(ctx, key.DropSQL()); err != nil {
			return nil, fmt.Errorf("drop foreign key %q of %s: %w", key.Name, key.Table, err)
		}
	}
	return before, nil
}

// quiet replays what is pending, which only we can see, and then lets nobody
// have a snapshot that is older.
func (e *Env) quiet(ctx context.Context, tx *lock.Tx) error {
	pending, err := e.Link.Pending(ctx, tx)
	if err != nil || pending == 0 {
		return err
	}
	if _, err := e.Link.ReplayAll(ctx, tx, false); err != nil {
		return err
	}
	holders, err := snapshots(ctx, tx)
	if err != nil {
		return err
	}
	if len(holders) > 0 {
		return fmt.Errorf("%d changes, %d snapshots: %w", pending, len(holders), errNotQuiet)
	}
	return nil
}

// retire takes from the table in use what the next one will have, and moves it
// to parked. A serial sequence stays where it is, with its value and grants.
func (e *Env) retire(ctx context.Context, tx *lock.Tx, parked catalog.Name) error {
	statements := strategy.DropTriggersSQL(e.Link.From)
	for _, s := range e.Source.Sequences {
		if !s.Identity {
			statements = append(statements, fmt.Sprintf("ALTER SEQUENCE %s OWNED BY NONE", s.Name))
		}
	}
	statements = append(statements, e.Source.DefaultsSQL(e.Link.From, true)...)
	statements = append(statements, moveSQL(e.Link.From, parked))
	return doAll(ctx, tx, statements)
}

func moveSQL(table, to catalog.Name) string {
	return fmt.Sprintf("ALTER TABLE %s SET SCHEMA %s", table, catalog.Quote(to.Schema))
}

// install moves the copy into place, gives it what retire has taken from the
// other, and the values of identity sequences with it.
func (e *Env) install(ctx context.Context, tx *lock.Tx, copied, retired catalog.Name) error {
	table := e.Source.Name
	statements := append([]string{moveSQL(copied, table)}, e.Source.DefaultsSQL(table, false)...)
	for _, s := range e.Source.Sequences {
		if s.Identity {
			statements = append(statements, fmt.Sprintf("SELECT setval(%s::regclass, last_value, is_called) FROM %s",
				catalog.Literal(s.Name.String()), s.Name.In(retired.Schema)))
		} else {
			statements = append(statements, fmt.Sprintf("ALTER SEQUENCE %s OWNED BY %s.%s", s.Name, table, catalog.Quote(s.Column)))
		}
	}
	for _, key := range e.Source.AllForeignKeys() {
		statements = append(statements, key.AddSQL())
		statements = append(statements, key.CommentSQL()...)
	}
	return doAll(ctx, tx, statements)
}

// dress gives the shadow what only a table in use may have.
func (e *Env) dress(ctx context.Context, tx *lock.Tx) error {
	shadow := e.Job.ShadowTable()
	var statements []string
	for _, c := range e.Source.Constraints {
		if (c.Type == "c" || c.Type == "n") && !c.Validated {
			statements = append(statements, c.AddSQL(shadow))
		}
	}
	statements = append(statements, e.Source.CommentsSQL(shadow)...)
	for _, s := range e.Source.Sequences {
		if s.Identity {
			column, _ := e.Source.Column(s.Column)
			statements = append(statements, s.IdentitySQL(shadow, column.Identity == "a"))
			statements = append(statements, s.CommentSQL(s.Name.In(shadow.Schema))...)
		}
	}
	if err := doAll(ctx, tx, statements); err != nil {
		return err
	}
	return e.grant(ctx, tx, shadow)
}

// grant gives the shadow and its identity sequences the source's exact grants.
func (e *Env) grant(ctx context.Context, tx *lock.Tx, shadow catalog.Name) error {
	have, err := catalog.Read(ctx, tx, *e.Job.Shadow)
	if err != nil {
		return err
	}
	statements := catalog.GrantsSQL("TABLE "+shadow.String(), have.Grants, e.Source.Grants)
	for _, want := range e.Source.Sequences {
		if !want.Identity {
			continue
		}
		name := want.Name.In(shadow.Schema)
		for _, s := range have.Sequences {
			if s.Name == name {
				statements = append(statements, catalog.GrantsSQL("SEQUENCE "+name.String(), s.Grants, want.Grants)...)
			}
		}
	}
	return doAll(ctx, tx, statements)
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

// parity compares the table in place with what the source was, but for foreign
// keys that have still to be validated.
func (e *Env) parity(ctx context.Context, tx *lock.Tx, oid uint32) error {
	now, err := catalog.Read(ctx, tx, oid)
	if err != nil {
		return err
	}
	differences, err := catalog.Diff(e.Source.Unvalidated(), now)
	if err != nil {
		return err
	}
	if len(differences) > 0 {
		return &ParityError{Table: e.Source.Name, Differences: differences}
	}
	return nil
}

// validateForeignKeys validates the keys that were valid before the exchange.
func (e *Env) validateForeignKeys(ctx context.Context) error {
	oid := e.Job.Source
	if e.Job.Swapped() {
		oid = *e.Job.Shadow
	}
	now, err := catalog.Read(ctx, e.Pool, oid)
	if err != nil {
		return err
	}
	for _, key := range now.AllForeignKeys() {
		if key.Validated || !e.Source.WasValid(key) {
			continue
		}
		err := e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
			if err := tx.Settle(ctx, key.Table.String()); err != nil {
				return err
			}
			return tx.Do(ctx, key.ValidateSQL())
		})
		if err != nil {
			return fmt.Errorf("validate foreign key %q of %s: %w", key.Name, key.Table, err)
		}
	}
	return nil
}
