package alter

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/catalog"
)

// judge refuses what the server has taken on the model but what would harm the table, and
// completes the alteration.
func (m *Model) judge(ctx context.Context, a *Alteration, columns []*column) error {
	m.judgeKey(a, columns)
	m.judgeShape(columns)
	if err := m.judgePublications(ctx, columns); err != nil {
		return err
	}
	m.judgeWayBack(columns)
	if err := m.judgeUsers(ctx, a, columns); err != nil {
		return err
	}
	if !m.Asked.Cascade && !m.Asked.NoCascade && m.Asked.Group == "" {
		narrow, err := a.Narrower(ctx, m.tx, m.Source.OID)
		if err != nil {
			return err
		}
		for _, column := range narrow {
			m.refuse("column "+column, "refers to the key and would be narrower: greater values of the key would not fit",
				"make it and all others wide first with --to-bigint --cascade, or leave them with --no-cascade")
		}
	}
	if was, is := a.Delta.Was.Persistence, a.Delta.Is.Persistence; was != is {
		var follow bool
		if err := m.tx.QueryRow(ctx, followSQL).Scan(&follow); err != nil {
			return fmt.Errorf("read the server's version: %w", err)
		}
		if follow {
			a.Persistence = is
		}
	}
	return m.sequences(ctx, a, columns)
}

// From PostgreSQL 15 on, sequences are logged or not, as the tables that they belong to.
const followSQL = `SELECT current_setting('server_version_num')::int >= 150000`

// judgeKey makes sure that the rows of both tables are identified by the same columns, with the
// same equality.
func (m *Model) judgeKey(a *Alteration, columns []*column) {
	var names []string
	for _, key := range m.Key.KeyColumns {
		i := slices.IndexFunc(columns, func(c *column) bool { return c.Source == key })
		c := columns[i]
		if c.dropped() {
			m.refuse("column "+catalog.Quote(key), "belongs to the key by which rows are found, and cannot be dropped", "")
			return
		}
		names = append(names, c.Target)
		was, is := c.was.Type, c.is.Type
		if using, _ := m.using(key); c.was.Collation != c.is.Collation || m.isSet(c.final) || !sameEquality(was, is) || using != "" {
			m.refuse("column "+catalog.Quote(key), "belongs to the key by which rows are found: its values must stay the same, as integers or as text that may be longer", "")
			return
		}
		a.Key, a.LogTypes = append(a.Key, key), append(a.LogTypes, wider(was, is))
	}
	for _, i := range a.Delta.Is.Indexes {
		same := slices.Equal(i.KeyColumns, names)
		if same && (a.KeyIndex == "" || i.Name == m.Key.Name) {
			a.KeyIndex = i.Name
		}
	}
	if a.KeyIndex == "" {
		m.refuse("index "+m.Key.Name, "is the key by which rows are found, and the new table would have no such key", "keep the key, or drop it after the repack")
	}
}

// widened returns the types of integer columns that become wider ones, by their names in the
// source.
func (a *Alteration) widened() map[string]string {
	types := map[string]string{}
	for _, was := range a.Delta.Was.Columns {
		is, _ := a.Delta.Is.Column(was.Name)
		if narrower(was.Type, is.Type) {
			types[was.Name] = is.Type
		}
	}
	return types
}

// narrower reports whether a and b are types of integers, and a is the narrower one.
func narrower(a, b string) bool {
	return slices.Contains(integers, a) && slices.Index(integers, a) < slices.Index(integers, b)
}

// narrowerSQL lists integer columns that refer to columns $2 of table $1.
const narrowerSQL = `
SELECT format('%I of %s', a.attname, k.conrelid::regclass), p.attname::text, format_type(a.atttypid, NULL)
FROM   pg_constraint k
CROSS  JOIN LATERAL unnest(k.conkey, k.confkey) c (child, parent)
JOIN   pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.child
JOIN   pg_attribute p ON p.attrelid = k.confrelid AND p.attnum = c.parent
WHERE  k.contype = 'f' AND k.confrelid = $1 AND k.conrelid <> $1 AND k.conparentid = 0 AND p.attname = ANY ($2)
ORDER  BY 1`

// Narrower returns the columns that refer to columns of the source, which has that OID, and are
// narrower than these will be. A value of the key that they cannot take would be an error of the
// application.
func (a *Alteration) Narrower(ctx context.Context, q catalog.Querier, oid uint32) (narrow []string, err error) {
	if a == nil {
		return nil, nil
	}
	types := a.widened()
	if len(types) == 0 {
		return nil, nil
	}
	rows, err := q.Query(ctx, narrowerSQL, oid, slices.Collect(maps.Keys(types)))
	if err != nil {
		return nil, fmt.Errorf("look for columns that refer to the key: %w", err)
	}
	var column, to, is string
	_, err = pgx.ForEachRow(rows, []any{&column, &to, &is}, func() error {
		if narrower(is, types[to]) {
			narrow = append(narrow, column)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for columns that refer to the key: %w", err)
	}
	return narrow, nil
}

// Behind is a column that would be narrower again than the one that it refers to, and that is as
// wide as the column is now.
type Behind struct{ Column, Referred string }

const referredSQL = `
SELECT a.attname::text, k.confrelid::regclass::text, format_type(p.atttypid, NULL)
FROM   pg_constraint k
CROSS  JOIN LATERAL unnest(k.conkey, k.confkey) c (child, parent)
JOIN   pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.child
JOIN   pg_attribute p ON p.attrelid = k.confrelid AND p.attnum = c.parent
WHERE  k.contype = 'f' AND k.conrelid = $1 AND k.confrelid <> $1
ORDER  BY 1, 2`

// NarrowerThanReferred returns columns of the new table, which has that OID, that would be
// narrower again in the old one than the columns that they refer to.
func (a *Alteration) NarrowerThanReferred(ctx context.Context, q catalog.Querier, oid uint32) (behind []Behind, err error) {
	types := map[string]string{}
	for name, wide := range a.widened() {
		types[cmp.Or(a.Renames[name], name)] = wide
	}
	if len(types) == 0 {
		return nil, nil
	}
	rows, err := q.Query(ctx, referredSQL, oid)
	if err != nil {
		return nil, fmt.Errorf("look for columns that are referred to: %w", err)
	}
	var column, referred, is string
	_, err = pgx.ForEachRow(rows, []any{&column, &referred, &is}, func() error {
		if wide, narrowed := types[column]; narrowed && (is == wide || narrower(wide, is)) {
			behind = append(behind, Behind{column, referred})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for columns that are referred to: %w", err)
	}
	return behind, nil
}

// sameEquality reports whether values of two types are compared by operators that belong
// together, with an index on either side.
func sameEquality(a, b string) bool {
	return a == b || slices.Contains(integers, a) && slices.Contains(integers, b) || textual(a) && textual(b)
}

func textual(t string) bool {
	return t == "text" || t == "character varying" || varchar.MatchString(t)
}

// wider returns a type that takes the values of both.
func wider(a, b string) string {
	switch {
	case a == b:
		return a
	case slices.Contains(integers, a):
		return integers[max(slices.Index(integers, a), slices.Index(integers, b))]
	default:
		return "text"
	}
}

// judgeShape refuses tables whose shape other objects depend on.
func (m *Model) judgeShape(columns []*column) {
	changed := reshaped(columns)
	if changed && len(m.Source.Typed) > 0 {
		m.refuse("the row type", "is used by "+m.Source.Typed[0].Kind+" "+m.Source.Typed[0].Name, "drop it for the time of the repack")
	}
	for _, key := range m.Source.Referencing {
		if key.Partitioned {
			m.refuse("foreign key "+catalog.Quote(key.Name)+" of "+key.Table.String(), "belongs to a partitioned table, and such a key can only be moved one by one, which a table that is altered is not",
				"drop the foreign key for the time of the repack")
		}
	}
	if len(m.Source.Matviews) > 0 && m.Asked.NoRevert {
		m.refuse("--no-revert", "there are materialized views on the table", "leave it out, or drop them for the time of the repack")
	}
}

// reshaped reports whether rows of the target look otherwise than those of the source.
func reshaped(columns []*column) bool {
	return slices.ContainsFunc(columns, func(c *column) bool { return !c.kept() || c.retyped() || c.final != c.Source })
}

// publishingSQL lists the publications of a table, whether by name, by its schema or with all
// tables.
const publishingSQL = `
SELECT   p.pubname::text
FROM     pg_publication p
WHERE    EXISTS (SELECT FROM pg_get_publication_tables(p.pubname) t WHERE t.relid = $1)
ORDER BY 1`

// judgePublications refuses to change the rows of a table that subscribers have, too.
func (m *Model) judgePublications(ctx context.Context, columns []*column) error {
	if m.Published || !reshaped(columns) {
		return nil
	}
	rows, err := m.tx.Query(ctx, publishingSQL, m.Source.OID)
	if err != nil {
		return fmt.Errorf("look for publications: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for publications: %w", err)
	}
	for _, name := range names {
		m.refuse("publication "+catalog.Quote(name), "publishes the table, and a subscriber whose table lacks a column, or has a narrower one, stops with an error",
			"alter the subscribers' tables first, and allow it with --published-ok")
	}
	return nil
}

// judgeWayBack asks for consent where there is no way back.
func (m *Model) judgeWayBack(columns []*column) {
	for _, c := range columns {
		if c.irreversible != "" && !m.Asked.NoRevert {
			m.refuse("column "+catalog.Quote(cmp.Or(c.Source, c.final)), c.irreversible, "to go without repack revert, add --no-revert")
		}
	}
}

// user is an object that depends on a column.
type user struct {
	Column, Kind, Name string
	// Partial is set for an index that uses the column in an expression or in its WHERE.
	Partial bool
}

// usersSQL lists what depends on columns, except what the model has. A view or rule depends on
// a column by its rule.
const usersSQL = `
SELECT DISTINCT a.attname::text                                    AS column,
       CASE WHEN d.classid = 'pg_rewrite'::regclass AND v.relkind = 'v' THEN 'view'
            WHEN d.classid = 'pg_rewrite'::regclass AND v.relkind = 'm' THEN 'materialized view'
            WHEN d.classid = 'pg_constraint'::regclass AND k.contype = 'f' AND k.conrelid = $1 THEN 'own foreign key'
            WHEN d.classid = 'pg_constraint'::regclass AND k.contype = 'f' THEN 'foreign key'
            WHEN d.classid = 'pg_constraint'::regclass THEN 'constraint'
            WHEN d.classid = 'pg_class'::regclass THEN 'index'
            WHEN d.classid = 'pg_policy'::regclass THEN 'policy'
            WHEN d.classid = 'pg_trigger'::regclass THEN 'trigger'
            ELSE 'object' END                                      AS kind,
       pg_describe_object(d.classid, d.objid, d.objsubid)          AS name,
       coalesce(i.indexprs IS NOT NULL OR i.indpred IS NOT NULL, false) AS partial
FROM   pg_attribute a
JOIN   pg_depend d          ON d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
LEFT   JOIN pg_rewrite r    ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
LEFT   JOIN pg_class v      ON v.oid = r.ev_class
LEFT   JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
LEFT   JOIN pg_index i      ON d.classid = 'pg_class'::regclass AND i.indexrelid = d.objid
WHERE  a.attrelid = $1 AND a.attname = ANY ($2)
AND    d.classid NOT IN ('pg_attrdef'::regclass, 'pg_statistic_ext'::regclass)
AND    d.deptype <> 'i'
AND    NOT (d.classid = 'pg_class'::regclass AND i.indexrelid IS NULL)
AND    NOT (d.classid = 'pg_trigger'::regclass AND starts_with(pg_describe_object(d.classid, d.objid, d.objsubid), 'trigger 00_repack_'))
ORDER  BY 1, 2, 3`

// judgeUsers refuses to drop or convert columns that other objects depend on, if PostgreSQL
// would refuse it too, or if the objects would not mean the same afterwards.
func (m *Model) judgeUsers(ctx context.Context, a *Alteration, columns []*column) error {
	named := map[string]*column{}
	names := []string{}
	for _, c := range columns {
		if c.Source != "" && (c.dropped() || c.retyped() || c.final != c.Source) {
			named[c.Source], names = c, append(names, c.Source)
		}
	}
	rows, err := m.tx.Query(ctx, usersSQL, m.Source.OID, names)
	if err != nil {
		return fmt.Errorf("look for what depends on the columns: %w", err)
	}
	users, err := pgx.CollectRows(rows, pgx.RowToStructByName[user])
	if err != nil {
		return fmt.Errorf("look for what depends on the columns: %w", err)
	}
	for _, u := range users {
		if why, remedy := m.harm(a, named[u.Column], u); why != "" {
			m.refuse("column "+catalog.Quote(u.Column), why, remedy)
		}
	}
	return nil
}

// harm says what the alteration of the column does to an object that depends on it; or is
// empty.
func (m *Model) harm(a *Alteration, c *column, u user) (why, remedy string) {
	const drop = "drop it for the time of the repack"
	own := u.Kind == "index" || u.Kind == "constraint" // the server has dealt with them on the model
	switch {
	case c.dropped() && (own || u.Kind == "own foreign key"): // PostgreSQL drops these with the column
		return "", ""
	case c.dropped():
		return u.Name + " depends on it, so it cannot be dropped", "drop that first, or change it"
	case u.Kind == "materialized view":
		return u.Name + " depends on it, and could not be rebuilt with another type or name of it", drop
	case !c.retyped(): // the new name is given last, and the objects follow
		return "", ""
	case sameEquality(c.was.Type, c.is.Type): // operators and functions are those of the same family
		return "", ""
	case u.Kind == "index" && !u.Partial, u.Kind == "constraint" && !m.isCheck(u):
		return "", ""
	case own && !u.left(a):
		return "", ""
	case u.Kind == "view":
		return "", "" // the dry swap tries it
	default:
		return fmt.Sprintf("%s depends on it, and may not mean the same with %s as with %s", u.Name, c.is.Type, c.was.Type),
			drop + ", or a constraint by --alter 'DROP CONSTRAINT …'"
	}
}

// isCheck reports whether the constraint has an expression.
func (m *Model) isCheck(u user) bool {
	return slices.ContainsFunc(m.Source.Constraints, func(c catalog.Constraint) bool { return (c.Type == "c" || c.Type == "x") && u.is(c) })
}

// left reports whether the target still has the index or constraint.
func (u user) left(a *Alteration) bool {
	return u.Kind == "index" || slices.ContainsFunc(a.Delta.Is.Constraints, u.is)
}

// is reports whether the object is that constraint, by its description.
func (u user) is(c catalog.Constraint) bool {
	return strings.HasPrefix(u.Name, "constraint "+c.Name+" on ")
}

// drawnSQL lists the sequences that the defaults of columns draw from, and those that belong to
// them.
const drawnSQL = `
SELECT DISTINCT a.attname::text                            AS column,
       n.nspname::text                                     AS schema,
       c.relname::text                                     AS name,
       format_type(s.seqtypid, NULL)                       AS type,
       pg_has_role(c.relowner, 'USAGE')                    AS ours
FROM   pg_attribute a
CROSS  JOIN LATERAL (
       SELECT d.refobjid AS id
       FROM   pg_attrdef f
       JOIN   pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
       WHERE  f.adrelid = a.attrelid AND f.adnum = a.attnum AND d.refobjid <> a.attrelid
       UNION
       SELECT d.objid
       FROM   pg_depend d
       WHERE  d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
       AND    d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')) x
JOIN   pg_sequence s  ON s.seqrelid = x.id
JOIN   pg_class c     ON c.oid = s.seqrelid
JOIN   pg_namespace n ON n.oid = c.relnamespace
WHERE  a.attrelid = $1 AND a.attname = ANY ($2)
ORDER  BY 1, 2, 3`

// sequences widens the sequences of columns that become wider integers, and of columns of the
// key if ToBigint asks for it.
func (m *Model) sequences(ctx context.Context, a *Alteration, columns []*column) error {
	types := map[string]string{}
	names := []string{}
	for _, c := range columns {
		asked := m.Asked.ToBigint && slices.Contains(m.bigintKey(), c.Source)
		if c.kept() && slices.Contains(integers, c.is.Type) && (c.retyped() || asked) {
			types[c.Source], names = c.is.Type, append(names, c.Source)
		}
	}
	rows, err := m.tx.Query(ctx, drawnSQL, m.Source.OID, names)
	if err != nil {
		return fmt.Errorf("look for sequences: %w", err)
	}
	var column, schema, name, was string
	var ours bool
	_, err = pgx.ForEachRow(rows, []any{&column, &schema, &name, &was, &ours}, func() error {
		is, sequence := types[column], catalog.Name{Schema: schema, Name: name}
		identity := slices.ContainsFunc(m.Source.Sequences, func(s catalog.Sequence) bool { return s.Identity && s.Name == sequence })
		switch {
		case is == was, narrower(is, was) && !identity:
		case !ours:
			m.refuse("sequence "+sequence.String(), "belongs to another role and must become "+is, fmt.Sprintf("have its owner run: ALTER SEQUENCE %s AS %s;", sequence, is))
		default:
			a.Sequences = append(a.Sequences, Sequence{Name: sequence, Column: column, Was: was, Is: is})
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for sequences: %w", err)
	}
	if m.Asked.ToBigint && len(m.reasons) == 0 && len(types) == 0 {
		m.refuse("--to-bigint", "the key "+catalog.Quote(m.Key.Name)+" has no integer column", "")
	}
	return nil
}
