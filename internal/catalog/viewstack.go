package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// View is a view that is dropped and created again, because a column of it, or of a view that it
// reads, gets another type.
type View struct {
	OID        uint32
	Definition string
	Version    string // see Dependent
	Depth      int    // how many views read each other from the first of the stack to this one
	// Relation is everything else about it, described as a table.
	Relation *Table `db:"-"`
}

// Name is the quoted name of the view.
func (v View) Name() string { return v.Relation.Name.String() }

// Texts returns what the server prints of the view's query, defaults, rules and triggers, by what
// and whose it is. They may read otherwise once columns have other types.
func (v View) Texts() map[string]string {
	texts := map[string]string{"query": v.Definition}
	v.Relation.withDefinitions(func(property, name, text string) string {
		texts[property+" "+name] = text
		return text
	})
	return texts
}

// Restored returns v with the texts of was, where they are still those of is.
func (v View) Restored(was, is map[string]string) View {
	restored := func(key, text string) string {
		if old, there := was[key]; there && is[key] == text {
			return old
		}
		return text
	}
	v.Definition = restored("query", v.Definition)
	v.Relation = v.Relation.withDefinitions(func(property, name, text string) string { return restored(property+" "+name, text) })
	return v
}

// stackDepth limits how many views of a stack read each other in turn. Views that read each other
// in a circle can be made, but not queried.
const stackDepth = 200

// stackSQL lists the views $1, and those that read them, each after those that it reads.
const stackSQL = `
WITH RECURSIVE stack (oid, depth) AS (
    SELECT v, 0 FROM unnest($1::oid[]) v
    UNION
    SELECT r.ev_class, s.depth + 1
    FROM   stack s
    JOIN   pg_depend d  ON d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = s.oid
    JOIN   pg_rewrite r ON r.oid = d.objid AND r.ev_class <> s.oid AND r.rulename = '_RETURN'
    WHERE  'v' = (SELECT c.relkind FROM pg_class c WHERE c.oid = r.ev_class) AND s.depth < $2
)
SELECT   s.oid                             AS oid,
         rtrim(pg_get_viewdef(s.oid), ';') AS definition,
         (SELECT ` + viewVersion + `
          FROM   pg_rewrite r
          WHERE  r.ev_class = s.oid AND r.rulename = '_RETURN') AS version,
         s.depth                           AS depth
FROM    (SELECT oid, max(depth) AS depth FROM stack GROUP BY oid) s
ORDER BY s.depth, s.oid`

// stackedSQL lists what depends on one of the views $1, and would be lost with it: all but the
// views of the list, and what belongs to them.
const stackedSQL = `
WITH view (oid, class, id) AS (
    SELECT v, 'pg_class'::regclass, v FROM unnest($1::oid[]) v
    UNION ALL
    SELECT t.typrelid, 'pg_type'::regclass, t.oid FROM pg_type t WHERE t.typrelid = ANY ($1::oid[])
    UNION ALL
    SELECT t.typrelid, 'pg_type'::regclass, t.typarray FROM pg_type t WHERE t.typrelid = ANY ($1::oid[])
)
SELECT   DISTINCT v.oid::regclass::text, pg_describe_object(d.classid, d.objid, 0)
FROM     view v
JOIN     pg_depend d ON d.refclassid = v.class AND d.refobjid = v.id AND d.deptype IN ('n', 'e', 'x')
WHERE    NOT (d.classid = 'pg_rewrite'::regclass
              AND EXISTS (SELECT FROM pg_rewrite r WHERE r.oid = d.objid AND r.ev_class = ANY ($1::oid[])))
UNION
SELECT   d.objid::regclass::text, pg_describe_object(d.refclassid, d.refobjid, 0)
FROM     pg_depend d
WHERE    d.classid = 'pg_class'::regclass AND d.objid = ANY ($1::oid[]) AND d.deptype = 'e'
ORDER BY 1, 2`

// Stack are views that are dropped and created again, in an order in which they can be created, and
// what would be lost with them.
type Stack struct {
	Views []View
	Lost  []Stacked
}

// Stacked is an object that would be lost if a view was dropped.
type Stacked struct{ View, Object string }

// ReadStack describes the views with these OIDs and those that read them. If like are still the same
// views, it needs one round trip, or two if one of them has extras that it did not have. Otherwise
// it needs one more.
func ReadStack(ctx context.Context, q Querier, oids []uint32, like []View) (Stack, error) {
	if len(oids) == 0 {
		return Stack{}, nil
	}
	const attempts = 5
	for range attempts {
		stack, err := readStack(ctx, q, oids, like)
		if err != nil {
			return Stack{}, fmt.Errorf("look at views on views: %w", err)
		}
		if slices.EqualFunc(stack.Views, like, func(a, b View) bool { return a.OID == b.OID }) {
			return stack, nil
		}
		like = stack.Views
	}
	return Stack{}, errors.New("look at views on views: they are being changed all the time")
}

// readStack lists the views, and describes those of like.
func readStack(ctx context.Context, q Querier, oids []uint32, like []View) (stack Stack, err error) {
	b := &pgx.Batch{}
	b.Queue(stackSQL, oids, stackDepth).Query(func(rows pgx.Rows) (err error) {
		stack.Views, err = pgx.CollectRows(rows, pgx.RowToStructByName[View])
		return err
	})
	b.Queue(stackedSQL, oidsOf(like)).Query(func(rows pgx.Rows) (err error) {
		stack.Lost, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Stacked])
		return err
	})
	relations, err := describeViews(ctx, q, b, like, like)
	if err != nil {
		return Stack{}, err
	}
	for i := range min(len(stack.Views), len(relations)) {
		stack.Views[i].Relation = relations[i]
	}
	return stack, nil
}

func oidsOf(views []View) []uint32 {
	oids := make([]uint32, len(views))
	for i, v := range views {
		oids[i] = v.OID
	}
	return oids
}

// describeViews sends b, and with it the queries that describe everything about views but the
// query. like are views with the extras that they are likely to have.
func describeViews(ctx context.Context, q Querier, b *pgx.Batch, views, like []View) ([]*Table, error) {
	relations := make([]*Table, len(views))
	for i, v := range views {
		relations[i] = queue(b, v.OID, everything, like[i].Relation.Extras())
	}
	if err := q.SendBatch(ctx, b).Close(); err != nil {
		return nil, described(err)
	}
	if err := complete(ctx, q, relations, everything); err != nil {
		return nil, described(err)
	}
	for _, r := range relations {
		r.Rules = slices.DeleteFunc(r.Rules, func(rule Rule) bool { return rule.Name == "_RETURN" })
	}
	return relations, nil
}

// madeSQL lists the privileges on views by their names $1.
const madeSQL = `
SELECT   u.n                                                                   AS n,
         c.oid                                                                 AS oid,
         pg_get_userbyid(e.grantor)::text                                      AS grantor,
         CASE WHEN e.grantee = 0 THEN '' ELSE pg_get_userbyid(e.grantee)::text END AS grantee,
         e.privilege_type                                                      AS privilege,
         e.is_grantable                                                        AS grantable
FROM     unnest($1::text[]) WITH ORDINALITY u (name, n)
JOIN     pg_class c ON c.oid = u.name::regclass
LEFT     JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) WITH ORDINALITY e ON true
ORDER BY u.n, e.ordinality`

// ReadMade finds the views that have been created again, in the order of the list, with their
// privileges and nothing else. It needs one round trip.
func ReadMade(ctx context.Context, q Querier, stack []View) ([]View, error) {
	if len(stack) == 0 {
		return nil, nil
	}
	made, names := make([]View, len(stack)), make([]string, len(stack))
	for i, v := range stack {
		made[i].Relation, names[i] = &Table{Name: v.Relation.Name}, v.Name()
	}
	rows, err := q.Query(ctx, madeSQL, names)
	if err != nil {
		return nil, fmt.Errorf("look up views: %w", err)
	}
	var n int
	var oid uint32
	var g Grant
	_, err = pgx.ForEachRow(rows, []any{&n, &oid, &g.Grantor, &g.Grantee, &g.Privilege, &g.Grantable}, func() error {
		v := &made[n-1]
		v.OID, v.Relation.Grants = oid, append(v.Relation.Grants, g)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up views: %w", err)
	}
	return made, nil
}

const definitionsSQL = `
SELECT   rtrim(pg_get_viewdef(v), ';')
FROM     unnest($1::oid[]) WITH ORDINALITY u (v, n)
ORDER BY n`

// ReadWhole describes the views of made, which ReadMade has found. stack are what they are likely
// to have. It needs one round trip.
func ReadWhole(ctx context.Context, q Querier, made, stack []View) ([]View, error) {
	if len(made) == 0 {
		return nil, nil
	}
	whole := slices.Clone(made)
	b := &pgx.Batch{}
	var definitions []string
	b.Queue(definitionsSQL, oidsOf(made)).Query(func(rows pgx.Rows) (err error) {
		definitions, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	relations, err := describeViews(ctx, q, b, made, stack)
	if err != nil {
		return nil, err
	}
	for i := range whole {
		whole[i].Relation, whole[i].Definition = relations[i], definitions[i]
	}
	return whole, nil
}

// LockStackSQL returns statements that take ACCESS EXCLUSIVE on views and change nothing.
func LockStackSQL(stack []View) []string {
	var statements []string
	for _, v := range slices.Backward(stack) { // a query locks a view before those that it reads
		statements = append(statements, v.ownerSQL())
	}
	return statements
}

func (v View) ownerSQL() string {
	return fmt.Sprintf("ALTER VIEW %s OWNER TO %s", v.Name(), Quote(v.Relation.Owner))
}

// RecreateSQL returns statements that drop the views and create them again, without their
// privileges. Their columns have the types that their queries then have. They take ACCESS
// EXCLUSIVE on the views.
func RecreateSQL(stack []View) []string {
	if len(stack) == 0 {
		return nil
	}
	statements := []string{dropViewsSQL(stack)}
	for _, v := range stack {
		statements = append(statements, replaceViewSQL(v.Name(), v.Relation.Options, v.Definition), v.ownerSQL())
	}
	return statements
}

// dropViewsSQL drops all views at once, because a rule of one of them may name any other.
func dropViewsSQL(stack []View) string {
	var names []string
	for _, v := range slices.Backward(stack) {
		names = append(names, v.Name())
	}
	return "DROP VIEW " + strings.Join(names, ", ")
}

// DressViewsSQL gives views that were created again the rest of what they had: privileges,
// comments, defaults, rules and triggers. made are the views as they were created.
func DressViewsSQL(stack, made []View) []string {
	var statements []string
	for i, v := range stack {
		r := v.Relation
		statements = append(statements, GrantsSQL("TABLE "+v.Name(), r.Owner, made[i].Relation.Grants, r.Grants)...)
		statements = append(statements, v.dressSQL()...)
	}
	return statements
}

// dressSQL is DressViewsSQL without the privileges.
func (v View) dressSQL() []string {
	r := *v.Relation
	statements := comment("VIEW "+v.Name(), r.Comment)
	r.Comment = ""
	statements = slices.Concat(statements, r.CommentsSQL(), r.DefaultsSQL(r.Name, false))
	for _, part := range r.triggersAndRules() {
		statements = append(statements, part.SQL...)
	}
	for _, l := range r.Labels {
		statements = append(statements, l.sqlOn("VIEW", r.Name))
	}
	return statements
}

// DifferentViews compares views that were created again with what they were. Types of columns
// may differ, and texts that depend on them.
func DifferentViews(was, is View) ([]Difference, error) {
	old, made := was.shape(), is.shape()
	for i := range old.Columns {
		if i < len(made.Columns) {
			o, m := &old.Columns[i], made.Columns[i]
			o.Type, o.Collation, o.Storage, o.Compression = m.Type, m.Collation, m.Storage, m.Compression
		}
	}
	return Diff(old, made)
}

// shape is the description without texts. It only says that there are some. What reads a view is
// left out: it is a view of the stack, or depends on the table itself.
func (v View) shape() *Table {
	s := v.Relation.withDefinitions(func(string, string, string) string { return "…" })
	s.Dependents, s.Typed, s.Matviews = nil, nil, nil
	return s
}
