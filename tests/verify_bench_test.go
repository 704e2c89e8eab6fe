package tests

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/repack-go/repack/internal/tooling/pgtest"
	"github.com/repack-go/repack/repack"
)

const benchRows = 1_000_000

// The tables differ in how wide a row is, and in whether rows that are
// neighbours in the table are neighbours in the key's index.
var benchTables = []struct{ name, ddl string }{
	{"bigint", `
		CREATE TABLE app.t (id bigint PRIMARY KEY, email text NOT NULL UNIQUE, note text, at timestamptz DEFAULT now());
		INSERT INTO app.t SELECT i, 'mail ' || i, repeat('n', 20 + i %% 60) FROM generate_series(1, %[1]d) AS i`},
	{
		"uuid",
		`
			CREATE TABLE app.t (
			    id    uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
			    email text        NOT NULL UNIQUE,
			    note  text,
			    at    timestamptz DEFAULT now()
			);
			INSERT INTO app.t (email, note)
			SELECT 'mail ' || i, repeat('n', 20 + i %% 60)
			FROM   generate_series(1, %[1]d) AS i`,
	},
}

// BenchmarkVerify measures whole runs; docs/verification.md quotes it. Beside
// the time it reports what processors the server has used, which other work on
// the machine blurs less.
func BenchmarkVerify(b *testing.B) {
	for _, table := range benchTables {
		for _, mode := range []repack.VerifyMode{repack.VerifyOff, repack.VerifySample, repack.VerifyFull} {
			b.Run(fmt.Sprintf("%s/%s", table.name, mode), func(b *testing.B) {
				db := pgtest.New(b)
				db.Exec(b, "CREATE SCHEMA app;"+fmt.Sprintf(table.ddl, benchRows))
				db.Exec(b, "VACUUM ANALYZE app.t")
				before := serverSeconds(b, db)
				b.ResetTimer()
				for range b.N {
					r, err := repack.New(db.Config(b), repack.Options{Table: "app.t", Verify: mode})
					if err != nil {
						b.Fatal(err)
					}
					if err := r.Run(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				b.ReportMetric((serverSeconds(b, db)-before)/float64(b.N), "server-cpu-s/op")
			})
		}
	}
}

// reaping is ample for the server to see that a run's processes have ended.
const reaping = time.Second

// serverSeconds is the processor time of the server's processes that have
// ended, those of a finished run among them: fields 16 and 17 of proc(5)'s
// stat, in ticks of a hundredth of a second.
func serverSeconds(b *testing.B, db *pgtest.Database) float64 {
	b.Helper()
	time.Sleep(reaping)
	postmaster := pgtest.Query[string](b, db.Pool, `SELECT split_part(pg_read_file('postmaster.pid'), E'\n', 1)`)
	stat, err := os.ReadFile("/proc/" + postmaster + "/stat")
	if err != nil {
		b.Skipf("no processor times here: %v", err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks float64
	for _, field := range fields[13:15] { // the third field is the first here
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			b.Fatalf("processor time: %v", err)
		}
		ticks += n
	}
	return ticks / 100
}
