package alter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/stages/checks"
)

// What becomes of a view that returns a column which gets another type. PostgreSQL cannot
// replace such a view.
const (
	// RecreateViews drops it and creates it again, with all views that read it.
	RecreateViews = "recreate"
	// CastViews casts its columns to the types that they have.
	CastViews = "cast"
)

// Views says which views cannot be replaced when the table is, and what becomes of them.
type Views struct {
	Asked   string // RecreateViews, CastViews, or empty: refused
	Retyped []catalog.RetypedView
	All     map[uint32]string // see catalog.Table.ViewVersions
	// Stack are those that are dropped and created again.
	Stack catalog.Stack
}

// Recreated is a view that the swap has created again: the texts that it had before, and those
// that it has since. See catalog.View.Texts.
type Recreated struct {
	View string            `json:"view"` // quoted
	Was  map[string]string `json:"was"`
	Is   map[string]string `json:"is"`
}

// In says on which table views are tried.
type In struct {
	Table  *catalog.Table // the one in use, with its views
	Copied catalog.Name   // a table of the same name in another schema, as that will be
	Schema string         // where views are created
	Again  []uint32       // views that the swap has created again; for a revert
}

// FindViews finds the views that cannot be replaced when in.Copied takes the place of in.Table, and
// tries what is to become of them. reasons say which of them are in the way. It takes ACCESS SHARE
// on what the views read.
func (a *Alteration) FindViews(ctx context.Context, tx pgx.Tx, in In) (v Views, reasons []checks.Reason, err error) {
	v.Asked = a.Asked.Views
	if v.Retyped, err = in.Table.RetypedViews(ctx, tx, in.Copied, in.Schema, v.Asked == CastViews); err != nil {
		return v, nil, err
	}
	for _, view := range v.Retyped {
		if reason, refused := a.refuses(v.Asked, view); refused {
			reasons = append(reasons, reason)
		}
	}
	if len(reasons) > 0 && v.Asked != RecreateViews {
		return v, reasons, nil
	}
	apart := reasons // each view by itself: one that reads another one may work together with that
	if err := v.ReadStack(ctx, tx, in.Again); err != nil {
		return v, nil, err
	}
	if reasons, err = v.tryOthers(ctx, tx, in); err != nil || v.Asked != RecreateViews {
		return v, reasons, err
	}
	for _, l := range v.Stack.Lost {
		reasons = append(reasons, checks.Reason{
			Object: l.Object, Why: "depends on view " + l.View + ", which would be dropped and created again",
			Remedy: "drop it for the time of the repack, or use --views " + CastViews,
		})
	}
	if len(reasons) > 0 || len(v.Stack.Views) == 0 {
		return v, reasons, nil
	}
	reasons, whole, err := v.tryStack(ctx, tx, in)
	if len(reasons) == 0 && !whole {
		reasons = apart
	}
	return v, reasons, err
}

// tryOthers says which of the dependents that the server can replace it would not take: rules,
// policies and functions that need the old type.
func (v Views) tryOthers(ctx context.Context, tx pgx.Tx, in In) (reasons []checks.Reason, err error) {
	failed, err := v.Installed(in.Table).TryDependents(ctx, tx, in.Copied, in.Schema)
	for _, f := range failed {
		reasons = append(reasons, checks.Reason{Object: f.Object, Why: "would not work on the other table: " + f.Why, Remedy: "drop it for the time of the repack"})
	}
	return reasons, err
}

// tryStack says which views could not be created again. Those of in.Again could: they were there
// before. whole tells that all have been tried.
func (v Views) tryStack(ctx context.Context, tx pgx.Tx, in In) (reasons []checks.Reason, whole bool, err error) {
	if reasons, err = v.missing(ctx, tx); err != nil {
		return nil, false, err
	}
	failed, whole, err := in.Table.TryStack(ctx, tx, in.Copied, in.Schema, v.Stack.Views)
	if err == nil && failed != nil && !slices.Contains(in.Again, failed.OID) {
		reasons = append(reasons, checks.Reason{
			Object: failed.Object, Why: "could not be created again with the other type: " + failed.Why,
			Remedy: "drop it for the time of the repack, or use --views " + CastViews,
		})
	}
	return reasons, whole, err
}

// missingSQL lists the statements that give the current role what it needs to create views again:
// the rights of the roles $1, which own them or have granted privileges on them; CREATE in their
// schemas, for itself and for the owners; and USAGE there for those who have granted. $2 are the
// views.
const missingSQL = `
WITH me (role, version, super) AS (
    SELECT current_user::text, current_setting('server_version_num')::int, rolsuper
    FROM   pg_roles WHERE rolname = current_user
), view (oid, owner, namespace, acl) AS (
    SELECT oid, relowner, relnamespace, relacl FROM pg_class WHERE oid = ANY ($2::oid[])
)
SELECT format(CASE WHEN me.version >= 160000 THEN 'GRANT %I TO %I WITH INHERIT TRUE, SET TRUE;' ELSE 'GRANT %I TO %I;' END, r.name, me.role)
FROM   unnest($1::text[]) r(name), me
WHERE  NOT (pg_has_role(r.name, 'USAGE') AND CASE WHEN me.version >= 160000 THEN pg_has_role(r.name, 'SET') ELSE true END)
UNION
SELECT format('GRANT CREATE ON SCHEMA %I TO %I;', n.nspname, me.role)
FROM   view v
JOIN   pg_namespace n ON n.oid = v.namespace, me
WHERE  NOT has_schema_privilege(n.oid, 'CREATE')
UNION
SELECT format('GRANT CREATE ON SCHEMA %I TO %I;', n.nspname, pg_get_userbyid(v.owner))
FROM   view v
JOIN   pg_namespace n ON n.oid = v.namespace, me
WHERE  NOT me.super AND pg_get_userbyid(v.owner) <> me.role AND NOT has_schema_privilege(v.owner, n.oid, 'CREATE')
UNION
SELECT format('GRANT USAGE ON SCHEMA %I TO %I;', n.nspname, pg_get_userbyid(g.grantor))
FROM   view v
JOIN   pg_namespace n ON n.oid = v.namespace
CROSS  JOIN LATERAL (
       SELECT grantor FROM aclexplode(v.acl)
       UNION
       SELECT x.grantor FROM pg_attribute a, aclexplode(a.attacl) x WHERE a.attrelid = v.oid) g
WHERE  g.grantor <> v.owner AND NOT has_schema_privilege(g.grantor, n.oid, 'USAGE')
ORDER  BY 1`

// missing names the privileges that the current role lacks.
func (v Views) missing(ctx context.Context, q catalog.Querier) ([]checks.Reason, error) {
	var roles []string
	var oids []uint32
	for _, s := range v.Stack.Views {
		roles, oids = append(roles, s.Relation.ActsAs()...), append(oids, s.OID)
	}
	rows, err := q.Query(ctx, missingSQL, roles, oids)
	if err != nil {
		return nil, fmt.Errorf("look at privileges on views: %w", err)
	}
	grants, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look at privileges on views: %w", err)
	}
	return checks.MissingPrivileges(grants), nil
}

func (a *Alteration) refuses(asked string, view catalog.RetypedView) (checks.Reason, bool) {
	r := checks.Reason{Object: "view " + view.View, Remedy: "drop it for the time of the repack"}
	switch {
	case view.Why != "":
		r.Why = "would not work on the other table: " + view.Why
		if asked == "" {
			r.Remedy += ", or use --views " + RecreateViews + " if the cause is another view that it reads"
		}
		return r, true
	case asked == "":
		c := view.Retyped()
		r.Why = fmt.Sprintf("its column %s would be %s and not %s, and PostgreSQL cannot replace a view by one with another type", catalog.Quote(c.Name), c.Is, c.Was)
		r.Remedy = fmt.Sprintf("use --views %s (it is dropped and created again) or --views %s (its column stays %s)", RecreateViews, CastViews, c.Was)
		return r, true
	case asked != CastViews:
		return r, false
	}
	r.Remedy = "use --views " + RecreateViews
	switch lossy := a.lossyCast(view); {
	case view.Updatable:
		r.Why = "rows can be written through it, and could not be if its columns were cast"
	case view.Uncast != "":
		r.Why = "its columns cannot be cast to the types that they have: " + view.Uncast
	case lossy.Name != "":
		r.Why = fmt.Sprintf("its column %s would be cast from %s to %s, and a value that does not fit would lose a part without an error",
			catalog.Quote(lossy.Name), lossy.Is, lossy.Was)
		r.Remedy += ", or allow it with --allow-lossy " + strings.Join(a.converted(view), " --allow-lossy ")
	default:
		return r, false
	}
	return r, true
}

// lossyCast returns a column of the view whose values may lose a part in the cast, without an
// error. The name is empty if there is none, or if the user allows it for the columns that the view
// reads.
func (a *Alteration) lossyCast(view catalog.RetypedView) catalog.ViewColumn {
	lossy, err := Names(a.Asked.AllowLossy)
	allowed := func(column string) bool { return slices.Contains(lossy, column) }
	if converted := a.converted(view); err == nil && len(converted) > 0 && !slices.ContainsFunc(converted, func(c string) bool { return !allowed(c) }) {
		return catalog.ViewColumn{}
	}
	for _, c := range view.Columns {
		if c.Retyped() && !exact(c.IsType, c.WasType) {
			return c
		}
	}
	return catalog.ViewColumn{}
}

// converted returns the columns that the view reads and that get another type.
func (a *Alteration) converted(view catalog.RetypedView) (names []string) {
	for _, name := range view.Reads {
		was, _ := a.Delta.Was.Column(name)
		is, there := a.Delta.Is.Column(name)
		if there && (was.Type != is.Type || was.Collation != is.Collation) {
			names = append(names, name)
		}
	}
	return names
}

// ReadStack reads the views that are dropped and created again: those of Retyped, and besides
// them those of others, which have been created again before. If they are still those of Stack, it
// needs one round trip.
func (v *Views) ReadStack(ctx context.Context, q catalog.Querier, others []uint32) (err error) {
	if v.Asked != RecreateViews {
		return nil
	}
	roots := slices.Clone(others)
	for _, view := range v.Retyped {
		roots = append(roots, view.OID)
	}
	v.Stack, err = catalog.ReadStack(ctx, q, roots, v.Stack.Views)
	return err
}

// Installed returns t with the dependents that the server can replace. Some views are cast. Those
// that are dropped and created again are left out, with what belongs to them.
func (v Views) Installed(t *catalog.Table) *catalog.Table {
	c := *t
	c.Dependents = nil
	for _, d := range t.Dependents {
		switch view, is := v.retyped(d); {
		case d.Kind == "view" && v.stacked(d.OID), d.Relation != 0 && v.stacked(d.Relation):
		case is && v.Asked == CastViews:
			c.Dependents = append(c.Dependents, d.Cast(view))
		default:
			c.Dependents = append(c.Dependents, d)
		}
	}
	return &c
}

// stacked reports whether a view is dropped and created again.
func (v Views) stacked(oid uint32) bool {
	return slices.ContainsFunc(v.Stack.Views, func(s catalog.View) bool { return s.OID == oid })
}

func (v Views) retyped(d catalog.Dependent) (catalog.RetypedView, bool) {
	for _, view := range v.Retyped {
		if d.Kind == "view" && d.OID == view.OID {
			return view, true
		}
	}
	return catalog.RetypedView{}, false
}

// Same reports whether the views are still what they were when they were found.
func (v Views) Same(t *catalog.Table, now Views) bool {
	for _, d := range t.Dependents {
		if view, is := v.retyped(d); is && !d.SameQuery(view) {
			return false
		}
	}
	for oid, version := range t.ViewVersions() {
		if v.All[oid] != version {
			return false
		}
	}
	return slices.EqualFunc(v.Stack.Views, now.Stack.Views, func(a, b catalog.View) bool {
		return a.OID == b.OID && a.Version == b.Version
	})
}

// Restored returns the stack with the texts that views had before the swap, if they have not been changed
// since.
func (v Views) Restored(recreated []Recreated) []catalog.View {
	stack := slices.Clone(v.Stack.Views)
	for i, s := range stack {
		for _, r := range recreated {
			if r.View == s.Name() {
				stack[i] = s.Restored(r.Was, r.Is)
			}
		}
	}
	return stack
}

// Again returns the OIDs of the views on t that the swap has created again.
func (a *Alteration) Again(t *catalog.Table) (oids []uint32) {
	for _, d := range t.Dependents {
		if d.Kind == "view" && slices.ContainsFunc(a.Recreated, func(r Recreated) bool { return r.View == d.Name }) {
			oids = append(oids, d.OID)
		}
	}
	return oids
}

// Lines describes what becomes of the views, a view on each line.
func (v Views) Lines() (lines []string) {
	for _, view := range v.Retyped {
		var columns []string
		for _, c := range view.Columns {
			switch {
			case !c.Retyped():
			case v.Asked == CastViews:
				columns = append(columns, fmt.Sprintf("column %s stays %s", catalog.Quote(c.Name), c.Was))
			default:
				columns = append(columns, fmt.Sprintf("column %s was %s, is %s", catalog.Quote(c.Name), c.Was, c.Is))
			}
		}
		list := strings.Join(columns, "; ")
		switch {
		case v.Asked == CastViews:
			list += ", by a cast; a query fails when it returns a value that does not fit"
		case list == "":
			list = "dropped and created again"
		default:
			list = "dropped and created again; " + list
		}
		lines = append(lines, "view "+view.View+": "+list)
	}
	for _, s := range v.Stack.Views {
		if !slices.ContainsFunc(v.Retyped, func(view catalog.RetypedView) bool { return view.OID == s.OID }) {
			lines = append(lines, fmt.Sprintf("view %s: dropped and created again", s.Name()))
		}
	}
	return lines
}
