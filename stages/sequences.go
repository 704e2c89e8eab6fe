package stages

import (
	"fmt"

	"github.com/repack-go/repack/internal/catalog"
)

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

// showSequencesSQL returns statements that undo hideSequencesSQL, when the table is back
// under the name of t. The publication may be gone, so they do not depend on it: they change
// nothing if the sequence is logged.
func showSequencesSQL(t *catalog.Table) []string {
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
