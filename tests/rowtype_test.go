package tests

import (
	"os"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

func TestRowTypeScratch(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	web := db.Role(t)
	text, _ := os.ReadFile("/work/shared/cases/rowtype.sql")
	db.Exec(t, strings.ReplaceAll(strings.ReplaceAll(string(text), "CREATE ROLE web NOLOGIN;", ""), "TO web", "TO "+web))
	db.Exec(t, `INSERT INTO users VALUES (1, 'a', 'b')`)
	schema := schemaOf(t, db)
	for _, table := range []string{"users", "jobs"} {
		run(t, db, options(t, "public."+table, repack.ChangeLog))
	}
	sameSchema(t, db, "after", schema)
	t.Log(db.QueryString(t, `SELECT full_name(u) || u.full_name FROM users u`))
}
