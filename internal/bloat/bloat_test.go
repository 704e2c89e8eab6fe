package bloat_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/repack-go/repack/internal/bloat"
	"github.com/repack-go/repack/internal/tooling/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// columns are kinds of columns: a type, and an expression of the row's number g.
var columns = [][2]string{
	{"bigint", "g"},
	{"int", "g % 1000"},
	{"smallint", "g % 100"},
	{"boolean", "g % 2 = 0"},
	{"timestamptz", "now()"},
	{"uuid", "md5(g::text)::uuid"},
	{"numeric", "g * 1.25"},
	{"text", "md5(g::text)"},
	{"text", "repeat('x', g % 200)"},
	{"varchar(10)", "left(md5(g::text), g % 10)"},
	{"int", "nullif(g % 3, 0)"},
	{"text", "CASE WHEN g % 4 > 0 THEN 'note ' || g END"},
	{"jsonb", "jsonb_build_object('a', g, 'b', g % 7)"},
	{"date", "date '2026-01-01' + (g % 300)"},
	{"char(20)", "g::text"},
}

// givenTables makes tables of different columns, with different fillfactors, of whose rows a part
// is deleted.
func givenTables(t *testing.T, db *pgtest.Database, n int) {
	t.Helper()
	var sql strings.Builder
	sql.WriteString("CREATE SCHEMA app; CREATE SCHEMA packed;")
	for i := range n {
		var names, values []string
		for c := range 1 + i*7%9 {
			kind := columns[(i*5+c*(1+i%3))%len(columns)]
			names, values = append(names, fmt.Sprintf("c%d %s", c, kind[0])), append(values, kind[1])
		}
		rows, fill := 2000+i*400, []int{100, 100, 70, 90}[i%4]
		fmt.Fprintf(&sql, `
			CREATE TABLE app.t%[1]d (%[2]s) WITH (fillfactor = %[3]d, autovacuum_enabled = off);
			INSERT INTO app.t%[1]d SELECT %[4]s FROM generate_series(1, %[5]d) g;
			DELETE FROM app.t%[1]d WHERE hashtext(ctid::text) %% 10 < %[6]d;
			CREATE INDEX ON app.t%[1]d (c0);
			CREATE TABLE packed.t%[1]d (LIKE app.t%[1]d INCLUDING INDEXES) WITH (fillfactor = %[3]d);
			INSERT INTO packed.t%[1]d SELECT * FROM app.t%[1]d;`, i, strings.Join(names, ", "), fill, strings.Join(values, ", "), rows, i%8)
	}
	db.Exec(t, sql.String())
	db.Exec(t, "VACUUM ANALYZE")
	db.Exec(t, "REINDEX SCHEMA packed")
}

// TestRead compares the estimates with tables that have just been written. An estimate may be
// within a seventh, or a few pages.
func TestRead(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	const tables = 50
	givenTables(t, db, tables)
	list, err := bloat.Read(t.Context(), db.Pool, pgtest.Column[uint32](t, db.Pool, `SELECT oid FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind = 'r'`))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != tables {
		t.Fatalf("%d estimates", len(list))
	}
	near := func(name, what string, got *int64, is int64) {
		t.Helper()
		if got == nil {
			t.Errorf("%s of %s is not known", what, name)
			return
		}
		if off := math.Abs(float64(*got - is)); off > 0.15*float64(is) && off > 3*8192 {
			t.Errorf("%s of %s: %d pages needed, %d are", what, name, *got/8192, is/8192)
		}
	}
	for _, e := range list {
		heap := pgtest.Query[int64](t, db.Pool, `SELECT pg_relation_size('packed.' || quote_ident($1))`, e.Name.Name)
		near(e.Name.Name, "heap", e.Heap.Needed, heap)
		if e.Heap.Size < heap || e.Heap.Unknown != "" || e.By != bloat.Statistics || e.AnalyzedAt == nil {
			t.Errorf("%s: %+v", e.Name, e)
		}
		index := pgtest.Query[int64](t, db.Pool, `SELECT pg_indexes_size('packed.' || quote_ident($1))`, e.Name.Name)
		if e.Indexes.Needed == nil || float64(*e.Indexes.Needed) < 0.85*float64(index)-3*8192 {
			t.Errorf("indexes of %s: %v needed, %d are: equal keys may take less, and nothing may take more", e.Name, e.Indexes.Needed, index)
		}
	}
}

// TestMeasure compares what is measured with pgstattuple itself, which reads all pages.
func TestMeasure(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	if !pgtest.Query[bool](t, db.Pool, `SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pgstattuple')`) {
		t.Skip("the server has no pgstattuple")
	}
	givenTables(t, db, 8)
	list, err := bloat.Read(t.Context(), db.Pool, pgtest.Column[uint32](t, db.Pool, `SELECT oid FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind = 'r'`))
	if err != nil {
		t.Fatal(err)
	}
	var may *bloat.MeasureError
	if _, err := bloat.May(t.Context(), db.Pool); !errors.As(err, &may) || may.Statements[0] != "CREATE EXTENSION pgstattuple;" {
		t.Errorf("without the extension: %v", err)
	}
	db.Exec(t, `CREATE EXTENSION pgstattuple`)
	if _, err := bloat.May(t.Context(), db.ConnectAs(t, db.Role(t))); !errors.As(err, &may) || len(may.Statements) != 1 {
		t.Errorf("without the privilege: %v", err)
	}
	schema, err := bloat.May(t.Context(), db.Pool)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		m, err := bloat.Measure(t.Context(), db.Pool, schema, e)
		if err != nil {
			t.Fatal(err)
		}
		exact := pgtest.Query[int64](t, db.Pool, `SELECT free_space + dead_tuple_len FROM pgstattuple($1::oid)`, e.OID)
		if off := math.Abs(float64(*m.Heap.Wasted() - exact)); off > 0.03*float64(m.Heap.Size) || m.By != bloat.Measured {
			t.Errorf("%s: %d bytes wasted, pgstattuple says %d", e.Name, *m.Heap.Wasted(), exact)
		}
	}
}

// TestUnknown is about tables of which statistics say nothing.
func TestUnknown(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role := db.Role(t)
	db.Exec(t, `CREATE SCHEMA app;
		CREATE TABLE app.never (id int) WITH (autovacuum_enabled = off); INSERT INTO app.never VALUES (1);
		CREATE TABLE app.toasted (id int, doc text); ALTER TABLE app.toasted ALTER doc SET STORAGE external;
		INSERT INTO app.toasted VALUES (1, repeat('x', 10000));
		CREATE TABLE app.changed (id int) WITH (autovacuum_enabled = off); INSERT INTO app.changed SELECT generate_series(1, 1000);
		CREATE TABLE app.hashed (id int); CREATE INDEX ON app.hashed USING hash (id);
		CREATE TABLE app.added (id int) WITH (autovacuum_enabled = off); INSERT INTO app.added VALUES (1);
		CREATE TABLE app.secret (id int, salary int); INSERT INTO app.secret VALUES (1, 2);
		ANALYZE app.toasted; ANALYZE app.changed; ANALYZE app.hashed; ANALYZE app.added; ANALYZE app.secret;
		ALTER TABLE app.added ADD extra int;
		GRANT USAGE ON SCHEMA app TO `+role+`; GRANT SELECT ON ALL TABLES IN SCHEMA app TO `+role+`;
		REVOKE SELECT ON app.secret FROM `+role+`; GRANT SELECT (id) ON app.secret TO `+role)
	db.Exec(t, `UPDATE app.changed SET id = -id WHERE id < 300`)
	pgtest.WaitFor(t, func() bool {
		return pgtest.Query[int64](t, db.Pool, `SELECT n_mod_since_analyze FROM pg_stat_all_tables WHERE relid = 'app.changed'::regclass`) > 200
	}, "the server to count changes")
	list, err := bloat.Read(t.Context(), db.ConnectAs(t, role), pgtest.Column[uint32](t, db.Pool, `SELECT oid FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind = 'r'`))
	if err != nil {
		t.Fatal(err)
	}
	for table, want := range map[string][2]string{
		"never": {"never been analyzed", bloat.ByAnalyze}, "toasted": {"TOASTed", bloat.ByMeasuring}, "changed": {"fifth", bloat.ByAnalyze},
		"added": {"no statistics of column \"extra\"", bloat.ByAnalyze}, "secret": {"may not read", bloat.ByMeasuring}, "hashed": {"", ""},
	} {
		for _, e := range list {
			if e.Name.Name == table && (!strings.Contains(e.Heap.Unknown, want[0]) || e.Heap.Remedy != want[1] || (e.Heap.Needed == nil) != (want[0] != "")) {
				t.Errorf("%s: unknown because %q, remedy %q, want %q", table, e.Heap.Unknown, e.Heap.Remedy, want)
			}
			if e.Name.Name == "hashed" && !strings.Contains(e.Indexes.Unknown, "access method hash") {
				t.Errorf("hash index: %+v", e.Indexes)
			}
		}
	}
}
