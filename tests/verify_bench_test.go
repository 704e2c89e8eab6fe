package tests

import (
	"fmt"
	"testing"

	"github.com/repack-go/repack/internal/pgtest"
	"github.com/repack-go/repack/repack"
)

const benchRows = 1_000_000

// The tables differ in how wide a row is, and in whether rows that are
// neighbours in the table are neighbours in the key's index.
var benchTables = []struct{ name, ddl string }{
	{"bigint", `
		CREATE TABLE app.t (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, note text, at timestamptz DEFAULT now());
		INSERT INTO app.t SELECT i, 'mail ' || i, repeat('n', 20 + i %% 60) FROM generate_series(1, %[1]d) AS i`},
	{"uuid", `
		CREATE TABLE app.t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email text NOT NULL UNIQUE, note text, at timestamptz DEFAULT now());
		INSERT INTO app.t (email, note) SELECT 'mail ' || i, repeat('n', 20 + i %% 60) FROM generate_series(1, %[1]d) AS i`},
	{"keyonly", `
		CREATE TABLE app.t (id bigint PRIMARY KEY, note text);
		INSERT INTO app.t SELECT i, repeat('n', 20 + i %% 60) FROM generate_series(1, %[1]d) AS i`},
}

// BenchmarkVerify measures whole runs; docs/verification.md quotes it.
func BenchmarkVerify(b *testing.B) {
	for _, table := range benchTables {
		for _, mode := range []repack.VerifyMode{repack.VerifyOff, repack.VerifySample, repack.VerifyFull} {
			b.Run(fmt.Sprintf("%s/%s", table.name, mode), func(b *testing.B) {
				db := pgtest.New(b)
				db.Exec(b, "CREATE SCHEMA app;"+fmt.Sprintf(table.ddl, benchRows))
				db.Exec(b, "VACUUM ANALYZE app.t")
				for b.Loop() {
					r, err := repack.New(db.Config(b), repack.Options{Table: "app.t", Verify: mode})
					if err != nil {
						b.Fatal(err)
					}
					if err := r.Run(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
