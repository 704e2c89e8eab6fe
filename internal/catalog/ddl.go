package catalog

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Quote returns one identifier as SQL writes it, always quoted.
func Quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// QuoteAll quotes identifiers and joins them with commas.
func QuoteAll(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = Quote(n)
	}
	return strings.Join(quoted, ", ")
}

// Literal returns a string constant. The session must have standard_conforming_strings
// on; our sessions have it on.
func Literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// CreateSQL returns statements that create an empty table like t with the name as:
// columns, validated checks and storage parameters. It leaves out
//
//   - keys, indexes and NOT VALID constraints: they would make the copy fail, or slow
//   - defaults, identity, foreign keys and grants: only the table in use may have them.
//     A default on the shadow would depend on the source's sequence, so the application
//     could not drop that sequence.
//
// If t is Verbatim the statements take ACCESS SHARE on t.
func (t *Table) CreateSQL(as Name) []string {
	create := "CREATE "
	if t.Persistence == "u" {
		create += "UNLOGGED "
	}
	create += fmt.Sprintf("TABLE %s (\n\t%s\n) USING %s", as, strings.Join(t.elements(), ",\n\t"), Quote(t.AccessMethod))
	if options := t.storageOptions(); options != "" {
		create += " WITH (" + options + ")"
	}
	if t.Tablespace != "" {
		create += " TABLESPACE " + Quote(t.Tablespace)
	}
	statements := append([]string{create}, t.dropUncheckedSQL(as)...)
	for _, c := range t.Columns {
		statements = append(statements, c.settingsSQL(as)...)
	}
	return statements
}

// elements returns the columns and constraints between the parentheses of CREATE TABLE.
func (t *Table) elements() []string {
	if t.Verbatim() {
		return []string{t.likeSQL()}
	}
	// From PostgreSQL 18 on NOT NULL is a constraint with a name.
	named := false
	for _, c := range t.Constraints {
		named = named || c.Type == "n"
	}
	var elements []string
	for _, c := range t.Columns {
		elements = append(elements, c.definition(!named))
	}
	for _, c := range t.Constraints {
		if (c.Type == "c" || c.Type == "n") && c.Validated {
			elements = append(elements, "CONSTRAINT "+Quote(c.Name)+" "+c.Definition)
		}
	}
	return elements
}

func (c Column) definition(notNull bool) string {
	def := Quote(c.Name) + " " + c.Type
	switch c.Compression {
	case "p":
		def += " COMPRESSION pglz"
	case "l":
		def += " COMPRESSION lz4"
	}
	if c.Collation != "" {
		def += " COLLATE " + c.Collation
	}
	if c.NotNull && notNull {
		def += " NOT NULL"
	}
	switch c.Generated {
	case "s":
		def += " GENERATED ALWAYS AS (" + c.Expression + ") STORED"
	case "v":
		def += " GENERATED ALWAYS AS (" + c.Expression + ") VIRTUAL"
	}
	return def
}

var storageWords = map[string]string{"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}

// settingsSQL returns the column properties that CREATE TABLE has no syntax for.
func (c Column) settingsSQL(table Name) []string {
	alter := fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s SET ", table, Quote(c.Name))
	var statements []string
	if c.Storage != "" {
		statements = append(statements, alter+"STORAGE "+storageWords[c.Storage])
	}
	if c.Statistics != nil {
		statements = append(statements, alter+fmt.Sprintf("STATISTICS %d", *c.Statistics))
	}
	if len(c.Options) > 0 {
		statements = append(statements, alter+"("+optionList("", c.Options)+")")
	}
	return statements
}

func (t *Table) storageOptions() string {
	var lists []string
	if len(t.Options) > 0 {
		lists = append(lists, optionList("", t.Options))
	}
	if len(t.ToastOptions) > 0 {
		lists = append(lists, optionList("toast.", t.ToastOptions))
	}
	return strings.Join(lists, ", ")
}

// optionList makes the list for WITH ( ) from reloptions, which are "name=value".
func optionList(prefix string, options []string) string {
	list := make([]string, len(options))
	for i, o := range options {
		name, value, _ := strings.Cut(o, "=")
		list[i] = prefix + Quote(name) + " = " + Literal(value)
	}
	return strings.Join(list, ", ")
}

// DefaultsSQL returns statements that set the defaults of t's columns on table on, or
// with drop remove them. They take ACCESS EXCLUSIVE on that table.
func (t *Table) DefaultsSQL(on Name, drop bool) []string {
	var statements []string
	for _, c := range t.Columns {
		if c.Generated != "" || c.Expression == "" {
			continue
		}
		action := "SET DEFAULT " + c.Expression
		if drop {
			action = "DROP DEFAULT"
		}
		statements = append(statements, fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s %s", on, Quote(c.Name), action))
	}
	return statements
}

// CreateSQL returns the statement that builds the index on another table, with the
// index's own name. The session's default_tablespace decides the tablespace. It takes
// SHARE on table.
func (i Index) CreateSQL(table Name) string {
	unique := ""
	if i.Unique {
		unique = "UNIQUE "
	}
	return fmt.Sprintf("CREATE %sINDEX %s ON %s %s", unique, Quote(i.Name), table, i.Tail)
}

// FromIndex reports whether the constraint can be made from a unique index that has
// been built (ADD CONSTRAINT … USING INDEX). Exclusion constraints and WITHOUT OVERLAPS
// constraints cannot.
func (c Constraint) FromIndex() bool { return (c.Type == "p" || c.Type == "u") && !c.Period }

// AddSQL returns the statement that adds the constraint to table: from the index with
// the constraint's name if FromIndex allows it. It takes ACCESS EXCLUSIVE on table.
func (c Constraint) AddSQL(table Name) string {
	definition := c.Definition
	if c.FromIndex() {
		definition = map[string]string{"p": "PRIMARY KEY", "u": "UNIQUE"}[c.Type] + " USING INDEX " + Quote(c.Name) +
			deferrable(c.Deferrable, c.Deferred)
	}
	return fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s %s", table, Quote(c.Name), definition)
}

func deferrable(deferrable, deferred bool) string {
	switch {
	case deferred:
		return " DEFERRABLE INITIALLY DEFERRED"
	case deferrable:
		return " DEFERRABLE"
	default:
		return ""
	}
}

var referentialActions = map[string]string{
	"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT",
}

// AddSQL returns the statement that adds the foreign key to f.Table as NOT VALID, so
// the server checks no row that is there. It takes SHARE ROW EXCLUSIVE on both tables.
//
// https://www.postgresql.org/docs/current/sql-altertable.html, "ADD table_constraint"
func (f ForeignKey) AddSQL() string {
	if !f.Enforced { // such a key is never valid
		return f.addValidSQL()
	}
	return f.addValidSQL() + " NOT VALID"
}

// addValidSQL is AddSQL without NOT VALID.
func (f ForeignKey) addValidSQL() string {
	columns, refColumns := f.Columns, f.RefColumns
	list, refList := QuoteAll(columns), QuoteAll(refColumns)
	if last := len(columns) - 1; f.Period {
		list = QuoteAll(columns[:last]) + ", PERIOD " + Quote(columns[last])
		refList = QuoteAll(refColumns[:last]) + ", PERIOD " + Quote(refColumns[last])
	}
	sql := fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s FOREIGN KEY (%s) REFERENCES %s (%s)",
		f.Table, Quote(f.Name), list, f.Referenced, refList)
	if f.Match == "f" {
		sql += " MATCH FULL"
	}
	sql += " ON UPDATE " + referentialActions[f.OnUpdate] + " ON DELETE " + referentialActions[f.OnDelete]
	if len(f.DeleteColumns) > 0 {
		sql += " (" + QuoteAll(f.DeleteColumns) + ")"
	}
	sql += deferrable(f.Deferrable, f.Deferred)
	if !f.Enforced {
		sql += " NOT ENFORCED"
	}
	return sql
}

// DropSQL returns the statement that drops the foreign key. It takes ACCESS EXCLUSIVE
// on both tables.
func (f ForeignKey) DropSQL() string {
	return fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT %s", f.Table, Quote(f.Name))
}

// ValidateSQL returns the statement that checks the rows that were there before the key
// was added. It takes SHARE UPDATE EXCLUSIVE on f.Table and ROW SHARE on f.Referenced.
// Neither blocks reads or writes of the application.
//
// https://www.postgresql.org/docs/current/sql-altertable.html, "VALIDATE CONSTRAINT"
func (f ForeignKey) ValidateSQL() string {
	return fmt.Sprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", f.Table, Quote(f.Name))
}

// CommentSQL returns the statement for the comment on the key, or nothing if the key
// has no comment.
func (f ForeignKey) CommentSQL() []string {
	return comment("CONSTRAINT "+Quote(f.Name)+" ON "+f.Table.String(), f.Comment)
}

func comment(object, text string) []string {
	if text == "" {
		return nil
	}
	return []string{"COMMENT ON " + object + " IS " + Literal(text)}
}

// CommentsSQL returns statements for the comments on the table, its columns,
// constraints and indexes. They apply to the table that has t's name. COMMENT takes
// SHARE UPDATE EXCLUSIVE on the object.
//
// https://www.postgresql.org/docs/current/sql-comment.html
func (t *Table) CommentsSQL() []string {
	on := t.Name.String()
	statements := comment("TABLE "+on, t.Comment)
	for _, c := range t.Columns {
		statements = append(statements, comment("COLUMN "+on+"."+Quote(c.Name), c.Comment)...)
	}
	for _, c := range t.Constraints {
		statements = append(statements, comment("CONSTRAINT "+Quote(c.Name)+" ON "+on, c.Comment)...)
	}
	for _, i := range t.Indexes {
		index := "INDEX " + Name{t.Name.Schema, i.Name}.String()
		statements = append(statements, comment(index, i.Comment)...)
		statements = append(statements, dependsOnSQL(index, i.Extensions)...)
	}
	return statements
}

// MarksSQL returns statements for the properties that refer to an index: the CLUSTER
// mark, the replica identity and the statistics targets of index columns. The replica
// identity takes ACCESS EXCLUSIVE on the table, the others SHARE UPDATE EXCLUSIVE.
func (t *Table) MarksSQL(on Name) []string {
	alter := "ALTER TABLE " + on.String()
	var statements []string
	for _, i := range t.Indexes {
		if i.Clustered {
			statements = append(statements, alter+" CLUSTER ON "+Quote(i.Name))
		}
		for _, s := range i.Statistics {
			statements = append(statements, fmt.Sprintf("ALTER INDEX %s ALTER COLUMN %d SET STATISTICS %d",
				Name{on.Schema, i.Name}, s.Column, s.Target))
		}
	}
	if t.ReplicaIdentity.Kind != "d" {
		statements = append(statements, t.ReplicaIdentity.SQL(on.String()))
	}
	return statements
}

// SQL returns the statement that gives this replica identity to table, which is qualified
// and quoted. It takes ACCESS EXCLUSIVE on table.
//
// https://www.postgresql.org/docs/current/sql-altertable.html, "REPLICA IDENTITY"
func (r ReplicaIdentity) SQL(table string) string {
	identity := map[string]string{"d": "DEFAULT", "n": "NOTHING", "f": "FULL"}[r.Kind]
	if r.Kind == "i" {
		identity = "USING INDEX " + Quote(r.Index)
	}
	return fmt.Sprintf("ALTER TABLE %s REPLICA IDENTITY %s", table, identity)
}

// IdentitySQL returns statements that make a column of table the identity column that s
// describes. The server creates the sequence in the schema of table. Only ALTER
// SEQUENCE can give it a type other than the column's, and a range that needs that
// type. ALTER TABLE takes ACCESS EXCLUSIVE on table.
func (s Sequence) IdentitySQL(table Name, always bool) []string {
	generated := "BY DEFAULT"
	if always {
		generated = "ALWAYS"
	}
	cycle := "NO CYCLE"
	if s.Cycle {
		cycle = "CYCLE"
	}
	name := s.Name.In(table.Schema)
	return []string{
		fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s ADD GENERATED %s AS IDENTITY (SEQUENCE NAME %s)",
			table, Quote(s.Column), generated, name),
		fmt.Sprintf("ALTER SEQUENCE %s AS %s START WITH %d RESTART WITH %d INCREMENT BY %d MINVALUE %d MAXVALUE %d CACHE %d %s",
			name, s.Type, s.Start, s.Start, s.Increment, s.Min, s.Max, s.Cache, cycle),
	}
}

// CommentSQL returns the statement for the comment on the sequence, or nothing if the
// sequence has no comment.
func (s Sequence) CommentSQL() []string { return comment("SEQUENCE "+s.Name.String(), s.Comment) }

// LockSQL returns a statement that takes ACCESS EXCLUSIVE on the sequence and changes
// nothing. LOCK does not work on sequences.
func (s Sequence) LockSQL() string {
	return fmt.Sprintf("ALTER SEQUENCE %s OWNER TO %s", s.Name, Quote(s.Owner))
}

// takeValueSQL skips a number for every session that waits for the old sequence. Such a
// session has already looked up the old sequence by name, and will get that sequence's
// next number.
const takeValueSQL = `
SELECT setval(%[1]s::regclass,
              CASE WHEN w.skip = 0 OR NOT s.last_value + w.skip BETWEEN %[3]d AND %[4]d
                   THEN s.last_value
                   ELSE (s.last_value + w.skip)::bigint END,
              s.is_called OR w.skip <> 0)
FROM   %[2]s s,
       (SELECT count(*) * %[5]d::numeric * %[6]d AS skip
        FROM   pg_locks
        WHERE  locktype = 'relation' AND relation = %[7]s::regclass AND NOT granted) w`

// TakeValueSQL returns a statement that gives the sequence the value of another one. No
// session can use the other one, because the table that it belongs to is locked.
// Sessions that already wait for it are the exception: see takeValueSQL.
func (s Sequence) TakeValueSQL(from Name) string {
	return fmt.Sprintf(takeValueSQL, Literal(s.Name.String()), from, s.Min, s.Max, s.Increment, s.Cache, Literal(from.String()))
}

// LockDependentsSQL returns the statements that lock the objects which depend on t and are
// replaced with it.
func (t *Table) LockDependentsSQL() []string {
	var statements []string
	for _, d := range t.Dependents {
		if d.Lock != "" {
			statements = append(statements, d.Lock)
		}
	}
	return append(statements, t.LockTypedSQL()...)
}
