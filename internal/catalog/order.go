package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// Order is an order of a table's rows.
type Order struct {
	SQL     string // what follows ORDER BY; the table's alias is f
	Index   string // the index with this order; empty if columns were given
	Column  string // the first of those columns; empty if an index was given
	Partial bool   // the index is partial
}

// OrderError reports that a text is not an order of the table's rows. Why says what is
// wrong; Columns and Indexes are what can be used.
type OrderError struct {
	Table   Name
	Text    string
	Why     string
	Columns []string
	Indexes []string // the btree indexes
}

// Error names the text, what is wrong, and the columns and indexes that can be used.
func (e *OrderError) Error() string {
	return fmt.Sprintf("order %q of %s: %s; columns: %s; btree indexes: %s",
		e.Text, e.Table, e.Why, QuoteAll(e.Columns), QuoteAll(e.Indexes))
}

// ReadOrder makes an Order from a text. The text is the name of a btree index of t, or
// a list of columns separated by commas. Each column may have ASC or DESC, and NULLS
// FIRST or NULLS LAST. Names are written as SQL writes them.
//
// It returns *OrderError if the text names no order. It takes ACCESS SHARE on t for a
// moment, and changes nothing.
func ReadOrder(ctx context.Context, q Querier, t *Table, text string) (Order, error) {
	order, err := readOrder(ctx, q, t, text)
	if err != nil {
		return Order{}, err
	}
	// Some types, such as json, have no order. It is better to report that now than
	// when the rows are copied.
	_, err = q.Exec(ctx, fmt.Sprintf("EXPLAIN SELECT FROM %s f ORDER BY %s", t.Name, order.SQL))
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return order, nil
	case !errors.As(err, &pgErr):
		return Order{}, fmt.Errorf("try order %q: %w", text, err)
	case pgErr.Code == pgerrcode.UndefinedFunction, pgErr.Code == pgerrcode.SyntaxError: // an index on a constant
		return Order{}, t.noOrder(text, pgErr.Message)
	case pgErr.Code == pgerrcode.InsufficientPrivilege: // reported elsewhere, together with the missing GRANT
		return order, nil
	default:
		return Order{}, fmt.Errorf("try order %q: %w", text, err)
	}
}

func readOrder(ctx context.Context, q Querier, t *Table, text string) (Order, error) {
	terms, err := parseOrder(text)
	if err != nil {
		return Order{}, t.noOrder(text, err.Error())
	}
	if len(terms) == 1 && terms[0].direction == "" {
		index, isIndex := t.Index(terms[0].column)
		_, isColumn := t.Column(terms[0].column)
		switch {
		case isIndex && isColumn:
			return Order{}, t.noOrder(text, "is both a column and an index; write ASC behind the column")
		case isIndex && !index.IsBtree():
			return Order{}, t.noOrder(text, "is an index that is not a btree, which alone has an order")
		case isIndex:
			return readIndexOrder(ctx, q, t, index.Name)
		}
	}
	columns := make([]string, len(terms))
	for i, term := range terms {
		if _, ok := t.Column(term.column); !ok {
			return Order{}, t.noOrder(text, fmt.Sprintf("there is no column %s", Quote(term.column)))
		}
		columns[i] = "f." + Quote(term.column) + term.direction
	}
	return Order{SQL: strings.Join(columns, ", "), Column: terms[0].column}, nil
}

func (t *Table) noOrder(text, why string) error {
	e := &OrderError{Table: t.Name, Text: text, Why: why}
	for _, c := range t.Columns {
		e.Columns = append(e.Columns, c.Name)
	}
	for _, i := range t.Indexes {
		if i.IsBtree() {
			e.Indexes = append(e.Indexes, i.Name)
		}
	}
	return e
}

// Strategies 1 and 5 of a btree operator family are less and greater. The bits of
// indoption are 1 for DESC and 2 for NULLS FIRST. See the manual, "Interfacing
// Extensions to Indexes", "Index Method Strategies".
const indexOrderSQL = `
SELECT    CASE WHEN k.attnum <> 0 THEN format('f.%I', a.attname)
               ELSE pg_get_indexdef(i.indexrelid, k.n::int, false) END
          || CASE WHEN co.oid IS NULL THEN '' ELSE format(' COLLATE %I.%I', cn.nspname, co.collname) END
          || format(' USING OPERATOR(%I.%s) NULLS %s', opn.nspname, op.oprname,
                    CASE WHEN k.option & 2 <> 0 THEN 'FIRST' ELSE 'LAST' END) AS term,
          i.indpred IS NOT NULL                                               AS partial
FROM      pg_index i
JOIN      pg_class ic      ON ic.oid = i.indexrelid
CROSS     JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[], i.indoption::int2[])
                       WITH ORDINALITY AS k(attnum, opclass, collation_oid, option, n)
LEFT JOIN pg_attribute a   ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum <> 0
LEFT JOIN pg_collation co  ON co.oid = k.collation_oid
LEFT JOIN pg_namespace cn  ON cn.oid = co.collnamespace
JOIN      pg_opclass oc    ON oc.oid = k.opclass
JOIN      pg_amop ao       ON ao.amopfamily = oc.opcfamily AND ao.amoppurpose = 's'
                          AND ao.amopstrategy = CASE WHEN k.option & 1 <> 0 THEN 5 ELSE 1 END
                          AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
JOIN      pg_operator op   ON op.oid = ao.amopopr
JOIN      pg_namespace opn ON opn.oid = op.oprnamespace
WHERE     i.indrelid = $1 AND ic.relname = $2 AND k.n <= i.indnkeyatts
ORDER BY  k.n`

func readIndexOrder(ctx context.Context, q Querier, t *Table, index string) (Order, error) {
	type row struct {
		Term    string
		Partial bool
	}
	rows, err := collect[row](ctx, q, indexOrderSQL, t.OID, index)
	if err != nil {
		return Order{}, fmt.Errorf("read order of index %q: %w", index, err)
	}
	order := Order{Index: index}
	terms := make([]string, len(rows))
	for i, r := range rows {
		terms[i], order.Partial = r.Term, r.Partial
	}
	order.SQL = strings.Join(terms, ", ")
	return order, nil
}

// orderTerm is a column and the keywords after it, as SQL.
type orderTerm struct{ column, direction string }

// parseOrder parses a list of columns.
func parseOrder(text string) ([]orderTerm, error) {
	words, err := orderWords(text)
	if err != nil {
		return nil, err
	}
	var terms []orderTerm
	for {
		if len(words) == 0 || words[0].comma() {
			return nil, errors.New("a column or an index is missing")
		}
		term := orderTerm{column: words[0].text}
		words = words[1:]
		if len(words) > 0 && words[0].is("asc", "desc") {
			term.direction = " " + strings.ToUpper(words[0].text)
			words = words[1:]
		}
		if len(words) > 1 && words[0].is("nulls") && words[1].is("first", "last") {
			term.direction += " NULLS " + strings.ToUpper(words[1].text)
			words = words[2:]
		}
		terms = append(terms, term)
		if len(words) == 0 {
			return terms, nil
		}
		if !words[0].comma() {
			return nil, fmt.Errorf("%q is neither ASC or DESC nor NULLS FIRST or LAST", words[0].text)
		}
		words = words[1:]
	}
}

// orderWord is a name, a keyword or a comma.
type orderWord struct {
	text  string
	plain bool // not quoted
}

func (w orderWord) is(keywords ...string) bool { return w.plain && slices.Contains(keywords, w.text) }

func (w orderWord) comma() bool { return w.is(",") }

func orderWords(text string) ([]orderWord, error) {
	var words []orderWord
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		var word orderWord
		switch length := strings.IndexFunc(text, func(r rune) bool { return !inName(r) }); {
		case text[0] == ',':
			word, text = orderWord{",", true}, text[1:]
		case text[0] == '"':
			name, rest, ok := cutQuoted(text[1:])
			if !ok || name == "" {
				return nil, errors.New("a quoted name does not end, or is empty")
			}
			word, text = orderWord{name, false}, rest
		case length == 0 || text[0] >= '0' && text[0] <= '9' || text[0] == '$':
			return nil, fmt.Errorf("%q begins with no name; names of other than letters, digits and _ are quoted", text)
		default:
			if length < 0 {
				length = len(text)
			}
			word, text = orderWord{strings.Map(lower, text[:length]), true}, text[length:]
		}
		words = append(words, word)
	}
	return words, nil
}

// inName reports whether r can be in a name without quotes.
func inName(r rune) bool {
	return r == '_' || r == '$' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r > '\x7f'
}

// lower folds ASCII letters only, as the server does in an encoding in which a
// character can have several bytes.
func lower(r rune) rune {
	if r >= 'A' && r <= 'Z' {
		return r + 'a' - 'A'
	}
	return r
}

// cutQuoted separates a quoted name from the text after it. The opening quote has
// already been removed.
func cutQuoted(text string) (name, rest string, ok bool) {
	for {
		part, after, found := strings.Cut(text, `"`)
		if !found {
			return "", "", false
		}
		name += part
		if !strings.HasPrefix(after, `"`) {
			return name, after, true
		}
		name, text = name+`"`, after[1:]
	}
}
