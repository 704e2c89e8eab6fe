package catalog

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// These queries are run while search_path has the schemas of the objects: see elsewhere.go.
const (
	functionTextSQL = `SELECT pg_catalog.pg_get_functiondef($1::pg_catalog.oid)`
	policyTextSQL   = `
SELECT p.polname::pg_catalog.text,
       coalesce(pg_catalog.pg_get_expr(p.polqual, p.polrelid), ''),
       coalesce(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), '')
FROM   pg_catalog.pg_policy p
WHERE  p.oid OPERATOR(pg_catalog.=) $1::pg_catalog.oid`
)

// triedRelationsSQL names relations, and says which are views.
const triedRelationsSQL = `
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'v'
FROM   pg_class c
JOIN   pg_namespace n ON n.oid = c.relnamespace
WHERE  c.oid = ANY ($1::oid[])`

// TryDependents makes the rules and policies of other relations that refer to t, and functions,
// once more on copied, a table of the same name in another schema, and returns those that the
// server does not take. Views are for RetypedViews. Rules and policies are made on copies of their
// relations, in schema. All is made in savepoints of tx that are rolled back. It takes ACCESS SHARE
// on the relations.
func (t *Table) TryDependents(ctx context.Context, tx pgx.Tx, copied Name, schema string) (failed []Failed, err error) {
	tried := slices.DeleteFunc(slices.Clone(t.Dependents), func(d Dependent) bool {
		return !slices.Contains([]string{"rule", "policy", "function"}, d.Kind)
	})
	if len(tried) == 0 {
		return nil, nil
	}
	relations, err := readRelations(ctx, tx, tried)
	if err != nil {
		return nil, fmt.Errorf("look at what depends on %s: %w", t.Name, err)
	}
	for _, d := range tried {
		path := []string{t.Name.Schema}
		of, is := relations[d.Relation]
		if is && of.Name.Schema != t.Name.Schema {
			path = append(path, of.Name.Schema)
		}
		statements, err := t.trialOf(ctx, tx, d, of, schema, path)
		if err != nil {
			return nil, fmt.Errorf("read %s %s: %w", d.Kind, d.Name, err)
		}
		under := PathSQL(append([]string{schema, copied.Schema}, path...)...)
		err = Undone(ctx, tx, func(tx pgx.Tx) error { return execUnder(ctx, tx, under, statements...) })
		why, err := refusedBy(ctx, err)
		if err != nil {
			return nil, fmt.Errorf("try %s %s on an altered table: %w", d.Kind, d.Name, err)
		}
		if why != "" {
			failed = append(failed, Failed{d.OID, d.Kind + " " + d.Name, why})
		}
	}
	return failed, nil
}

// relation is one that a rule or policy belongs to.
type relation struct {
	Name Name
	View bool
}

func readRelations(ctx context.Context, q Querier, of []Dependent) (map[uint32]relation, error) {
	oids := make([]uint32, len(of))
	for i, d := range of {
		oids[i] = d.Relation
	}
	rows, err := q.Query(ctx, triedRelationsSQL, oids)
	if err != nil {
		return nil, err
	}
	found := map[uint32]relation{}
	var oid uint32
	var r relation
	_, err = pgx.ForEachRow(rows, []any{&oid, &r.Name.Schema, &r.Name.Name, &r.View}, func() error { found[oid] = r; return nil })
	return found, err
}

// trialOf returns statements that make d once more. There are none if it cannot be tried: the name
// of its relation is hidden by another one, or is that of t. Under path, the server prints the names
// of both without a schema.
func (t *Table) trialOf(ctx context.Context, tx pgx.Tx, d Dependent, of relation, schema string, path []string) (statements []string, err error) {
	if of.Name.Name == t.Name.Name {
		return nil, nil
	}
	as := of.Name.In(schema)
	copySQL := fmt.Sprintf("CREATE TABLE %s (LIKE %s)", as, of.Name)
	if of.View {
		copySQL = fmt.Sprintf("CREATE VIEW %s AS SELECT * FROM %s", as, of.Name)
	}
	b := &pgx.Batch{}
	switch d.Kind {
	case "function":
		underPath(b, path, func() {
			b.Queue(functionTextSQL, d.OID).QueryRow(func(row pgx.Row) error {
				var text string
				err := row.Scan(&text)
				statements = Unchecked([]string{text})
				return err
			})
		})
	case "rule":
		underPath(b, path, func() {
			b.Queue(prettyRuleSQL, d.OID, d.Relation).QueryRow(func(row pgx.Row) error {
				var text string
				var visible bool
				err := row.Scan(&text, &visible)
				if visible {
					statements = []string{copySQL, text}
				}
				return err
			})
		})
	case "policy":
		underPath(b, path, func() {
			b.Queue(policyTextSQL, d.OID).QueryRow(func(row pgx.Row) error {
				var name, using, check string
				err := row.Scan(&name, &using, &check)
				statements = []string{copySQL, fmt.Sprintf("CREATE POLICY %s ON %s", Quote(name), as), alterPolicySQL(name, as, using, check)}
				return err
			})
		})
	}
	return statements, tx.SendBatch(ctx, b).Close()
}
