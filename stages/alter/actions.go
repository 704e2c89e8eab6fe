package alter

import (
	"errors"
	"fmt"
	"slices"

	"github.com/repack-go/repack/internal/catalog"
)

// Action is one action of ALTER TABLE. Names in it are as the server stores them, not quoted.
type Action struct {
	Kind       Kind
	SQL        string // as written: what follows ALTER TABLE name
	Column     string // of an action on a column
	Constraint string // of an action on a constraint; empty if ADD gives it no name
	To         string // the new name, of RENAME
	Using      string // the expression of TYPE … USING, as written; or empty
}

// Kind says what an action does, in the words of ALTER TABLE.
type Kind string

// The actions that repack carries out.
const (
	AddColumn        Kind = "ADD COLUMN"
	DropColumn       Kind = "DROP COLUMN"
	AlterType        Kind = "ALTER COLUMN TYPE"
	SetDefault       Kind = "ALTER COLUMN SET DEFAULT"
	DropDefault      Kind = "ALTER COLUMN DROP DEFAULT"
	SetNotNull       Kind = "ALTER COLUMN SET NOT NULL"
	DropNotNull      Kind = "ALTER COLUMN DROP NOT NULL"
	SetExpression    Kind = "ALTER COLUMN SET EXPRESSION"
	DropExpression   Kind = "ALTER COLUMN DROP EXPRESSION"
	SetStorage       Kind = "ALTER COLUMN SET STORAGE"
	SetCompression   Kind = "ALTER COLUMN SET COMPRESSION"
	SetStatistics    Kind = "ALTER COLUMN SET STATISTICS"
	SetColumnOptions Kind = "ALTER COLUMN SET or RESET options"
	RenameColumn     Kind = "RENAME COLUMN"
	RenameConstraint Kind = "RENAME CONSTRAINT"
	AddConstraint    Kind = "ADD CONSTRAINT"
	DropConstraint   Kind = "DROP CONSTRAINT"
	SetOptions       Kind = "SET options"
	ResetOptions     Kind = "RESET options"
	SetTablespace    Kind = "SET TABLESPACE"
	SetLogged        Kind = "SET LOGGED"
	SetUnlogged      Kind = "SET UNLOGGED"
)

// onTable and onColumn are the words by which one knows actions on the table, and actions on a
// column, after its name.
var (
	onTable = map[string]Kind{
		"SET (":          SetOptions,
		"RESET (":        ResetOptions,
		"SET TABLESPACE": SetTablespace,
		"SET LOGGED":     SetLogged,
		"SET UNLOGGED":   SetUnlogged,
	}
	onColumn = map[string]Kind{
		"TYPE":            AlterType,
		"SET DATA TYPE":   AlterType,
		"SET DEFAULT":     SetDefault,
		"DROP DEFAULT":    DropDefault,
		"SET NOT NULL":    SetNotNull,
		"DROP NOT NULL":   DropNotNull,
		"SET EXPRESSION":  SetExpression,
		"DROP EXPRESSION": DropExpression,
		"SET STORAGE":     SetStorage,
		"SET COMPRESSION": SetCompression,
		"SET STATISTICS":  SetStatistics,
		"SET (":           SetColumnOptions,
		"RESET (":         SetColumnOptions,
	}
)

// plainOnTable and plainOnColumn are the same for actions that plain SQL does in a moment.
var (
	plainOnTable = []string{
		"OWNER TO", "SET SCHEMA", "RENAME TO",
		"ENABLE TRIGGER", "ENABLE ALWAYS TRIGGER", "ENABLE REPLICA TRIGGER", "DISABLE TRIGGER",
		"ENABLE RULE", "ENABLE ALWAYS RULE", "ENABLE REPLICA RULE", "DISABLE RULE",
		"ENABLE ROW LEVEL SECURITY", "DISABLE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY", "NO FORCE ROW LEVEL SECURITY",
		"INHERIT", "NO INHERIT", "ATTACH PARTITION", "DETACH PARTITION", "OF", "NOT OF",
		"REPLICA IDENTITY", "CLUSTER ON", "SET WITHOUT CLUSTER", "SET WITHOUT OIDS", "ALTER CONSTRAINT",
	}
	plainOnColumn = []string{ // identity columns
		"ADD GENERATED", "SET GENERATED", "DROP IDENTITY", "RESTART",
		"SET RESTART", "SET START", "SET INCREMENT", "SET MINVALUE", "SET MAXVALUE", "SET NO", "SET CACHE", "SET CYCLE",
	}
)

// ActionError reports an action that repack does not carry out.
type ActionError struct {
	Action string // as written
	Why    string // the rest of a sentence that begins with the action
}

func (e *ActionError) Error() string { return e.Action + " " + e.Why }

// Why repack does not carry out an action.
const (
	whyUnknown      = "is not an action that repack knows"
	whyPlain        = "is not for repack: plain SQL does it in a moment, before or after the repack"
	whyUnblocking   = "is not for repack: plain SQL does it while others write, before or after the repack"
	whyAccessMethod = "is not for repack: the new table keeps the access method"
	whyCascade      = "must not have CASCADE: drop what depends on it by name first"
	whyForeignKey   = "adds a foreign key: add the key after the repack as NOT VALID, and validate it"
	whyUnfilled     = "adds a column with a sequence, and repack has no values for the rows that are there: " +
		"add an integer column, fill it with --set, and give it the sequence or the identity after the repack"
	whyNotValid   = "must not have NOT VALID: leave NOT VALID out, the copy proves the constraint"
	whyUsingIndex = "takes an index that the new table does not have: plain SQL does it in a moment, before or after the repack"
	whyTogether   = "must be alone, as in PostgreSQL: give it an --alter of its own"
)

// Parse splits one value of --alter into its actions: a list of actions, separated by commas, or
// a whole ALTER TABLE statement for the table in the schema. It returns *ActionError for an
// action that repack does not carry out. The server sees later whether the rest of each
// action is right.
func Parse(text, schema, table string) ([]Action, error) {
	tokens, err := lex(text)
	if err != nil {
		return nil, err
	}
	for len(tokens) > 0 && tokens[len(tokens)-1].word == ";" {
		tokens = tokens[:len(tokens)-1]
	}
	r := &reader{text, tokens}
	if i := r.find(";"); i >= 0 {
		return nil, fmt.Errorf("there is text after the semicolon at byte %d: an --alter takes one statement", tokens[i].start+1)
	}
	if r.take("ALTER TABLE") {
		if err := r.table(catalog.Name{Schema: schema, Name: table}); err != nil {
			return nil, err
		}
	}
	var actions []Action
	for _, part := range r.list() {
		if len(part.tokens) == 0 {
			return nil, errors.New("an action is missing: there is no text, or nothing before or after a comma")
		}
		a := Action{SQL: part.rest()}
		if why := a.read(&part); why != "" {
			return nil, &ActionError{Action: a.SQL, Why: why}
		}
		actions = append(actions, a)
	}
	for _, a := range actions {
		if len(actions) > 1 && (a.Kind == RenameColumn || a.Kind == RenameConstraint) {
			return nil, &ActionError{Action: a.SQL, Why: whyTogether}
		}
	}
	return actions, nil
}

// table skips what comes before the actions in a whole statement, and makes sure that the
// statement is for that table.
func (r *reader) table(want catalog.Name) error {
	r.take("IF EXISTS")
	r.take("ONLY")
	is := catalog.Name{Schema: want.Schema, Name: r.name()}
	if r.take(".") {
		is = catalog.Name{Schema: is.Name, Name: r.name()}
	}
	if is != want {
		return fmt.Errorf("the ALTER TABLE statement is not for %s", want)
	}
	r.take("*")
	return nil
}

// read reads an action. why is why repack does not carry it out; or empty.
func (a *Action) read(r *reader) (why string) {
	switch {
	case r.at(plainOnTable...):
		return whyPlain
	case r.at("VALIDATE CONSTRAINT"):
		return whyUnblocking
	case r.at("SET ACCESS METHOD"):
		return whyAccessMethod
	case r.take("ADD"):
		return a.add(r)
	case r.take("DROP"):
		return a.drop(r)
	case r.take("RENAME"):
		return a.rename(r)
	case r.take("ALTER"):
		return a.alter(r)
	default:
		return a.know(r, onTable)
	}
}

// know finds the kind of an action by its first words.
func (a *Action) know(r *reader, kinds map[string]Kind) (why string) {
	for words, kind := range kinds {
		if r.take(words) {
			a.Kind = kind
			return ""
		}
	}
	return whyUnknown
}

func (a *Action) add(r *reader) (why string) {
	if r.at("CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN", "NOT NULL", "LIKE", "EXCLUDE (", "EXCLUDE USING") {
		return a.addConstraint(r)
	}
	r.take("COLUMN")
	r.take("IF NOT EXISTS")
	a.Kind, a.Column = AddColumn, r.name()
	switch {
	case a.Column == "":
		return whyUnknown
	case r.serial(), r.find("AS IDENTITY") >= 0:
		return whyUnfilled
	case r.find("REFERENCES") >= 0:
		return whyForeignKey
	default:
		return ""
	}
}

// serial reports whether a type comes next that the server replaces by an integer and a
// sequence. It does so if the name of the type is quoted, too.
func (r *reader) serial() bool {
	ahead := *r
	return slices.Contains([]string{"smallserial", "serial2", "serial", "serial4", "bigserial", "serial8"}, ahead.name()) && !ahead.at(".")
}

func (a *Action) addConstraint(r *reader) (why string) {
	a.Kind = AddConstraint
	if r.take("CONSTRAINT") {
		if a.Constraint = r.name(); a.Constraint == "" {
			return whyUnknown
		}
	}
	switch {
	case r.at("FOREIGN KEY"):
		return whyForeignKey
	case r.at("UNIQUE USING INDEX", "PRIMARY KEY USING INDEX"):
		return whyUsingIndex
	case r.find("NOT VALID") >= 0:
		return whyNotValid
	default:
		return ""
	}
}

func (a *Action) drop(r *reader) (why string) {
	name := &a.Column
	if a.Kind = DropColumn; r.take("CONSTRAINT") {
		a.Kind, name = DropConstraint, &a.Constraint
	} else {
		r.take("COLUMN")
	}
	r.take("IF EXISTS")
	switch *name = r.name(); {
	case *name == "":
		return whyUnknown
	case r.at("CASCADE"):
		return whyCascade
	default:
		return ""
	}
}

func (a *Action) rename(r *reader) (why string) {
	if r.take("CONSTRAINT") {
		a.Kind, a.Constraint = RenameConstraint, r.name()
	} else {
		r.take("COLUMN")
		a.Kind, a.Column = RenameColumn, r.name()
	}
	if r.take("TO") {
		a.To = r.name()
	}
	if a.To == "" {
		return whyUnknown
	}
	return ""
}

func (a *Action) alter(r *reader) (why string) {
	r.take("COLUMN")
	if a.Column = r.name(); a.Column == "" {
		return whyUnknown
	}
	if r.at(plainOnColumn...) {
		return whyPlain
	}
	why = a.know(r, onColumn)
	if i := r.find("USING"); a.Kind == AlterType && i >= 0 {
		r.tokens = r.tokens[i+1:]
		a.Using = r.rest()
	}
	return why
}

// assignment splits COLUMN = EXPRESSION. The column is as the server stores it, and the
// expression as written.
func assignment(text string) (column, expression string, err error) {
	tokens, err := lex(text)
	if err != nil {
		return "", "", err
	}
	r := &reader{text, tokens}
	column = r.name()
	if column == "" || !r.take("=") || len(r.tokens) == 0 {
		return "", "", fmt.Errorf("%q is not COLUMN = EXPRESSION", text)
	}
	if r.find(",") >= 0 || r.find(";") >= 0 {
		return "", "", fmt.Errorf("%q is more than one assignment: give the flag again for each", text)
	}
	return column, r.rest(), nil
}

// columnList splits a list of columns, which are as the server stores them. A star that is not
// quoted is "*".
func columnList(text string) ([]string, error) {
	tokens, err := lex(text)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, part := range (&reader{text, tokens}).list() {
		name := part.name()
		if name == "" && part.take("*") {
			name = "*"
		}
		if name == "" || len(part.tokens) > 0 {
			return nil, fmt.Errorf("%q is not a list of columns, separated by commas", text)
		}
		names = append(names, name)
	}
	return names, nil
}
