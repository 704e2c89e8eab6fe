package steps

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
)

// The exchange creates some objects again from the text that the server prints for them.
// The server may print the new object differently. repack finds out how before the exchange,
// when no session waits, in a transaction that it rolls back: see catalog.Reprints.

// learn parses the definitions of the table with that OID, and of everything that refers to
// it, once more, and remembers how the server prints them.
func (w *Worker) learn(ctx context.Context, oid uint32) error {
	t, err := catalog.Read(ctx, w.Pool, oid)
	if err != nil {
		return w.GoneOr(err)
	}
	if w.Knows(t, oid) {
		return nil
	}
	err = w.learnOf(ctx, t, oid)
	if err != nil || w.Alteration == nil {
		return err
	}
	return w.learnOf(ctx, w.Becomes(t, oid), oid) // the same texts may read otherwise there
}

// Knows reports whether it is known how the definitions of t read, and those of the table that
// replaces it. oid is that of t.
func (w *Worker) Knows(t *catalog.Table, oid uint32) bool {
	return w.Reprints.Knows(w.compared(t)) && (w.Job == nil || w.Reprints.Knows(w.compared(w.Becomes(t, oid))))
}

// compared returns t with the definitions that an exchange compares. If the table is altered, what
// depends on it may read otherwise: see catalog.Table.WithDependentsAs.
func (w *Worker) compared(t *catalog.Table) *catalog.Table {
	if w.Alteration == nil {
		return t
	}
	c := *t
	c.Dependents = nil
	return &c
}

// Becomes returns the description that the table which replaces t must have. oid is that of t:
// the source, or after the swap the new table.
func (w *Worker) Becomes(t *catalog.Table, oid uint32) *catalog.Table {
	if oid == w.Job.Source {
		return w.Alteration.Target(t)
	}
	return w.Alteration.Restored(w.Source, t)
}

// ErrUnlearned reports that some definitions have not been parsed once more.
var ErrUnlearned = errors.New("it is not known how the definitions will read")

// Learning runs exchange for the table with that OID. If some definitions have not been
// parsed once more, it runs learn, and then exchange again.
func (w *Worker) Learning(ctx context.Context, oid uint32, exchange func(context.Context) error) error {
	err := exchange(ctx)
	if !errors.Is(err, ErrUnlearned) {
		return err
	}
	if err := w.learn(ctx, oid); err != nil {
		return err
	}
	err = exchange(ctx)
	if errors.Is(err, ErrUnlearned) {
		return fmt.Errorf("a definition of %s has just been changed: %w", w.Source.Name, ErrPutOff)
	}
	return err
}

// LearnOld runs learn for the old table, with the description from before the swap.
func (w *Worker) LearnOld(ctx context.Context) error {
	err := w.learnOf(ctx, w.Source, w.Job.Source)
	if err != nil || w.Alteration == nil {
		return err
	}
	return w.learnOf(ctx, w.Alteration.Target(w.Source), w.Job.Source)
}

func (w *Worker) learnOf(ctx context.Context, t *catalog.Table, oid uint32) error {
	return w.TryBy(ctx, w.Locks, func(ctx context.Context, tx *lock.Tx) error { return w.LearnIn(ctx, tx, t, oid) })
}

// LearnIn is learn in a transaction, for t alone.
func (w *Worker) LearnIn(ctx context.Context, tx *lock.Tx, t *catalog.Table, oid uint32) error {
	free, _ := w.Places()
	return w.Reprints.Learn(ctx, tx, free, w.compared(t), oid)
}

// Learned makes sure, under the lock, that no definition has been added or changed since.
func (w *Worker) Learned(t *catalog.Table) error {
	if !w.Knows(t, w.InUse()) {
		return fmt.Errorf("a definition of %s has just been changed: %w", t.Name, ErrPutOff)
	}
	return nil
}

// TellReread logs the definitions that pg_dump will print differently from now on.
func (w *Worker) TellReread(name catalog.Name, definitions []string) {
	if len(definitions) > 0 {
		w.Log.Info("definitions are what they were, and read otherwise", "job", w.Job.ID, "table", name.String(), "definitions", definitions)
	}
}

// SameQuery makes sure that the successor of m has m's query. The successor has been created
// in schema built. The server may print its query differently, but then it must print it
// like the query of a view that is made from the same text.
func (w *Worker) SameQuery(ctx context.Context, tx *lock.Tx, m catalog.Matview, built, query string) error {
	if query == m.Query {
		return nil
	}
	reads, err := catalog.ViewText(ctx, tx, built, m.Query, m.Relation.Columns)
	if err != nil {
		return fmt.Errorf("look at how the query of %s reads: %w", m.Relation.Name, err)
	}
	if reads != query {
		return &ParityError{Table: m.Relation.Name, Differences: []catalog.Difference{{Property: "query", Was: m.Query, Is: query}}}
	}
	w.TellReread(m.Relation.Name, []string{"query"})
	return nil
}

// LearnMatviews does what learn does for what belongs to materialized views, except their
// queries.
func (w *Worker) LearnMatviews(ctx context.Context, tx pgx.Tx, free string, matviews []catalog.Matview) error {
	for _, m := range matviews {
		if w.Reprints.Knows(m.Relation) {
			continue
		}
		if err := w.Reprints.Learn(ctx, tx, free, m.Relation, m.OID); err != nil {
			return err
		}
	}
	return nil
}
