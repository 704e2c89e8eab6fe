package catalog

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/repack-go/repack/internal/tooling/pgtest"
)

// allExtras are likely if nothing may be left out.
const allExtras = ^Extras(0)

// TestExtras reads a table with each of the extras, and some with none. The description
// must be the same as one that was read with all queries.
func TestExtras(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := givenSession(t, db)
	const with = `CREATE TABLE x.t (id int PRIMARY KEY, a int); CREATE TABLE x.o (id int PRIMARY KEY, t int);`
	for _, c := range []struct {
		sql   string
		extra Extras
	}{
		{`CREATE TABLE x.t (id int)`, 0},
		{`CREATE TABLE x.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n serial, a int DEFAULT 7 CHECK (a > 1), b int GENERATED ALWAYS AS (a + 1) STORED,
			c text UNIQUE DEFERRABLE, EXCLUDE (a WITH =)); CREATE INDEX ON x.t ((a + 2)) WHERE n > 0; GRANT SELECT (a) ON x.t TO PUBLIC;
			CREATE RULE r AS ON DELETE TO x.t DO INSTEAD NOTHING; CREATE SEQUENCE x.s OWNED BY x.t.a`, 0},
		{`CREATE TABLE x.w (id int) PARTITION BY RANGE (id); CREATE TABLE x.t PARTITION OF x.w FOR VALUES FROM (0) TO (9)`, OfPartition | OfKeys | OfTriggers},
		{`CREATE TABLE x.q (id int PRIMARY KEY); CREATE TABLE x.w (id int REFERENCES x.q) PARTITION BY RANGE (id);
			CREATE TABLE x.t PARTITION OF x.w FOR VALUES FROM (0) TO (9);
			CREATE FUNCTION x.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TRIGGER above BEFORE UPDATE ON x.w FOR EACH ROW EXECUTE FUNCTION x.f()`, OfPartition | OfKeys | OfTriggers},
		{with + `ALTER TABLE x.t ADD FOREIGN KEY (a) REFERENCES x.o`, OfKeys},
		{with + `ALTER TABLE x.o ADD FOREIGN KEY (t) REFERENCES x.t`, OfKeys},
		{with + `ALTER TABLE x.t ADD FOREIGN KEY (a) REFERENCES x.t`, OfKeys},
		{with + `CREATE FUNCTION x.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE TRIGGER tr BEFORE UPDATE ON x.t EXECUTE FUNCTION x.f()`, OfTriggers},
		{with + `CREATE FUNCTION x.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE TRIGGER "00_repack_mine" BEFORE UPDATE ON x.t EXECUTE FUNCTION x.f()`, OfTriggers},
		{with + `CREATE FUNCTION x.repack_capture_7() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END';
			CREATE TRIGGER "00_repack_insert" BEFORE UPDATE ON x.t EXECUTE FUNCTION x.repack_capture_7()`, 0},
		{with + `CREATE POLICY p ON x.t USING (a > 0)`, OfPolicies},
		{with + `CREATE POLICY p ON x.o USING (EXISTS (SELECT FROM x.t WHERE a = o.t))`, OfDependents},
		{with + `CREATE PUBLICATION of_x FOR TABLE x.t`, OfPublications},
		{with + `CREATE STATISTICS x.s ON id, a FROM x.t`, OfStatistics},
		{with + `CREATE VIEW x.v AS SELECT id FROM x.t`, OfDependents},
		{with + `CREATE VIEW x.v AS SELECT NULL::x.t AS row`, OfDependents},
		{with + `CREATE MATERIALIZED VIEW x.m AS SELECT a FROM x.t; CREATE VIEW x.v AS TABLE x.m; CREATE MATERIALIZED VIEW x.n AS TABLE x.m`, OfDependents},
		{with + `CREATE RULE r AS ON INSERT TO x.o DO ALSO DELETE FROM x.t`, OfDependents},
		{with + `CREATE FUNCTION x.f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM x.t; END`, OfDependents},
		{with + `CREATE FUNCTION x.f(x.t) RETURNS int LANGUAGE sql AS 'SELECT 1'`, OfDependents},
		{with + `CREATE FUNCTION x.f(x.t[]) RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER TABLE x.o ALTER t SET DEFAULT x.f(NULL)`, OfDependents},
		{with + `CREATE FUNCTION x.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE FUNCTION x.g(x.t) RETURNS bool LANGUAGE sql AS 'SELECT true';
			CREATE TRIGGER tr BEFORE UPDATE ON x.o FOR EACH ROW WHEN (x.g(NULL)) EXECUTE FUNCTION x.f()`, OfDependents},
	} {
		db.Exec(t, `CREATE SCHEMA x; `+c.sql)
		oid := pgtest.Query[uint32](t, db.Pool, `SELECT 'x.t'::regclass::oid`)
		lazily := read(t, conn, "x.t")
		if got := lazily.Extras(); got != c.extra {
			t.Errorf("%s: extras are %b, want %b", c.sql, got, c.extra)
		}
		full, err := describeLikely(t.Context(), conn, []uint32{oid}, withMatviews, func(uint32) Extras { return allExtras })
		if err != nil {
			t.Fatal(err)
		}
		if err := ReadMatviews(t.Context(), conn, full[0].Matviews); err != nil {
			t.Fatal(err)
		}
		same(t, c.sql, full[0], lazily)

		b := &pgx.Batch{}
		queued := Queue(b, oid, &Table{}) // all extras are new
		if err := conn.SendBatch(t.Context(), b).Close(); err != nil {
			t.Fatal(err)
		}
		if err := Complete(t.Context(), conn, queued, &Table{}); err != nil {
			t.Fatal(err)
		}
		same(t, c.sql, full[0], queued)
		db.Exec(t, `DROP SCHEMA x CASCADE; DROP PUBLICATION IF EXISTS of_x`)
	}
}

func same(t *testing.T, sql string, want, got *Table) {
	t.Helper()
	w, err := Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	g, err := Encode(got)
	if err != nil {
		t.Fatal(err)
	}
	if string(w) != string(g) {
		t.Errorf("%s: read as\n%s\nwant\n%s", sql, g, w)
	}
}

// TestNewPartitionIsCompleted reads a table that has become a partition since it was read:
// the keys that it has from the partitioned table are read then.
func TestNewPartitionIsCompleted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := givenSession(t, db)
	db.Exec(t, `CREATE SCHEMA x; CREATE TABLE x.q (id int PRIMARY KEY); CREATE TABLE x.t (id int, q int REFERENCES x.q);
		CREATE TABLE x.w (id int REFERENCES x.q, q int) PARTITION BY RANGE (id)`)
	was := read(t, conn, "x.t")
	db.Exec(t, `ALTER TABLE x.w ATTACH PARTITION x.t FOR VALUES FROM (0) TO (9)`)
	b := &pgx.Batch{}
	is := Queue(b, was.OID, was)
	if err := conn.SendBatch(t.Context(), b).Close(); err != nil {
		t.Fatal(err)
	}
	if err := Complete(t.Context(), conn, is, was); err != nil {
		t.Fatal(err)
	}
	if is.Partition == nil || len(is.Partition.ForeignKeys) != 1 || len(is.ForeignKeys) != 1 {
		t.Errorf("read as %+v, with the keys %v", is.Partition, is.ForeignKeys)
	}
	same(t, "new partition", read(t, conn, "x.t"), is)
}
