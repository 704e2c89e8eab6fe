package stages

import (
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
)

// A publication FOR ALL SEQUENCES (PostgreSQL 19) publishes the identity sequences of the
// old table too. Subscribers do not have them, so their REFRESH PUBLICATION would fail
// until clean_up. Unlogged sequences are not published.
//
// https://www.postgresql.org/docs/current/sql-createpublication.html, "FOR ALL SEQUENCES"

// hideSequencesSQL returns statements that keep the identity sequences of t, which has been
// moved to parked, out of all publications. The sequences keep their values.
func hideSequencesSQL(t *catalog.Table, parked catalog.Name) []string {
	return logSequencesSQL(t, parked.Schema, "UNLOGGED")
}

// showSequencesSQL returns statements that undo hideSequencesSQL, when the table is back
// under the name of t.
func showSequencesSQL(t *catalog.Table) []string {
	return logSequencesSQL(t, t.Name.Schema, "LOGGED")
}

func logSequencesSQL(t *catalog.Table, schema, logged string) []string {
	var statements []string
	for _, s := range t.Sequences {
		if s.Identity && s.Publishable {
			statements = append(statements, fmt.Sprintf("ALTER SEQUENCE %s SET %s", s.Name.In(schema), logged))
		}
	}
	return statements
}
