package tests

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// hubSQL is a table with a foreign key of every kind, in and out and to itself.
var hubSQL = fixture("hub")

var hubTables = []string{"country", "hub", "kid_n", "kid_d", "kid_r", "kid_a"}

// hubRound writes to all tables, such that every action of every key happens;
// the keys are those of the round. Row n of hub refers to country n.
func hubRound(t *testing.T, db *pgtest.Database, isolation pgx.TxIsoLevel, round int) {
	t.Helper()
	hubRoundBy(t, db, bothRefused, isolation, round)
}

// hubRoundBy is hubRound; alike sends what is refused.
func hubRoundBy(t *testing.T, db *pgtest.Database, alike func(*testing.T, execer, string), isolation pgx.TxIsoLevel, round int) {
	t.Helper()
	numbered := strings.NewReplacer("$", fmt.Sprint(round)) // $5 is key 5 of the round
	write := func(statements ...string) {
		t.Helper()
		for i := range statements {
			statements[i] = numbered.Replace(statements[i])
		}
		bothIn(t, db, isolation, statements...)
	}
	refused := func(sql string) {
		t.Helper()
		alike(t, db.Pool, numbered.Replace(sql))
	}
	write(`INSERT INTO @country SELECT generate_series($00, $30)`,
		`INSERT INTO @hub (id) SELECT generate_series($00, $30)`,
		`INSERT INTO @@kid_c SELECT i, i FROM generate_series($00, $30) AS i`)
	write(`UPDATE @hub SET c = $00 WHERE id = $00`, `UPDATE @hub SET n = $01 WHERE id = $01`,
		`UPDATE @hub SET d = $02 WHERE id = $02`, `UPDATE @hub SET r = $03 WHERE id = $03`,
		`UPDATE @hub SET a = $04 WHERE id = $04`, `UPDATE @hub SET c = $05 WHERE id = $05`,
		`UPDATE @hub SET n = $06 WHERE id = $06`, `UPDATE @hub SET d = $07 WHERE id = $07`,
		`UPDATE @hub SET boss = $10 WHERE id IN ($11, $12)`, `UPDATE @hub SET boss = $13 WHERE id IN ($13, $14)`)
	write(`INSERT INTO @kid_n VALUES ($15, $15), ($16, $16)`, `INSERT INTO @kid_d VALUES ($17, $17), ($18, $18)`,
		`INSERT INTO @kid_r VALUES ($19, $19)`, `INSERT INTO @kid_a VALUES ($20, $20)`)
	// Cascades out of country, through hub, into kid_c.
	write(`DELETE FROM @country WHERE id IN ($00, $01, $02)`, `
		UPDATE @country SET id = id + 40 WHERE id IN ($05, $06, $07)`)
	// Cascades out of hub, into itself and others.
	write(`DELETE FROM @hub WHERE id IN ($10, $15, $17)`, `
		UPDATE @hub SET id = id + 40 WHERE id IN ($11, $13, $14, $16, $18)`)
	refused(`DELETE FROM @country WHERE id = $03`)
	refused(`UPDATE @country SET id = id + 40 WHERE id = $03`)
	refused(`DELETE FROM @country WHERE id = $04`)
	refused(`DELETE FROM @hub WHERE id = $19`)
	refused(`UPDATE @hub SET id = id + 40 WHERE id = $19`)
	refused(`DELETE FROM @hub WHERE id = $20`)
	refused(`INSERT INTO @hub (id, c) VALUES ($91, $91)`)
	refused(`INSERT INTO @@kid_c VALUES ($91, $91)`)
	refused(`INSERT INTO @kid_a VALUES ($91, $91)`)
	// A parent that comes after its child, and one that is replaced.
	write(`INSERT INTO @kid_a VALUES ($92, $92)`, `INSERT INTO @hub (id, a) VALUES ($92, $92)`, `INSERT INTO @country VALUES ($92)`)
	write(`DELETE FROM @hub WHERE id = $20`, `INSERT INTO @hub (id) VALUES ($20)`)
}

// Whichever table of the family is repacked, every action happens in every
// phase, and what is forbidden stays so, between swap and clean_up too.
func TestForeignKeysInEveryPhase(t *testing.T) {
	t.Parallel()
	for n, table := range []string{"app.hub", "app.country", "app.kid_a", "app_other.kid_c"} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			inTurn(t, n, func(t *testing.T, db *pgtest.Database, strategy string) {
				twins(t, db, hubSQL)
				before := db.Dump(t)
				round := 1
				write := func() {
					hubRound(t, db, isolationLevels[round%len(isolationLevels)], round)
					round++
				}
				o := everyStep(options(t, table, strategy), write)
				runUntil(t, db, o, repack.Swap)
				hubAlike(t, db)
				write()
				r := newRepack(t, db, o)
				if err := r.Revert(testContext(t)); err != nil {
					t.Fatalf("revert: %v", err)
				}
				write()
				hubAlike(t, db)
				sameDump(t, db, before)

				run(t, db, everyStep(options(t, table, strategy), write))
				write()
				hubAlike(t, db)
				sameDump(t, db, before)
			})
		})
	}
}

// hubEqual compares the rows.
func hubEqual(t *testing.T, db *pgtest.Database) {
	t.Helper()
	alike(t, db, hubTables...)
	db.EqualTables(t, "app_other.kid_c", "control_other.kid_c")
}

func hubAlike(t *testing.T, db *pgtest.Database) {
	t.Helper()
	hubEqual(t, db)
	if n := pgtest.Query[int64](t, db.Pool, `
		SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND NOT convalidated`); n > 0 {
		t.Errorf("%d foreign keys are not valid", n)
	}
}
