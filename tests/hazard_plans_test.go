package tests

import (
	"fmt"
	"testing"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// rowTypesSQL are functions that name the table's row type where nothing records
// that they do.
const rowTypesSQL = `
CREATE FUNCTION app.variables() RETURNS text LANGUAGE plpgsql AS $$
DECLARE a app.items%ROWTYPE; b app.items;
BEGIN SELECT * INTO a FROM app.items WHERE id = 7; b := a; b.note := 'same'; RETURN to_jsonb(b)::text; END $$;
CREATE FUNCTION app.arrays() RETURNS text LANGUAGE plpgsql AS $$
DECLARE one app.items; several app.items[];
BEGIN
    FOR one IN SELECT * FROM app.items ORDER BY id LIMIT 3 LOOP several := several || one; END LOOP;
    RETURN several[2].email;
END $$;
CREATE FUNCTION app.casts() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE one app.items;
BEGIN one := jsonb_populate_record(NULL::app.items, '{"id": 1, "note": "made"}'); RETURN (ROW(one.*)::app.items).note; END $$;
CREATE PROCEDURE app.inserts(id bigint) LANGUAGE plpgsql AS $$
DECLARE one app."items"; BEGIN one := ROW(id, 'mail ' || id, 'inserted'); INSERT INTO app.items VALUES (one.*); END $$`

// A session that has compiled a function before goes on with the row type that
// the table's name means.
func TestFunctionsWithRowTypes(t *testing.T) {
	t.Parallel()
	inTurn(t, 0, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		db.Exec(t, rowTypesSQL)
		before := db.Dump(t)
		session, id := db.Connect(t), 5000
		use := func() {
			for _, sql := range []string{`SELECT app.variables()`, `SELECT app.arrays()`, `SELECT app.casts()`} {
				mustExec(t, session, sql)
			}
			id++
			mustExec(t, session, fmt.Sprintf(`CALL app.inserts(%d)`, id))
		}
		use()
		runUntil(t, db, o, repack.Swap)
		use()
		revert(t, db, o)
		use()
		run(t, db, o)
		use()
		sameDump(t, db, before)
	})
}
