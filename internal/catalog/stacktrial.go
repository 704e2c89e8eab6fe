package catalog

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Failed is an object that could not be made on an altered table, and what the server says.
type Failed struct {
	OID         uint32
	Object, Why string
}

// stackTextsSQL is run while search_path has the schemas of the views: see elsewhere.go.
const stackTextsSQL = `
SELECT v.id,
       pg_catalog.pg_get_viewdef(v.id),
       pg_catalog.pg_table_is_visible(v.id),
       ARRAY(SELECT   pg_catalog.pg_get_triggerdef(t.oid, true)
             FROM     pg_catalog.pg_trigger t
             WHERE    t.tgrelid OPERATOR(pg_catalog.=) v.id AND NOT t.tgisinternal
             ORDER BY t.tgname USING OPERATOR(pg_catalog.<)),
       ARRAY(SELECT   pg_catalog.pg_get_ruledef(r.oid, true)
             FROM     pg_catalog.pg_rewrite r
             WHERE    r.ev_class OPERATOR(pg_catalog.=) v.id AND r.rulename OPERATOR(pg_catalog.<>) '_RETURN'
             ORDER BY r.rulename USING OPERATOR(pg_catalog.<))
FROM   unnest($1::pg_catalog.oid[]) v (id)`

// stackText is what the server prints of a view while search_path has its schema.
type stackText struct {
	Query           string
	Visible         bool
	Triggers, Rules []string
}

// TryStack creates the views of a stack on t once more, on copied, a table of the same name in
// another schema, with all that they have but their owners and privileges, and drops them again.
// They are created in schema, in a savepoint of tx that is rolled back. It returns the first that
// the server does not take. A view whose name is hidden by another one is not tried, and neither
// are those that come after it: then whole is false.
//
// The texts name views and table without their schemas: see RetypedViews.
func (t *Table) TryStack(ctx context.Context, tx pgx.Tx, copied Name, schema string, stack []View) (failed *Failed, whole bool, err error) {
	path := []string{t.Name.Schema}
	for _, v := range stack {
		if v.Depth >= stackDepth {
			return &Failed{v.OID, "view " + v.Name(), "it reads itself, by way of other views"}, true, nil
		}
		if !slices.Contains(path, v.Relation.Name.Schema) {
			path = append(path, v.Relation.Name.Schema)
		}
	}
	texts, err := readStackTexts(ctx, tx, path, stack)
	if err != nil {
		return nil, false, fmt.Errorf("read views on %s: %w", t.Name, err)
	}
	whole = !slices.ContainsFunc(stack, func(v View) bool { return !texts[v.OID].Visible })
	under := PathSQL(append([]string{schema, copied.Schema}, path...)...)
	err = Undone(ctx, tx, func(tx pgx.Tx) error {
		failed, err = tryStack(ctx, tx, under, schema, stack, texts)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("try views on an altered table: %w", err)
	}
	return failed, whole, nil
}

func readStackTexts(ctx context.Context, tx pgx.Tx, path []string, stack []View) (map[uint32]stackText, error) {
	oids := make([]uint32, len(stack))
	for i, v := range stack {
		oids[i] = v.OID
	}
	texts := map[uint32]stackText{}
	b := &pgx.Batch{}
	underPath(b, path, func() {
		b.Queue(stackTextsSQL, oids).Query(func(rows pgx.Rows) error {
			var oid uint32
			var text stackText
			_, err := pgx.ForEachRow(rows, []any{&oid, &text.Query, &text.Visible, &text.Triggers, &text.Rules}, func() error {
				texts[oid] = text
				text = stackText{}
				return nil
			})
			return err
		})
	})
	return texts, tx.SendBatch(ctx, b).Close()
}

func tryStack(ctx context.Context, tx pgx.Tx, under, schema string, stack []View, texts map[uint32]stackText) (*Failed, error) {
	var tried []View
	for _, v := range stack {
		text := texts[v.OID]
		if !text.Visible {
			return nil, nil
		}
		as := v.in(schema, text)
		why, err := refusedBy(ctx, execUnder(ctx, tx, under, replaceViewSQL(as.Name(), v.Relation.Options, text.Query)))
		if why != "" || err != nil {
			return &Failed{v.OID, "view " + v.Name(), why}, err
		}
		tried = append(tried, as)
	}
	for i, as := range tried { // rules may name any of them
		why, err := refusedBy(ctx, execUnder(ctx, tx, under, as.dressSQL()...))
		if why != "" || err != nil {
			return &Failed{as.OID, "what belongs to view " + stack[i].Name(), why}, err
		}
	}
	why, err := refusedBy(ctx, execUnder(ctx, tx, under, dropViewsSQL(tried)))
	if why != "" || err != nil {
		return &Failed{stack[0].OID, "DROP VIEW", why}, err
	}
	return nil, nil
}

// in returns v as it is tried in another schema.
func (v View) in(schema string, text stackText) View {
	r := *v.Relation
	r.Name = r.Name.In(schema)
	r.Triggers, r.Rules = slices.Clone(r.Triggers), slices.Clone(r.Rules)
	for i := range min(len(r.Triggers), len(text.Triggers)) {
		r.Triggers[i].Definition = text.Triggers[i]
	}
	for i := range min(len(r.Rules), len(text.Rules)) {
		r.Rules[i].Definition = text.Rules[i]
	}
	v.Relation = &r
	return v
}
