package tests

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

// Addresses go from row to row while chunks are copied, so that both rows can
// bear the same in the shadow.
func TestUniqueValuesMoveDuringBackfill(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		held := holdAtChunk(t, db, o)
		both(t, db.Pool, `UPDATE @items SET email = 'old ' || id WHERE id <= 10`,
			`UPDATE @items SET email = 'mail ' || id - 190 WHERE id > 190`)
		held.release()
		held.mustEnd(t)
		alike(t, db, "items")
	})
}

// Many keys are in the log when addresses go from the rows of one batch to
// those of another.
func TestUniqueValuesMoveBetweenReplayBatches(t *testing.T) {
	t.Parallel()
	eachStrategy(t, func(t *testing.T, db *pgtest.Database, strategy string) {
		o := givenItems(t, db, strategy)
		run(t, db, atStep(o, repack.StepLoggedKeysRemoved, func() {
			both(t, db.Pool,
				`INSERT INTO @items SELECT i, 'mail ' || i, '' FROM generate_series(1001, 3000) AS i`,
				`UPDATE @items SET email = 'free ' || id WHERE id <= 100`,
				`UPDATE @items SET note = note || '!' WHERE id > 1000`,
				`UPDATE @items SET email = 'mail ' || id - 100 WHERE id BETWEEN 101 AND 200`,
				`UPDATE @items SET note = note || '?' WHERE id > 1000`,
				`UPDATE @items SET email = 'mail ' || id + 100 WHERE id <= 100`)
		}))
		alike(t, db, "items")
	})
}

const placesSQL = `
CREATE TABLE @places (
    id  bigint  PRIMARY KEY,
    pos integer NOT NULL,
    at  int4range NOT NULL,
    CONSTRAINT places_pos_key UNIQUE (pos) %[1]s,
    CONSTRAINT places_at_excl EXCLUDE USING gist (at WITH &&) %[1]s
);
INSERT INTO @places SELECT i, i, int4range(i * 10, i * 10 + 10) FROM generate_series(1, 100) AS i`

// rearrange moves values between rows, as sets and in two steps. A constraint
// that is not deferrable checks every row, so its rows go one after another.
func rearrange(t *testing.T, db *pgtest.Database, isolation pgx.TxIsoLevel, deferrable string) {
	t.Helper()
	swapping := []string{
		`UPDATE @places SET pos = -pos, at = int4range(-pos * 10, -pos * 10 + 10)`,
		`UPDATE @places SET pos = 1 - pos, at = int4range((1 - pos) * 10, (1 - pos) * 10 + 10)`,
		`UPDATE @places SET pos = pos - 1000, at = int4range((pos - 1000) * 10, (pos - 1000) * 10 + 10) WHERE id = 1`,
		`UPDATE @places SET pos = 2, at = '[20,30)' WHERE id = 2`,
	}
	if deferrable != "" {
		swapping = []string{
			`UPDATE @places SET pos = pos + 1, at = int4range(lower(at) + 10, upper(at) + 10)`,
			`UPDATE @places SET pos = 205 - pos, at = int4range((205 - pos) * 10, (205 - pos) * 10 + 10)`,
			`SET CONSTRAINTS ALL DEFERRED`,
			`UPDATE @places SET pos = o.pos, at = o.at FROM @places o WHERE @places.id = 1 AND o.id = 2`,
			`UPDATE @places SET pos = 900, at = '[9000,9010)' WHERE id = 2`,
			`SET CONSTRAINTS ALL IMMEDIATE`,
			`SET CONSTRAINTS app.places_pos_key, app.places_at_excl, control.places_pos_key, control.places_at_excl DEFERRED`,
			`UPDATE @places SET pos = 901, at = '[9010,9020)' WHERE id IN (3, 4)`,
			`UPDATE @places SET pos = 902, at = '[9020,9030)' WHERE id = 4`,
		}
	}
	bothIn(t, db, isolation, swapping...)
}

var deferrables = map[string]string{
	"not deferrable":      "",
	"initially immediate": "DEFERRABLE INITIALLY IMMEDIATE",
	"initially deferred":  "DEFERRABLE INITIALLY DEFERRED",
}

// Sets of values are rearranged in every phase.
func TestUniqueValuesMoveAsSets(t *testing.T) {
	t.Parallel()
	for name, deferrable := range deferrables {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachIsolation(t, func(t *testing.T, db *pgtest.Database, strategy string, isolation pgx.TxIsoLevel) {
				twins(t, db, fmt.Sprintf(placesSQL, deferrable))
				o := options(t, "app.places", strategy)
				o.BatchSize, o.Until = 1, repack.Swap
				o = everyStep(o, func() { rearrange(t, db, isolation, deferrable) })
				run(t, db, o)
				alike(t, db, "places")
				rearrange(t, db, isolation, deferrable)
				revert(t, db, o)
				alike(t, db, "places")
				run(t, db, options(t, "app.places", strategy))
				alike(t, db, "places")
			})
		})
	}
}
