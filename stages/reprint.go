package stages

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/internal/lock"
)

// What the exchange makes anew from the server's text of it may read otherwise
// than before. How it reads then is asked beforehand, when nobody waits, and so in
// a transaction that is rolled back: see catalog.Reprints.

// errLearned rolls back what was made to learn from.
var errLearned = errors.New("the definitions have been learned")

// learn has the definitions of the table with that OID, and of all that refers to
// it, parsed once more.
func (e *Env) learn(ctx context.Context, oid uint32) error {
	t, err := catalog.Read(ctx, e.Pool, oid)
	if err != nil {
		return e.goneOr(err)
	}
	if e.reprints.Knows(t) {
		return nil
	}
	return e.learnOf(ctx, t, oid)
}

// errUnlearned reports that there are definitions which have not been parsed once more.
var errUnlearned = errors.New("it is not known how the definitions will read")

// learning runs exchange of the table with that OID, and again once its definitions
// have been parsed, where they had not been.
func (e *Env) learning(ctx context.Context, oid uint32, exchange func(context.Context) error) error {
	err := exchange(ctx)
	if !errors.Is(err, errUnlearned) {
		return err
	}
	if err := e.learn(ctx, oid); err != nil {
		return err
	}
	err = exchange(ctx)
	if errors.Is(err, errUnlearned) {
		return fmt.Errorf("a definition of %s has just been changed: %w", e.Source.Name, ErrPutOff)
	}
	return err
}

// learnOld is learn for the table that was swapped out, as it was described then.
func (e *Env) learnOld(ctx context.Context) error { return e.learnOf(ctx, e.Source, e.Job.Source) }

func (e *Env) learnOf(ctx context.Context, t *catalog.Table, oid uint32) error {
	free, _ := e.places()
	err := e.transact(ctx, func(ctx context.Context, tx *lock.Tx) error {
		if err := e.reprints.Learn(ctx, tx, free, t, oid); err != nil {
			return err
		}
		return errLearned
	})
	if errors.Is(err, errLearned) {
		return nil
	}
	return err
}

// learned makes sure, under the lock, that no definition has come to be since.
func (e *Env) learned(t *catalog.Table) error {
	if !e.reprints.Knows(t) {
		return fmt.Errorf("a definition of %s has just been changed: %w", t.Name, ErrPutOff)
	}
	return nil
}

// tellReread names what pg_dump will print otherwise from now on.
func (e *Env) tellReread(name catalog.Name, definitions []string) {
	if len(definitions) > 0 {
		e.Log.Info("definitions are what they were, and read otherwise", "job", e.Job.ID, "table", name.String(), "definitions", definitions)
	}
}

// sameQuery makes sure that the successor of m, which has been created in schema
// built, has m's query. It may read otherwise, as that of a view made of the same
// text does.
func (e *Env) sameQuery(ctx context.Context, tx *lock.Tx, m catalog.Matview, built, query string) error {
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
	e.tellReread(m.Relation.Name, []string{"query"})
	return nil
}

// learnMatviews is learn for what belongs to materialized views, except their
// queries.
func (e *Env) learnMatviews(ctx context.Context, tx pgx.Tx, free string, matviews []catalog.Matview) error {
	for _, m := range matviews {
		if e.reprints.Knows(m.Relation) {
			continue
		}
		if err := e.reprints.Learn(ctx, tx, free, m.Relation, m.OID); err != nil {
			return err
		}
	}
	return nil
}
