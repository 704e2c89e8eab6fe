package tests

import (
	"fmt"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const damagedSQL = `
CREATE SCHEMA app;
CREATE TABLE app.t (id int PRIMARY KEY, a text, b text, n int);
INSERT INTO app.t SELECT g, 'a' || g, 'b' || g, g FROM generate_series(1, 1000) g;
CREATE UNIQUE INDEX by_a ON app.t (a);
CREATE UNIQUE INDEX partly ON app.t (n) WHERE n > 0;
CREATE UNIQUE INDEX on_lower ON app.t (lower(b))`

// damageSQL puts a row into app.t that one of its indexes does not see.
const damageSQL = `
UPDATE pg_index SET indisready = false WHERE indexrelid = 'app.%[1]s'::regclass;
INSERT INTO app.t SELECT %[2]s;
UPDATE pg_index SET indisready = true WHERE indexrelid = 'app.%[1]s'::regclass`

// TestDuplicateUnderDamagedIndex has rows that a unique index should not allow: the
// run ends with the key that is there twice, which the server says in its DETAIL.
func TestDuplicateUnderDamagedIndex(t *testing.T) {
	t.Parallel()
	for i, c := range []struct{ index, row, says string }{
		{"t_pkey", `7, 'x', 'x', 8000`, "Key (id)=(7)"},
		{"partly", `2000, 'x', 'x', 7`, "Key (n)=(7)"},
		{"by_a", `2000, 'a7', 'x', 8000`, "Key (a)=(a7)"},
		{"on_lower", `2000, 'x', 'B7', 8000`, "Key (lower(b))=(b7)"},
	} {
		db := pgtest.New(t)
		db.Exec(t, damagedSQL)
		db.Exec(t, fmt.Sprintf(damageSQL, c.index, c.row))
		p := cli(t, db, 1, "run", "--table", "app.t", "--strategy", strategies[i%2])
		p.says(t, c.index, c.says)
		cli(t, db, 0, "reset", "--table", "app.t")
		noArtefacts(t, db)
	}
}

// A look-up of a key finds one row where two have it, so that direct-trigger
// takes the second for a row that has been written through already.
func TestDuplicateKeyIsNotLost(t *testing.T) {
	t.Parallel()
	for _, row := range []string{`7, 'x', 'x', 8000`, `7, 'a7', 'b7', 7`} {
		db := pgtest.New(t)
		db.Exec(t, damagedSQL+`; DROP INDEX app.by_a, app.partly, app.on_lower`)
		db.Exec(t, fmt.Sprintf(damageSQL, "t_pkey", row))
		cli(t, db, 1, "run", "--table", "app.t", "--strategy", repack.DirectTrigger).says(t, `duplicate: id = "7"`)
		if n := pgtest.Query[int](t, db.Pool, `SELECT count(*) FROM app.t WHERE id + 0 = 7`); n != 2 {
			t.Errorf("%d rows of the key, want both", n)
		}
		cli(t, db, 0, "reset", "--table", "app.t")
		noArtefacts(t, db)
	}
}
