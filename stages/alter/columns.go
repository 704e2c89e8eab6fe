package alter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/repack-go/repack/internal/catalog"
)

// column is a column of the source, of the target or of both, while an Alteration is made.
type column struct {
	Column
	final   string // the name of the target's column in the end
	using   bool   // the user gives an expression for its values
	was, is catalog.Column
	// irreversible is why the value in the source cannot be had from a row of the target; or
	// empty.
	irreversible string
}

func (c column) kept() bool    { return c.Source != "" && c.Target != "" }
func (c column) added() bool   { return c.Source == "" }
func (c column) dropped() bool { return c.Target == "" }

// retyped reports whether values are converted.
func (c column) retyped() bool {
	return c.kept() && (c.was.Type != c.is.Type || c.using) && c.is.Generated == ""
}

// stored reports whether one of the two tables stores what is written to the column. Neither
// can be written to if it is generated.
func (c column) stored() bool {
	return c.Source != "" && c.was.Generated == "" || c.Target != "" && c.is.Generated == ""
}

// columns matches the columns of the model before and after the actions by their attribute
// numbers, so that a name that has been given to another column does not matter.
func (m *Model) columns(was *catalog.Table, before, now map[int16]string, is *catalog.Table) (all []*column) {
	numbers := maps.Clone(before)
	maps.Copy(numbers, now)
	for _, n := range slices.Sorted(maps.Keys(numbers)) {
		c := &column{Column: Column{Source: before[n], Target: now[n]}, final: now[n]}
		using, _ := m.using(c.Source)
		c.using = using != ""
		c.was, _ = was.Column(c.Source)
		c.is, _ = is.Column(c.Target)
		all = append(all, c)
	}
	return all
}

const proofName = "repack_value"

// addSQL begins a statement that adds a column with the type of another one to the model.
func (m *Model) addSQL(like catalog.Column) string {
	sql := fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s", m.name(), proofName, like.Type)
	if like.Collation != "" {
		sql += " COLLATE " + like.Collation
	}
	return sql
}

const expressionSQL = `
SELECT pg_get_expr(d.adbin, d.adrelid)
FROM   pg_attrdef d
JOIN   pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
WHERE  d.adrelid = $1::text::regclass AND a.attname = $2`

// prove returns an expression as the server prints it, with every name qualified. The server
// takes it as the expression of a generated column: so it depends on nothing but the row. The
// cast to the type of the column is a part of the expression, because the server does not look
// at the functions of a cast that it adds itself. The statements then are sent before the server
// prints it. why is what the server says against it; or empty.
func (m *Model) prove(ctx context.Context, expression string, of catalog.Column, asUser bool, then ...string) (printed, why string, err error) {
	err = m.undone(ctx, func() error {
		if asUser {
			if _, err := m.tx.Exec(ctx, pathSQL, m.Source.Name.Schema); err != nil {
				return err
			}
		}
		_, err := m.tx.Exec(ctx, m.addSQL(of)+fmt.Sprintf(" GENERATED ALWAYS AS ((%s)::%s) STORED", expression, of.Type))
		if said, is := said(err); is {
			why = said
			var pgErr *pgconn.PgError
			if errors.As(err, &pgErr) && pgErr.Code == pgerrcode.InvalidObjectDefinition {
				why = "the value may depend on more than the row: on a setting, on the time or on other tables (" + pgErr.Message + ")"
			}
			return nil
		}
		if err != nil {
			return err
		}
		for _, sql := range append([]string{plainPathSQL}, then...) {
			if _, err := m.tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return m.tx.QueryRow(ctx, expressionSQL, m.name().String(), proofName).Scan(&printed)
	})
	return printed, why, err
}

// downs says how the source's columns are filled from a row of the target. The model is as
// the actions have left it.
func (m *Model) downs(ctx context.Context, columns []*column) error {
	down := m.assignments("--down", m.Asked.Down)
	if len(m.reasons) > 0 {
		return nil
	}
	for _, c := range columns {
		asked, is := down[c.Source]
		delete(down, c.Source)
		var err error
		switch {
		case c.dropped() && c.was.Generated == "":
			err = m.downDropped(ctx, c, asked, is)
		case is:
			m.refuse("--down "+c.Source, "the new table has that column too", "--down is for columns that only the old table has")
		case c.retyped():
			err = m.downRetyped(ctx, c)
		case c.added() && c.is.Generated == "":
			err = m.upDefault(ctx, c)
		case c.kept() && c.was.Generated != "" && c.is.Generated == "": // its value is written from now on
			c.Source, c.Up = "", Value{Expression: catalog.Quote(c.was.Name)}
		}
		if err != nil {
			return err
		}
	}
	for name := range down {
		m.refuse("--down "+name, "the table has no such column", "")
	}
	return nil
}

// downDropped fills a dropped column of a new row: as asked, or with its default, or NULL.
func (m *Model) downDropped(ctx context.Context, c *column, asked string, is bool) error {
	c.Down = Value{Expression: "NULL::" + c.was.Type}
	switch {
	case is:
		printed, why, err := m.prove(ctx, asked, c.was, true)
		if err != nil {
			return err
		}
		if why != "" {
			m.refuse("--down "+c.Source, why, "")
		}
		c.Down = Value{Expression: fmt.Sprintf("(%s)::%s", printed, c.was.Type)}
	case c.was.Expression != "":
		c.Down = Value{Expression: fmt.Sprintf("(%s)::%s", c.was.Expression, c.was.Type)}
	case c.was.NotNull:
		c.irreversible = "it is NOT NULL and has no default, so the old table could not take new rows; give them a value with --down"
	}
	return nil
}

// downRetyped casts a value back, and makes sure that nothing is lost on the way.
func (m *Model) downRetyped(ctx context.Context, c *column) error {
	if exact(c.is.Type, c.was.Type) {
		c.Down = Value{Cast: c.was.Type}
		return nil
	}
	name := catalog.Quote(c.Target)
	value, why, err := m.checked(ctx, name, name, c.Target, c.is, c.was)
	if err != nil {
		return err
	}
	c.Down = Value{Expression: value}
	if why != "" {
		c.irreversible = "there is no way back from " + c.is.Type + " to " + c.was.Type + ": " + why
	}
	return nil
}

// checkedSQL is an error if the value loses something when it is converted there and back. The
// text that cannot be cast to boolean is the message of the error.
const checkedSQL = `CASE WHEN %[1]s THEN %[2]s WHEN (CASE WHEN %[3]s IS NULL THEN %[4]s ELSE %[5]s END)::boolean THEN %[2]s END`

// checked returns the expression, converted from one type to another, as long as nothing is
// lost: the value cast back must be that of the column.
func (m *Model) checked(ctx context.Context, expression, column, name string, from, to catalog.Column) (value, why string, err error) {
	value = fmt.Sprintf("(%s)::%s", expression, to.Type)
	message := fmt.Sprintf("column %s would lose a part of its value", name)
	for _, same := range []string{"((%s)::%s) IS NOT DISTINCT FROM %s", "((%s)::%s)::text IS NOT DISTINCT FROM (%s)::text"} {
		condition := fmt.Sprintf(same, value, from.Type, column)
		sql := fmt.Sprintf(checkedSQL, condition, value, column, catalog.Literal(message+": NULL"), catalog.Literal(message))
		var printed string
		if printed, why, err = m.prove(ctx, sql, to, false); err != nil || why == "" {
			return fmt.Sprintf("(%s)::%s", printed, to.Type), why, err
		}
		if enum, err := m.isEnum(ctx, from.Type, to.Type); err != nil || enum {
			why, err = m.explain(ctx, sql)
			if err != nil || why == "" {
				return sql, "", err
			}
		}
	}
	return value, why, nil
}

const enumSQL = `SELECT bool_or(typtype = 'e') FROM pg_type WHERE oid = ANY ($1::text[]::regtype[])`

// isEnum reports whether one of the types is an enum. The server takes the casts between enum
// and text for ones whose result may change, because a label may be renamed.
func (m *Model) isEnum(ctx context.Context, types ...string) (is bool, err error) {
	err = m.tx.QueryRow(ctx, enumSQL, types).Scan(&is)
	return is, err
}

// explain makes the server parse an expression whose names are all qualified. why is what it
// says against it; or empty.
func (m *Model) explain(ctx context.Context, expression string) (why string, err error) {
	err = m.undone(ctx, func() error {
		_, err := m.tx.Exec(ctx, fmt.Sprintf("EXPLAIN SELECT %s FROM %s", expression, m.name()))
		if said, is := said(err); is {
			why = said
			return nil
		}
		return err
	})
	return why, err
}

const fastDefaultSQL = `
SELECT a.atthasmissing, (a.attmissingval::text::text[])[1]
FROM   pg_attribute a
WHERE  a.attrelid = $1::text::regclass AND a.attname = $2`

// upDefault fills an added column of the rows that are there with its default, as ADD COLUMN
// does. The server evaluates the default once, and keeps the value, if it is not volatile.
func (m *Model) upDefault(ctx context.Context, c *column) error {
	c.Up = Value{Expression: "NULL::" + c.is.Type}
	if c.is.Expression == "" || m.isSet(c.final) {
		return nil
	}
	var once bool
	var text *string
	err := m.undone(ctx, func() error {
		_, err := m.tx.Exec(ctx, m.addSQL(c.is)+" DEFAULT "+c.is.Expression)
		if err != nil {
			return err
		}
		return m.tx.QueryRow(ctx, fastDefaultSQL, m.name().String(), proofName).Scan(&once, &text)
	})
	switch {
	case err != nil:
		return err
	case !once:
		m.refuse("column "+catalog.Quote(c.Target), "its default may be another one for each row and each time, or the domain has checks",
			fmt.Sprintf("give the rows that are there a value that depends on the row: --set '%s = …'", c.Target))
	case text != nil:
		c.Up = Value{Expression: catalog.Literal(*text) + "::" + c.is.Type}
	}
	return nil
}

// isSet reports whether --set names the column.
func (m *Model) isSet(name string) bool {
	return slices.ContainsFunc(m.Asked.Set, func(text string) bool {
		column, _, err := assignment(text)
		return err == nil && column == name
	})
}

// assignments reads COLUMN = EXPRESSION texts.
func (m *Model) assignments(flag string, texts []string) map[string]string {
	all := map[string]string{}
	for _, text := range texts {
		name, expression, err := assignment(text)
		if err != nil {
			m.refuse(flag, err.Error(), "")
			continue
		}
		if _, twice := all[name]; twice {
			m.refuse(flag+" "+name, "is given twice", "")
		}
		all[name] = expression
	}
	return all
}

// ups says how the target's columns are filled from a row of the source. The model is as the
// source.
func (m *Model) ups(ctx context.Context, columns []*column) error {
	set := m.assignments("--set", m.Asked.Set)
	if len(m.reasons) > 0 {
		return nil
	}
	for _, c := range columns {
		asked, is := set[c.final]
		delete(set, c.final)
		switch {
		case is && (c.dropped() || c.is.Generated != ""):
			m.refuse("--set "+c.final, "the column is generated or dropped", "")
		case is:
			printed, why, err := m.prove(ctx, asked, c.is, true)
			if err != nil {
				return err
			}
			if why != "" {
				m.refuse("--set "+c.final, why, "")
			}
			c.Up = Value{Expression: fmt.Sprintf("(%s)::%s", printed, c.is.Type)}
		case c.retyped():
			if err := m.upRetyped(ctx, c); err != nil {
				return err
			}
		case m.Asked.Recompress && c.kept() && c.is.Generated == "":
			if err := m.upRecompressed(ctx, c); err != nil {
				return err
			}
		}
	}
	for name := range set {
		m.refuse("--set "+name, "the new table has no such column", "")
	}
	return nil
}

// upRetyped converts a value, and makes sure that nothing is lost on the way, unless the user
// allows it.
func (m *Model) upRetyped(ctx context.Context, c *column) error {
	using, renames := m.using(c.Source)
	if using == "" && exact(c.was.Type, c.is.Type) {
		c.Up = Value{Cast: c.is.Type}
		return nil
	}
	name := catalog.Quote(c.Source)
	expression := name
	if using != "" {
		expression = using
	}
	var printed, why string
	err := m.renamed(ctx, renames, func(back []string) (err error) {
		printed, why, err = m.prove(ctx, expression, c.is, using != "", back...)
		return err
	})
	if err != nil {
		return err
	}
	if why != "" && using == "" {
		enum, err := m.isEnum(ctx, c.was.Type, c.is.Type)
		if err != nil {
			return err
		}
		if enum {
			printed = fmt.Sprintf("(%s)::%s", name, c.is.Type)
			if why, err = m.explain(ctx, printed); err != nil {
				return err
			}
		}
	}
	if why != "" {
		m.refuse("column "+name, "its values cannot be converted to "+c.is.Type+": "+why,
			"give an expression that depends on nothing but the row: --alter 'ALTER COLUMN … TYPE … USING …'")
		return nil
	}
	if slices.Contains(m.lossy, c.Source) {
		c.Up = Value{Expression: fmt.Sprintf("(%s)::%s", printed, c.is.Type)}
		if c.irreversible == "" {
			c.irreversible = "its values may lose a part (--allow-lossy)"
		}
		return nil
	}
	if zone, err := m.inZone(ctx, c, printed); err != nil || zone != "" {
		c.Up, c.irreversible = Value{Expression: printed}, ""
		c.Down = Value{Expression: fmt.Sprintf("(%s AT TIME ZONE %s)", catalog.Quote(c.final), zone)}
		return err
	}
	value, why, err := m.checked(ctx, printed, name, c.Source, c.was, c.is)
	if err != nil {
		return err
	}
	if why != "" {
		m.refuse("column "+name, fmt.Sprintf("whether a value survives the way from %s to %s cannot be seen: %s", c.was.Type, c.is.Type, why),
			"allow it with --allow-lossy "+name)
	}
	c.Up = Value{Expression: value}
	return nil
}

const compressedSQL = `
SELECT attstorage IN ('x', 'm') AND attlen = -1 AND typstorage = 'x'
FROM   pg_attribute
JOIN   pg_type ON pg_type.oid = atttypid
WHERE  attrelid = $1::text::regclass AND attname = $2`

// identities are expressions whose value is that of the column, and which the server makes
// anew: so it is compressed anew when it is stored.
var identities = map[string]string{
	"text":              `%[1]s || ''::text`,
	"character varying": `%[1]s || ''::text`,
	"character":         `%[1]s || ''::text`,
	"bytea":             `%[1]s || ''::bytea`,
	"jsonb":             `%[1]s #> '{}'::text[]`,
	"tsvector":          `%[1]s || ''::tsvector`,
}

// upRecompressed makes the value of a column anew, if it can be stored compressed.
func (m *Model) upRecompressed(ctx context.Context, c *column) error {
	var compressed bool
	if err := m.tx.QueryRow(ctx, compressedSQL, m.name().String(), c.Source).Scan(&compressed); err != nil || !compressed {
		return err
	}
	base, _, _ := strings.Cut(c.was.Type, "(")
	identity, known := identities[base]
	if strings.HasSuffix(c.was.Type, "[]") {
		identity, known = "%[1]s || '{}'::"+c.was.Type, true
	}
	if !known {
		identity = "%[1]s::text"
	}
	value := fmt.Sprintf("(%s)::%s", fmt.Sprintf(identity, catalog.Quote(c.Source)), c.is.Type)
	why, err := m.explain(ctx, value)
	if err == nil && why == "" && !known {
		_, why, err = m.prove(ctx, value, c.is, false)
	}
	if why != "" {
		m.refuse("column "+catalog.Quote(c.Source), "values of "+c.was.Type+" cannot be compressed again: "+why, "")
	}
	c.Up = Value{Expression: value}
	return err
}

// inZone returns the time zone, as a literal, if the expression only moves a time into or out of a
// zone without daylight saving time. The way back is the same expression then.
func (m *Model) inZone(ctx context.Context, c *column, printed string) (string, error) {
	times := []string{"timestamp with time zone", "timestamp without time zone"}
	if !slices.Contains(times, c.was.Type) || !slices.Contains(times, c.is.Type) {
		return "", nil
	}
	for _, zone := range []string{"'UTC'", "'utc'", "'GMT'", "'Etc/UTC'", "'Z'"} {
		same, why, err := m.prove(ctx, catalog.Quote(c.Source)+" AT TIME ZONE "+zone, c.is, false)
		if err != nil {
			return "", err
		}
		if why == "" && same == printed {
			return zone, nil
		}
	}
	return "", nil
}

// using returns the expression of the last action that gives the column of the source a type,
// and the renames before that action.
func (m *Model) using(source string) (expression string, renames []Action) {
	name := source
	var before []Action
	for _, actions := range m.actions {
		for _, a := range actions {
			switch {
			case a.Kind == RenameColumn:
				before = append(before[:len(before):len(before)], a)
				if a.Column == name {
					name = a.To
				}
			case a.Kind == AlterType && a.Column == name:
				expression, renames = a.Using, before
			}
		}
	}
	return expression, renames
}

// renamed runs work while columns of the model have other names, which an expression of the
// user's may contain. back are the statements that give the columns their names again.
func (m *Model) renamed(ctx context.Context, renames []Action, work func(back []string) error) error {
	return m.undone(ctx, func() error {
		var back []string
		for _, a := range renames {
			if _, err := m.tx.Exec(ctx, renameColumnSQL(m.name(), a.Column, a.To)); err != nil {
				return err
			}
			back = append([]string{renameColumnSQL(m.name(), a.To, a.Column)}, back...)
		}
		return work(back)
	})
}

// interim gives the columns of the target the names that they have until the new table is in
// use: those of the source, so that the texts of triggers, policies and views fit. renames are
// their names afterwards.
func interim(columns []*column) (renames map[string]string) {
	renames = map[string]string{}
	taken := map[string]bool{}
	for _, c := range columns {
		if c.Target != "" && c.was.Name != "" {
			c.Target = c.was.Name
			taken[c.Target] = true
		}
	}
	for n, c := range columns {
		if c.Target != "" && c.was.Name == "" {
			for ; taken[c.Target]; n++ {
				c.Target = fmt.Sprintf("repack_added_%d", n)
			}
			taken[c.Target] = true
		}
		if c.Target != c.final {
			renames[c.Target] = c.final
		}
	}
	return renames
}

// interim returns the name that a column of the new table has before the new table is in use.
func (a *Alteration) interim(final string) string {
	for from, to := range a.Renames {
		if to == final {
			return from
		}
	}
	return final
}

var (
	integers = []string{"smallint", "integer", "bigint"}
	varchar  = regexp.MustCompile(`^character varying\((\d+)\)$`)
)

// exact reports whether a cast from one type to another keeps the whole value, or is an error.
func exact(from, to string) bool {
	isText := func(t string) bool { return t == "text" || t == "character varying" }
	width := func(t string) int {
		match := varchar.FindStringSubmatch(t)
		if match == nil {
			return 0
		}
		n, _ := strconv.Atoi(match[1])
		return n
	}
	switch {
	case from == to:
		return true
	case slices.Contains(integers, from) && slices.Contains(integers, to):
		return true
	case (isText(from) || width(from) > 0) && isText(to):
		return true
	case width(from) > 0 && width(to) >= width(from):
		return true
	case to == "numeric":
		return slices.Contains(integers, from) || strings.HasPrefix(from, "numeric(")
	default:
		return from == "real" && to == "double precision"
	}
}
