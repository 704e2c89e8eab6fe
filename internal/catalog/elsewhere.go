package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// The server prints the name of a relation without its schema if search_path makes that
// sufficient. A text that it prints while search_path is the table's schema can be read
// while another schema stands first: then it means the table of that name there. So
// triggers, rules and the like can be tried on a copy without changing a text.
//
// Only these queries run under such a search_path. They name every operator by its
// schema, because any user may have created operators in the application's schema.

const visibleSQL = `SELECT pg_catalog.pg_table_is_visible($1::pg_catalog.oid)`

const prettyTriggersSQL = `
SELECT t.tgname::pg_catalog.text, pg_catalog.pg_get_triggerdef(t.oid, true)
FROM   pg_catalog.pg_trigger t
WHERE  t.tgrelid OPERATOR(pg_catalog.=) $1::pg_catalog.oid AND NOT t.tgisinternal`

const prettyRulesSQL = `
SELECT r.rulename::pg_catalog.text, pg_catalog.pg_get_ruledef(r.oid, true)
FROM   pg_catalog.pg_rewrite r
WHERE  r.ev_class OPERATOR(pg_catalog.=) $1::pg_catalog.oid`

// CopyIn describes a copy of t with the same name in another schema. The copy has
// everything that a table which is not in use can have. It has no foreign keys to other
// tables, no partition, and no objects that depend on it.
//
// Create its triggers and rules under a search_path of that schema, followed by t's
// own. If another relation hides t under its own schema's search_path, this does not
// work: then triggers and rules are left out, and hidden is true.
//
// q must be a transaction, because CopyIn sets search_path for that transaction for a
// moment. It takes no lock on t that blocks writes.
func (t *Table) CopyIn(ctx context.Context, q Querier, schema string) (c *Table, hidden bool, err error) {
	copied := *t
	c = &copied
	c.Name = t.Name.In(schema)
	c.Partition, c.Referencing, c.KeyParts, c.Dependents, c.Matviews = nil, nil, nil, nil, nil
	c.ForeignKeys, c.Typed = nil, []Typed{} // see TypedIn
	for _, key := range t.ForeignKeys {
		if key.SelfReference() {
			key.Table, key.Referenced = c.Name, c.Name
			c.ForeignKeys = append(c.ForeignKeys, key)
		}
	}
	c.Statistics = slices.Clone(t.Statistics)
	for i := range c.Statistics {
		c.Statistics[i].Name.Schema = schema
	}
	c.Sequences = slices.Clone(t.Sequences)
	for i := range c.Sequences {
		c.Sequences[i].Name.Schema = schema
	}
	c.Columns = slices.Clone(t.Columns)
	for i, column := range c.Columns { // a partition's identity column may be the partitioned table's
		if !slices.ContainsFunc(t.Sequences, func(s Sequence) bool { return s.Identity && s.Column == column.Name }) {
			c.Columns[i].Identity = ""
		}
	}
	c.Triggers, c.Rules = slices.Clone(t.Triggers), slices.Clone(t.Rules)
	if len(t.Triggers)+len(t.Rules) == 0 {
		return c, false, nil
	}
	var visible bool
	triggers, rules := map[string]string{}, map[string]string{}
	b := &pgx.Batch{}
	underPath(b, []string{t.Name.Schema}, func() {
		b.Queue(visibleSQL, t.OID).QueryRow(func(row pgx.Row) error { return row.Scan(&visible) })
		askDefinitions(b, triggers, prettyTriggersSQL, t.OID)
		askDefinitions(b, rules, prettyRulesSQL, t.OID)
	})
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, false, fmt.Errorf("read what belongs to %s: %w", t.Name, err)
	}
	if !visible {
		c.Triggers, c.Rules = []Trigger{}, []Rule{}
	}
	for i, x := range c.Triggers {
		c.Triggers[i].Definition = triggers[x.Name]
	}
	for i, x := range c.Rules {
		c.Rules[i].Definition = rules[x.Name]
	}
	return c, !visible, nil
}

// askDefinitions queues a query that returns names and definitions.
func askDefinitions(b *pgx.Batch, found map[string]string, sql string, oid uint32) {
	b.Queue(sql, oid).Query(func(rows pgx.Rows) error {
		var name, definition string
		_, err := pgx.ForEachRow(rows, []any{&name, &definition}, func() error { found[name] = definition; return nil })
		return err
	})
}

const setPathSQL = `SELECT pg_catalog.set_config('search_path', $1, true)`

// underPath runs the queries that queue adds under a search_path of those schemas. Then
// it sets search_path back to pg_catalog, which our sessions have. If a query fails,
// the transaction must be rolled back.
func underPath(b *pgx.Batch, schemas []string, queue func()) {
	b.Queue(setPathSQL, QuoteAll(schemas))
	queue()
	b.Queue(setPathSQL, "pg_catalog")
}

// PathSQL returns a statement that sets search_path for the current transaction.
func PathSQL(schemas ...string) string { return "SET LOCAL search_path = " + QuoteAll(schemas) }

// Bare returns t without definitions whose text depends on the schema of the table, and
// without its links to other objects.
func (t *Table) Bare() *Table {
	b := *t
	b.Partition, b.Referencing, b.KeyParts, b.Dependents, b.Matviews, b.ForeignKeys = nil, nil, nil, nil, nil, nil
	b.Columns, b.Constraints, b.Indexes = slices.Clone(t.Columns), slices.Clone(t.Constraints), slices.Clone(t.Indexes)
	for i := range b.Columns {
		b.Columns[i].Expression = ""
	}
	for i := range b.Constraints {
		b.Constraints[i].Definition = ""
	}
	for i := range b.Indexes {
		b.Indexes[i].Tail = ""
	}
	b.Triggers, b.Rules, b.Policies = slices.Clone(t.Triggers), slices.Clone(t.Rules), slices.Clone(t.Policies)
	for i := range b.Triggers {
		b.Triggers[i].Definition = ""
	}
	for i := range b.Rules {
		b.Rules[i].Definition = ""
	}
	for i := range b.Policies {
		b.Policies[i].Using, b.Policies[i].WithCheck = "", ""
	}
	b.Publications, b.Statistics = slices.Clone(t.Publications), slices.Clone(t.Statistics)
	for i := range b.Publications {
		b.Publications[i].Where = ""
	}
	for i := range b.Statistics {
		b.Statistics[i].Columns = ""
	}
	b.Typed = slices.Clone(t.Typed)
	for i, o := range b.Typed {
		b.Typed[i].Name, b.Typed[i].Definition, b.Typed[i].Needs = o.key(), "", nil
	}
	slices.SortFunc(b.Typed, func(x, y Typed) int { return strings.Compare(x.Name, y.Name) })
	b.Sequences = slices.DeleteFunc(slices.Clone(t.Sequences), func(s Sequence) bool { return !s.Identity })
	return &b
}

// Tried is a dependent with statements that try its definition on an object of ours.
type Tried struct {
	Part
	Path []string // search_path for the statements; empty: the session's
}

// TriedIn returns statements that try the definitions of objects that depend on t:
// views, rules and policies of other relations, and functions. Each object is replaced
// with its own definition. For functions this is the function itself. For the others it
// is a copy in schema, so the statements lock only what they create.
//
// q must be a transaction, because TriedIn sets search_path for that transaction for a
// moment. A rule is left out if another relation hides the rule's table.
func (t *Table) TriedIn(ctx context.Context, q Querier, schema string) ([]Tried, error) {
	var tried []Tried
	for n, d := range t.Dependents {
		switch d.Kind {
		case "view":
			as := Name{schema, fmt.Sprintf("repack_trial_view_%d", n)}
			tried = append(tried, Tried{Part: Part{d.Kind + " " + d.Name, []string{
				fmt.Sprintf("CREATE VIEW %s AS SELECT * FROM %s", as, d.Name), replaceViewSQL(as.String(), d.options, d.definition),
			}}})
		case "function":
			tried = append(tried, Tried{Part: Part{d.Kind + " " + d.Name, Unchecked([]string{d.Replace})}})
		}
	}
	b := &pgx.Batch{}
	var policies []Tried
	var others []otherRule
	askTriedPolicies(b, &policies, t.OID, schema)
	askFor(b, &others, otherRulesSQL, t.OID)
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("read policies and rules that mention %s: %w", t.Name, err)
	}
	rules, err := triedRules(ctx, q, others, schema)
	if err != nil {
		return nil, fmt.Errorf("read rules that mention %s: %w", t.Name, err)
	}
	return slices.Concat(tried, policies, rules), nil
}

const otherPoliciesSQL = `
WITH     RECURSIVE ` + UsesSQL + `
SELECT   p.polname::text                                       AS name,
         n.nspname::text                                       AS schema_name,
         c.relname::text                                       AS table_name,
         coalesce(pg_get_expr(p.polqual, p.polrelid), '')      AS using,
         coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '') AS check
FROM     pg_policy p
JOIN     pg_class c     ON c.oid = p.polrelid
JOIN     pg_namespace n ON n.oid = c.relnamespace
WHERE    p.polrelid <> $1
AND      p.oid = ANY (ARRAY(SELECT u.id FROM repack_uses u WHERE u.class = 'pg_policy'::regclass))
ORDER BY 2, 3, 1`

func askTriedPolicies(b *pgx.Batch, tried *[]Tried, oid uint32, schema string) {
	type row struct{ Name, SchemaName, TableName, Using, Check string }
	ask(b, func(rows []row) error {
		for _, r := range rows {
			on := Name{r.SchemaName, r.TableName}
			scratch := on.In(schema)
			*tried = append(*tried, Tried{Part: Part{fmt.Sprintf("policy %s on %s", Quote(r.Name), on), []string{
				fmt.Sprintf("CREATE TABLE %s (LIKE %s)", scratch, on),
				fmt.Sprintf("CREATE POLICY %s ON %s", Quote(r.Name), scratch),
				alterPolicySQL(r.Name, scratch, r.Using, r.Check),
			}}})
		}
		return nil
	}, otherPoliciesSQL, oid)
}

func alterPolicySQL(name string, table Name, using, check string) string {
	sql := fmt.Sprintf("ALTER POLICY %s ON %s", Quote(name), table)
	if using != "" {
		sql += " USING (" + using + ")"
	}
	if check != "" {
		sql += " WITH CHECK (" + check + ")"
	}
	return sql
}

const otherRulesSQL = `
WITH     RECURSIVE ` + UsesSQL + `
SELECT   r.oid             AS oid,
         r.rulename::text  AS name,
         n.nspname::text   AS schema_name,
         c.relname::text   AS table_name,
         c.oid             AS relation,
         c.relkind = 'v'   AS view
FROM     pg_rewrite r
JOIN     pg_class c     ON c.oid = r.ev_class
JOIN     pg_namespace n ON n.oid = c.relnamespace
WHERE    r.rulename <> '_RETURN' AND r.ev_class <> $1
AND      r.oid = ANY (ARRAY(SELECT u.id FROM repack_uses u WHERE u.class = 'pg_rewrite'::regclass))
ORDER BY 3, 4, 2`

const prettyRuleSQL = `
SELECT pg_catalog.pg_get_ruledef($1::pg_catalog.oid, true), pg_catalog.pg_table_is_visible($2::pg_catalog.oid)`

type otherRule struct {
	OID                         uint32 `db:"oid"`
	Relation                    uint32
	Name, SchemaName, TableName string
	View                        bool
}

func triedRules(ctx context.Context, q Querier, rules []otherRule, schema string) ([]Tried, error) {
	if len(rules) == 0 {
		return nil, nil
	}
	var tried []Tried
	b := &pgx.Batch{}
	for _, r := range rules {
		on := Name{r.SchemaName, r.TableName}
		underPath(b, []string{on.Schema}, func() {
			b.Queue(prettyRuleSQL, r.OID, r.Relation).QueryRow(func(row pgx.Row) error {
				var definition string
				var visible bool
				if err := row.Scan(&definition, &visible); err != nil || !visible {
					return err
				}
				scratch := fmt.Sprintf("CREATE TABLE %s (LIKE %s)", on.In(schema), on)
				if r.View {
					scratch = fmt.Sprintf("CREATE VIEW %s AS SELECT * FROM %s", on.In(schema), on)
				}
				tried = append(tried, Tried{
					Part: Part{fmt.Sprintf("rule %s on %s", Quote(r.Name), on), []string{scratch, definition}},
					Path: []string{schema, on.Schema},
				})
				return nil
			})
		})
	}
	return tried, q.SendBatch(ctx, b).Close()
}
