package shadow

import (
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
	"github.com/repack-go/repack/strategy"
)

// DropKeysSQL drops the foreign keys of and to t.
func DropKeysSQL(t *catalog.Table) []string {
	var statements []string
	for _, key := range t.AllForeignKeys() {
		statements = append(statements, key.DropSQL())
	}
	return statements
}

// RetireSQL moves table t out of the way, to parked, and removes what joins it to other
// objects. A serial sequence stays where it is, with its value and grants. An identity
// sequence is moved along, and no longer published. The user
// triggers and rules of the parked table are disabled: the only writes to it keep it in
// step.
func RetireSQL(t *catalog.Table, parked catalog.Name) []string {
	statements := append(strategy.DropTriggersSQL(t.Name), t.DisableSQL()...)
	statements = append(statements, t.UnpublishSQL()...)
	for _, s := range t.Sequences {
		if !s.Identity {
			statements = append(statements, fmt.Sprintf("ALTER SEQUENCE %s OWNED BY NONE", s.Name))
		}
	}
	for _, s := range t.Statistics {
		statements = append(statements, s.MoveSQL(s.Name.Schema, parked.Schema))
	}
	statements = append(statements, t.DefaultsSQL(t.Name, true)...)
	statements = append(statements, t.ParkTypedSQL(parked.Schema)...)
	return append(append(statements, MoveSQL(t.Name, parked)), hideSequencesSQL(t, parked)...)
}

// MoveSQL moves a table to the schema of to.
func MoveSQL(table, to catalog.Name) string {
	return fmt.Sprintf("ALTER TABLE %s SET SCHEMA %s", table, catalog.Quote(to.Schema))
}

// DressSQL moves the shadow into place and gives it what only a table in use may have,
// except grants.
func (b *Builder) DressSQL(source *catalog.Table) []string {
	statements := append([]string{MoveSQL(b.Job.ShadowTable(), source.Name)}, source.CreateTypedSQL()...)
	for _, s := range source.Statistics {
		statements = append(statements, s.MoveSQL(b.Job.ShadowSchema, s.Name.Schema), s.OwnerSQL())
	}
	statements = append(statements, notValidSQL(source, source.Name)...)
	for _, s := range source.Sequences {
		if s.Identity {
			column, _ := source.Column(s.Column)
			statements = append(statements, s.IdentitySQL(source.Name, column.Identity == "a")...)
			statements = append(statements, s.CommentSQL()...)
		}
	}
	statements = append(statements, source.CommentsSQL()...)
	return append(statements, source.AddBehaviourSQL()...)
}

// NotValidSQL returns the statements that add the checks of the shadow that are not valid.
func (b *Builder) NotValidSQL() []string { return notValidSQL(b.Target(), b.Job.ShadowTable()) }

// notValidSQL adds to table on the checks of t that are not valid. They could not be
// added earlier: rows that are older than such a check may violate it, and the copy must
// take these rows.
func notValidSQL(t *catalog.Table, on catalog.Name) []string {
	var statements []string
	for _, c := range t.Constraints {
		if (c.Type == "c" || c.Type == "n") && !c.Validated {
			statements = append(statements, c.AddSQL(on))
		}
	}
	return statements
}

// GrantsSQL returns the statements that turn the privileges on has into those on table.
func GrantsSQL(has, table *catalog.Table) []string {
	statements := catalog.GrantsSQL("TABLE "+table.Name.String(), table.Owner, has.Grants, table.Grants)
	for _, want := range table.Sequences {
		if !want.Identity {
			continue
		}
		for _, s := range has.Sequences {
			if s.Name == want.Name {
				statements = append(statements, catalog.GrantsSQL("SEQUENCE "+s.Name.String(), table.Owner, s.Grants, want.Grants)...)
			}
		}
	}
	return append(statements, table.TypedGrantsSQL(has.Typed)...)
}

// InstallSQL is for the table that now has t's name, and t's place as a partition. It
// gives this table what RetireSQL has removed from the retired one, the values of
// identity sequences, the foreign keys in the order in which they were created, and the
// objects that depended on t.
func InstallSQL(t *catalog.Table, retired catalog.Name) []string {
	statements := t.DefaultsSQL(t.Name, false)
	for _, s := range t.Sequences {
		if s.Identity {
			statements = append(statements, s.TakeValueSQL(s.Name.In(retired.Schema)))
		} else {
			statements = append(statements, fmt.Sprintf("ALTER SEQUENCE %s OWNED BY %s.%s", s.Name, t.Name, catalog.Quote(s.Column)))
		}
	}
	for _, key := range t.AllForeignKeys() {
		statements = append(statements, t.AddKeySQL(key)...)
	}
	statements = append(statements, t.PublishSQL()...)
	for _, d := range t.Dependents {
		statements = append(statements, d.ReplaceSQL()...)
	}
	return statements
}

// A publication FOR ALL SEQUENCES (PostgreSQL 19) publishes the identity sequences of the
// old table too. Subscribers do not have them, so their REFRESH PUBLICATION would fail
// until clean_up. Unlogged sequences are not published. To make one unlogged, the server looks
// through all its buffers, so it is not done where there is no such publication.
//
// https://www.postgresql.org/docs/current/sql-createpublication.html, "FOR ALL SEQUENCES"

// hideSequencesSQL returns statements that keep the identity sequences of t, which has been
// moved to parked, out of all publications. The sequences keep their values.
func hideSequencesSQL(t *catalog.Table, parked catalog.Name) []string {
	return logSequencesSQL(t, parked.Schema, "UNLOGGED", func(s catalog.Sequence) bool { return s.Published })
}

// ShowSequencesSQL returns statements that undo hideSequencesSQL, when the table is back
// under the name of t. The publication may be gone, so they do not depend on it: they change
// nothing if the sequence is logged.
func ShowSequencesSQL(t *catalog.Table) []string {
	return logSequencesSQL(t, t.Name.Schema, "LOGGED", func(s catalog.Sequence) bool { return s.Publishable })
}

func logSequencesSQL(t *catalog.Table, schema, logged string, chosen func(catalog.Sequence) bool) []string {
	var statements []string
	for _, s := range t.Sequences {
		if s.Identity && chosen(s) {
			statements = append(statements, fmt.Sprintf("ALTER SEQUENCE %s SET %s", s.Name.In(schema), logged))
		}
	}
	return statements
}

// ReinstateSQL moves the old table back into its place. It gives the table its triggers,
// rules and statistics objects as they were.
func (b *Builder) ReinstateSQL() []string {
	statements := append([]string{MoveSQL(b.Job.OldTable(), b.Source.Name)}, b.Source.ReinstateTypedSQL(b.Job.OldSchema)...)
	statements = append(statements, b.Source.EnableSQL()...)
	for _, s := range b.Source.Statistics {
		statements = append(statements, s.MoveSQL(b.Job.OldSchema, s.Name.Schema))
	}
	return statements
}
